"""Joining the `info` of several vector environments into the `info` of one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def merge_infos(parts: Sequence[tuple[dict[str, Any], int]]) -> dict[str, Any]:
    """One `info` as gymnasium's vector environments give it: arrays whose first axis is the environment.

    Args:
        parts: `info` and number of environments of each part. A key that a part lacks is filled with zeros (None
            where the values are objects), and its mask `_key` with False.
    """
    keys = list(dict.fromkeys(key for info, _ in parts for key in info))
    merged: dict[str, Any] = {}
    for key in keys:
        known = next(info[key] for info, _ in parts if key in info)
        if isinstance(known, dict):
            merged[key] = merge_infos([(info.get(key, {}), count) for info, count in parts])
        else:
            merged[key] = np.concatenate([_column(info.get(key), known, count) for info, count in parts])
    return merged


def _column(values: Any, like: Any, count: int) -> np.ndarray:
    if values is not None:
        return np.asarray(values)
    like = np.asarray(like)
    shape = (count, *like.shape[1:])
    return np.full(shape, None, dtype=object) if like.dtype == object else np.zeros(shape, dtype=like.dtype)

"""How good a predicted frame is: its error on the pixels that really changed, against predicting no change."""

from __future__ import annotations

import numpy as np

from foreact.vla.images import resize_frame
from foreact.vla.results import ForesightSums

CHANGE_THRESHOLD = 16 / 255
"""A pixel has changed when any channel differs by more than this share of full scale."""


def foresight_errors(current: np.ndarray, seen_later: np.ndarray, predicted: np.ndarray) -> ForesightSums:
    """Errors of one predicted frame.

    Args:
        current: (H, W, 3) uint8, the frame at plan time.
        seen_later: (H, W, 3) uint8, the frame really seen at the predicted time.
        predicted: (h, w, 3) uint8; both others are resized to its size first.
    """
    height, width = predicted.shape[:2]
    now = resize_frame(current, height, width).astype(np.int64)
    later = resize_frame(seen_later, height, width).astype(np.int64)
    changed = (np.abs(later - now) > round(CHANGE_THRESHOLD * 255)).any(axis=-1)
    return ForesightSums(
        frames=1,
        pixels=int(changed.sum()),
        predicted=float(((predicted.astype(np.int64) - later)[changed] ** 2).sum()),
        copied=float(((now - later)[changed] ** 2).sum()),
    )

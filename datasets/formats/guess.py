"""A contract from the shapes of foreign arrays: what a format does not record is named "unknown", and noted."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from foreact.datasets.formats.base import FormatError
from foreact.datasets.formats.limits import check_image_size
from foreact.datasets.formats.names import safe_name
from foreact.vla.contract import Camera, Contract, Field
from foreact.vla.errors import ConfigError


def guess_contract(
    shapes: Mapping[str, tuple[tuple[int, ...], np.dtype]],
    action: tuple[int, ...],
    rate_hz: float,
    robot: str,
    what: str,
) -> tuple[Contract, list[str]]:
    """Contract and notes for arrays (T, ...) by key.

    (T, H, W, 3) uint8 is a camera; (T,) and (T, D) numbers are state fields; anything else is left out.

    Raises:
        FormatError: If there is no camera.
    """
    cameras, fields, dropped = [], [], []
    for key, (shape, dtype) in shapes.items():
        if safe_name(key, 120) != key:
            dropped.append(f"{key!r:.80} (its name is not safe)")
        elif len(shape) == 4 and shape[3] == 3 and dtype == np.uint8:
            height, width = check_image_size(f"{what}: {key}", shape[1], shape[2])
            cameras.append(Camera(name=key, height=height, width=width))
        elif len(shape) in (1, 2) and dtype.kind in "fiub" and math.prod(shape[1:]) > 0:
            fields.append(Field(name=key, size=math.prod(shape[1:]), unit="unknown", frame="unknown"))
        else:
            dropped.append(f"{key} {tuple(shape)} {dtype}")
    if not cameras:
        raise FormatError(f"{what}: no camera images, (frames, height, width, 3) uint8; it has {sorted(shapes)}")
    if len(action) != 2 or action[1] == 0:
        raise FormatError(f"{what}: actions have shape {action}; expected (frames, size)")
    contract = Contract(
        embodiment=safe_name(robot),
        rate_hz=rate_hz,
        cameras=tuple(cameras),
        state=tuple(fields),
        action=(Field(name="action", size=action[1], unit="unknown", frame="unknown"),),
    )
    notes = ["units and frames of state and action are not recorded; give --contract to name them"]
    if dropped:
        notes.append(f"left out, neither images (H, W, 3) nor vectors: {', '.join(dropped)}")
    return contract, notes


def positive(text: str, what: str, most: float = 1e4) -> float:
    """A positive number from text.

    Raises:
        ConfigError: If it is not one.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= most:
        raise ConfigError(f"option {what}: expected a number above 0 and at most {most:g}, found {text!r}")
    return value


def natural(text: str, what: str, most: int = 10**9) -> int:
    """A whole number above 0 from text.

    Raises:
        ConfigError: If it is not one.
    """
    if not text.isascii() or not text.isdigit() or not 0 < int(text[:12]) <= most:
        raise ConfigError(f"option {what}: expected a whole number from 1 to {most}, found {text!r:.80}")
    return int(text)


def one_of(text: str, what: str, allowed: tuple[str, ...]) -> str:
    """`text` if it is allowed.

    Raises:
        ConfigError: If it is not.
    """
    if text not in allowed:
        raise ConfigError(f"option {what}: expected one of {', '.join(allowed)}, found {text!r:.80}")
    return text

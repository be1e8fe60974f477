"""Pictures, numbers and texts out of ROS 2 messages (REP-103; sensor_msgs, std_msgs, geometry_msgs)."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from foreact.datasets.formats.base import FormatError
from foreact.datasets.formats.limits import check_image_size, short
from foreact.datasets.formats.pictures import decode_picture
from foreact.datasets.formats.topics import Numbers
from foreact.vla.images import resize_frame

_CHANNELS = {
    "rgb8": (3, slice(3)),
    "bgr8": (3, slice(None, None, -1)),
    "rgba8": (4, slice(3)),
    "bgra8": (4, slice(2, None, -1)),
}


def picture(message: Any, kind: str, what: str, height: int, width: int) -> np.ndarray:
    """(height, width, 3) uint8 RGB, resized if the message has another size.

    Raises:
        FormatError: If it is no colour picture of a known encoding, or damaged.
    """
    return resize_frame(pixels(message, kind, what), height, width)


def pixels(message: Any, kind: str, what: str, size: tuple[int, int] | None = None) -> np.ndarray:
    """(H, W, 3) uint8 RGB as it was sent; of an rgb8 image without padding a view of the message.

    Args:
        message: sensor_msgs/msg/Image or CompressedImage, of rosbags or rclpy.
        kind: Its type.
        what: Named in messages.
        size: The (H, W) that a compressed one must have.

    Raises:
        FormatError: If it is no colour picture of a known encoding, or damaged.
    """
    if kind == "sensor_msgs/msg/CompressedImage":
        if "compressedDepth" in message.format:
            raise FormatError(f"{what} is a depth image ({message.format!r:.60}), not a colour picture")
        return decode_picture(bytes(message.data), what, size)
    if kind != "sensor_msgs/msg/Image":
        raise FormatError(f"{what} is a {kind}, not a picture")
    rows, columns = check_image_size(what, int(message.height), int(message.width))
    if message.encoding == "mono8":
        channels, order = 1, None
    elif message.encoding in _CHANNELS:
        channels, order = _CHANNELS[message.encoding]
    else:
        known = ", ".join((*_CHANNELS, "mono8"))
        raise FormatError(f"{what} has the encoding {message.encoding!r:.40}; read are {known}")
    step = int(message.step) or columns * channels
    data = np.asarray(message.data, np.uint8)
    if step < columns * channels or len(data) != rows * step:
        raise FormatError(f"{what}: {len(data):,} bytes are not {rows} rows of {step} bytes")
    found = data.reshape(rows, step)[:, : columns * channels].reshape(rows, columns, channels)
    found = np.repeat(found, 3, axis=2) if order is None else found[..., order]
    return np.ascontiguousarray(found)


def numbers(message: Any, kind: str, wanted: Numbers, size: int, what: str) -> np.ndarray:
    """(size,) float32.

    Raises:
        FormatError: If the message has no such numbers, or not so many, or they are not finite.
    """
    if wanted.joints:
        names: list[str] = list(getattr(message, "name", ()))
        values = np.asarray(getattr(message, wanted.value, ()), np.float64)
        missing = [joint for joint in wanted.joints if joint not in names]
        if missing or len(values) != len(names):
            raise FormatError(f"{what}: no {wanted.value} of {missing or list(wanted.joints)}; the message has {names}")
        found = values[[names.index(joint) for joint in wanted.joints]]
    elif wanted.fields:
        found = np.array([_member(message, path, what) for path in wanted.fields])
    else:
        data = getattr(message, "data", None)
        values = np.atleast_1d(np.asarray(data, np.float64)) if data is not None and not isinstance(data, str) else None
        if values is None or values.ndim != 1:
            raise FormatError(f"{what} is a {kind}, which has no numbers in 'data'; name them by joints or fields")
        if wanted.index and not all(0 <= i < len(values) for i in wanted.index):
            raise FormatError(f"{what} has {len(values)} numbers; index {list(wanted.index)} were asked for")
        found = values[list(wanted.index)] if wanted.index else values
    if found.shape != (size,) or not np.isfinite(found).all():
        raise FormatError(f"{what} gives {found!r:.100}; expected {size} finite numbers")
    return found.astype(np.float32)


def text(message: Any, what: str) -> str:
    """The text of a std_msgs/msg/String.

    Raises:
        FormatError: If it is something else.
    """
    return short(getattr(message, "data", None), what)


def _member(message: Any, path: str, what: str) -> float:
    value = message
    for part in path.split("."):
        names = [f.name for f in dataclasses.fields(value)] if dataclasses.is_dataclass(value) else []
        if part not in names:
            raise FormatError(f"{what} has no {path!r:.100}; at {part!r:.40} there are {names}")
        value = getattr(value, part)
    if not isinstance(value, int | float | np.number):
        raise FormatError(f"{what}: {path!r:.100} is not a number")
    return float(value) if not isinstance(value, bool) else math.nan

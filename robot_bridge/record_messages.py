"""What a recorder writes itself, as bytes of ROS 2 (CDR): pictures, joints, numbers, texts, flags."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from foreact.robot_bridge.ros_types import typestore
from foreact.vla.errors import ForeActError

IMAGE = "sensor_msgs/msg/Image"
JPEG = "sensor_msgs/msg/CompressedImage"
JOINTS = "sensor_msgs/msg/JointState"
NUMBERS = "std_msgs/msg/Float64MultiArray"
TEXT = "std_msgs/msg/String"
FLAG = "std_msgs/msg/Bool"


class MessageTypeError(ForeActError):
    """A message type is unknown."""


def message_definition(kind: str, types: Any = None) -> tuple[str, str]:
    """The definition of a type as MCAP's ros2msg wants it (with those that it uses), and its hash (RIHS01).

    Raises:
        MessageTypeError: If the type is unknown.
    """
    store = types if types is not None else typestore()
    if kind not in store.fielddefs:
        raise MessageTypeError(f"the message type {kind!r:.100} is unknown; expected one of ROS 2, as pkg/msg/Type")
    text, _ = store.generate_msgdef(kind, ros_version=2)
    return str(text), str(store.hash_rihs01(kind))


def image(rgb: np.ndarray, stamp_s: float, frame: str) -> bytes:
    """(H, W, 3) uint8 RGB as an Image in rgb8."""
    height, width = rgb.shape[:2]
    data = np.ascontiguousarray(rgb).reshape(-1)
    values = {"height": height, "width": width, "encoding": "rgb8", "is_bigendian": 0, "step": 3 * width}
    return _cdr(IMAGE, header=_header(stamp_s, frame), data=data, **values)


def jpeg(rgb: np.ndarray, stamp_s: float, frame: str) -> bytes:
    """(H, W, 3) uint8 RGB as a CompressedImage, JPEG of quality 95 in 4:4:4: not the same pixels, but few bytes."""
    import simplejpeg

    data = simplejpeg.encode_jpeg(np.ascontiguousarray(rgb), quality=95, colorspace="RGB", colorsubsampling="444")
    return _cdr(
        JPEG, header=_header(stamp_s, frame), format="rgb8; jpeg compressed bgr8", data=np.frombuffer(data, np.uint8)
    )


def joint_state(names: Sequence[str], position: np.ndarray, velocity: np.ndarray | None, stamp_s: float) -> bytes:
    """(N,) [rad] and [rad/s] as a JointState; a gripper's width may be one of them [m]."""
    empty = np.zeros(0)
    values = {"position": np.asarray(position, np.float64), "effort": empty}
    values["velocity"] = empty if velocity is None else np.asarray(velocity, np.float64)
    return _cdr(JOINTS, header=_header(stamp_s, ""), name=list(names), **values)


def numbers(values: np.ndarray) -> bytes:
    """(n,) numbers."""
    layout = typestore().types["std_msgs/msg/MultiArrayLayout"](dim=[], data_offset=0)
    return _cdr(NUMBERS, layout=layout, data=np.asarray(values, np.float64))


def text(words: str) -> bytes:
    """A sentence."""
    return _cdr(TEXT, data=words)


def flag(value: bool) -> bytes:
    """True or False."""
    return _cdr(FLAG, data=value)


def _cdr(kind: str, **values: Any) -> bytes:
    store = typestore()
    return bytes(store.serialize_cdr(store.types[kind](**values), kind))


def _header(stamp_s: float, frame: str) -> Any:
    sec, nanosec = divmod(max(0, round(stamp_s * 1e9)), 1_000_000_000)
    store = typestore().types
    # A clock that counts from 1970 fits into the message's 32 bits until 2038.
    stamp = store["builtin_interfaces/msg/Time"](sec=min(sec, 2**31 - 1), nanosec=nanosec)
    return store["std_msgs/msg/Header"](stamp=stamp, frame_id=frame)

"""ROS 2 types for pip's cyclonedds: the layout is announced as it is, the bytes are made and read by `ros_types`.

cyclonedds' own reader and writer of Python classes take 40 ms and more for a sequence of bytes as long as a VGA
picture; so each class here carries a message as bytes.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from foreact.robot_bridge.ros_types import typestore

_EMPTY = b"\x00\x01\x00\x00"


def _init(self: Any, raw: bytes = _EMPTY) -> None:
    self.raw = raw


def _serialize(self: Any, buffer: Any = None, endianness: Any = None, use_version_2: Any = None) -> bytes:
    return self.raw


def _serialize_key(self: Any, endianness: Any = None, use_version_2: Any = None) -> bytes:
    return _EMPTY  # topics of ROS 2 have no key


@cache
def idl_type(kind: str) -> Any:
    """The class for topics of a ROS type such as "sensor_msgs/msg/Image". `Class(raw)` holds a message in CDR with its
    header of four bytes, and so does the `raw` of what a reader takes."""
    made = _struct(kind)

    def _deserialize(cls: Any, data: bytes, has_header: bool = True, use_version_2: Any = None) -> Any:
        return cls(data)

    def _deserialize_key(cls: Any, data: bytes, has_header: bool = True, use_version_2: Any = None) -> Any:
        return cls()

    # A class of its own would count as a base of the IDL type, and change it.
    made.__init__, made.serialize, made.serialize_key = _init, _serialize, _serialize_key
    made.deserialize, made.deserialize_key = classmethod(_deserialize), classmethod(_deserialize_key)
    return made


@cache
def _nested(kind: str) -> Any:
    return _struct(kind)


def _struct(kind: str) -> Any:
    from cyclonedds.idl import make_idl_struct

    package, folder, name = kind.split("/")
    fields = {field: _field(description) for field, description in typestore().fielddefs[kind][1]}
    return make_idl_struct(f"{name}_", f"{package}.{folder}.dds_.{name}_", fields, dataclassify=False)


def _field(description: Any) -> Any:
    from cyclonedds.idl import types
    from rosbags.interfaces import Nodetype

    node, content = description
    if node == Nodetype.BASE:
        name, limit = content
        return types.bounded_str[limit] if name == "string" and limit else _base(name)
    if node == Nodetype.NAME:
        return _nested(content)
    inner, count = content
    if node == Nodetype.ARRAY:
        return types.array[_field(inner), count]
    return types.sequence[_field(inner), count] if count else types.sequence[_field(inner)]


def _base(name: str) -> Any:
    from cyclonedds.idl import types

    known = {"bool": bool, "string": str, "byte": types.uint8, "char": types.uint8, "octet": types.uint8}
    return known[name] if name in known else getattr(types, name)

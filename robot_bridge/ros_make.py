"""Two ways to make the same message: of `rosbags`' classes, and of rclpy's. Their fields have the same names, but each
wants numbers and bytes in containers of its own."""

from __future__ import annotations

import array
from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np

from foreact.robot_bridge.ros_types import typestore


class Maker(Protocol):
    """Makes messages."""

    def new(self, kind: str, **fields: Any) -> Any:
        """A message of type `kind`, such as "std_msgs/msg/Bool"; all fields given."""
        ...

    def floats(self, values: Iterable[float] | np.ndarray) -> Any:
        """For a float64[]."""
        ...

    def octets(self, data: bytes) -> Any:
        """For a uint8[]."""
        ...

    def byte(self, value: int) -> Any:
        """For a single `byte`."""
        ...


class RosbagsMaker:
    """Messages that `ros_types.encode` takes."""

    def new(self, kind: str, **fields: Any) -> Any:
        """As `Maker.new`."""
        return typestore().types[kind](**fields)

    def floats(self, values: Iterable[float] | np.ndarray) -> Any:
        """As `Maker.floats`."""
        return np.ascontiguousarray(values, np.float64)

    def octets(self, data: bytes) -> Any:
        """As `Maker.octets`."""
        return np.frombuffer(data, np.uint8)

    def byte(self, value: int) -> Any:
        """As `Maker.byte`."""
        return int(value)


class RclpyMaker:
    """Messages that rclpy publishes; needs a sourced ROS 2."""

    def __init__(self) -> None:
        from rosidl_runtime_py.utilities import get_message  # type: ignore[import-not-found]

        self._get_message = get_message
        self._classes: dict[str, Any] = {}

    def new(self, kind: str, **fields: Any) -> Any:
        """As `Maker.new`."""
        if kind not in self._classes:
            self._classes[kind] = self._get_message(kind)
        return self._classes[kind](**fields)

    def floats(self, values: Iterable[float] | np.ndarray) -> Any:
        """As `Maker.floats`."""
        return array.array("d", np.ascontiguousarray(values, np.float64).tobytes())

    def octets(self, data: bytes) -> Any:
        """As `Maker.octets`."""
        return array.array("B", data)

    def byte(self, value: int) -> Any:
        """As `Maker.byte`."""
        return bytes([value])

"""From what the bridge says to ROS 2 messages. Pure functions; a `Maker` gives the classes, `rosbags`' or rclpy's."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from foreact.robot_bridge.ros_make import Maker
from foreact.robot_bridge.topic_names import TopicNames
from foreact.robot_bridge.types import DiagnosticLine, Event, State, Trajectory

_NS = 1_000_000_000


def time_of(make: Maker, seconds: float, kind: str = "builtin_interfaces/msg/Time") -> Any:
    """A Time, or with another `kind` a Duration; never rounded to a whole second too much."""
    total = max(0, round(seconds * _NS))
    return make.new(kind, sec=total // _NS, nanosec=total % _NS)


def header(make: Maker, stamp_s: float, frame: str = "") -> Any:
    """A std_msgs/msg/Header."""
    return make.new("std_msgs/msg/Header", stamp=time_of(make, stamp_s), frame_id=frame)


def joint_trajectory(make: Maker, joints: Sequence[str], trajectory: Trajectory, stamp_s: float = 0.0) -> Any:
    """A trajectory_msgs/msg/JointTrajectory; `stamp_s` 0 means "begin on arrival"."""
    points = [
        make.new(
            "trajectory_msgs/msg/JointTrajectoryPoint",
            positions=make.floats(position),
            velocities=make.floats(velocity),
            accelerations=make.floats(acceleration),
            effort=make.floats(()),
            time_from_start=time_of(make, float(after), "builtin_interfaces/msg/Duration"),
        )
        for after, position, velocity, acceleration in zip(
            trajectory.time_from_start_s, trajectory.position, trajectory.velocity, trajectory.acceleration, strict=True
        )
    ]
    kind = "trajectory_msgs/msg/JointTrajectory"
    return make.new(kind, header=header(make, stamp_s), joint_names=list(joints), points=points)


def gripper(make: Maker, command: float, names: TopicNames) -> Any:
    """A std_msgs/msg/Float64MultiArray: each finger's position [m]; `command` > 0 opens."""
    fingers = max(1, len(names.gripper_joints))
    width = names.gripper_open_m if command > 0 else names.gripper_closed_m
    layout = make.new("std_msgs/msg/MultiArrayLayout", dim=[], data_offset=0)
    data = make.floats([width / fingers] * fingers)
    return make.new("std_msgs/msg/Float64MultiArray", layout=layout, data=data)


def diagnostics(make: Maker, lines: Sequence[DiagnosticLine], stamp_s: float, hardware: str = "") -> Any:
    """A diagnostic_msgs/msg/DiagnosticArray."""
    status = [
        make.new(
            "diagnostic_msgs/msg/DiagnosticStatus",
            level=make.byte(line.level),
            name=line.name,
            message=line.message,
            hardware_id=hardware,
            values=[make.new("diagnostic_msgs/msg/KeyValue", key=k, value=str(v)) for k, v in line.values.items()],
        )
        for line in lines
    ]
    return make.new("diagnostic_msgs/msg/DiagnosticArray", header=header(make, stamp_s), status=status)


def compressed_image(make: Maker, image: np.ndarray, stamp_s: float, frame: str = "", quality: int = 90) -> Any:
    """A sensor_msgs/msg/CompressedImage, JPEG, of an (H, W, 3) uint8 RGB picture."""
    import simplejpeg

    data = simplejpeg.encode_jpeg(np.ascontiguousarray(image), quality=quality, colorspace="RGB")
    kind = "sensor_msgs/msg/CompressedImage"
    return make.new(kind, header=header(make, stamp_s, frame), format="jpeg", data=make.octets(data))


def raw_image(make: Maker, image: np.ndarray, stamp_s: float, frame: str = "") -> Any:
    """A sensor_msgs/msg/Image, rgb8, of an (H, W, 3) uint8 RGB picture."""
    height, width, _ = image.shape
    return make.new(
        "sensor_msgs/msg/Image",
        header=header(make, stamp_s, frame),
        height=height,
        width=width,
        encoding="rgb8",
        is_bigendian=0,
        step=3 * width,
        data=make.octets(np.ascontiguousarray(image).tobytes()),
    )


def joint_state(
    make: Maker, names: Sequence[str], positions: Sequence[float], velocities: Sequence[float], stamp_s: float
) -> Any:  # fmt: skip
    """A sensor_msgs/msg/JointState."""
    return make.new(
        "sensor_msgs/msg/JointState",
        header=header(make, stamp_s),
        name=list(names),
        position=make.floats(positions),
        velocity=make.floats(velocities),
        effort=make.floats(()),
    )


def text(make: Maker, words: str) -> Any:
    """A std_msgs/msg/String."""
    return make.new("std_msgs/msg/String", data=words)


def state(make: Maker, now: State, event: Event | None) -> Any:
    """A std_msgs/msg/String of JSON: the state, and what led to it."""
    found: dict[str, Any] = {"state": str(now)}
    if event is not None:
        found |= {"kind": event.kind, "cause": event.cause, "message": event.message, "data": dict(event.data)}
    return text(make, json.dumps(found, default=str))


def reply(make: Maker, name: str, done: bool, message: str) -> Any:
    """A std_msgs/msg/String of JSON: what became of a command."""
    return text(make, json.dumps({"command": name, "done": done, "message": message}))

"""The same functions make and read rclpy's own messages; and our bytes are the bytes that ROS 2 makes."""

# pyright: reportMissingImports=false
from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foreact.robot_bridge import messages_in, messages_out
from foreact.robot_bridge.ros_make import Maker, RclpyMaker, RosbagsMaker
from foreact.robot_bridge.ros_types import decode, encode, type_hash
from foreact.robot_bridge.topic_names import make_topics
from foreact.robot_bridge.types import DiagnosticLine, Event, State, Trajectory

pytestmark = pytest.mark.ros

NAMES = make_topics({}, [("front", 3, 5)], ("a1", "a2"), ("f1", "f2"))
IMAGE = np.random.default_rng(0).integers(0, 255, (3, 5, 3)).astype(np.uint8)
TRAJECTORY = Trajectory(
    start_s=0.0, time_from_start_s=np.array([0.01, 1.999999999]), position=np.array([[0.1, -2.0], [3.0, 1e-9]]),
    velocity=np.array([[1.0, 2.0], [0.0, 0.0]]), acceleration=np.zeros((2, 2)),
)  # fmt: skip
LINE = DiagnosticLine(name="gate", level=2, message="stopped: größer", values={"a": "1", "b": ""})
EVENT = Event(at_s=0.0, kind="state", cause="c", message="m", state=State.HOLD)
MESSAGES: dict[str, Callable[[Maker], Any]] = {
    "trajectory_msgs/msg/JointTrajectory": lambda make: messages_out.joint_trajectory(
        make, NAMES.arm_joints, TRAJECTORY, 1234567890.5
    ),
    "std_msgs/msg/Float64MultiArray": lambda make: messages_out.gripper(make, 1.0, NAMES),
    "diagnostic_msgs/msg/DiagnosticArray": lambda make: messages_out.diagnostics(make, [LINE, LINE], 5.25, "panda"),
    "sensor_msgs/msg/CompressedImage": lambda make: messages_out.compressed_image(make, IMAGE, 5.25, "front"),
    "sensor_msgs/msg/Image": lambda make: messages_out.raw_image(make, IMAGE, 5.25, "front"),
    "sensor_msgs/msg/JointState": lambda make: messages_out.joint_state(
        make, ("a1", "a2", "f1", "f2"), (0.1, 0.2, 0.03, 0.01), (1.0, 2.0, 0.0, 0.0), 5.25
    ),
    "std_msgs/msg/String": lambda make: messages_out.state(make, State.HOLD, EVENT),
}


@pytest.mark.parametrize("kind", MESSAGES)
def test_our_bytes_are_the_bytes_of_ros(kind: str) -> None:
    from rclpy.serialization import deserialize_message, serialize_message  # pyright: ignore[reportMissingImports]

    theirs = MESSAGES[kind](RclpyMaker())
    ours = encode(MESSAGES[kind](RosbagsMaker()), kind)
    assert deserialize_message(ours, type(theirs)) == theirs
    data = serialize_message(theirs)
    # ROS may pad the end to a multiple of four.
    assert data[: len(ours)] == ours and len(data) - len(ours) < 4 and not any(data[len(ours) :])
    assert encode(decode(data, kind, "it"), kind) == ours


HASHED = [
    *MESSAGES, "std_msgs/msg/Bool", "rmw_dds_common/msg/ParticipantEntitiesInfo", "control_msgs/msg/GripperCommand",
    "control_msgs/msg/JointTolerance", "control_msgs/msg/JointTrajectoryControllerState",
]  # fmt: skip


@pytest.mark.parametrize("kind", HASHED)
def test_our_type_hashes_are_those_of_ros(kind: str) -> None:
    from ament_index_python.packages import (  # pyright: ignore[reportMissingImports]
        PackageNotFoundError,
        get_package_share_directory,
    )

    package, folder, name = kind.split("/")
    try:
        file = Path(get_package_share_directory(package)) / folder / f"{name}.json"
    except PackageNotFoundError:
        pytest.skip(f"this ROS 2 has no {package}")
    hashes = {h["type_name"]: h["hash_string"] for h in json.loads(file.read_text())["type_hashes"]}
    assert hashes[kind] == type_hash(kind)


def test_rclpy_messages_are_read_like_ours() -> None:
    make = RclpyMaker()
    frame = messages_in.camera_frame(MESSAGES["sensor_msgs/msg/Image"](make), "front", NAMES.cameras["front"], 1.0, 0)
    assert np.array_equal(frame.image, IMAGE) and frame.stamp_s == 5.25
    packed = NAMES.cameras["front"].model_copy(update={"topic": "/front/compressed"})
    frame = messages_in.camera_frame(MESSAGES["sensor_msgs/msg/CompressedImage"](make), "front", packed, 1.0, 0)
    assert frame.image.shape == IMAGE.shape
    sample = messages_in.joint_sample(
        MESSAGES["sensor_msgs/msg/JointState"](make), NAMES.arm_joints, NAMES.gripper_joints, 1.0
    )
    assert sample is not None and sample.position.tolist() == [0.1, 0.2]
    assert sample.gripper_width_m == pytest.approx(0.04)
    found = messages_in.trajectory(MESSAGES["trajectory_msgs/msg/JointTrajectory"](make), 1.0)
    assert np.array_equal(found.position, TRAJECTORY.position) and found.stamp_s == 1234567890.5
    assert messages_in.gripper(MESSAGES["std_msgs/msg/Float64MultiArray"](make), 0.08, 0.0, 2) == 1.0

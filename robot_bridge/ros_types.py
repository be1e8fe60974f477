"""ROS 2 messages without ROS: encode and decode CDR, and the hashes by which types are compared.

The types are those of Jazzy from `rosbags`; the few it lacks are registered from the texts below, as published in
control_msgs (https://github.com/ros-controls/control_msgs, Apache-2.0) and Universal_Robots_ROS2_Driver
(https://github.com/UniversalRobots/Universal_Robots_ROS2_Driver, ur_dashboard_msgs, BSD-3-Clause).
"""

from __future__ import annotations

from functools import cache
from typing import Any

from foreact.robot_bridge.transport_errors import BadMessage, TransportError

_TEXTS = {
    "control_msgs/msg/JointTolerance": "string name\nfloat64 position\nfloat64 velocity\nfloat64 acceleration\n",
    "control_msgs/msg/GripperCommand": "float64 position\nfloat64 max_effort\n",
    "control_msgs/msg/JointTrajectoryControllerState": (
        "std_msgs/Header header\nstring[] joint_names\n"
        "trajectory_msgs/JointTrajectoryPoint reference\ntrajectory_msgs/JointTrajectoryPoint feedback\n"
        "trajectory_msgs/JointTrajectoryPoint error\ntrajectory_msgs/JointTrajectoryPoint output\n"
        "string[] multi_dof_joint_names\n"
        "trajectory_msgs/MultiDOFJointTrajectoryPoint multi_dof_reference\n"
        "trajectory_msgs/MultiDOFJointTrajectoryPoint multi_dof_feedback\n"
        "trajectory_msgs/MultiDOFJointTrajectoryPoint multi_dof_error\n"
        "trajectory_msgs/MultiDOFJointTrajectoryPoint multi_dof_output\nfloat64 speed_scaling_factor\n"
    ),
    "ur_dashboard_msgs/msg/SafetyMode": (
        "uint8 NORMAL=1\nuint8 REDUCED=2\nuint8 PROTECTIVE_STOP=3\nuint8 RECOVERY=4\nuint8 SAFEGUARD_STOP=5\n"
        "uint8 SYSTEM_EMERGENCY_STOP=6\nuint8 ROBOT_EMERGENCY_STOP=7\nuint8 VIOLATION=8\nuint8 FAULT=9\n"
        "uint8 VALIDATE_JOINT_ID=10\nuint8 UNDEFINED_SAFETY_MODE=11\nuint8 AUTOMATIC_MODE_SAFEGUARD_STOP=12\n"
        "uint8 SYSTEM_THREE_POSITION_ENABLING_STOP=13\n\nuint8 mode\n"
    ),
}
MAX_ELEMENTS = 64 << 20
"""Longest sequence that is read out of a message."""


@cache
def typestore() -> Any:
    """The types, made once.

    Raises:
        TransportError: If `rosbags` is not installed.
    """
    try:
        from rosbags.interfaces import Nodetype
        from rosbags.typesys import Stores, get_types_from_msg, get_typestore
    except ImportError as error:
        raise TransportError(
            "ROS 2 messages need rosbags, which is not installed: pip install '.[robot]' in ForeAct's folder"
        ) from error
    store = get_typestore(Stores.ROS2_JAZZY)
    store.max_sequence_length = MAX_ELEMENTS
    # ROS 2 takes `char` for uint8, which rosbags does when it reads and writes, but not when it makes the hash.
    gid = "rmw_dds_common/msg/Gid"
    store.fielddefs[gid] = (store.fielddefs[gid][0], [("data", (Nodetype.ARRAY, ((Nodetype.BASE, ("uint8", 0)), 16)))])
    for name, text in _TEXTS.items():
        if name not in store.types:
            store.register({k: v for k, v in get_types_from_msg(text, name).items() if k not in store.types})
    return store


def decode(data: bytes | memoryview, kind: str, what: str) -> Any:
    """A message from CDR with its header of four bytes; numeric arrays are views of `data`.

    Raises:
        BadMessage: If the bytes are not such a message.
    """
    try:
        return typestore().deserialize_cdr(memoryview(data), kind)
    except Exception as error:  # the library raises whatever damaged bytes provoke
        raise BadMessage(f"{what} is no {kind}: {type(error).__name__}, {error!s:.100}") from error


def encode(message: Any, kind: str) -> bytes:
    """CDR, little-endian, version 1, with its header of four bytes, as ROS 2 sends it."""
    return bytes(typestore().serialize_cdr(message, kind))


@cache
def warm(kind: str) -> None:
    """Make the reader and the writer of a type, which takes milliseconds, before the first message needs them."""
    typestore().get_msgdef(kind)


@cache
def type_hash(kind: str) -> str:
    """The hash by which ROS 2 announces a type since Iron (REP-2016): "RIHS01_" and 64 hexadecimal digits."""
    return typestore().hash_rihs01(kind)


def dds_name(kind: str) -> str:
    """The name on DDS and Zenoh: "sensor_msgs::msg::dds_::Image_" of "sensor_msgs/msg/Image"."""
    package, folder, name = kind.split("/")
    return f"{package}::{folder}::dds_::{name}_"


def ros_name(found: str) -> str:
    """The inverse of `dds_name`; names that do not come from ROS stay as they are."""
    parts = found.split("::")
    if len(parts) == 4 and parts[2] == "dds_" and parts[3].endswith("_"):
        return f"{parts[0]}/{parts[1]}/{parts[3][:-1]}"
    return found

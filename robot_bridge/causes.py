"""Why the gate stopped, or would not start: a name for the log and a sentence for people."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Cause(enum.StrEnum):
    """Every HOLD, every FAULT and every refusal has one."""

    CAMERA_STALE = "camera_stale"
    """No picture for too long, or the newest one is too old."""
    CAMERA_FROZEN = "camera_frozen"
    """The same picture again and again while the arm moves."""
    CAMERAS_OUT_OF_SYNC = "cameras_out_of_sync"
    """The pictures of one observation were taken at different times."""
    IMAGE_CONTRACT = "image_contract"
    """Pictures of another size or encoding than the contract says."""
    STAMPS = "stamps"
    """Messages stamped in the future or backwards."""
    JOINTS_STALE = "joints_stale"
    """The robot does not say where its joints are."""
    JOINTS_BAD = "joints_bad"
    """It says so in messages that cannot be used."""
    GRIPPER_SILENT = "gripper_silent"
    """The gripper does not say how wide it is."""
    CHUNK_BAD = "chunk_bad"
    """The policy sent something that is no chunk of finite joint targets."""
    OUT_OF_RANGE = "out_of_range"
    """Targets beyond the joint limits or the workspace."""
    DISCONTINUITY = "discontinuity"
    """A target far from what is commanded now."""
    LEASH = "leash"
    """The arm is not where it is commanded to be: something holds it."""
    LATE_INFERENCE = "late_inference"
    """The policy answers too late."""
    EXHAUSTED = "exhausted"
    """Nothing is left of the last chunk."""
    POLICY_SLOW = "policy_slow"
    """The policy has not shown that it is fast enough."""
    POLICY_LOST = "policy_lost"
    """The policy process is gone or silent."""
    POLICY_IDENTITY = "policy_identity"
    """It is another policy than the robot is configured for."""
    WRONG_ROBOT = "wrong_robot"
    """It is another robot than that of the limits file, or has not said which one it is."""
    ROBOT_MODE = "robot_mode"
    """Emergency stop, protective stop or reflex."""
    PACKET_LOSS = "packet_loss"
    """The robot gets too few of its controller's commands in time."""
    INSTRUCTION_CHANGED = "instruction_changed"
    """New words while the arm moves."""
    CLOCK_JUMP = "clock_jump"
    """The clock of the stamps was set."""
    TICK_LATE = "tick_late"
    """The gate itself was not in time."""
    DUPLICATE_PUBLISHER = "duplicate_publisher"
    """Somebody else publishes on a topic that must have one publisher."""
    TOPIC_MISSING = "topic_missing"
    """Nobody publishes, or nobody listens, on a topic."""
    TOPIC_TYPE = "topic_type"
    """A topic has another type."""
    QOS_MISMATCH = "qos_mismatch"
    """The quality-of-service policies of a topic do not fit."""
    SECOND_BRIDGE = "second_bridge"
    """Another bridge is armed for this robot."""
    START_POSE = "start_pose"
    """The arm moves, or is not where motion may begin."""
    NOT_ALLOWED = "not_allowed"
    """Not possible in the present state."""
    OPERATOR = "operator"
    """Somebody asked for it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something is wrong now."""

    cause: Cause
    message: str
    """A sentence for people: what, how much, the bound."""
    fault: bool = False
    """Whether it is beyond a HOLD."""

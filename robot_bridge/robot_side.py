"""The other end of the bridge: what a robot, real or simulated, does on the same topics.

A simulated robot is written against `RobotSide` alone, and so runs on DDS, on Zenoh, or in the bridge's own process.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from foreact.robot_bridge.types import RobotMode


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedTrajectory:
    """A trajectory_msgs/msg/JointTrajectory as a controller gets it. Nothing of it has been judged yet: rows and names
    may be missing or hostile, only the lengths of the rows agree (P points, N joints)."""

    joints: tuple[str, ...]
    """In the order of the columns."""
    stamp_s: float
    """Header stamp [s, the sender's ROS clock]; 0 means "begin on arrival"."""
    time_from_start_s: np.ndarray
    """(P,) float64 [s]."""
    position: np.ndarray
    """(P, N) float64 [rad]."""
    velocity: np.ndarray | None
    """(P, N) float64 [rad/s]; None if no point says."""
    acceleration: np.ndarray | None
    """(P, N) float64 [rad/s2]; None if no point says."""
    received_s: float
    """Steady clock [s] when it arrived."""


class RobotSide(Protocol):
    """Publishes what a robot publishes and hears what it is told. Callbacks come from threads of the transport, one at
    a time for each topic; they return at once."""

    def start(
        self,
        on_trajectory: Callable[[ReceivedTrajectory], None],
        on_gripper: Callable[[float], None],
        on_bad_message: Callable[[str, str], None] | None = None,
    ) -> None:
        """Begin to listen.

        Args:
            on_trajectory: Gets each command of the arm.
            on_gripper: Gets +1 (open) or -1 (close).
            on_bad_message: Gets (role, what is wrong) of messages that cannot be read.

        Raises:
            TransportError: If it cannot.
        """
        ...

    def publish_frame(self, camera: str, image: np.ndarray, stamp_s: float) -> None:
        """A picture, (H, W, 3) uint8 RGB; `stamp_s` is its header time [s]."""
        ...

    def publish_joints(
        self,
        positions: Sequence[float] | np.ndarray,
        velocities: Sequence[float] | np.ndarray,
        gripper_width_m: float,
        stamp_s: float,
    ) -> None:
        """Joints of the arm in the order of `TopicNames.arm_joints` [rad, rad/s], and the opening of the gripper."""
        ...

    def publish_mode(self, mode: RobotMode) -> None:
        """What the robot says of itself; late listeners get the last one."""
        ...

    def publish_description(self, urdf: str) -> None:
        """What robot it is, as a URDF; late listeners get it too."""
        ...

    def close(self) -> None:
        """Stop all threads; nothing is sent afterwards."""
        ...

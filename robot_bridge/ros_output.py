"""How commands of the arm leave a rclpy node: as JointTrajectory messages, or in one of the ways that follow this one.

| `output:` of the robot file | file | what is sent |
|---|---|---|
| `joint_trajectory` | here | every command as a message, which replaces the last one |
| `action` | `ros_action.py` | goals of FollowJointTrajectory, at a lower rate |
| `servo_twist` | `ros_servo.py` | TwistStamped for MoveIt Servo at 100 Hz |
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from foreact.robot_bridge import messages_out
from foreact.robot_bridge.ros_make import Maker
from foreact.robot_bridge.ros_threads import Latest
from foreact.robot_bridge.topic_names import COMMAND, TopicNames, TopicSpec
from foreact.robot_bridge.transport import Inbox
from foreact.robot_bridge.types import JointSample, TopicReport, Trajectory


class ArmOutput(Protocol):
    """One way to the arm's controller."""

    def spec(self) -> TopicSpec | None:
        """The topic that is published; None if it is no topic."""
        ...

    def open(self, publisher: Any, inbox: Inbox, now_s: Callable[[], float]) -> None:
        """Begin.

        Args:
            publisher: rclpy's, of the topic of `spec`.
            inbox: Hears what the controller refuses.
            now_s: The node's clock [s].
        """
        ...

    def send(self, trajectory: Trajectory) -> None:
        """Returns at once."""
        ...

    def joints(self, sample: JointSample) -> None:
        """What was measured; returns at once."""
        ...

    def reports(self) -> Sequence[TopicReport]:
        """Of what is no topic."""
        ...

    def close(self) -> None:
        """Send nothing any more."""
        ...


class TopicOutput:
    """JointTrajectory messages.

    Args:
        names: All topics.
        make: Of messages.
        on_error: Gets what publishing raised.
    """

    def __init__(self, names: TopicNames, make: Maker, on_error: Callable[[Exception], None]):
        self._names, self._make, self._on_error = names, make, on_error
        self._publisher: Any = None
        self._now_s: Callable[[], float] | None = None
        self._sender: Latest | None = None

    def spec(self) -> TopicSpec | None:
        """As `ArmOutput.spec`."""
        return next(spec for spec in self._names.specs() if spec.role == "trajectory")

    def open(self, publisher: Any, inbox: Inbox, now_s: Callable[[], float]) -> None:
        """As `ArmOutput.open`."""
        self._publisher, self._now_s = publisher, now_s
        # A reliable publisher may be held up by a reader that hangs; the gate never is.
        self._sender = Latest("ros trajectory", self._on_error)

    def send(self, trajectory: Trajectory) -> None:
        """As `ArmOutput.send`."""
        if self._sender is not None:
            self._sender.put("trajectory", lambda: self._publish(trajectory))

    def _publish(self, trajectory: Trajectory) -> None:
        assert self._now_s is not None
        stamp = stamp_s(trajectory, self._now_s) if self._names.stamped else 0.0
        self._publisher.publish(messages_out.joint_trajectory(self._make, self._names.arm_joints, trajectory, stamp))

    def joints(self, sample: JointSample) -> None:
        """As `ArmOutput.joints`."""

    def reports(self) -> Sequence[TopicReport]:
        """As `ArmOutput.reports`."""
        return ()

    def close(self) -> None:
        """As `ArmOutput.close`."""
        if self._sender is not None:
            self._sender.close()
            self._sender = None


def stamp_s(trajectory: Trajectory, now_s: Callable[[], float]) -> float:
    """When it begins, on the node's clock [s]."""
    return now_s() + trajectory.start_s - time.monotonic()


def topic_spec(names: TopicNames, role: str, topic: str, kind: str) -> TopicSpec:
    """Of a command topic that is none of the usual ones."""
    return TopicSpec(role, names.full(topic), kind, "out", COMMAND)

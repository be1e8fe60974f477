"""Commands as geometry_msgs/msg/TwistStamped for MoveIt Servo: what `servo.TwistOutput` makes of the last command, at
100 Hz. Servo holds the arm by itself when twists stop coming."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from foreact.robot_bridge.limits import RobotLimits
from foreact.robot_bridge.messages_out import header
from foreact.robot_bridge.ros_make import Maker
from foreact.robot_bridge.ros_output import topic_spec
from foreact.robot_bridge.servo import ServoSettings, Twist, TwistOutput
from foreact.robot_bridge.topic_names import TopicNames, TopicSpec
from foreact.robot_bridge.transport import Inbox
from foreact.robot_bridge.types import JointSample, TopicReport, Trajectory

KIND = "geometry_msgs/msg/TwistStamped"
_STALE_S = 0.1


class ServoOutput:
    """Twists.

    Args:
        names: All topics.
        make: Of messages.
        arm: The arm.
        on_error: Gets what publishing raised.
        settings: Of the twists.
    """

    def __init__(
        self,
        names: TopicNames,
        make: Maker,
        arm: RobotLimits,
        on_error: Callable[[Exception], None],
        settings: ServoSettings | None = None,
    ):
        self._names, self._make, self._on_error = names, make, on_error
        self._settings = settings or ServoSettings()
        self._twists = TwistOutput(arm, self._settings)
        self._trajectory: Trajectory | None = None
        self._measured: JointSample | None = None
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def spec(self) -> TopicSpec | None:
        """As `ArmOutput.spec`."""
        return topic_spec(self._names, "twist", self._names.twist, KIND)

    def open(self, publisher: Any, inbox: Inbox, now_s: Callable[[], float]) -> None:
        """As `ArmOutput.open`."""
        self._publisher, self._now_s = publisher, now_s
        self._trajectory = self._measured = None
        self._twists.reset()
        self._closing.clear()
        self._thread = threading.Thread(target=self._run, name="ros servo", daemon=True)
        self._thread.start()

    def send(self, trajectory: Trajectory) -> None:
        """As `ArmOutput.send`."""
        self._trajectory = trajectory

    def joints(self, sample: JointSample) -> None:
        """As `ArmOutput.joints`."""
        self._measured = sample

    def reports(self) -> Sequence[TopicReport]:
        """As `ArmOutput.reports`."""
        return ()

    def close(self) -> None:
        """As `ArmOutput.close`."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join(timeout=2.0)
            self._thread = None

    def twist(self, now_s: float) -> Twist | None:
        """What is to be sent now [steady clock, s]; None: nothing."""
        trajectory, measured = self._trajectory, self._measured
        if measured is None:
            return None
        target = None if now_s - measured.received_s > _STALE_S else self._target(trajectory, now_s)
        if target is None and not self._twists.moving:
            self._twists.reset()
            return None
        return self._twists.twist(target, measured.position)

    def _target(self, trajectory: Trajectory | None, now_s: float) -> np.ndarray | None:
        if trajectory is None:
            return None
        at = now_s + self._settings.tick_s - trajectory.start_s
        if at > trajectory.time_from_start_s[-1]:
            return None
        columns = trajectory.position.T
        return np.array([np.interp(at, trajectory.time_from_start_s, column) for column in columns])

    def _run(self) -> None:
        due = time.monotonic()
        while not self._closing.wait(max(0.0, due - time.monotonic())):
            now = time.monotonic()
            due = max(due + self._settings.tick_s, now)
            try:
                if (twist := self.twist(now)) is not None:
                    self._publisher.publish(self._message(twist))
            except Exception as error:
                self._on_error(error)

    def _message(self, twist: Twist) -> Any:
        new = self._make.new
        parts = [
            new("geometry_msgs/msg/Vector3", **dict(zip("xyz", map(float, part), strict=True)))
            for part in (twist.linear, twist.angular)
        ]
        top = header(self._make, self._now_s(), self._names.base_frame)
        return new(KIND, header=top, twist=new("geometry_msgs/msg/Twist", linear=parts[0], angular=parts[1]))

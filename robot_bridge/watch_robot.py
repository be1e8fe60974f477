"""What the robot says of itself: which one it is, its mode, and how many of its controller's packets arrive."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence

from foreact.robot_bridge.causes import Cause, Finding
from foreact.robot_bridge.gate_settings import GateSettings
from foreact.robot_bridge.limits import RobotLimits, check_urdf
from foreact.robot_bridge.types import RobotMode


class RobotWatch:
    """Of one robot."""

    def __init__(self, limits: RobotLimits, settings: GateSettings):
        self._limits, self._settings = limits, settings
        self._urdf: str | None = None
        self._strange: list[str] | None = None
        """How `_urdf` differs from the limits; None: not looked at yet."""
        self.mode = RobotMode.UNKNOWN
        self._packets: deque[tuple[float, float]] = deque(maxlen=20_000)
        self._since_s: float | None = None

    def on_mode(self, mode: RobotMode) -> None:
        """As it came."""
        self.mode = mode

    def on_description(self, urdf: str) -> None:
        """As it came; compared with the limits when somebody arms, not while the arm may move."""
        if urdf != self._urdf:
            self._urdf, self._strange = urdf, None

    def judge(self) -> None:
        """Compare the URDF with the limits, if that was not done."""
        if self._urdf is not None and self._strange is None:
            self._strange = check_urdf(self._limits, self._urdf)

    @property
    def stopped(self) -> bool:
        """Whether nothing may be sent."""
        return self.mode not in (RobotMode.OK, RobotMode.UNKNOWN)

    def on_packet_success(self, part: float, now_s: float) -> None:
        """Part of the control packets that arrived in time, such as Franka's `control_command_success_rate`."""
        self._since_s = now_s if self._since_s is None else self._since_s
        self._packets.append((now_s, part if math.isfinite(part) else 0.0))
        while self._packets and now_s - self._packets[0][0] > self._settings.packet_window_s:
            self._packets.popleft()

    def findings(self, now_s: float) -> Sequence[Finding]:
        """See `Watch`."""
        if self._urdf is not None and self._strange is None:
            return (Finding(Cause.WRONG_ROBOT, "another description of the robot has come", fault=True),)
        if self._strange:
            said = f"this is not the {self._limits.robot} of the limits file: {'; '.join(self._strange)}"
            return (Finding(Cause.WRONG_ROBOT, said, fault=True),)
        if self.mode is RobotMode.OK:
            return ()
        if self.stopped:
            said = self.mode.value.replace("_", " ")
            return (Finding(Cause.ROBOT_MODE, f"the robot reports {said}", fault=True),)
        if self._settings.require_mode:
            return (Finding(Cause.ROBOT_MODE, "the robot has not said that it is well"),)
        return ()

    def missing(self, now_s: float) -> Iterable[Finding]:
        """See `Watch`."""
        settings = self._settings
        if settings.require_description and self._urdf is None:
            message = "the robot has not described itself (no URDF); without it nobody knows that it is the right one"
            yield Finding(Cause.WRONG_ROBOT, message)
        if settings.packet_success > 0.0:
            watched = 0.0 if self._since_s is None else now_s - self._since_s
            if watched < settings.packet_window_s or not self._packets:
                message = f"packets were watched for {watched:.1f} s, {settings.packet_window_s:.0f} s are needed"
                yield Finding(Cause.PACKET_LOSS, message)
                return
            mean = sum(part for _, part in self._packets) / len(self._packets)
            if mean < settings.packet_success:
                message = f"{mean:.3f} of the control packets arrive in time, at least {settings.packet_success} must"
                yield Finding(Cause.PACKET_LOSS, message)

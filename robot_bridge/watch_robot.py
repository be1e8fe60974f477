"""What the robot says of itself: mode, and how many of its controller's packets arrive."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence

from foreact.robot_bridge.causes import Cause, Finding
from foreact.robot_bridge.gate_settings import GateSettings
from foreact.robot_bridge.types import RobotMode


class RobotWatch:
    """Of one robot."""

    def __init__(self, settings: GateSettings):
        self._settings = settings
        self.mode = RobotMode.UNKNOWN
        self._packets: deque[tuple[float, float]] = deque(maxlen=20_000)
        self._since_s: float | None = None

    def on_mode(self, mode: RobotMode) -> None:
        """As it came."""
        self.mode = mode

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

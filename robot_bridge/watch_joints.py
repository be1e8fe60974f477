"""Measured joints and gripper: do they come, and can they be used?"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from foreact.robot_bridge.causes import Cause, Finding
from foreact.robot_bridge.gate_settings import GateSettings
from foreact.robot_bridge.types import JointSample
from foreact.robot_bridge.watch import milliseconds
from foreact.robot_bridge.watch_clock import ClockWatch, StampOrder


class JointWatch:
    """Of N arm joints and the gripper that is reported with them."""

    def __init__(self, n_joints: int, settings: GateSettings, clock: ClockWatch):
        self._n, self._settings, self._clock = n_joints, settings, clock
        self._order = StampOrder(clock, settings.future_s)
        self.newest: JointSample | None = None
        """The last one that can be used."""
        self.position: list[float] = []
        """Its positions (N,) [rad], in plain floats."""
        self._before: JointSample | None = None
        self._bad = ""
        self._bad_cause = Cause.JOINTS_BAD
        self._gripper_s = -math.inf

    def on_joints(self, sample: JointSample) -> str:
        """A measurement came: "" or why it cannot be used."""
        self._bad_cause = Cause.JOINTS_BAD
        self._bad = self._problem(sample)
        if self._bad:
            return self._bad
        self._bad = self._order.problem(sample.stamp_s, sample.received_s)
        if self._bad:
            self._bad_cause = Cause.STAMPS
            return self._bad
        self._before, self.newest = self.newest, sample
        self.position = sample.position.tolist()
        if sample.gripper_width_m is not None and math.isfinite(sample.gripper_width_m):
            self._gripper_s = sample.received_s
        return ""

    def on_bad(self, message: str) -> None:
        """One came that the transport could not read."""
        self._bad, self._bad_cause = message, Cause.JOINTS_BAD

    def _problem(self, sample: JointSample) -> str:
        position, velocity = sample.position, sample.velocity
        if not isinstance(position, np.ndarray) or position.shape != (self._n,) or position.dtype != np.float64:
            return f"positions of shape {np.shape(position)}, expected ({self._n},) float64"
        if not np.isfinite(position).all():
            return "positions that are not finite"
        if velocity is not None and not (
            isinstance(velocity, np.ndarray) and velocity.shape == (self._n,) and np.isfinite(velocity).all()
        ):
            return "velocities that are not finite, or of another shape"
        if not (math.isfinite(sample.stamp_s) and math.isfinite(sample.received_s)):
            return "a stamp that is not finite"
        return ""

    def speed(self) -> float:
        """The fastest joint now [rad/s]: as the robot says, or from the last two positions."""
        if self.newest is None:
            return math.inf
        if self.newest.velocity is not None:
            return float(np.abs(self.newest.velocity).max())
        if self._before is None or self.newest.received_s <= self._before.received_s:
            return math.inf
        step = np.abs(self.newest.position - self._before.position).max()
        return float(step) / (self.newest.received_s - self._before.received_s)

    def findings(self, now_s: float) -> Sequence[Finding]:
        """See `Watch`."""
        settings = self._settings
        age = math.inf if self.newest is None else now_s - self.newest.received_s
        stamp_age = None if self.newest is None else self._clock.age_s(self.newest.stamp_s, now_s)
        age = age if stamp_age is None else max(age, stamp_age)
        if age > settings.joints_hold_s:
            cause, why = (self._bad_cause, f"; the last message had {self._bad}") if self._bad else (
                Cause.JOINTS_STALE, "")  # fmt: skip
            how_old = "were never seen" if math.isinf(age) else f"are {milliseconds(age)} old"
            message = f"the joints {how_old}, bound {milliseconds(settings.joints_hold_s)}{why}"
            return (Finding(cause, message, fault=age > settings.joints_fault_s),)
        if settings.gripper_required:
            age = now_s - self._gripper_s
            if age > settings.gripper_hold_s:
                how_old = "was never seen" if math.isinf(age) else f"is {milliseconds(age)} old"
                message = f"the gripper's width {how_old}, bound {milliseconds(settings.gripper_hold_s)}"
                return (Finding(Cause.GRIPPER_SILENT, message, fault=age > settings.gripper_fault_s),)
        return ()

    def missing(self, now_s: float) -> Iterable[Finding]:
        """See `Watch`."""
        speed = self.speed()
        if self.newest is not None and not speed <= self._settings.rest_rad_s:
            message = (
                f"the arm moves, or its speed is not known yet: {speed:.3f} rad/s, bound {self._settings.rest_rad_s}"
            )
            yield Finding(Cause.START_POSE, message)

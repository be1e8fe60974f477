"""One camera: are its pictures fresh, alive, and what the contract says?"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import google_crc32c
import numpy as np

from foreact.robot_bridge.causes import Cause, Finding
from foreact.robot_bridge.gate_settings import CameraRule, GateSettings
from foreact.robot_bridge.types import CameraFrame
from foreact.robot_bridge.watch import milliseconds
from foreact.robot_bridge.watch_clock import ClockWatch, StampOrder


class CameraWatch:
    """Of one camera."""

    def __init__(self, rule: CameraRule, settings: GateSettings, clock: ClockWatch):
        self.rule, self._settings, self._clock = rule, settings, clock
        self._hold_s = max(settings.camera_hold_s, settings.camera_hold_frames / rule.rate_hz)
        self._frozen_frames = settings.frozen_frames
        self._encoding = rule.encoding
        self._order = StampOrder(clock, settings.future_s)
        self.reset()
        self.newest: CameraFrame | None = None
        """The last picture that was taken for good."""

    def reset(self) -> None:
        """Forget what was found; the newest picture and its encoding stay."""
        self._contract, self._told = "", False
        self._stamps = ""
        self._hash = -1
        self._equal = 1
        self._joints_at_change: np.ndarray | None = None
        self._moved = 0.0

    def on_frame(self, frame: CameraFrame, joints: np.ndarray | None) -> None:
        """A picture came; `joints` (N,) [rad] are the newest measured ones."""
        problem = self._contract_problem(frame)
        if problem:
            self.on_bad(problem)
            return
        if self._told:
            self._contract = ""
        self._stamps = self._order.problem(frame.stamp_s, frame.received_s)
        if self._stamps:
            return
        self.newest = frame
        self._look_for_freezing(frame, joints)

    def on_bad(self, problem: str) -> None:
        """One came that is not what the contract says. It is not forgotten before it was told."""
        self._contract, self._told = problem, False

    def _contract_problem(self, frame: CameraFrame) -> str:
        rule, image = self.rule, frame.image
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
            return f"an image of {getattr(image, 'dtype', type(image).__name__)}, expected uint8"
        if image.shape != (rule.height, rule.width, 3):
            return f"an image of shape {image.shape}, expected ({rule.height}, {rule.width}, 3)"
        if not (math.isfinite(frame.stamp_s) and math.isfinite(frame.received_s)):
            return "an image whose stamp is not finite"
        self._encoding = self._encoding or frame.encoding
        if frame.encoding != self._encoding:
            return f"an image sent as {frame.encoding!r:.40}, expected {self._encoding!r}"
        return ""

    def _look_for_freezing(self, frame: CameraFrame, joints: np.ndarray | None) -> None:
        found = google_crc32c.value(np.ascontiguousarray(frame.image))
        if found != self._hash:
            self._hash, self._equal, self._moved = found, 1, 0.0
            self._joints_at_change = joints
            return
        self._equal += 1
        if joints is not None and self._joints_at_change is not None:
            self._moved = max(self._moved, float(np.abs(joints - self._joints_at_change).max()))

    def age_s(self, now_s: float) -> float:
        """Of the newest picture: since its arrival, or since its stamp, whichever is longer [s]."""
        if self.newest is None:
            return math.inf
        age = self._clock.age_s(self.newest.stamp_s, now_s)
        return max(now_s - self.newest.received_s, -math.inf if age is None else age)

    def fresh(self, now_s: float) -> bool:
        """Whether a policy may look at the newest picture."""
        return self.age_s(now_s) <= self._hold_s and not self._contract

    def findings(self, now_s: float) -> Sequence[Finding]:
        """See `Watch`."""
        age = self.age_s(now_s)
        frozen = self._equal >= self._frozen_frames and self._moved > self._settings.frozen_motion_rad
        if not (self._contract or age > self._hold_s or frozen):
            return ()
        found: list[Finding] = []
        name, settings = self.rule.name, self._settings
        if self._contract:
            self._told = True
            found.append(Finding(Cause.IMAGE_CONTRACT, f"camera {name} sent {self._contract}", fault=True))
        if age > self._hold_s:
            cause, why = (Cause.STAMPS, f"; it was {self._stamps}") if self._stamps else (Cause.CAMERA_STALE, "")
            how_old = "has sent no picture" if math.isinf(age) else f"is {milliseconds(age)} old"
            message = f"camera {name} {how_old}, bound {milliseconds(self._hold_s)}{why}"
            found.append(Finding(cause, message, fault=age > settings.camera_fault_s))
        if frozen:
            message = f"camera {name} sent {self._equal} equal pictures while a joint moved by {self._moved:.3f} rad"
            found.append(Finding(Cause.CAMERA_FROZEN, message))
        return found

    def missing(self, now_s: float) -> Iterable[Finding]:
        """See `Watch`."""
        return ()


class SyncWatch:
    """The pictures of one observation must belong together."""

    def __init__(self, settings: GateSettings):
        self._settings = settings
        self._dropped = 0
        self._spread_s = 0.0
        self.drops = 0
        """Observations dropped since the start."""

    def reset(self) -> None:
        """Count anew."""
        self._dropped = 0

    def judge(self, frames: Mapping[str, CameraFrame]) -> str:
        """Whether they make an observation: "" or why not."""
        stamps = [frame.stamp_s for frame in frames.values()]
        self._spread_s = max(stamps) - min(stamps) if stamps else 0.0
        if self._spread_s <= self._settings.sync_s:
            self._dropped = 0
            return ""
        self._dropped += 1
        self.drops += 1
        return f"the pictures are {milliseconds(self._spread_s)} apart, bound {milliseconds(self._settings.sync_s)}"

    def findings(self, now_s: float) -> Sequence[Finding]:
        """See `Watch`."""
        if self._dropped < self._settings.sync_drops:
            return ()
        message = f"{self._dropped} observations in a row: pictures {milliseconds(self._spread_s)} apart"
        return (Finding(Cause.CAMERAS_OUT_OF_SYNC, message),)

    def missing(self, now_s: float) -> Iterable[Finding]:
        """See `Watch`."""
        return ()

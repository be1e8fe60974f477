"""The clock of the stamps, beside the steady one: it may be offset by any amount, but not jump."""

from __future__ import annotations

import math
from collections.abc import Iterable

from foreact.robot_bridge.causes import Cause, Finding
from foreact.robot_bridge.gate_settings import GateSettings

_SLEW = 0.002
"""Part of the difference taken over with each reading: a disciplined clock drifts, it does not jump."""


class ClockWatch:
    """Knows what a stamp means."""

    def __init__(self, settings: GateSettings):
        self._settings = settings
        self._offset_s: float | None = None
        self._jumped_s = -math.inf
        self._jump_s = 0.0
        self.jumps = 0

    def on_clock(self, source_s: float, now_s: float) -> None:
        """A reading of the clock that stamps are from, taken now."""
        offset = source_s - now_s
        if not math.isfinite(offset):
            offset = math.inf
        if self._offset_s is None:
            self._offset_s = offset if math.isfinite(offset) else None
            return
        step = offset - self._offset_s
        if abs(step) > self._settings.clock_jump_s:
            self.jumps += now_s - self._jumped_s > self._settings.clock_settle_s
            self._jumped_s, self._jump_s = now_s, step
            self._offset_s = offset if math.isfinite(offset) else None
        else:
            self._offset_s += _SLEW * step

    def age_s(self, stamp_s: float, now_s: float) -> float | None:
        """How old a message with this stamp is now [s]; None if no clock was read."""
        return None if self._offset_s is None else now_s + self._offset_s - stamp_s

    def findings(self, now_s: float) -> Iterable[Finding]:
        """See `Watch`."""
        since = now_s - self._jumped_s
        if since < self._settings.clock_settle_s:
            message = f"the clock of the stamps jumped by {self._jump_s:+.3f} s, {since:.2f} s ago"
            yield Finding(Cause.CLOCK_JUMP, message)

    def missing(self, now_s: float) -> Iterable[Finding]:
        """See `Watch`."""
        if self._settings.require_clock and self._offset_s is None:
            yield Finding(Cause.CLOCK_JUMP, "the clock of the stamps was never read")

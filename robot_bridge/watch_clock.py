"""The clock of the stamps, beside the steady one: it may be offset by any amount, but not jump."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from foreact.robot_bridge.causes import Cause, Finding
from foreact.robot_bridge.gate_settings import GateSettings

_SLEW = 0.002
"""Part of the difference taken over with each reading: a disciplined clock drifts, it does not jump."""


_NEW_ORDER_S = 1.0
"""A source whose stamps have stayed behind for so long was restarted; by then an armed gate has stopped for good."""


class ClockWatch:
    """Knows what a stamp means."""

    def __init__(self, settings: GateSettings):
        self._settings, self._settle_s = settings, settings.clock_settle_s
        self._offset_s: float | None = None
        self._read_s = 0.0
        self._jumped_s = -math.inf
        self._jump_s = 0.0
        self.jumps = 0
        """Jumps so far; stamps from before and after one do not compare."""

    def on_clock(self, source_s: float, now_s: float) -> None:
        """A reading of the clock that stamps are from, taken now."""
        offset = source_s - now_s
        if not math.isfinite(offset):
            offset = math.inf
        self._read_s = offset
        if self._offset_s is None:
            self._offset_s = offset if math.isfinite(offset) else None
            return
        step = offset - self._offset_s
        if abs(step) > self._settings.clock_jump_s:
            self.jumps += 1
            self._jumped_s, self._jump_s = now_s, step
            self._offset_s = offset if math.isfinite(offset) else None
        else:
            self._offset_s += _SLEW * step

    def age_s(self, stamp_s: float, now_s: float) -> float | None:
        """How old a message with this stamp is now [s]; None if nobody knows: no clock was read, or it has just jumped
        and the stamps may be from before."""
        if self._offset_s is None or now_s - self._jumped_s < self._settle_s:
            return None
        return now_s + self._read_s - stamp_s

    def findings(self, now_s: float) -> Sequence[Finding]:
        """See `Watch`."""
        since = now_s - self._jumped_s
        if since >= self._settle_s:
            return ()
        message = f"the clock of the stamps jumped by {self._jump_s:+.3f} s, {since:.2f} s ago"
        return (Finding(Cause.CLOCK_JUMP, message),)

    def missing(self, now_s: float) -> Iterable[Finding]:
        """See `Watch`."""
        if self._settings.require_clock and self._offset_s is None:
            yield Finding(Cause.CLOCK_JUMP, "the clock of the stamps was never read")


class StampOrder:
    """The stamps of one source never run backwards, unless the clock was set."""

    def __init__(self, clock: ClockWatch, future_s: float):
        self._clock, self._future_s = clock, future_s
        self._stamp_s = -math.inf
        self._jumps = 0
        self._refused_s: float | None = None

    def problem(self, stamp_s: float, received_s: float) -> str:
        """What is wrong with a message's stamp; "" if it follows."""
        age = self._clock.age_s(stamp_s, received_s)
        if age is not None and age < -self._future_s:
            return f"stamped {-age:.3f} s in the future"
        if stamp_s < self._stamp_s and self._jumps == self._clock.jumps:
            if self._refused_s is None:
                self._refused_s = received_s
            if received_s - self._refused_s < _NEW_ORDER_S:
                return f"stamped {self._stamp_s - stamp_s:.3f} s before the one before it"
        self._stamp_s, self._jumps, self._refused_s = stamp_s, self._clock.jumps, None
        return ""

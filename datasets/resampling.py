"""Reading a store at another rate: which stored frames a control step of another rate falls on, without any copy.

Rates are rounded to a thousandth of a hertz and their quotient is kept as a fraction of whole numbers, so that no tick
drifts. Ticks begin at the first frame of a clip: tick k lies at the stored time x(k) = k * stored / wanted [frames]; a
clip of n frames has the ticks with x(k) < n. Then

- a frame, and every number that cannot be interpolated, is that of the nearest earlier frame, floor(x(k));
- a state in a unit is interpolated linearly between its two frames, Euler angles on the shortest way;
- a relative action is the displacement from x(k) to x(k + 1), each stored increment spread evenly over its own frame:
  increments are split or summed, and those of any ticks in a row add up to the stored displacement between them;
- any other action, and every gripper, is the last one commanded before x(k + 1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import gcd

import numpy as np

from foreact.vla.contract import Field
from foreact.vla.errors import ConfigError

Read = Callable[[np.ndarray], np.ndarray]
"""(N,) frames -> (N, D) their numbers."""


@dataclass(frozen=True)
class Pace:
    """How many stored frames one tick lasts, as a fraction in lowest terms."""

    frames: int = 1
    ticks: int = 1

    @classmethod
    def between(cls, stored_hz: float, wanted_hz: float) -> Pace:
        """The pace at which a store is read to look as if it had been recorded at another rate.

        Raises:
            ConfigError: If a rate is below 0.001 Hz.
        """
        stored, wanted = round(1000 * stored_hz), round(1000 * wanted_hz)
        if stored < 1 or wanted < 1:
            raise ConfigError(f"rates must be at least 0.001 Hz, found {stored_hz:g} and {wanted_hz:g} Hz")
        common = gcd(stored, wanted)
        return cls(stored // common, wanted // common)

    @property
    def same(self) -> bool:
        """One tick is one frame."""
        return self.frames == self.ticks

    def count(self, frames: np.ndarray) -> np.ndarray:
        """(N,) lengths of clips [frames] -> (N,) numbers of ticks."""
        return -(-frames * self.ticks // self.frames)

    def frame(self, tick: np.ndarray) -> np.ndarray:
        """The nearest earlier frame of each tick, counted from the clip's first."""
        return tick * self.frames // self.ticks

    def fraction(self, tick: np.ndarray) -> np.ndarray:
        """How far each tick lies behind that frame, in [0, 1)."""
        return tick * self.frames % self.ticks / self.ticks

    def states(self, read: Read, tick: np.ndarray, length: np.ndarray, how: Sequence[str]) -> np.ndarray:
        """(N,) ticks of clips of `length` (N,) frames -> (N, D) float32 states.

        Args:
            read: Gives states by frame, counted from the clip's first.
            tick: Numbers of ticks, each within its clip.
            length: Frames of the clip that each tick belongs to.
            how: D of "linear", "angle", "hold", see `state_rules`.
        """
        before = self.frame(tick)
        first = read(before)
        if self.same:
            return first
        step = read(np.minimum(before + 1, length - 1)).astype(np.float64) - first
        rules = np.array(how)
        angle = rules == "angle"
        step[:, angle] = _wrap(step[:, angle])
        step[:, rules == "hold"] = 0.0
        out = first + step * self.fraction(tick)[:, None]
        moved = angle & (step != 0.0)
        out[moved] = _wrap(out[moved])
        return out.astype(np.float32)

    def actions(self, read: Read, tick: np.ndarray, length: np.ndarray, how: Sequence[str]) -> np.ndarray:
        """(N,) ticks of clips of `length` (N,) frames -> (N, D) float32 actions; `how`: D of "sum", "last"."""
        if self.same:
            return read(tick)
        begin = tick * self.frames  # in 1/ticks of a frame
        end = np.minimum(begin + self.frames, length * self.ticks)
        first, last = begin // self.ticks, (end - 1) // self.ticks
        out = read(last).astype(np.float64)
        summed = np.array(how) == "sum"
        if summed.any():
            total = np.zeros((len(tick), int(summed.sum())))
            for nth in range(int((last - first).max(initial=0)) + 1):
                frame = np.minimum(first + nth, last)
                overlap = np.minimum(end, (first + nth + 1) * self.ticks) - np.maximum(
                    begin, (first + nth) * self.ticks
                )
                share = np.maximum(overlap, 0) / self.ticks
                total += read(frame)[:, summed].astype(np.float64) * share[:, None]
            out[:, summed] = total
        return out.astype(np.float32)

    def __str__(self) -> str:
        return f"{self.frames} frames for {self.ticks} ticks" if not self.same else "frame by frame"


def state_rules(fields: Sequence[Field]) -> list[str]:
    """Per component of the state: "linear", "angle" (Euler angles) or "hold" (pure numbers, such as commands)."""
    return [rule for field in fields for rule in [_state_rule(field)] * field.size]


def action_rules(fields: Sequence[Field]) -> list[str]:
    """Per component of the action: "sum" (increments) or "last" (targets, and grippers)."""
    return [
        rule
        for field in fields
        for rule in ["sum" if field.relative and not field.is_gripper else "last"] * field.size
    ]



def _state_rule(field: Field) -> str:
    if field.rotation is not None:
        return "angle" if field.rotation == "euler_xyz" else "hold"
    return "hold" if field.unit == "1" else "linear"


def _wrap(angle: np.ndarray) -> np.ndarray:
    """The same angles in [-pi, pi)."""
    return (angle + np.pi) % (2 * np.pi) - np.pi

"""From chunks that come late, twice or in the wrong order to one smooth stream of joint targets.

Time here is the gate's count of policy steps, a real number; there is no clock. A chunk that was observed at step s
has K rows; row j is what the arm is led to *during* step s + j and reaches at its end, at time s + j + 1. So
`target(s)` is where the arm has been led when step s begins: the pose a policy's relative actions start from. Where
nothing led the arm meanwhile (at the start, after the plan ran out), the chunk is put off by the time that was lost:
no more rows are skipped than steps were executed since the observation. (A policy that warms up in 0.7 s and then
answers in 0.3 s would otherwise begin with a leap over the rows it never executed.)

A new chunk takes over at the moment it arrives, with the position and speed of the old one; the gap fades out over some
steps (`schedule_path.Fade`). So there is no seam, neither in position nor in speed, in any mode.

Shape legend: K rows of a chunk, N arm joints.
"""

from __future__ import annotations

import enum
import math
from collections import Counter, deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foreact.robot_bridge.schedule_merge import ensemble_weights, soft_mask
from foreact.robot_bridge.schedule_path import Fade, Path, fade_length
from foreact.robot_bridge.schedule_settings import SchedulerSettings
from foreact.robot_bridge.types import ActionChunk

__all__ = ["Refusal", "Scheduler", "SchedulerSettings", "Source"]

Array = NDArray[np.float64]

_TINY = 1e-9
_MAX_ROWS = 1000


class Refusal(enum.StrEnum):
    """Why a chunk was not taken: its name is for counting, its value for people."""

    MALFORMED = "it is not (K, N) finite joint targets with (K,) finite gripper commands"
    DUPLICATE = "it came before"
    OVERTAKEN = "a newer chunk came before it"
    OTHER_INSTRUCTION = "it obeys another instruction"
    BEFORE_FLUSH = "it was observed before the last flush"
    FROM_THE_FUTURE = "it was observed at a step that has not begun"
    LATE = "it came too long after its observation"
    PASSED = "the steps of all its rows have been executed"
    JUMP = "its targets are too far from the present ones"


@dataclass(frozen=True, slots=True)
class Source:
    """Where a target comes from, so that its age can be told."""

    sequence: int
    observed_s: float
    """Steady clock [s] of the observation."""
    step: int
    """Policy step of the observation."""
    row: int
    """Row of the chunk that is being executed."""


@dataclass(frozen=True, slots=True)
class _Placed:
    """A chunk put on the time line: its first row begins at `origin`."""

    chunk: ActionChunk
    origin: float
    path: Path

    @property
    def end(self) -> float:
        return self.path.end


@dataclass(slots=True)
class _Plan:
    """What is executed from `begin` on."""

    begin: float
    newest: _Placed
    path: Path
    fade: Fade
    gripper: Array

    def at(self, time: float) -> tuple[Array, Array]:
        position, speed = self.path.at(time)
        faded = self.fade.at(time)
        return (position, speed) if faded is None else (position + faded[0], speed + faded[1])

    def position(self, time: float) -> list[float]:
        position, faded = self.path.position(time), self.fade.offset(time)
        return position if faded is None else [x + y for x, y in zip(position, faded, strict=True)]

    def positions(self, times: Array) -> Array:
        return self.path.positions(times) + self.fade.positions(times)

    def row(self, time: float) -> int:
        return min(max(int(time - self.newest.origin + _TINY), 0), len(self.gripper) - 1)


class Scheduler:
    """Takes chunks, gives targets.

    Args:
        settings: See there.
        period_s: One policy step [s]; used only to compare `settings.acceleration`.
    """

    def __init__(self, settings: SchedulerSettings, period_s: float):
        self.settings, self.period_s = settings, period_s
        self.counts: Counter[str] = Counter()
        """Chunks "accepted", "seams" between two of them, "skipped_rows", and each refusal by name in lower case."""
        self.reset()

    def reset(self) -> None:
        """Forget everything, sequence numbers too: a new connection to a policy begins."""
        self._plan: _Plan | None = None
        self._history: deque[_Placed] = deque(maxlen=self.settings.ensemble_chunks)
        self._runs: deque[tuple[float, float]] = deque(maxlen=64)
        self._now = -math.inf
        self._valid_from = -math.inf
        self._sequence: int | None = None
        self._step = -math.inf
        self._instruction: int | None = None

    def flush(self, step_now: float | None = None, instruction_id: int | None = None) -> None:
        """Drop all that is planned, at once: after a stop, a HOLD, or new words.

        Args:
            step_now: The present step; chunks observed before it are refused from now on. If it is less than before,
                steps are counted anew. None: the time of the last `add`.
            instruction_id: Chunks that obey another instruction are refused from now on. None: as before.
        """
        if step_now is not None and step_now < self._now:
            self._runs.clear()
            self._plan, self._step = None, -math.inf
        self._now = self._now if step_now is None else float(step_now)
        self._end_run(self._now)
        self._plan = None
        self._history.clear()
        self._valid_from = self._now
        if instruction_id is not None:
            self._instruction = instruction_id

    def add(self, chunk: ActionChunk, step_now: float, position: Array | None = None) -> Refusal | None:
        """Take over to a new chunk, from `step_now` on; the reason if it is refused, and then nothing has changed.

        Args:
            chunk: What the policy wants.
            step_now: The present step, a real number; never falls.
            position: Joints (N,) [rad] that are commanded now. Used where no plan leads here, at the start and after
                an underrun: the arm then leaves them from rest. None: it begins at the chunk's first row.
        """
        refusal = self._judge(chunk, step_now) or self._take(chunk, float(step_now), position)
        self.counts["accepted" if refusal is None else refusal.name.lower()] += 1
        return refusal

    def target(self, step: float) -> tuple[Array, float] | None:
        """Joints (N,) [rad] and gripper command at time `step`; None where no plan reaches: stop, repeat nothing."""
        found = self.aim(step)
        return None if found is None else (np.array(found[0]), found[1])

    def aim(self, step: float) -> tuple[list[float], float] | None:
        """`target` in plain floats."""
        plan = self._plan
        if plan is None or step > plan.path.end + _TINY:
            return None
        return plan.position(step), float(plan.gripper[plan.row(step)])

    def speed(self, step: float) -> Array | None:
        """(N,) [rad/s] of the target at time `step`; None as in `target`."""
        plan = self._plan
        if plan is None or step > plan.path.end + _TINY:
            return None
        return plan.at(step)[1] / self.period_s

    def source(self, step: float) -> Source | None:
        """Of the newest chunk in the target at time `step`; None as in `target`."""
        plan = self._plan
        if plan is None or step > plan.path.end + _TINY:
            return None
        chunk = plan.newest.chunk
        return Source(chunk.sequence, chunk.observed_s, chunk.step, plan.row(step))

    @property
    def end(self) -> float | None:
        """The time [steps] at which the plan runs out; None if there is none."""
        return None if self._plan is None else self._plan.path.end

    def executed(self, since: float, until: float) -> float:
        """Steps between two times at which a plan led the arm. Remembers the last 64 plans."""
        runs = list(self._runs)
        if self._plan is not None:
            runs.append((self._plan.begin, min(self._plan.path.end, until)))
        return sum(max(0.0, min(end, until) - max(begin, since)) for begin, end in runs)

    def _judge(self, chunk: ActionChunk, now: float) -> Refusal | None:
        """The reasons that need no arithmetic with targets."""
        if not (math.isfinite(now) and _is_sound(chunk)):
            return Refusal.MALFORMED
        if self._instruction is not None and chunk.instruction_id != self._instruction:
            return Refusal.OTHER_INSTRUCTION
        if self._sequence is not None and chunk.sequence <= self._sequence:
            return Refusal.DUPLICATE if chunk.sequence == self._sequence else Refusal.OVERTAKEN
        if chunk.step < self._step:
            return Refusal.OVERTAKEN
        if chunk.step < self._valid_from - _TINY:
            return Refusal.BEFORE_FLUSH
        if chunk.step > now + _TINY:
            return Refusal.FROM_THE_FUTURE
        if now - chunk.step > self.settings.late_steps + _TINY:
            return Refusal.LATE
        return None

    def _take(self, chunk: ActionChunk, now: float, position: Array | None) -> Refusal | None:
        now = max(now, self._now)
        here = self._here(now, position)
        if here is not None and here[0].shape != chunk.joint_position.shape[1:]:
            return Refusal.MALFORMED
        # Row 0 begins at the observation, put off by the time in which nothing was executed.
        origin = now - min(self.executed(chunk.step, now), now - chunk.step)
        if now > origin + len(chunk.joint_position) - _TINY:
            return Refusal.PASSED
        placed = self._place(chunk, origin, here, now)
        if here is not None and self._is_jump(placed, here[0], now):
            return Refusal.JUMP
        path, gripper = self._merge(placed, now)
        there, speed = path.at(now)
        gap, gap_speed = (there * 0.0, speed * 0.0) if here is None else (here[0] - there, here[1] - speed)
        if self._plan is not None:
            self.counts["seams"] += 1
        self.counts["skipped_rows"] += int(now - origin + _TINY)
        self._end_run(now)
        self._plan = _Plan(now, placed, path, Fade(now, gap, gap_speed, self._length(gap, gap_speed)), gripper)
        self._history.append(placed)
        self._now, self._sequence, self._step, self._instruction = now, chunk.sequence, chunk.step, chunk.instruction_id
        return None

    def _here(self, now: float, position: Array | None) -> tuple[Array, Array] | None:
        """Position and speed of the stream just before `now`; None if nobody knows."""
        if self._plan is not None and now <= self._plan.path.end + _TINY:
            return self._plan.at(now)
        if position is None:
            return None
        position = np.asarray(position, np.float64)
        return position, np.zeros_like(position)

    def _place(self, chunk: ActionChunk, origin: float, here: tuple[Array, Array] | None, now: float) -> _Placed:
        """The chunk as a path that starts where the arm had been led to when its first row began."""
        rows = np.asarray(chunk.joint_position, np.float64)
        plan = self._plan
        if plan is not None and plan.begin - _TINY <= origin <= plan.path.end + _TINY:
            start = plan.at(origin)[0]
        elif here is not None and now - origin < _TINY:
            start = here[0]
        else:  # where the first row comes from is no longer known: go on backwards
            start = 2.0 * rows[0] - rows[1] if len(rows) > 1 else rows[0]
        return _Placed(chunk, origin, Path(origin, np.vstack([start, rows])))

    def _is_jump(self, new: _Placed, here: Array, now: float) -> bool:
        """Whether the chunk leads elsewhere, at this moment or by the end of the row under way."""
        row = new.chunk.joint_position[max(math.ceil(now - new.origin - _TINY), 1) - 1]
        far = max(np.abs(new.path.at(now)[0] - here).max(), np.abs(row - here).max())
        return bool(far > self.settings.max_jump_rad)

    def _merge(self, new: _Placed, now: float) -> tuple[Path, Array]:
        """The path and gripper commands (K,) to follow, by mode."""
        plan = self._plan
        gripper = _signs(new.chunk)
        if plan is None or self.settings.mode == "replace" or now > plan.path.end:
            return new.path, gripper
        times = new.origin + np.arange(len(gripper) + 1, dtype=np.float64)
        knots = new.path.positions(times)
        if self.settings.mode == "ensemble":
            return self._average(new, times, knots, gripper)
        # Rows under way or committed are kept; a row ends one step after it began.
        overlap = min(int(plan.path.end - new.origin + _TINY), len(gripper))
        frozen = min(math.ceil(now - new.origin + self.settings.commit_steps - _TINY), overlap)
        if overlap > 0:
            ahead = plan.positions(times[1:]) - knots[1:]
            ahead[overlap:] = ahead[overlap - 1]  # an old plan that ends too soon is faded out all the same
            reach = min(max(overlap, frozen + self._rows(ahead[max(frozen, 1) - 1])), len(gripper))
            knots[1:] += soft_mask(len(gripper), frozen, reach)[:, None] * ahead
        for row in range(frozen):
            gripper[row] = plan.gripper[plan.row(times[row])]
        return Path(new.origin, knots), gripper

    def _average(self, new: _Placed, times: Array, knots: Array, gripper: Array) -> tuple[Path, Array]:
        """Each row becomes the weighted mean of all chunks that reach it, the gripper what most weight is for.

        A chunk that has ended keeps its last distance from the newest for `blend_steps`, with falling weight: the mean
        would leap where it drops out.
        """
        chunks = [old for old in self._history if old.end >= times[1] - _TINY] + [new]
        chunks = chunks[-self.settings.ensemble_chunks :]
        share = ensemble_weights(len(chunks), self.settings.ensemble_decay)[:, None] * np.ones(len(gripper))
        ahead = np.empty((len(chunks), *knots[1:].shape))
        for i, chunk in enumerate(chunks):
            past = np.clip((times[1:] - chunk.end - _TINY) / self.settings.blend_steps, 0.0, 1.0)
            share[i] *= (1.0 - past) ** 2 * (1.0 + 2.0 * past)
            until = np.minimum(times[1:], chunk.end)
            ahead[i] = chunk.path.positions(until) - new.path.positions(until)
        share /= share.sum(axis=0)
        knots[1:] += np.einsum("ck,ckn->kn", share, ahead)
        places = [np.clip((times[:-1] - c.origin + 0.5).astype(int), 0, len(c.chunk.gripper) - 1) for c in chunks]
        vote = sum(w * _signs(c.chunk)[i] for w, c, i in zip(share, chunks, places, strict=True))
        return Path(new.origin, knots), np.where(np.abs(vote) < _TINY, gripper, np.sign(vote))

    def _length(self, gap: Array, gap_speed: Array) -> float:
        """Steps over which a gap fades."""
        settings = self.settings
        if settings.acceleration is None:
            return settings.blend_steps
        half = 0.5 * np.asarray(settings.acceleration) * self.period_s**2
        return min(max(settings.blend_steps, fade_length(gap, gap_speed, half)), settings.max_blend_steps)

    def _rows(self, gap: Array) -> int:
        """Rows over which the soft mask takes a gap back.

        Over n rows its largest step is about 2.6 / (n + 1) of the gap; a row that steps by x accelerates by up to 6 x.
        """
        settings = self.settings
        if settings.acceleration is None:
            return math.ceil(settings.blend_steps)
        half = 0.5 * np.asarray(settings.acceleration) * self.period_s**2
        rows = float((2.6 * 6.0 * np.abs(gap) / half).max()) - 1.0
        return math.ceil(min(max(settings.blend_steps, rows), settings.max_blend_steps))

    def _end_run(self, now: float) -> None:
        if self._plan is not None:
            self._runs.append((self._plan.begin, min(self._plan.path.end, now)))


def _signs(chunk: ActionChunk) -> Array:
    """Gripper commands (K,): +1 open, -1 close, nothing between."""
    return np.where(chunk.gripper > 0.0, 1.0, -1.0)


def _is_sound(chunk: ActionChunk) -> bool:
    """Whether it is what the type promises, whatever the sender made of it."""
    q, g = chunk.joint_position, chunk.gripper
    return (
        isinstance(q, np.ndarray)
        and isinstance(g, np.ndarray)
        and q.dtype.kind == "f"
        and g.dtype.kind == "f"
        and q.ndim == 2
        and 1 <= q.shape[0] <= _MAX_ROWS
        and q.shape[1] >= 1
        and g.shape == q.shape[:1]
        and bool(np.isfinite(q).all() and np.isfinite(g).all())
    )

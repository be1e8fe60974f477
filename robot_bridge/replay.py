"""A replay: chunks through the scheduler under injected latency, loss, reorder and duplicates, and what came of it.

Time is simulated: nothing waits, and a run repeats exactly. Every step that is executed is checked against books that
the replay keeps itself, not against the scheduler's: whether its chunk had to be refused, and whether its row is the
one whose turn it is.
"""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreact.robot_bridge.replay_wishes import Wishes
from foreact.robot_bridge.schedule_settings import SchedulerSettings
from foreact.robot_bridge.scheduler import Scheduler
from foreact.robot_bridge.types import ActionChunk
from foreact.vla.errors import ConfigError

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class ReplaySettings:
    """What goes wrong, and how long.

    Raises:
        ConfigError: If a number is out of its range; it is named.
    """

    period_s: float = 1 / 7.5
    """One policy step [s]: 30 Hz at a quarter of the speed."""
    steps: int = 1000
    """Policy steps of simulated time."""
    tick_s: float = 0.01
    plan_every: int = 1
    """The policy is asked every so many steps, whatever is still on its way."""
    latency_low_s: float = 0.0
    latency_high_s: float = 0.2
    """A chunk takes this long, evenly spread."""
    loss: float = 0.0
    """Part of the chunks that never come, [0, 1]."""
    reorder: float = 0.0
    """Part of the chunks that are held back and so overtaken, [0, 1]."""
    held_s: float = 0.3
    duplicate: float = 0.0
    """Part of the chunks that come again later, [0, 1]."""
    change_every: int = 0
    """A new instruction about every so many steps; 0: never."""
    seed: int = 0

    def __post_init__(self) -> None:
        bounds = {
            "period_s": (1e-3, 10.0), "tick_s": (1e-3, self.period_s), "steps": (1, 10**7), "plan_every": (1, 1000),
            "latency_low_s": (0.0, 60.0), "latency_high_s": (self.latency_low_s, 60.0), "loss": (0.0, 1.0),
            "reorder": (0.0, 1.0), "held_s": (0.0, 60.0), "duplicate": (0.0, 1.0), "change_every": (0, 10**7),
        }  # fmt: skip
        for name, (low, high) in bounds.items():
            if not low <= getattr(self, name) <= high:
                raise ConfigError(f"replay: {name} must be in [{low:g}, {high:g}], found {getattr(self, name)!r}")


@dataclass(kw_only=True)
class ReplayReport:
    """What came of a replay."""

    asked: int = 0
    """Chunks that the policy made."""
    arrived: int = 0
    """... and that came, duplicates included."""
    accepted: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    executed: int = 0
    """Rows that led the arm."""
    stale: int = 0
    """... of these, rows of a chunk that had to be refused, of another instruction, or out of turn."""
    seams: int = 0
    seam_rad: float = 0.0
    """Largest step of the target at the moment a chunk takes over."""
    seam_rad_s: float = 0.0
    """Largest step of its speed there."""
    step_rad: float = 0.0
    """Largest way of a joint in one tick."""
    acceleration_share: float = 0.0
    """Largest second difference of the target over the ticks, as part of the acceleration limit."""
    underruns: int = 0
    """How often the plan ran out."""
    standing_s: float = 0.0
    """Time without a plan."""
    simulated_s: float = 0.0
    latency_p50_s: float = 0.0
    """From observation to the first tick that follows it."""
    latency_p99_s: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


@dataclass(order=True)
class _Letter:
    """A chunk on its way."""

    due_s: float
    number: int
    chunk: ActionChunk = field(compare=False)


class Post:
    """Delivers chunks late, twice, in the wrong order or not at all."""

    def __init__(self, settings: ReplaySettings):
        self._settings, self._random = settings, np.random.default_rng([settings.seed, 1])
        self._letters: list[_Letter] = []
        self._number = 0

    def send(self, chunk: ActionChunk, now_s: float) -> None:
        s, random = self._settings, self._random
        latency, lost, held, again, later = random.uniform(size=5)
        if lost < s.loss:
            return
        due = now_s + s.latency_low_s + latency * (s.latency_high_s - s.latency_low_s)
        due += s.held_s if held < s.reorder else 0.0
        self._push(due, chunk)
        if again < s.duplicate:
            self._push(due + later * s.held_s, chunk)

    def due(self, now_s: float) -> list[ActionChunk]:
        out = []
        while self._letters and self._letters[0].due_s <= now_s:
            out.append(heapq.heappop(self._letters).chunk)
        return out

    def _push(self, due_s: float, chunk: ActionChunk) -> None:
        self._number += 1
        heapq.heappush(self._letters, _Letter(due_s, self._number, chunk))


class _Replay:
    """The run, and the books."""

    def __init__(self, wishes: Wishes, scheduler: Scheduler, settings: ReplaySettings, acceleration: Array):
        self.wishes, self.scheduler, self.settings = wishes, scheduler, settings
        self.post, self.report = Post(settings), ReplayReport()
        self.random = np.random.default_rng([settings.seed, 2])
        self.bound = acceleration * settings.tick_s**2
        self.position = wishes.start()
        self.instruction, self.sequence, self.flushed = 1, 0, 0.0
        self.newest, self.bad = -1, False
        self.moved_ticks = 0.0
        self.moved_at: dict[int, float] = {}  # sequence -> ticks executed when it was observed
        self.way = np.zeros_like(self.position)
        self.moving = False
        self.last_row: tuple[int, int] = (-1, -1)
        self.latencies: list[float] = []
        self.refused: Counter[str] = Counter()

    def run(self) -> ReplayReport:
        s, report = self.settings, self.report
        self.scheduler.flush(0.0, self.instruction)
        asked = -1
        for tick in range(int(s.steps * s.period_s / s.tick_s)):
            now = tick * s.tick_s
            time = now / s.period_s
            step = int(time + 1e-9)
            if s.change_every and self.random.random() < s.tick_s / s.period_s / s.change_every:
                self.change(time)
            if step > asked and step % s.plan_every == 0:
                asked = step
                self.ask(step, now)
            self.follow(time)
            for chunk in self.post.due(now):
                self.receive(chunk, time, now)
        report.simulated_s = s.steps * s.period_s
        report.refused = dict(self.refused)
        if self.latencies:
            report.latency_p50_s, report.latency_p99_s = (float(x) for x in np.percentile(self.latencies, [50, 99]))
        return report

    def change(self, time: float) -> None:
        """New words: what was planned is dropped."""
        self.instruction += 1
        self.flushed = time
        self.scheduler.flush(time, self.instruction)

    def ask(self, step: int, now: float) -> None:
        found = self.scheduler.target(float(step))
        anchor = self.position if found is None else found[0]
        rows, gripper = self.wishes.chunk(step, anchor, self.instruction)
        self.moved_at[self.sequence] = self.moved_ticks
        chunk = ActionChunk(
            sequence=self.sequence, instruction_id=self.instruction, observed_s=now, step=step, joint_position=rows,
            gripper=gripper,
        )  # fmt: skip
        self.sequence += 1
        self.report.asked += 1
        self.post.send(chunk, now)

    def receive(self, chunk: ActionChunk, time: float, now: float) -> None:
        report, scheduler = self.report, self.scheduler
        report.arrived += 1
        before, speed = scheduler.target(time), scheduler.speed(time)
        refusal = scheduler.add(chunk, time, self.position)
        if refusal is not None:
            self.refused[refusal.name.lower()] += 1
            return
        report.accepted += 1
        self.bad = (
            chunk.sequence <= self.newest
            or chunk.instruction_id != self.instruction
            or chunk.step < self.flushed - 1e-9
            or time - chunk.step > scheduler.settings.late_steps + 1e-6
        )
        self.newest = max(self.newest, chunk.sequence)
        self.latencies.append(now - chunk.observed_s)
        after, new_speed = scheduler.target(time), scheduler.speed(time)
        if before is None or after is None or speed is None or new_speed is None:
            return
        report.seams += 1
        report.seam_rad = max(report.seam_rad, float(np.abs(after[0] - before[0]).max()))
        report.seam_rad_s = max(report.seam_rad_s, float(np.abs(new_speed - speed).max()))

    def follow(self, time: float) -> None:
        report = self.report
        found, source = self.scheduler.target(time), self.scheduler.source(time)
        if found is None or source is None:
            report.standing_s += self.settings.tick_s
            report.underruns += self.moving
            self.moving, self.way = False, np.zeros_like(self.way)
            return
        self.moving = True
        way = found[0] - self.position
        report.step_rad = max(report.step_rad, float(np.abs(way).max()))
        report.acceleration_share = max(report.acceleration_share, float((np.abs(way - self.way) / self.bound).max()))
        self.position, self.way = found[0], way
        self.moved_ticks += 1.0
        if (source.sequence, source.row) != self.last_row:
            self.last_row = (source.sequence, source.row)
            report.executed += 1
            report.stale += self.is_stale(source.sequence, source.row, source.step)

    def is_stale(self, sequence: int, row: int, step: int) -> bool:
        """By these books alone: ticks with a plan since the observation say whose turn it is."""
        per_step = self.settings.period_s / self.settings.tick_s
        turn = (self.moved_ticks - self.moved_at[sequence]) / per_step
        slack = 2.0 / per_step
        in_turn = row - slack <= turn <= row + 1 + slack
        return self.bad or sequence != self.newest or not in_turn


def replay(
    wishes: Wishes,
    scheduler: SchedulerSettings,
    settings: ReplaySettings,
    acceleration: Array,
) -> ReplayReport:
    """Run chunks through a scheduler.

    Args:
        wishes: What the policy wants.
        scheduler: Settings of the scheduler.
        settings: What goes wrong.
        acceleration: Limits (N,) [rad/s2] that the stream is compared with.
    """
    return _Replay(wishes, Scheduler(scheduler, settings.period_s), settings, np.asarray(acceleration)).run()

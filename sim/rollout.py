"""Rollouts of an actor in several environments in lockstep: single tasks, and chains of tasks without a reset.

All environments of a process share one actor: whatever slots need a plan at a control step get it from one call. A
rollout depends on its start, its instructions and the actor alone, not on what runs in the other slots.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import numpy as np

from foreact.sim.border import Border, Frames, Obs
from foreact.sim.desk_suite import DeskSuite
from foreact.sim.failure_kinds import TaskWatch
from foreact.sim.failures import failure_reason
from foreact.sim.happened import HappenedTasks
from foreact.sim.scenes import get_scene
from foreact.sim.suites import SuiteEnv
from foreact.sim.tasks import feasible
from foreact.vla.actors import check_plan
from foreact.vla.foresight import foresight_errors
from foreact.vla.policy import Actor, Observation
from foreact.vla.results import ForesightSums


class _GoesOn(Protocol):
    """An environment in which one task can follow another without a reset."""

    def begin_task(self, task: str, instruction: str) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Job:
    """One rollout to be done: one task, or several in a row."""

    index: int
    """Which start, or which chain."""
    seed: int
    """All that is random in the environment follows from it."""
    start: Mapping[str, np.ndarray] = field(default_factory=dict)
    """State vectors to begin from (reset options such as robot_obs and scene_obs); empty: drawn from the seed."""
    tasks: tuple[str, ...]
    instructions: tuple[str, ...]
    """One per task."""
    record: bool = False
    """Keep the frames, ask for predicted ones and measure them."""
    record_from: int = 0
    """Of a recorded chain: the task at whose beginning the recording begins."""


@dataclass(kw_only=True)
class Recording:
    """What was seen and what was expected, in one rollout."""

    seen: list[Frames] = field(default_factory=list)
    """One entry per control step from its beginning on, in the environment's sizes."""
    predicted: dict[int, Frames] = field(default_factory=dict)
    """Control step of a plan, counted from the recording's beginning -> the frames it expected."""
    instructions: dict[int, str] = field(default_factory=dict)
    """Control step at which a task was begun -> its instruction."""
    steps_ahead: int = 0

    def foresight(self) -> dict[str, ForesightSums]:
        """Per camera, the errors of all predictions whose moment was reached within the rollout."""
        sums: dict[str, ForesightSums] = {}
        for step, frames in self.predicted.items():
            if step + self.steps_ahead >= len(self.seen):
                continue
            now, later = self.seen[step], self.seen[step + self.steps_ahead]
            for camera, predicted in frames.items():
                error = foresight_errors(now[camera], later[camera], predicted)
                sums[camera] = sums.get(camera, ForesightSums()) + error
        return sums


@dataclass(frozen=True)
class Attempt:
    """What became of one task of a rollout."""

    success: bool
    steps: int
    """Control steps until success, or until the limit."""
    other_tasks: tuple[str, ...]
    reason: str = ""
    """Why it failed, where the simulator can tell."""
    kind: str = ""
    """What kind of failure it was, one of `failure_kinds.KINDS`; empty for a success or where nobody can tell."""
    detail: str = ""
    """How far it got, in a few words."""


@dataclass(kw_only=True)
class Rollout:
    """One finished rollout: all tasks solved, or the last attempt failed."""

    job: Job
    attempts: tuple[Attempt, ...]
    wall_s: float
    recording: Recording | None

    @property
    def solved(self) -> int:
        """How many tasks in a row were solved."""
        return sum(attempt.success for attempt in self.attempts)


@dataclass
class _Slot:
    """A rollout under way."""

    job: Job
    obs: Obs
    began: float
    before: Obs
    """Seen when the present task began."""
    steps: int = 0
    """Since the present task began."""
    queue: deque[np.ndarray] = field(default_factory=deque)
    others: set[str] = field(default_factory=set)
    attempts: list[Attempt] = field(default_factory=list)
    recording: Recording | None = None
    watch: TaskWatch | None = None
    """Looks on at the present task, where the simulator tells enough."""
    frames: Frames = field(default_factory=dict)
    """Pictures of the present step; empty while nobody looks."""

    @property
    def instruction(self) -> str:
        return self.job.instructions[len(self.attempts)]

    @property
    def task(self) -> str:
        return self.job.tasks[len(self.attempts)]


class Lockstep:
    """An actor in several environments; see `run`."""

    def __init__(
        self, actor: Actor, envs: Sequence[SuiteEnv], border: Border, *, max_steps: int, foresight: bool
    ) -> None:
        """`max_steps` is per task; `foresight` asks for predicted frames in the rollouts that are recorded."""
        self._actor, self._envs, self._border = actor, envs, border
        self._max_steps, self._foresight = max_steps, foresight
        # An actor may say how many control steps before a plan it looks at; nothing else is drawn then.
        self._looks_back: tuple[int, ...] | None = getattr(actor, "looks_back", None)

    def run(self, jobs: Iterable[Job]) -> Iterator[Rollout]:
        """Do the jobs, each in the next free environment; yields each rollout when it ends."""
        waiting = iter(jobs)
        active: dict[int, _Slot] = {}
        while True:
            for number in range(len(self._envs)):
                if number not in active and (job := next(waiting, None)) is not None:
                    active[number] = self._begin(number, job)
            if not active:
                return
            self._think(active)
            for number in list(active):
                if (rollout := self._step(number, active[number])) is not None:
                    del active[number]
                    yield rollout

    def _begin(self, number: int, job: Job) -> _Slot:
        began = time.perf_counter()
        options: dict[str, Any] = {**job.start, "task": job.tasks[0], "instruction": job.instructions[0]}
        obs, _ = self._envs[number].reset(seed=job.seed, options=options)
        self._actor.reset([number])
        slot = _Slot(job, obs, began, before=obs)
        self._begin_task(slot)
        self._look(number, slot)
        return slot

    def _begin_task(self, slot: _Slot) -> None:
        slot.watch = TaskWatch(slot.task) if isinstance(self._border.suite, DeskSuite) else None
        if slot.job.record and slot.recording is None and len(slot.attempts) == slot.job.record_from:
            slot.recording = Recording()
        if slot.recording is not None:
            slot.recording.instructions[len(slot.recording.seen)] = slot.instruction

    def _look(self, number: int, slot: _Slot) -> None:
        """Draw what is looked at: for a recording always, for the actor if one of its plans will look at this step."""
        wanted = self._border.cameras and self._will_look(len(slot.queue))
        slot.frames = self._envs[number].frames() if wanted or slot.recording is not None else {}
        if slot.recording is not None:
            slot.recording.seen.append(slot.frames)

    def _will_look(self, steps_to_plan: int) -> bool:
        if steps_to_plan == 0 or self._looks_back is None:
            return True
        furthest = max(self._looks_back, default=0)
        return any(ahead in self._looks_back for ahead in range(steps_to_plan, furthest + 1, self._actor.execute_steps))

    def _think(self, active: Mapping[int, _Slot]) -> None:
        """Plan for the slots that have run out of actions, and let the others take note."""
        idle = [n for n in active if not active[n].queue]
        shown = {n for n in idle if self._foresight and active[n].recording is not None}
        for watching in (True, False):  # an observation has pictures of all its slots, or of none
            rest = [n for n in active if n not in idle and bool(active[n].frames) == watching]
            if rest:
                self._actor.observe(self._observation(rest, active))
        # Predicted frames cost far more than actions, so they are decoded for nobody else.
        for numbers, foresight in (([n for n in idle if n not in shown], False), (sorted(shown), True)):
            if not numbers:
                continue
            plan = self._actor.plan(self._observation(numbers, active), foresight=foresight)
            actions = check_plan(self._actor, plan, len(numbers))
            for row, number in enumerate(numbers):
                slot = active[number]
                slot.queue.extend(actions[row])
                recording = slot.recording
                if foresight and plan.foresight is not None and recording is not None:
                    recording.steps_ahead = plan.foresight_steps
                    recording.predicted[len(recording.seen) - 1] = {c: f[row].copy() for c, f in plan.foresight.items()}

    def _observation(self, numbers: Sequence[int], active: Mapping[int, _Slot]) -> Observation:
        slots = [active[n] for n in numbers]
        return self._border.observation(
            numbers, [s.obs for s in slots], [s.frames for s in slots], [s.instruction for s in slots]
        )

    def _step(self, number: int, slot: _Slot) -> Rollout | None:
        env = self._envs[number]
        slot.obs, _, _, truncated, info = env.step(self._border.action(slot.queue.popleft()))
        slot.steps += 1
        happened = info["tasks_happened"]
        slot.others.update(name for name in happened if name != slot.task)
        if slot.watch is not None and isinstance(happened, HappenedTasks):
            slot.watch.see(*happened.moments)
        success = bool(info["is_success"])
        if success or truncated or slot.steps >= self._max_steps:
            others = tuple(sorted(slot.others))
            reason, kind, detail = ("", "", "") if success else self._reason(slot, others)
            slot.attempts.append(Attempt(success, slot.steps, others, reason, kind, detail))
            if not success or len(slot.attempts) == len(slot.job.tasks):
                if slot.recording is not None:
                    slot.recording.seen.append(env.frames())
                return Rollout(
                    job=slot.job,
                    attempts=tuple(slot.attempts),
                    wall_s=time.perf_counter() - slot.began,
                    recording=slot.recording,
                )
            self._next_task(number, slot)
        self._look(number, slot)
        return None

    def _reason(self, slot: _Slot, others: Sequence[str]) -> tuple[str, str, str]:
        """Reason, kind and detail of a failed attempt."""
        suite = self._border.suite
        if not isinstance(suite, DeskSuite) or slot.watch is None:
            return "", "", ""
        before, scene = slot.before["scene_obs"], get_scene(suite.scene)
        kind, detail = slot.watch.kind(possible=feasible(slot.task, before, scene), others=others)
        return failure_reason(slot.task, before, slot.obs["scene_obs"], scene), kind, detail

    def _next_task(self, number: int, slot: _Slot) -> None:
        """The actor forgets, the scene stays."""
        slot.steps, slot.others, slot.before = 0, set(), slot.obs
        slot.queue.clear()
        self._actor.reset([number])
        cast(_GoesOn, self._envs[number]).begin_task(slot.task, slot.instruction)
        self._begin_task(slot)

"""Rollouts of an actor in several desks in lockstep.

All desks of a process share one actor: whatever slots need a plan at a control step get it from one call. A rollout
depends on its start, its instruction and the actor alone, not on what runs in the other slots.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from foreact.sim.embodiment import ACTION_MODES, desk_contract
from foreact.sim.env import DeskEnv, Obs
from foreact.sim.starts import Start
from foreact.vla.actors import check_plan
from foreact.vla.contract import Adapter, Contract, ContractMismatch, adapt
from foreact.vla.foresight import foresight_errors
from foreact.vla.images import resize_frame
from foreact.vla.policy import Actor, Observation
from foreact.vla.results import ForesightSums

Frames = dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Job:
    """One rollout to be done."""

    start_index: int
    start: Start
    task: str
    instruction: str
    record: bool = False
    """Keep the frames, ask for predicted ones and measure them."""


@dataclass(kw_only=True)
class Recording:
    """What was seen and what was expected, in one rollout."""

    seen: list[Frames] = field(default_factory=list)
    """One entry per control step from the reset on, in the environment's sizes."""
    predicted: dict[int, Frames] = field(default_factory=dict)
    """Control step of a plan -> the frames it expected."""
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


@dataclass(kw_only=True)
class Rollout:
    """One finished rollout."""

    job: Job
    success: bool
    steps: int
    other_tasks: tuple[str, ...]
    wall_s: float
    recording: Recording | None


@dataclass(frozen=True)
class Border:
    """How one actor meets the desk: the action mode it speaks, and the adaptations that need no choice."""

    action_mode: str
    cameras: tuple[str, ...]
    adapter: Adapter

    def observation(self, slots: Sequence[int], obs: Sequence[Obs], instruction: Sequence[str]) -> Observation:
        """What the actor sees of these slots."""
        images = {
            camera: np.stack([resize_frame(o[camera], *self.adapter.resize[camera]) for o in obs])
            for camera in self.cameras
        }
        state = self.adapter.state(np.stack([o["robot_obs"] for o in obs])).astype(np.float32)
        return Observation(slots=tuple(slots), images=images, state=state, instruction=tuple(instruction))

    def action(self, action: np.ndarray) -> np.ndarray:
        """The actor's action (A,) in the order of the environment."""
        ordered = np.empty_like(action)
        ordered[list(self.adapter.action_index)] = action
        return ordered


def find_border(actor: Contract, name: str) -> Border:
    """Choose the desk's action mode that the actor speaks, and the adaptations.

    Raises:
        ContractMismatch: With the differences to the mode that fits best, when none fits.
    """
    wanted = {f.name for f in actor.action}
    best = max(ACTION_MODES, key=lambda mode: len(wanted & {f.name for f in ACTION_MODES[mode].fields}))
    offered = desk_contract(action_mode=best)
    adapter = adapt(actor, offered, required_by=name, offered_by=f"the desk (action_mode={best})")
    missing = [f.name for f in offered.action if f.name not in wanted]
    if missing:
        raise ContractMismatch(
            f"{name} does not fit the desk (action_mode={best}): its actions lack {', '.join(missing)}; "
            f"found: {', '.join(sorted(wanted)) or '(none)'}"
        )
    return Border(best, tuple(c.name for c in actor.cameras), adapter)


def make_envs(scene: str, border: Border, n: int) -> list[DeskEnv]:
    """`n` desks that offer what the border needs; only cameras that the actor looks at are rendered."""
    sizes = {c.name: (c.height, c.width) for c in desk_contract().cameras if c.name in border.cameras}
    return [DeskEnv(scene, sizes=sizes or None, action_mode=border.action_mode, render=bool(sizes)) for _ in range(n)]


@dataclass
class _Slot:
    """A rollout under way."""

    job: Job
    obs: Obs
    began: float
    steps: int = 0
    queue: deque[np.ndarray] = field(default_factory=deque)
    others: set[str] = field(default_factory=set)
    recording: Recording | None = None


class Lockstep:
    """An actor in several desks; see `run`."""

    def __init__(
        self, actor: Actor, envs: Sequence[DeskEnv], border: Border, *, max_steps: int, foresight: bool
    ) -> None:
        """`foresight` asks for predicted frames in the rollouts that are recorded."""
        self._actor, self._envs, self._border = actor, envs, border
        self._max_steps, self._foresight = max_steps, foresight

    def run(self, jobs: Iterable[Job]) -> Iterator[Rollout]:
        """Do the jobs, each in the next free desk; yields each rollout when it ends."""
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
        env = self._envs[number]
        began = time.perf_counter()
        obs, _ = env.reset(
            seed=job.start.seed,
            options={
                "robot_obs": job.start.robot_obs,
                "scene_obs": job.start.scene_obs,
                "task": job.task,
                "instruction": job.instruction,
            },
        )
        self._actor.reset([number])
        slot = _Slot(job, obs, began)
        if job.record:
            slot.recording = Recording(seen=[self._seen(number, obs)])
        return slot

    def _seen(self, number: int, obs: Obs) -> Frames:
        """Frames for a recording; a blind actor's desk renders only for this."""
        cameras = self._border.cameras
        return {c: obs[c] for c in cameras} if cameras else self._envs[number].frames()

    def _think(self, active: Mapping[int, _Slot]) -> None:
        """Plan for the slots that have run out of actions, and let the others take note."""
        idle = [n for n in active if not active[n].queue]
        shown = {n for n in idle if self._foresight and active[n].recording is not None}
        rest = [n for n in active if n not in idle]
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
                if foresight and plan.foresight is not None and slot.recording is not None:
                    slot.recording.steps_ahead = plan.foresight_steps
                    slot.recording.predicted[slot.steps] = {c: f[row].copy() for c, f in plan.foresight.items()}

    def _observation(self, numbers: Sequence[int], active: Mapping[int, _Slot]) -> Observation:
        slots = [active[n] for n in numbers]
        return self._border.observation(numbers, [s.obs for s in slots], [s.job.instruction for s in slots])

    def _step(self, number: int, slot: _Slot) -> Rollout | None:
        action = self._border.action(slot.queue.popleft())
        slot.obs, _, _, _, info = self._envs[number].step(action)
        slot.steps += 1
        slot.others.update(name for name in info["tasks_happened"] if name != slot.job.task)
        if slot.recording is not None:
            slot.recording.seen.append(self._seen(number, slot.obs))
        success = bool(info["is_success"])
        if not success and slot.steps < self._max_steps:
            return None
        return Rollout(
            job=slot.job,
            success=success,
            steps=slot.steps,
            other_tasks=tuple(sorted(slot.others)),
            wall_s=time.perf_counter() - slot.began,
            recording=slot.recording,
        )

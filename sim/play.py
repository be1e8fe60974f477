"""Play: one long session in which an expert does one feasible task after another, with pauses, slips and failures.

Like CALVIN's play data (mees/calvin, MIT), where people moved the robot as they liked: nothing is reset between tasks,
and no sentence says what is being done. Here it is known, because the expert chose it, and each session keeps the list.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field

import numpy as np

from foreact.datasets.episode import Segment
from foreact.sim.block_goals import held_block
from foreact.sim.demonstrate import DemonstrationSettings, Disturbance, frame_parts
from foreact.sim.env import DeskEnv
from foreact.sim.expert_law import Measured, Waypoint
from foreact.sim.experts import LAWS
from foreact.sim.language import training_instructions
from foreact.sim.manner import draw_manner
from foreact.sim.play_moves import Idle, PutDown, Retreat, act_towards
from foreact.sim.starts import draw_start
from foreact.sim.tasks import TASKS, feasible, get_task

HELD_FAMILIES = ("place", "stack")
"""Tasks that begin with a block in the hand."""
PUT_DOWN = 0.1
"""Chance that a held block is put down on the desk although there is a task for it."""
RETREAT_STEPS, PUT_DOWN_STEPS = 60, 90

AddFrame = Callable[[dict[str, np.ndarray]], None]
"""Takes what is recorded of one step, see `demonstrate.frame_parts`."""


@dataclass(frozen=True, kw_only=True)
class PlaySettings:
    """How a session goes; what an expert is like stands in `DemonstrationSettings`."""

    pause: float = 0.3
    """Chance of a pause after a task."""
    pause_steps: tuple[int, int] = (5, 45)
    """Its length [control steps]."""


@dataclass(frozen=True, kw_only=True)
class PlaySegment:
    """One attempt at one task within a session."""

    task: str
    first: int
    """Frame at which the task was begun."""
    last: int
    """Last frame of the attempt: a few steps after the task was done, or when it was given up."""
    done: int | None
    """The first frame in which the task is done; None if it was not."""

    @property
    def success(self) -> bool:
        """Whether the task was done."""
        return self.done is not None


@dataclass(kw_only=True)
class Session:
    """What happened in one session."""

    segments: list[PlaySegment] = field(default_factory=list)
    rejected_draws: int = 0
    put_down: int = 0
    """Times that a held block was put down without a task."""

    def meta(self) -> dict[str, str | int]:
        """For the episode's metadata; `segments_of` reads the segments back."""
        return {
            "task": "play",
            "segments": json.dumps([list(asdict(s).values()) for s in self.segments], separators=(",", ":")),
            "segments_done": sum(s.success for s in self.segments),
            "segments_failed": sum(not s.success for s in self.segments),
            "rejected_draws": self.rejected_draws,
        }


def segments_of(meta: dict[str, object]) -> list[PlaySegment]:
    """The segments that `Session.meta` has written; none for an episode that is not play."""
    rows = json.loads(str(meta.get("segments", "[]")))
    return [PlaySegment(task=task, first=first, last=last, done=done) for task, first, last, done in rows]


def sentences_for(segments: Iterable[PlaySegment], rng: np.random.Generator) -> list[Segment]:
    """Language for the successful ones: half-open stretches of frames, each with a training sentence of its task."""
    labelled = []
    for segment in segments:
        if segment.success:
            sentences = training_instructions(segment.task)
            text = sentences[int(rng.integers(len(sentences)))]
            labelled.append(Segment(start=segment.first, end=segment.last + 1, instruction=text))
    return labelled


def play(
    env: DeskEnv,
    rng: np.random.Generator,
    length: int,
    settings: DemonstrationSettings,
    play_settings: PlaySettings,
    add: AddFrame,
) -> Session:
    """Record `length` frames of play from a random start; each is handed to `add` at once.

    The expert tries tasks whose preconditions hold in the measured state, those seldom done in this session first of
    all. A task that takes more than `settings.max_steps` is given up; the hand then withdraws and the next one begins.
    """
    start = draw_start(env, rng)
    env.reset(options={"robot_obs": start.robot_obs, "scene_obs": start.scene_obs})
    return _Player(env, rng, length, settings, play_settings, add, Session(rejected_draws=start.rejected_draws)).run()


class _Player:
    """One session; every method that acts stops when the session is full."""

    def __init__(
        self,
        env: DeskEnv,
        rng: np.random.Generator,
        length: int,
        settings: DemonstrationSettings,
        play_settings: PlaySettings,
        add: AddFrame,
        session: Session,
    ) -> None:
        self._env, self._rng, self._length = env, rng, length
        self._settings, self._play = settings, play_settings
        self._add, self._session = add, session
        self._frames = 0
        self._done: Counter[str] = Counter()
        self._failed: Counter[str] = Counter()
        self._change_manner()

    def run(self) -> Session:
        while self._frames < self._length:
            task = self._choose()
            if task is None:
                self._put_down()
            elif not self._attempt(task):
                self._move(Retreat(), RETREAT_STEPS)
            if self._rng.random() < self._play.pause:
                low, high = self._play.pause_steps
                self._move(Idle(), int(self._rng.integers(low, high + 1)))
            self._change_manner()
        return self._session

    def _change_manner(self) -> None:
        self._manner = draw_manner(self._settings, self._rng)
        self._disturb = Disturbance(self._settings, self._rng, self._manner.unsteady)

    def _choose(self) -> str | None:
        """A feasible task, or None: put down what the hand holds."""
        scene_obs, scene = self._env.scene_obs, self._env.scene
        held = held_block(self._env.scene_info()) is not None
        tasks = [
            name
            for name in TASKS
            if name in LAWS and (get_task(name).family in HELD_FAMILIES) == held and feasible(name, scene_obs, scene)
        ]
        if held and (not tasks or self._rng.random() < PUT_DOWN):
            return None
        # What was done less often is likelier, and what has just failed is less likely.
        weights = np.array([1.0 / (1 + self._done[t]) / (1 + 3 * self._failed[t]) for t in tasks])
        return tasks[int(self._rng.choice(len(tasks), p=weights / weights.sum()))]

    def _attempt(self, task: str) -> bool:
        """Try a task and note the segment; whether it was done."""
        first, done = self._frames, None
        expert = self._manner.expert(task, self._env.scene)
        self._env.begin_task(task)
        for _ in range(self._settings.max_steps):
            success = self._step(expert.act(self._env.robot_obs, self._env.scene_obs))
            if success is None:
                return True  # the session ended meanwhile: neither done nor failed, so not noted
            if success:
                done = self._frames
                break
        tail = self._settings.tail_steps if done is not None else 0
        for _ in range(tail):
            self._step(expert.act(self._env.robot_obs, self._env.scene_obs))
        if done is not None and done >= self._length:
            return True  # it was done after the last frame, so no frame shows it
        last = max(self._frames - 1, done or 0)
        self._session.segments.append(PlaySegment(task=task, first=first, last=last, done=done))
        if done is not None:
            self._done[task] += 1
            self._failed.clear()  # the desk has changed
        else:
            self._failed[task] += 1
        return done is not None

    def _put_down(self) -> None:
        self._move(Retreat(), RETREAT_STEPS)
        self._move(PutDown(), PUT_DOWN_STEPS)
        self._move(Retreat(), RETREAT_STEPS)
        self._session.put_down += 1

    def _move(self, law: Callable[[Measured], Waypoint | None], steps: int) -> None:
        """Follow a law that ends by itself, for so many steps at most."""
        self._env.begin_task(None)
        for _ in range(steps):
            now = Measured.of(self._env.robot_obs, self._env.scene_obs, self._env.scene)
            goal = law(now)
            if goal is None or self._step(act_towards(now, goal, self._manner)) is None:
                return

    def _step(self, wanted: np.ndarray) -> bool | None:
        """Record the present frame and act; whether the task is done now, or None when the session is full."""
        if self._frames >= self._length:
            return None
        executed = self._disturb(wanted)
        self._add(frame_parts(self._env, self._env.observe(), wanted, executed))
        self._frames += 1
        return bool(self._env.advance(executed)["success"])


def session_lengths(total: int, span: tuple[int, int], rng: np.random.Generator) -> list[int]:
    """Lengths of sessions, each within `span`, that sum to `total` exactly; one shorter session if it is less.

    `span[1]` is at least twice `span[0]`, so that every total can be divided.
    """
    low, high = span
    if total < low:
        return [total] if total > 0 else []
    least, most = -(-total // high), total // low
    left = min(max(round(total / ((low + high) / 2)), least), most)
    lengths = []
    while left:
        left -= 1
        length = int(rng.integers(max(low, total - left * high), min(high, total - left * low) + 1))
        lengths.append(length)
        total -= length
    return lengths

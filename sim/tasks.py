"""The tasks: when one counts as done, when it can be begun, and how to make it possible.

Names, thresholds and oracles: CALVIN, mees/calvin_env and mees/calvin (MIT). An oracle compares the snapshot
at the start of the task with the present one, after every control step. Here are the eight fixture tasks; a
block task is one more `Goal` class and one more row of the registry.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foreact.sim.scene_info import SceneInfo
from foreact.sim.scene_state import BULB, DRAWER, LED, SLIDE, SWITCH, check_scene_obs
from foreact.sim.scenes import DRAWER_TRAVEL, SWITCH_TRAVEL, SceneSpec
from foreact.vla.errors import ForeActError, did_you_mean

Array = NDArray[np.float64]

SLIDER_THRESHOLD_M = 0.15
DRAWER_THRESHOLD_M = 0.12
START_MARGIN_M = 0.02
"""A joint task is feasible if it leaves this much travel beyond its threshold (ours)."""


class Goal(Protocol):
    """What a task wants to be different."""

    def reached(self, start: SceneInfo, now: SceneInfo) -> bool:
        """Whether the change from `start` to `now` is the wanted one."""
        ...

    def feasible(self, scene_obs: Array, scene: SceneSpec) -> bool:
        """Whether the change is possible from the state `scene_obs` (24,)."""
        ...

    def prepare(self, scene_obs: Array, scene: SceneSpec) -> None:
        """Change `scene_obs` (24,) in place, as little as needed, so that the change is possible."""
        ...


@dataclass(frozen=True)
class JointMoved:
    """The sliding door or the drawer moved by more than `by_m`, in the direction of its sign."""

    dim: int
    """SLIDE or DRAWER, the dim of `scene_obs`."""
    by_m: float

    def reached(self, start: SceneInfo, now: SceneInfo) -> bool:
        before, after = (s.slide_m if self.dim == SLIDE else s.drawer_m for s in (start, now))
        moved = after - before
        return moved > self.by_m if self.by_m > 0 else moved < self.by_m

    def feasible(self, scene_obs: Array, scene: SceneSpec) -> bool:
        travel = self._travel(scene)
        left = travel - scene_obs[self.dim] if self.by_m > 0 else scene_obs[self.dim]
        return bool(left >= abs(self.by_m) + START_MARGIN_M)

    def prepare(self, scene_obs: Array, scene: SceneSpec) -> None:
        if not self.feasible(scene_obs, scene):
            scene_obs[self.dim] = 0.0 if self.by_m > 0 else self._travel(scene)

    def _travel(self, scene: SceneSpec) -> float:
        return scene.door_travel if self.dim == SLIDE else DRAWER_TRAVEL


@dataclass(frozen=True)
class LampSwitched:
    """The LED or the bulb was not as wanted at the start and is now."""

    dim: int
    """BULB or LED, the dim of `scene_obs`."""
    on: bool

    def reached(self, start: SceneInfo, now: SceneInfo) -> bool:
        before, after = (s.bulb if self.dim == BULB else s.led for s in (start, now))
        return before != self.on and after == self.on

    def feasible(self, scene_obs: Array, scene: SceneSpec) -> bool:
        return bool(scene_obs[self.dim] > 0.5) != self.on

    def prepare(self, scene_obs: Array, scene: SceneSpec) -> None:
        if self.feasible(scene_obs, scene):
            return
        scene_obs[self.dim] = float(not self.on)
        if self.dim == BULB:  # the bulb follows the lever
            scene_obs[SWITCH] = 0.0 if self.on else SWITCH_TRAVEL


@dataclass(frozen=True)
class Task:
    """One task of the benchmark."""

    name: str
    family: str
    """slider, drawer or lights; tasks of one family undo each other."""
    goal: Goal

    def reached(self, start: SceneInfo, now: SceneInfo) -> bool:
        """Whether the task that began at `start` is done at `now`."""
        return self.goal.reached(start, now)


TASKS: Mapping[str, Task] = {
    task.name: task
    for task in (
        Task("move_slider_left", "slider", JointMoved(SLIDE, SLIDER_THRESHOLD_M)),
        Task("move_slider_right", "slider", JointMoved(SLIDE, -SLIDER_THRESHOLD_M)),
        Task("open_drawer", "drawer", JointMoved(DRAWER, DRAWER_THRESHOLD_M)),
        Task("close_drawer", "drawer", JointMoved(DRAWER, -DRAWER_THRESHOLD_M)),
        Task("turn_on_lightbulb", "lights", LampSwitched(BULB, True)),
        Task("turn_off_lightbulb", "lights", LampSwitched(BULB, False)),
        Task("turn_on_led", "lights", LampSwitched(LED, True)),
        Task("turn_off_led", "lights", LampSwitched(LED, False)),
    )
}
FIXTURE_TASKS: tuple[str, ...] = tuple(TASKS)


class UnknownTask(ForeActError):
    """A task name is not in the registry."""

    exit_code = 2

    def __init__(self, name: str) -> None:
        super().__init__(f"no task {name!r}; {did_you_mean(name, TASKS)}")


def get_task(name: str) -> Task:
    """The task of that name.

    Raises:
        UnknownTask: If there is none.
    """
    try:
        return TASKS[name]
    except KeyError:
        raise UnknownTask(name) from None


def feasible(task: Task | str, scene_obs: ArrayLike, scene: SceneSpec) -> bool:
    """Whether `task` can be done from the state `scene_obs` (24,) of `scene`.

    Door and drawer need their threshold plus 2 cm of travel; a lamp must not yet be as wanted.

    Raises:
        UnknownTask: If the name is not known.
        BadSceneObs: If the vector has the wrong shape or is not finite.
    """
    task = get_task(task) if isinstance(task, str) else task
    return task.goal.feasible(check_scene_obs(scene_obs), scene)


def set_precondition(task: Task | str, scene_obs: ArrayLike, scene: SceneSpec) -> Array:
    """A copy of `scene_obs` (24,) in which `task` is feasible; unchanged if it was already.

    Raises:
        UnknownTask: If the name is not known.
        BadSceneObs: If the vector has the wrong shape or is not finite.
    """
    task = get_task(task) if isinstance(task, str) else task
    obs = check_scene_obs(scene_obs).copy()
    task.goal.prepare(obs, scene)
    return obs


def reached_tasks(start: SceneInfo, now: SceneInfo, tasks: Iterable[str] = FIXTURE_TASKS) -> list[str]:
    """The names among `tasks` that the change from `start` to `now` fulfils."""
    return [name for name in tasks if get_task(name).reached(start, now)]

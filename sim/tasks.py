"""The 34 tasks: when one counts as done, when it can be begun, and how to make it possible.

Names, thresholds and oracles: CALVIN, mees/calvin_env and mees/calvin (MIT). An oracle compares the snapshot
at the start of the task with the present one, after every control step. What each wants is a `Goal`: door, drawer
and lamps in `goals.py`, blocks in `block_goals.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foreact.sim.block_goals import block_goals
from foreact.sim.goals import Goal, JointMoved, LampSwitched
from foreact.sim.scene_info import SceneInfo
from foreact.sim.scene_state import BULB, DRAWER, LED, SLIDE, check_scene_obs
from foreact.sim.scenes import SceneSpec
from foreact.vla.errors import ForeActError, did_you_mean

Array = NDArray[np.float64]

SLIDER_THRESHOLD_M = 0.15
DRAWER_THRESHOLD_M = 0.12


@dataclass(frozen=True)
class Task:
    """One task of the benchmark."""

    name: str
    family: str
    """slider, drawer, lights, rotate, push, lift, place, stack, unstack or push_into."""
    goal: Goal

    def reached(self, start: SceneInfo, now: SceneInfo) -> bool:
        """Whether the task that began at `start` is done at `now`."""
        return self.goal.reached(start, now)


_FIXTURE_TASKS = (
    Task("move_slider_left", "slider", JointMoved(SLIDE, SLIDER_THRESHOLD_M)),
    Task("move_slider_right", "slider", JointMoved(SLIDE, -SLIDER_THRESHOLD_M)),
    Task("open_drawer", "drawer", JointMoved(DRAWER, DRAWER_THRESHOLD_M)),
    Task("close_drawer", "drawer", JointMoved(DRAWER, -DRAWER_THRESHOLD_M)),
    Task("turn_on_lightbulb", "lights", LampSwitched(BULB, True)),
    Task("turn_off_lightbulb", "lights", LampSwitched(BULB, False)),
    Task("turn_on_led", "lights", LampSwitched(LED, True)),
    Task("turn_off_led", "lights", LampSwitched(LED, False)),
)
TASKS: Mapping[str, Task] = {task.name: task for task in (*_FIXTURE_TASKS, *(Task(*row) for row in block_goals()))}
FIXTURE_TASKS: tuple[str, ...] = tuple(task.name for task in _FIXTURE_TASKS)
BLOCK_TASKS: tuple[str, ...] = tuple(name for name in TASKS if name not in FIXTURE_TASKS)
TASK_SETS: Mapping[str, tuple[str, ...]] = {"all": tuple(TASKS), "fixtures": FIXTURE_TASKS, "blocks": BLOCK_TASKS}
"""Names for several tasks at once."""


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

    Door and drawer need their threshold plus 2 cm of travel; a lamp must not yet be as wanted; for blocks see
    `block_places.py`.

    Raises:
        UnknownTask: If the name is not known.
        BadSceneObs: If the vector has the wrong shape or is not finite.
    """
    task = get_task(task) if isinstance(task, str) else task
    return task.goal.feasible(check_scene_obs(scene_obs), scene)


def set_precondition(
    task: Task | str, scene_obs: ArrayLike, scene: SceneSpec, rng: np.random.Generator | None = None
) -> Array:
    """A copy of `scene_obs` (24,) in which `task` is feasible; unchanged if it was already.

    Where a block has to be moved, its new place is drawn from `rng` (without one: always the same place).
    Tasks that begin with a block in the hand stay infeasible: a state of the scene alone cannot give that.

    Raises:
        UnknownTask: If the name is not known.
        BadSceneObs: If the vector has the wrong shape or is not finite.
    """
    task = get_task(task) if isinstance(task, str) else task
    obs = check_scene_obs(scene_obs).copy()
    task.goal.prepare(obs, scene, rng or np.random.default_rng(0))
    return obs


def reached_tasks(start: SceneInfo, now: SceneInfo, tasks: Iterable[str] = TASKS) -> list[str]:
    """The names among `tasks` that the change from `start` to `now` fulfils."""
    return [name for name in tasks if get_task(name).reached(start, now)]

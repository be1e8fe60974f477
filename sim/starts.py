"""Where episodes start: the scene's own random reset, a random arm pose, and the asked task's precondition.

A draw is rejected, and counted, when blocks touch each other or the arm touches anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from foreact.sim.ik import PandaIK
from foreact.sim.random_start import random_reset
from foreact.sim.rotations import euler_xyz_to_matrix
from foreact.sim.scenes import SceneSpec
from foreact.sim.tasks import feasible, get_task, set_precondition
from foreact.vla.errors import ForeActError

if TYPE_CHECKING:
    from foreact.sim.env import DeskEnv

NEUTRAL_ROBOT_OBS = np.array([
    0.02586889, -0.2313129, 0.5712808, 3.09045411, -0.02908596, 1.50013585, 0.07999963,
    -1.21779124, 1.03987629, 2.11978254, -2.34205014, -0.87015899, 1.64119093, 0.55344928, 1.0,
])  # fmt: skip
"""CALVIN's neutral robot state (mees/calvin, evaluation code, MIT)."""

TCP_LOW, TCP_HIGH = np.array([-0.15, -0.29, 0.50]), np.array([0.25, -0.14, 0.62])
"""Box in which random starts put the TCP [m, world]; the neutral pose lies inside."""
EULER_SPREAD = np.array([0.05, 0.05, 0.15])
"""Half-width of the uniform spread of the start orientation about the neutral one [rad]."""
MAX_DRAWS = 1000


class NoStart(ForeActError):
    """No start satisfies what was asked."""


@dataclass(frozen=True)
class Start:
    """One initial state and the tasks to be tried from it."""

    seed: int
    robot_obs: np.ndarray
    """(15,) float64."""
    scene_obs: np.ndarray
    """(24,) float64."""
    tasks: tuple[str, ...]
    rejected_draws: int
    """Draws thrown away before this one."""


def draw_start(env: DeskEnv, rng: np.random.Generator, tasks: Sequence[str] = (), seed: int = 0) -> Start:
    """Draw a start from which all of `tasks` are feasible. Changes the state of `env`.

    Raises:
        NoStart: If a thousand draws did not give one.
    """
    for task in tasks:
        get_task(task)
    rejected = 0
    while rejected < MAX_DRAWS:
        drawn = random_reset(rng, env.model, env.data, fixtures="random")
        rejected += drawn.rejected
        scene_obs = _with_preconditions(tasks, drawn.scene_obs, env.scene, rng)
        if scene_obs is None:
            raise NoStart(f"the tasks {', '.join(tasks)} are never feasible at once in scene {env.scene.name}")
        pos = rng.uniform(TCP_LOW, TCP_HIGH)
        euler = NEUTRAL_ROBOT_OBS[3:6] + rng.uniform(-EULER_SPREAD, EULER_SPREAD)
        joints = _arm_joints(pos, euler)
        robot_obs = np.concatenate([pos, euler, NEUTRAL_ROBOT_OBS[6:7], joints, NEUTRAL_ROBOT_OBS[14:15]])
        env.set_state(robot_obs, scene_obs)
        if env.robot_touches_anything():
            rejected += 1
            continue
        return Start(seed, env.robot_obs, env.scene_obs, tuple(tasks), rejected)
    raise NoStart(f"{MAX_DRAWS} draws in scene {env.scene.name} gave no start for {', '.join(tasks) or 'any task'}")


@cache
def _ik() -> PandaIK:
    return PandaIK()


def _arm_joints(pos_world: np.ndarray, euler: np.ndarray) -> np.ndarray:
    """Arm joints (7,) that bring the TCP to within about a millimetre of a pose."""
    joints = NEUTRAL_ROBOT_OBS[7:14]
    for _ in range(10):  # one call is damped on purpose, as CALVIN's control is
        joints = _ik().solve(joints, pos_world, euler_xyz_to_matrix(euler))
    return joints


def _with_preconditions(
    tasks: Sequence[str], scene_obs: np.ndarray, scene: SceneSpec, rng: np.random.Generator | None = None
) -> np.ndarray | None:
    """`scene_obs` (24,) changed so that every task is feasible, or None where they exclude each other."""
    for task in tasks:
        scene_obs = set_precondition(task, scene_obs, scene, rng)
    return scene_obs if all(feasible(task, scene_obs, scene) for task in tasks) else None


def plan_starts(
    scene: str, *, starts_per_task: int, tasks_per_start: int, tasks: Sequence[str], seed: int
) -> list[Start]:
    """Starts such that each task is tried from `starts_per_task` of them or more, `tasks_per_start` tasks from each.

    Pure in its arguments; start i depends on seed, i and its tasks. Tasks that undo each other never share a start.

    Raises:
        NoStart: If `tasks_per_start` of the tasks can never be feasible at once.
    """
    from foreact.sim.env import DeskEnv

    for task in tasks:
        get_task(task)
    env = DeskEnv(scene, render=False)
    blank = np.zeros(24)
    groups = [g for g in combinations(tasks, tasks_per_start) if _with_preconditions(g, blank, env.scene) is not None]
    if not groups:
        raise NoStart(
            f"tasks_per_start={tasks_per_start}, but no {tasks_per_start} of the tasks {', '.join(tasks)} are feasible "
            "at once; lower benchmark.tasks_per_start or add tasks of other fixtures"
        )
    tried = dict.fromkeys(tasks, 0)
    used = dict.fromkeys(groups, 0)
    starts: list[Start] = []
    while min(tried.values()) < starts_per_task:
        # The group whose tasks were tried least; among equals the one used least, so that all pairs occur.
        group = min(groups, key=lambda g: (sum(tried[t] for t in g), used[g]))
        index = len(starts)
        starts.append(draw_start(env, np.random.default_rng([seed, index]), group, seed=index))
        used[group] += 1
        for task in group:
            tried[task] += 1
    env.close()
    return starts

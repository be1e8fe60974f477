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
from foreact.sim.scene_state import desk_index
from foreact.sim.scenes import BLOCKS, SceneSpec
from foreact.sim.starts_held import HELD_TASKS, take_a_block
from foreact.sim.tasks import BLOCK_TASKS, feasible, get_task, set_precondition
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
MAX_NEVER = 100
"""Draws after which tasks that were never feasible at once count as excluding each other."""
TOGETHER_TRIES = 8
"""Draws of blocks after which two tasks count as excluding each other."""
STUCK_M = 0.001
"""A block further inside something than this is stuck."""


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
    held, with_blocks = (bool(set(tasks).intersection(names)) for names in (HELD_TASKS, BLOCK_TASKS))
    rejected = never = 0
    while rejected < MAX_DRAWS:
        drawn = random_reset(rng, env.model, env.data, fixtures="random")
        rejected += drawn.rejected
        scene_obs = _with_preconditions(tasks, drawn.scene_obs, env.scene, rng)
        if scene_obs is None:
            # Fixtures allow it always or never; where blocks go is drawn, and may not fit.
            rejected, never = rejected + 1, never + 1
            if never > MAX_NEVER or not with_blocks:
                raise NoStart(f"the tasks {', '.join(tasks)} are never feasible at once in scene {env.scene.name}")
            continue
        pos = rng.uniform(TCP_LOW, TCP_HIGH)
        euler = NEUTRAL_ROBOT_OBS[3:6] + rng.uniform(-EULER_SPREAD, EULER_SPREAD)
        joints = _arm_joints(pos, euler)
        robot_obs = np.concatenate([pos, euler, NEUTRAL_ROBOT_OBS[6:7], joints, NEUTRAL_ROBOT_OBS[14:15]])
        env.set_state(robot_obs, scene_obs)
        unfit = env.robot_touches_anything() or (with_blocks and _a_block_is_stuck(env))
        if unfit or (held and not take_a_block(env, rng, tasks)):
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


def _a_block_is_stuck(env: DeskEnv) -> bool:
    """Whether a block that was moved for a task is inside something, which would throw it away."""
    names = desk_index(env.model).body_names
    deep = env.model.geom_bodyid[env.data.contact.geom[env.data.contact.dist < -STUCK_M]]
    return any({names[one], names[other]}.intersection(BLOCKS) for one, other in deep)


def _with_preconditions(
    tasks: Sequence[str], scene_obs: np.ndarray, scene: SceneSpec, rng: np.random.Generator | None = None
) -> np.ndarray | None:
    """`scene_obs` (24,) changed so that every task is feasible, or None where they exclude each other.

    Of tasks that begin with a block in the hand: feasible as soon as a block is. They go with each other only; with a
    full hand nothing else can be done.
    """
    held = [task for task in tasks if task in HELD_TASKS]
    if held and len(held) < len(tasks):
        return None
    for task in tasks:
        scene_obs = set_precondition(task, scene_obs, scene, rng)
    if held:
        return scene_obs
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
    pairs = {pair for pair in combinations(tasks, 2) if _go_together(pair, env.scene)}
    groups = [g for g in combinations(tasks, tasks_per_start) if pairs.issuperset(combinations(g, 2))]
    checked: set[tuple[str, ...]] = set()
    tried = dict.fromkeys(tasks, 0)
    used = dict.fromkeys(groups, 0)
    starts: list[Start] = []
    while min(tried.values()) < starts_per_task:
        if not set(tasks).issubset({task for group in groups for task in group}):
            lonely = sorted(set(tasks) - {task for group in groups for task in group})
            raise NoStart(
                f"tasks_per_start={tasks_per_start}, but of the tasks {', '.join(tasks)} no {tasks_per_start} that "
                f"include {', '.join(lonely)} are feasible at once; lower benchmark.tasks_per_start or add tasks"
            )
        # The group whose tasks were tried least; among equals the one used least, so that all pairs occur.
        group = min(groups, key=lambda g: (sum(tried[t] for t in g), used[g]))
        if group not in checked:
            checked.add(group)
            if not _go_together(group, env.scene):
                groups.remove(group)
                continue
        index = len(starts)
        try:
            starts.append(draw_start(env, np.random.default_rng([seed, index]), group, seed=index))
        except NoStart:
            groups.remove(group)
            continue
        used[group] += 1
        for task in group:
            tried[task] += 1
    env.close()
    return starts


def _go_together(group: Sequence[str], scene: SceneSpec) -> bool:
    """Whether the tasks can be feasible at once; where blocks go is tried a few times."""
    tries = TOGETHER_TRIES if set(group).intersection(BLOCK_TASKS) else 1
    rngs = (np.random.default_rng(number) for number in range(tries))
    return any(_with_preconditions(group, np.zeros(24), scene, rng) is not None for rng in rngs)

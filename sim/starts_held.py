"""Starts with a block in the hand: the lift expert takes one, and the state after it is the start."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from foreact.sim.block_goals import held_block
from foreact.sim.block_places import can_be_lifted, is_covered
from foreact.sim.scene_state import BULB, DRAWER, LED, SLIDE, SWITCH
from foreact.sim.scenes import BLOCKS
from foreact.sim.tasks import feasible

if TYPE_CHECKING:
    from foreact.sim.env import DeskEnv

HELD_TASKS = ("place_in_slider", "place_in_drawer", "stack_block")
"""Tasks that begin with a block in the hand."""
SUPPORTS = {"desk": "table", "plank": "slider", "drawer": "drawer"}
LIFT_STEPS = 220
"""Control steps that the lift may take; one that takes longer is drawn again."""
HOLD_STEPS = 6
"""Steps for which a stored start is tried: the block must still be held after them."""


def take_a_block(env: DeskEnv, rng: np.random.Generator, tasks: Sequence[str]) -> bool:
    """From the present state, let the lift expert take a random block; False if that or one of `tasks` failed.

    Nothing is rendered. Afterwards `env` is in the state that its own `robot_obs` and `scene_obs` describe.
    """
    from foreact.sim.expert_law import Measured
    from foreact.sim.experts import Expert
    from foreact.sim.experts_lift import Take

    before = env.scene_obs
    choices = [
        (block, support)
        for block in BLOCKS
        for support in SUPPORTS
        if can_be_lifted(before, env.scene, block, support) and not is_covered(before, env.scene, block)
    ]
    if not choices:
        return False
    block, support = choices[int(rng.integers(len(choices)))]
    name = f"lift_{block.removeprefix('block_')}_block_{SUPPORTS[support]}"
    expert = Expert(name, env.scene)
    idle = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0])
    for _ in range(LIFT_STEPS):
        robot_obs, scene_obs = env.robot_obs, env.scene_obs
        action = expert.act(robot_obs, scene_obs)
        law = expert.law
        assert isinstance(law, Take)
        if law.taken(Measured.of(robot_obs, scene_obs, env.scene)):
            break
        env.controller.apply_relative(env.data, action)
    else:
        return False
    for _ in range(HOLD_STEPS):  # come to rest
        env.controller.apply_relative(env.data, idle)
    robot_obs, scene_obs = env.robot_obs, env.scene_obs
    if np.abs(scene_obs - before)[[SLIDE, DRAWER, SWITCH]].max() > 0.01 or np.any(
        scene_obs[[BULB, LED]] != before[[BULB, LED]]
    ):
        return False
    return survives(env, robot_obs, scene_obs, block) and all(feasible(task, scene_obs, env.scene) for task in tasks)


def survives(env: DeskEnv, robot_obs: np.ndarray, scene_obs: np.ndarray, block: str) -> bool:
    """Whether the block is held right after `set_state`, and after a few closing steps; leaves the stored state."""
    env.set_state(robot_obs, scene_obs)
    if held_block(env.scene_info()) != block:
        return False
    for _ in range(HOLD_STEPS):
        env.controller.apply_relative(env.data, np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0]))
    held = held_block(env.scene_info()) == block
    env.set_state(robot_obs, scene_obs)
    return held

"""Between tasks: what the hand still has stays where it was, or is put down; a pushed block is free at the end."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from foreact.sim.block_places import block_pose, place_of
from foreact.sim.env import DeskEnv
from foreact.sim.experts import Expert
from foreact.sim.scene_state import ROBOT
from foreact.sim.starts import draw_start


@pytest.fixture(scope="module")
def env() -> Iterator[DeskEnv]:
    desk = DeskEnv("D", render=False)
    yield desk
    desk.close()


def _do(env: DeskEnv, task: str) -> bool:
    """Let the expert do a task from where the desk is."""
    env.begin_task(task)
    expert = Expert(task, env.scene)
    return any(env.advance(expert.act(env.robot_obs, env.scene_obs))["is_success"] for _ in range(360))


def _begin(env: DeskEnv, seed: int, *tasks: str) -> None:
    start = draw_start(env, np.random.default_rng(seed), tasks)
    env.set_state(start.robot_obs, start.scene_obs)


@pytest.mark.parametrize("after", ["open_drawer", "turn_on_led", "move_slider_left", "push_blue_block_right"])
def test_a_block_that_was_just_turned_is_left_where_it_is(env: DeskEnv, after: str) -> None:
    _begin(env, 7, "rotate_red_block_left", after)
    assert _do(env, "rotate_red_block_left")
    assert ("block_red", ROBOT) in env.scene_info().contacts  # the turn is done while it is still gripped
    before = block_pose(env.scene_obs, env.scene, "block_red").copy()
    assert _do(env, after)
    assert np.abs(block_pose(env.scene_obs, env.scene, "block_red") - before)[:3].max() < 0.01


def test_an_unstacked_block_is_put_on_the_desk_before_the_next_task(env: DeskEnv) -> None:
    _begin(env, 5, "unstack_block", "open_drawer")
    assert _do(env, "unstack_block") and _do(env, "open_drawer")
    places = {name: place_of(env.scene_obs, env.scene, name) for name in env.scene.block_sizes}
    assert not {"air", "stacked", "drawer"} & set(places.values()), places


def test_most_pushed_blocks_slide_free_of_the_hand(env: DeskEnv) -> None:
    free = 0
    for seed in range(6):
        _begin(env, 10 + seed, "push_blue_block_left")
        assert _do(env, "push_blue_block_left")
        free += ROBOT not in env.scene_info().contacts_of("block_blue")
    assert free >= 5

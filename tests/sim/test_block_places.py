"""Where blocks are and whether there is room, read from poses alone."""

from __future__ import annotations

import math

import numpy as np
import pytest

from foreact.sim import block_places as places
from foreact.sim.scenes import get_scene

D = get_scene("D")


def _obs(slide: float = 0.0, drawer: float = 0.0, **poses: tuple[float, ...]) -> np.ndarray:
    """scene_obs (24,) of scene D: blocks at (x, y, z), by default out of the way on the desk."""
    obs = np.zeros(24)
    obs[0], obs[1] = slide, drawer
    for number, colour in enumerate(("red", "blue", "pink")):
        xyz = poses.get(colour, (0.05 + 0.12 * number, -0.12, 0.46))
        places.block_pose(obs, D, f"block_{colour}")[:] = *xyz, 0.0, 0.0, math.pi / 2
    return obs


def test_the_door_leaves_the_other_half_open():
    assert places.open_gap(_obs(slide=0.0), D) == pytest.approx((-0.36, -0.10))
    assert places.open_gap(_obs(slide=0.28), D) == pytest.approx((-0.10, 0.16))


def test_there_is_room_beside_one_block_in_the_niche_and_none_beside_two():
    assert places.has_room(_obs(), D, "plank")
    assert places.has_room(_obs(red=(-0.241, 0.0924, 0.461)), D, "plank")
    assert not places.has_room(_obs(red=(-0.28, 0.09, 0.461), blue=(-0.18, 0.09, 0.461)), D, "plank")
    assert places.has_room(_obs(slide=0.28, red=(-0.28, 0.09, 0.461), blue=(-0.18, 0.09, 0.461)), D, "plank")
    assert not places.has_room(_obs(slide=0.14), D, "plank")  # the door stands in the middle
    assert not places.has_room(_obs(), D, "drawer") and places.has_room(_obs(drawer=0.22), D, "drawer")


def test_making_room_leaves_one_block_and_moves_the_rest():
    one = _obs(red=(-0.241, 0.0924, 0.461))
    places.make_room(one, D, "plank", np.random.default_rng(0))
    assert np.array_equal(one, _obs(red=(-0.241, 0.0924, 0.461)))
    two = _obs(red=(-0.28, 0.09, 0.461), blue=(-0.18, 0.09, 0.461))
    places.make_room(two, D, "plank", np.random.default_rng(0))
    assert places.has_room(two, D, "plank")


@pytest.mark.parametrize(
    ("xyz", "held"),
    [
        ((0.05, -0.12, 0.565), True),
        ((0.18, -0.3, 0.50), True),
        ((0.05, -0.12, 0.46), False),
        ((0.05, -0.12, 0.468), False),  # a middle block on end is 0.056 high
        ((-0.24, 0.09, 0.475), False),  # on end in the niche
        ((0.6, -0.9, 0.02), False),  # on the floor
    ],
)
def test_a_block_is_held_only_where_nothing_can_carry_it(xyz: tuple[float, float, float], held: bool):
    assert (places.in_the_air(_obs(red=xyz), D) == "block_red") is held


def test_stacks_are_built_clear_of_the_handle_that_hangs_over_the_desk():
    for seed in range(40):
        obs = _obs()
        places.stack_two(obs, D, np.random.default_rng(seed))
        pair = places.stacked_pair(obs, D)
        assert pair is not None
        x, y = places.block_pose(obs, D, pair[0])[:2]
        reach = places.radius(D, pair[0])
        handle_x = D.door_x + 0.14
        assert abs(x - handle_x) > 0.02 + reach or y + reach < -0.034

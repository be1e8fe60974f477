"""Experts that take and put blocks solve their tasks through `step` alone, in every scene, also one after the other."""

from __future__ import annotations

import math

import numpy as np
import pytest

from foreact.sim.block_places import block_pose, place_of
from foreact.sim.env import DeskEnv
from foreact.sim.expert_check import check_expert
from foreact.sim.expert_law import Block, Measured, Style
from foreact.sim.experts import Expert
from foreact.sim.experts_grasp import WIDEST_M, candidates, grasp_pose, stance
from foreact.sim.experts_reach import reach_of
from foreact.sim.panda import HOME_Q
from foreact.sim.scene_state import write_block_pose
from foreact.sim.starts import NEUTRAL_ROBOT_OBS

COLOURS = ("red", "blue", "pink")
TASKS = (
    *(f"lift_{colour}_block_{place}" for place in ("table", "slider", "drawer") for colour in COLOURS),
    "place_in_slider",
    "place_in_drawer",
    "stack_block",
    "unstack_block",
)


@pytest.mark.parametrize("scene", "ABCD")
def test_each_expert_succeeds_from_a_random_start(scene: str):
    env = DeskEnv(scene, render=False)
    for task in TASKS:
        result = check_expert(env, task, 1, seed=11)
        assert (result.successes, result.largest_action <= 1.0) == (1, True), task


def _scene_d(places: dict[str, tuple[float, float, float]], **joints: float) -> tuple[DeskEnv, np.ndarray]:
    env = DeskEnv("D", render=False)
    obs = np.zeros(24)
    obs[0], obs[1] = joints.get("slide", 0.0), joints.get("drawer", 0.0)
    for name, (x, y, z) in places.items():
        block_pose(obs, env.scene, name)[:] = x, y, z, 0.0, 0.0, math.pi / 2
    return env, obs


def _does(env: DeskEnv, task: str, steps: int = 360) -> bool:
    env.begin_task(task)
    expert = Expert(task, env.scene)
    return any(env.step(expert.act(env.robot_obs, env.scene_obs))[2] for _ in range(steps))


def test_tasks_follow_each_other_without_a_reset():
    places = {"block_red": (0.05, -0.12, 0.46), "block_blue": (0.23, -0.12, 0.46), "block_pink": (0.07, 0.092, 0.461)}
    env, obs = _scene_d(places, drawer=0.22)
    env.reset(options={"robot_obs": NEUTRAL_ROBOT_OBS, "scene_obs": obs})
    for task in (
        "lift_red_block_table",
        "place_in_slider",
        "lift_red_block_slider",
        "place_in_drawer",
        "lift_red_block_drawer",
        "stack_block",
        "unstack_block",
    ):
        assert _does(env, task), task


def test_a_block_goes_beside_one_that_is_in_the_niche():
    places = {"block_red": (0.05, -0.12, 0.46), "block_blue": (-0.241, 0.0924, 0.461), "block_pink": (0.3, -0.1, 0.46)}
    env, obs = _scene_d(places)
    env.reset(options={"robot_obs": NEUTRAL_ROBOT_OBS, "scene_obs": obs})
    assert _does(env, "lift_red_block_table")
    assert _does(env, "place_in_slider")
    assert {place_of(env.scene_obs, env.scene, name) for name in ("block_red", "block_blue")} == {"niche_left"}


def test_a_block_that_slips_away_is_taken_again():
    places = {"block_red": (0.05, -0.12, 0.46), "block_blue": (0.3, -0.05, 0.46), "block_pink": (0.07, 0.092, 0.461)}
    env, obs = _scene_d(places)
    env.reset(options={"robot_obs": NEUTRAL_ROBOT_OBS, "scene_obs": obs, "task": "lift_red_block_table"})
    expert = Expert("lift_red_block_table", env.scene)
    done, moved = False, False
    for _ in range(360):
        done = env.step(expert.act(env.robot_obs, env.scene_obs))[2]
        if done:
            break
        if not moved and env.robot_obs[6] < 0.045:  # just closed around it
            write_block_pose(env.model, env.data, "block_red", (0.18, -0.1, 0.46), (0.0, 0.0, 0.3))
            moved = True
    assert moved and done


def test_blocks_are_taken_across_a_side_that_fits_whichever_face_is_up():
    lying = Block(np.array([0.1, -0.1, 0.46]), np.array([math.pi / 2, 0.0, 0.4]), (0.08, 0.04, 0.04))
    on_end = Block(np.array([0.1, -0.1, 0.48]), np.array([0.0, math.pi / 2, 0.0]), (0.08, 0.04, 0.04))
    assert stance(lying).length == 0.08 and stance(lying).yaw == pytest.approx(0.4)
    assert (stance(on_end).length, stance(on_end).width, stance(on_end).height) == (0.04, 0.04, 0.08)
    for block in (lying, on_end):
        at = stance(block)
        for _, grasp in candidates(block):
            aligned = round(grasp.turn / (math.pi / 2)) * math.pi / 2
            side = at.width if abs(math.cos(aligned)) > 0.5 else at.length
            assert side <= WIDEST_M
            pos, euler = grasp_pose(block, grasp)
            assert math.dist(pos, block.pos) < 0.04 and -1.01 <= euler[1] <= 0.0


def test_a_manner_changes_where_a_block_is_taken():
    block = Block(np.array([0.1, -0.1, 0.46]), np.zeros(3), (0.08, 0.04, 0.04))

    def best(style: Style) -> object:
        return min(candidates(block, style), key=lambda row: row[0])[1]

    assert best(Style()) != best(Style(off_centre=1.0))
    assert best(Style()) != best(Style(other_way=True))


def test_reach_knows_the_home_pose_the_far_corner_and_what_is_in_the_way():
    env, obs = _scene_d(
        {"block_red": (0.05, -0.12, 0.46), "block_blue": (0.3, 0.0, 0.46), "block_pink": (0.2, 0.0, 0.46)}
    )
    reach = reach_of("D")
    reach.look(Measured.of(NEUTRAL_ROBOT_OBS, obs, env.scene))
    home = reach.joints(NEUTRAL_ROBOT_OBS[:3], NEUTRAL_ROBOT_OBS[3:6])
    assert home is not None and np.abs(home - HOME_Q).max() < 0.02
    assert reach.touched(HOME_Q, 0.08) == set()
    assert reach.joints(np.array([0.9, 0.5, 0.5]), NEUTRAL_ROBOT_OBS[3:6]) is None
    low = reach.joints(np.array([0.05, -0.12, 0.47]), NEUTRAL_ROBOT_OBS[3:6])
    assert low is not None
    assert reach.touched(low, 0.0) == {"block_red"}  # closed fingers go into it
    assert "desk" in reach.touched(low, 0.08) or reach.touched(low, 0.08) == set()

"""The experts of rotate, push and push_into_drawer act through `step` alone and do what their oracle asks."""

from __future__ import annotations

import math

import numpy as np
import pytest

from foreact.sim.env import DeskEnv
from foreact.sim.expert_check import check_expert
from foreact.sim.expert_law import Measured
from foreact.sim.expert_tilt import MIDDLE_YAW, turned_to, unwound
from foreact.sim.experts import LAWS, Expert
from foreact.sim.starts import NEUTRAL_ROBOT_OBS
from foreact.sim.tasks import TASKS

FAMILIES = ("rotate", "push", "push_into")
MINE = [name for name, task in TASKS.items() if task.family in FAMILIES]


@pytest.fixture(scope="module")
def envs():
    return {scene: DeskEnv(scene, render=False) for scene in "ABCD"}


def test_there_is_a_law_for_each():
    assert len(MINE) == 13
    assert set(MINE) <= set(LAWS)


@pytest.mark.parametrize("scene", "ABCD")
def test_experts_succeed_from_random_starts(envs, scene):
    for number, task in enumerate(MINE):
        if number % 2 != "ABCD".index(scene) % 2:
            continue
        result = check_expert(envs[scene], task, 2, seed=5, max_steps=360)
        assert result.successes >= 1, (scene, task)
        assert result.largest_action <= 1.0


def anchors(yaw: float) -> np.ndarray:
    """Scene D as CALVIN's evaluation starts it: red at the left anchor, blue at the right one, pink in the niche."""
    scene_obs = np.zeros(24)
    scene_obs[6:12] = 0.05, -0.12, 0.46, 0.0, 0.0, yaw
    scene_obs[12:18] = 0.23, -0.12, 0.46, 0.0, 0.0, yaw
    scene_obs[18:24] = -0.240852, 0.092404, 0.46099, 0.0, 0.0, yaw
    return scene_obs


def attempt(env: DeskEnv, task: str, scene_obs: np.ndarray) -> bool:
    obs, _ = env.reset(options={"robot_obs": NEUTRAL_ROBOT_OBS, "scene_obs": scene_obs, "task": task})
    expert = Expert(task, env.scene)
    for _ in range(360):
        action = expert.act(obs["robot_obs"], obs["scene_obs"])
        assert np.abs(action).max() <= 1.0
        obs, _, done, _, _ = env.step(action)
        if done:
            return True
    return False


@pytest.mark.parametrize(
    "task", [f"{verb}_{c}_block_{s}" for verb in ("push", "rotate") for c in ("red", "blue") for s in ("left", "right")]
)
def test_experts_succeed_from_the_anchors_of_the_evaluation(envs, task):
    for yaw in (math.pi / 2 - math.pi / 8, math.pi / 2 + math.pi / 8):
        assert attempt(envs["D"], task, anchors(yaw)), yaw


def test_a_pushed_block_leaves_its_neighbours_alone(envs):
    env = envs["D"]
    assert attempt(env, "push_red_block_right", anchors(math.pi / 2))
    assert np.abs(env.scene_obs[12:15] - anchors(math.pi / 2)[12:15]).max() < 0.002


def test_push_into_drawer_leaves_the_block_alone_in_the_drawer(envs):
    env, scene_obs = envs["D"], anchors(math.pi / 2)
    scene_obs[1] = 0.22
    assert attempt(env, "push_into_drawer", scene_obs)
    assert any("drawer" in env.scene_info().contacts_of(f"block_{c}") for c in ("red", "blue"))


def test_a_block_shoved_aside_is_pushed_all_the_same(envs):
    """A law looks at where the block is: it recovers when somebody moves it."""
    env = envs["D"]
    obs, _ = env.reset(
        options={"robot_obs": NEUTRAL_ROBOT_OBS, "scene_obs": anchors(1.4), "task": "push_red_block_left"}
    )
    expert = Expert("push_red_block_left", env.scene)
    done = False
    for step in range(360):
        if step == 22:
            env.data.joint("block_red").qpos[:2] += (0.03, 0.05)
        obs, _, done, _, _ = env.step(expert.act(obs["robot_obs"], obs["scene_obs"]))
        if done:
            break
    assert done


def test_yaws_are_counted_as_the_wrist_counts_them():
    for yaw in np.linspace(MIDDLE_YAW - 3.1, MIDDLE_YAW + 3.1, 13):
        assert unwound(math.atan2(math.sin(yaw), math.cos(yaw))) == pytest.approx(yaw)
    now = Measured(np.zeros(3), np.array([math.pi, 0.0, 4.6 - 2 * math.pi]), 0.0, 1.0, 0.0, 0.0, 0.0, {})
    # From 4.6 to 0.5 the short way round would be up, into the stop; the wrist has to go down.
    assert turned_to(now, np.array([math.pi, 0.0, 0.5]))[2] == pytest.approx(3.6)

"""The gymnasium environment: protocol, determinism, reset from vectors, action modes, errors."""

from __future__ import annotations

from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from foreact.sim.embodiment import ACTION_MODES
from foreact.sim.env import DeskEnv
from foreact.sim.golden import read_rollouts
from foreact.sim.rotations import euler_xyz_to_matrix, rotation_angle_between
from foreact.sim.starts import NEUTRAL_ROBOT_OBS
from foreact.vla.errors import ConfigError, ForeActError


@pytest.fixture(scope="module")
def env():
    env = DeskEnv("D", render=False)
    yield env
    env.close()


def test_it_is_registered_and_passes_gymnasiums_own_checks():
    for kwargs in ({"render": False}, {"sizes": {"rgb_static": (24, 32)}, "depth": True}):
        made = gym.make("foreact/Desk-v0", scene="D", max_episode_steps=5, **kwargs)
        check_env(made.unwrapped, skip_render_check=not kwargs.get("render", True))
        made.close()


def test_same_seed_and_actions_give_the_same_bits():
    actions = np.random.default_rng(0).uniform(-1, 1, (15, 7))

    def run() -> np.ndarray:
        env = DeskEnv("B", render=False)
        env.reset(seed=5)
        rows = [env.step(action)[0] for action in actions]
        return np.array([np.concatenate([row["robot_obs"], row["scene_obs"]]) for row in rows])

    assert np.array_equal(run(), run())


def test_two_environments_in_one_process_do_not_disturb_each_other(env: DeskEnv):
    action = np.array([0.5, 0, 0, 0, 0, 0, 1.0])
    env.reset(seed=3)
    alone = [env.step(action)[0]["robot_obs"] for _ in range(5)]
    other = DeskEnv("A", render=False)
    other.reset(seed=9)
    env.reset(seed=3)
    together = []
    for _ in range(5):
        together.append(env.step(action)[0]["robot_obs"])
        other.step(-action)
    assert np.array_equal(alone, together)


@pytest.mark.parametrize("scene", "ABCD")
def test_a_state_that_was_read_can_be_written_back(scene: str):
    env = DeskEnv(scene, render=False)
    obs, _ = env.reset(seed=11)
    again, _ = env.reset(options={"robot_obs": obs["robot_obs"], "scene_obs": obs["scene_obs"]})
    assert again["scene_obs"] == pytest.approx(obs["scene_obs"], abs=1e-9)
    assert again["robot_obs"] == pytest.approx(obs["robot_obs"], abs=1e-9)


def test_the_neutral_pose_is_calvins(env: DeskEnv):
    scene_obs = env.reset(seed=0)[0]["scene_obs"]
    obs, _ = env.reset(options={"robot_obs": NEUTRAL_ROBOT_OBS, "scene_obs": scene_obs})
    assert obs["robot_obs"][:3] == pytest.approx(NEUTRAL_ROBOT_OBS[:3], abs=2e-4)


def test_every_action_mode_reaches_the_same_pose():
    goal = NEUTRAL_ROBOT_OBS[:3] + np.array([0.04, 0.02, -0.02])
    end = {}
    for mode in ACTION_MODES:
        env = DeskEnv("D", render=False, action_mode=mode)
        env.reset(seed=0, options={"robot_obs": NEUTRAL_ROBOT_OBS})
        euler = env.robot_obs[3:6]
        for step in range(25):
            if mode == "relative_cartesian":
                move = np.array([1, 1, -1]) * (step == 0) + np.array([1, 0, 0]) * (step == 1)
                action = np.concatenate([move, np.zeros(3), [1]])
            elif mode == "absolute_cartesian":
                action = np.concatenate([goal, euler, [1]])
            elif mode == "absolute_joint":
                action = np.concatenate([end["absolute_cartesian"][7:14], [1]])
            else:
                action = np.concatenate(
                    [np.clip(end["absolute_cartesian"][7:14] - env.robot_obs[7:14], -0.1, 0.1), [1]]
                )
            env.step(action)
        end[mode] = env.robot_obs
    for mode, robot_obs in end.items():
        assert robot_obs[:3] == pytest.approx(goal, abs=2e-3), mode


def test_actions_are_clipped_and_left_as_they_were(env: DeskEnv):
    action = np.array([5.0, 0, 0, 0, 0, 0, 1.0])
    env.reset(seed=1)
    far = env.step(action)[0]["robot_obs"]
    assert action[0] == 5.0
    env.reset(seed=1)
    assert np.array_equal(far, env.step(np.clip(action, -1, 1))[0]["robot_obs"])


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (lambda e: e.step(np.zeros(6)), "(7,) finite numbers"),
        (lambda e: e.step(np.full(7, np.nan)), "finite"),
        (lambda e: e.reset(options={"tusk": "open_drawer"}), "unknown reset options"),
        (lambda e: e.reset(options={"task": "open_drawr"}), "open_drawer"),
        (lambda e: e.reset(options={"scene_obs": np.zeros(23)}), "(24,)"),
    ],
)
def test_bad_input_is_explained(env: DeskEnv, bad, words: str):
    env.reset(seed=0)
    with pytest.raises(ForeActError) as caught:
        bad(env)
    assert words in str(caught.value)


def test_unknown_names_at_construction_are_explained():
    with pytest.raises(ForeActError, match="no scene 'E'"):
        DeskEnv("E")
    with pytest.raises(ConfigError, match="did you mean 'rgb_static'"):
        DeskEnv("D", sizes={"rgb_statics": (8, 8)})
    with pytest.raises(ConfigError, match="did you mean 'relative_cartesian'"):
        DeskEnv("D", action_mode="relative_cartesien")


def test_frames_have_the_contracts_sizes():
    env = DeskEnv("D", sizes={"rgb_static": (120, 160), "rgb_gripper": (32, 32)})
    obs, _ = env.reset(seed=0)
    assert obs["rgb_static"].shape == (120, 160, 3)
    assert obs["rgb_gripper"].shape == (32, 32, 3)
    assert obs["rgb_static"].std() > 10
    env.close()


def test_depth_is_given_where_it_is_asked_for():
    env = DeskEnv("D", sizes={"rgb_gripper": (20, 24)}, depth=True)
    obs, _ = env.reset(seed=0)
    assert env.observation_space.contains(obs) and set(obs) == {
        "rgb_gripper",
        "depth_gripper",
        "robot_obs",
        "scene_obs",
    }
    depth = obs["depth_gripper"]
    assert depth.shape == (20, 24) and depth.dtype == np.float32
    assert 0.05 < depth.min() < depth.max() <= 2.0, "between the fingers and the far plane of CALVIN's gripper camera"
    env.close()


def test_acting_without_looking_draws_nothing_and_changes_nothing():
    looking = DeskEnv("D", sizes={"rgb_static": (24, 24)})
    silent = DeskEnv("D", sizes={"rgb_static": (24, 24)})
    actions = np.random.default_rng(1).uniform(-1, 1, (4, 7))
    drawn = []
    for env in (looking, silent):
        env.reset(seed=2, options={"task": "open_drawer"})
        renderer = env.renderer()
        env.renderer = lambda renderer=renderer: (drawn.append(1), renderer)[1]
    for action in actions:
        looked, _, _, _, info = looking.step(action)
        assert silent.advance(action) == info
    assert len(drawn) == 4
    obs = silent.observe()
    assert len(drawn) == 5
    assert all(np.array_equal(looked[key], obs[key]) for key in looked | obs)


def test_a_task_given_at_construction_is_judged_after_every_reset():
    env = DeskEnv("D", render=False, task="open_drawer")
    assert env.reset(seed=0)[1]["task"] == "open_drawer"
    assert env.reset()[1]["task"] == "open_drawer"
    assert env.reset(options={"task": "turn_on_led"})[1]["task"] == "turn_on_led"
    with pytest.raises(ForeActError, match="open_drawer"):
        DeskEnv("D", render=False, task="open_drawr")


def test_same_seed_and_actions_give_the_same_bits_in_pictures_too():
    actions = np.random.default_rng(3).uniform(-1, 1, (5, 7))

    def run() -> list[dict[str, np.ndarray]]:
        env = DeskEnv("C", sizes={"rgb_static": (40, 40), "rgb_gripper": (20, 20)})
        rows = [env.reset(seed=5)[0], *(env.step(action)[0] for action in actions)]
        env.close()
        return rows

    for one, other in zip(run(), run(), strict=True):
        assert all(np.array_equal(one[key], other[key]) for key in one)


def test_recorded_calvin_motion_is_reproduced_through_the_environment(env: DeskEnv):
    """Free-space rollouts of calvin_env: under 1 mm and 3 mrad at 95 % of the steps, 3 mm and 10 mrad at all."""
    rollouts = read_rollouts(Path(__file__).parent / "data" / "golden_rollouts.tsv")
    free = [r for name, r in rollouts.items() if name.startswith(("step_", "gripper", "random"))]
    assert len(free) == 11
    pos_mm, rot_mrad = [], []
    for rollout in free:
        env.reset(options={"robot_obs": rollout.robot_obs[0], "scene_obs": rollout.scene_obs[0]})
        for action, recorded in zip(rollout.actions, rollout.robot_obs[1:], strict=True):
            now = env.step(action)[0]["robot_obs"]
            pos_mm.append(1000 * np.linalg.norm(now[:3] - recorded[:3]))
            turned = rotation_angle_between(euler_xyz_to_matrix(now[3:6]), euler_xyz_to_matrix(recorded[3:6]))
            rot_mrad.append(1000 * turned)
    assert len(pos_mm) == 299
    assert np.percentile(pos_mm, 95) < 1.0 and max(pos_mm) < 3.0
    assert np.percentile(rot_mrad, 95) < 3.0 and max(rot_mrad) < 10.0

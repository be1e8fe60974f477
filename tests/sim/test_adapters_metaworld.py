"""Meta-World through our interface: a recording of it everywhere, the simulator itself where it is installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pytest

from foreact.sim.adapters.metaworld import MAX_STEPS, MetaworldExpert, MetaworldSuite, metaworld_contract
from foreact.sim.adapters.metaworld_env import MetaworldEnv
from foreact.sim.adapters.metaworld_language import SENTENCES, TASK_OF
from foreact.sim.border import find_border
from foreact.sim.rollout import Job, Lockstep
from foreact.sim.suites import SuiteEnv, get_suite
from foreact.vla.contract import Contract
from foreact.vla.errors import ConfigError
from foreact.vla.policy import Actor, Observation

TASK = "handle-press-v3"
RECORDED = np.genfromtxt(Path(__file__).parent / "data" / "adapters" / "metaworld_handle_press.tsv", skip_header=1)
ACTIONS, OBS, REWARD, SUCCESS = RECORDED[:, 1:5], RECORDED[:, 5:44], RECORDED[:, 44], RECORDED[:, 45]

runs = pytest.mark.skipif(
    importlib.util.find_spec("metaworld") is None or mujoco.mjNEQDATA != 11,
    reason="Meta-World is not installed with the MuJoCo that it needs; pip install '.[metaworld]'",
)


class _Recording:
    """Plays the recording to whoever gives the recorded actions."""

    def __init__(self) -> None:
        self.row = 0
        self.seeds: list[int] = []

    def seed(self, seed: int) -> None:
        self.seeds.append(seed)

    def reset(self) -> tuple[np.ndarray, dict[str, Any]]:
        self.row = 0
        return OBS[0], {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.row += 1
        np.testing.assert_allclose(action, ACTIONS[self.row], rtol=1e-6)
        return OBS[self.row], REWARD[self.row], False, False, {"success": SUCCESS[self.row]}


def part(contract: Contract, state: np.ndarray, name: str) -> np.ndarray:
    """The columns of one state field."""
    at = 0
    for field in contract.state:
        if field.name == name:
            return state[:, at : at + field.size]
        at += field.size
    raise KeyError(name)


def test_a_recorded_rollout_comes_out_as_it_was() -> None:
    recording = _Recording()
    env = MetaworldEnv(render=False, make_inner=lambda task: recording)
    obs, info = env.reset(seed=3, options={"task": TASK, "instruction": "press"})
    assert recording.seeds == [3]
    assert info["task"] == TASK and info["instruction"] == "press" and not info["is_success"]
    for row in range(1, len(RECORDED)):
        obs, reward, terminated, truncated, info = env.step(ACTIONS[row])
        np.testing.assert_array_equal(obs["scene_obs"], OBS[row])
        np.testing.assert_array_equal(obs["robot_obs"], OBS[row, :4])
        assert reward == REWARD[row] and not truncated
        assert terminated == info["is_success"] == info["success"] == bool(SUCCESS[row])
        assert info["tasks_happened"] == ([TASK] if SUCCESS[row] else [])
    assert SUCCESS[-1] == 1 and not SUCCESS[:-1].any()


def test_fields_are_named_after_what_is_in_them() -> None:
    contract = metaworld_contract()
    state = np.concatenate([OBS[:, :4], OBS], axis=1)
    assert contract.state_size == state.shape[1] == 43
    np.testing.assert_array_equal(part(contract, state, "hand_position"), part(contract, state, "scene_hand_position"))
    for name in ("hand_position", "gripper_opening", "object_position", "object_quaternion", "second_object_position"):
        now, before = part(contract, state, f"scene_{name}"), part(contract, state, f"scene_previous_{name}")
        np.testing.assert_array_equal(before[1:], now[:-1], err_msg=name)
    # the handle goes down to the goal, and the hand is on it
    handle, goal = part(contract, state, "scene_object_position"), part(contract, state, "scene_goal_position")
    assert handle[0, 2] - handle[-1, 2] > 0.05
    assert np.ptp(goal, axis=0).max() == 0
    assert np.linalg.norm(handle[-1] - goal[-1]) < 0.05


def test_an_action_of_one_stands_for_a_centimetre() -> None:
    hand = OBS[:, :3]
    steady = np.linalg.norm(np.diff(hand, axis=0), axis=1)
    assert 0.005 < steady.max() < 0.02 * np.sqrt(3)
    assert metaworld_contract().action[0].unit == "0.01 m"


def test_every_task_has_a_sentence_of_its_own() -> None:
    assert len(SENTENCES) == len(TASK_OF) == 50
    assert all(s == s.strip() and s == s.lower() and 2 <= len(s.split()) <= 16 for s in SENTENCES.values())
    assert all(task.endswith("-v3") for task in SENTENCES)


def test_the_options_of_reset_are_checked() -> None:
    env = MetaworldEnv(render=False, make_inner=lambda task: _Recording())
    with pytest.raises(ConfigError, match="no task 'handle-pres-v3'.*did you mean 'handle-press-v3'"):
        env.reset(options={"task": "handle-pres-v3"})
    with pytest.raises(ConfigError, match="unknown reset options"):
        env.reset(options={"scene_obs": OBS[0]})


@runs
def test_the_recording_is_what_the_simulator_does() -> None:
    env = MetaworldEnv(render=False)
    obs, _ = env.reset(seed=3, options={"task": TASK})
    np.testing.assert_allclose(obs["scene_obs"], OBS[0], atol=1e-7)
    for row in range(1, len(RECORDED)):
        obs, reward, terminated, _, _ = env.step(ACTIONS[row])
        np.testing.assert_allclose(obs["scene_obs"], OBS[row], atol=1e-6)
        assert reward == pytest.approx(REWARD[row], abs=1e-5) and terminated == bool(SUCCESS[row])


@runs
def test_the_tasks_are_those_of_the_benchmark() -> None:
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS  # type: ignore[import-not-found]
    from metaworld.policies import ENV_POLICY_MAP  # type: ignore[import-not-found]

    assert tuple(SENTENCES) == tuple(ALL_V3_ENVIRONMENTS)
    assert set(SENTENCES) == set(ENV_POLICY_MAP)


def _wander(env: MetaworldEnv, task: str, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    obs, _ = env.reset(seed=seed, options={"task": task})
    rows = [obs["scene_obs"]]
    for _ in range(20):
        obs, *_ = env.step(rng.uniform(-1, 1, 4))
        rows.append(obs["scene_obs"])
    return np.array(rows)


@runs
@pytest.mark.parametrize("task", ["reach-v3", "assembly-v3", "stick-pull-v3", "window-close-v3"])
def test_a_rollout_follows_from_its_seed_alone(task: str) -> None:
    used, before = MetaworldEnv(render=False), repr(np.random.get_state())  # noqa: NPY002
    _wander(used, task, 8)
    _wander(used, "push-v3", 8)
    first = _wander(used, task, 5)
    np.testing.assert_array_equal(first, _wander(MetaworldEnv(render=False), task, 5))
    assert not np.array_equal(first[0], _wander(used, task, 6)[0])
    assert repr(np.random.get_state()) == before, "NumPy's global generator was used"  # noqa: NPY002


@runs
def test_all_tasks_share_the_scale_and_rate_of_the_contract() -> None:
    env = MetaworldEnv(render=False)
    for task in SENTENCES:
        env.reset(seed=0, options={"task": task})
        inner = env._inner[task]
        assert inner.action_scale == 0.01 and round(1 / inner.dt, 6) == metaworld_contract().rate_hz
        assert not inner._partially_observable


@runs
def test_a_rollout_may_be_longer_than_the_simulators_own() -> None:
    env = MetaworldEnv(render=False)
    env.reset(seed=0, options={"task": "reach-v3"})
    ends = [env.step(np.zeros(4))[3] for _ in range(MAX_STEPS + 1)]
    assert ends.index(True) == MAX_STEPS - 1


def _rates(suite: MetaworldSuite, tasks: Sequence[str], starts: int) -> Mapping[str, float]:
    """Success rate of the expert per task, by the evaluation's own rollouts."""
    actor = suite.expert()
    border = find_border(actor.contract, suite, "the expert")
    jobs = [
        Job(index=seed, seed=seed, tasks=(task,), instructions=(suite.instruction(task, "validation", 0),))
        for task in tasks
        for seed in range(starts)
    ]
    envs = [border.make_env(record=False) for _ in range(2)]
    lockstep = Lockstep(actor, envs, border, max_steps=suite.max_steps, foresight=False)
    done = [(r.job.tasks[0], r.solved) for r in lockstep.run(jobs)]
    assert len(done) == len(jobs)
    return {task: float(np.mean([solved for name, solved in done if name == task])) for task in tasks}


@runs
def test_scripted_policies_solve_nine_of_ten_starts_in_our_evaluation() -> None:
    suite = get_suite("metaworld", {})
    assert isinstance(suite, MetaworldSuite)
    rates = _rates(suite, ("reach-v3", "drawer-open-v3", "button-press-topdown-v3", "pick-place-v3"), 20)
    assert all(rate >= 0.9 for rate in rates.values()), rates


@runs
@pytest.mark.slow
def test_scripted_policies_solve_nearly_all_of_all_fifty_tasks() -> None:
    rates = _rates(MetaworldSuite(), tuple(SENTENCES), 20)
    assert np.mean(list(rates.values())) >= 0.95
    assert min(rates.values()) >= 0.7, rates


@runs
def test_the_expert_says_which_sentences_it_knows() -> None:
    actor: Actor = MetaworldExpert()
    state = np.zeros((1, actor.contract.state_size), np.float32)
    with pytest.raises(ConfigError, match="no task has 'close the door'.*did you mean 'close the door of the safe'"):
        actor.plan(Observation(slots=(0,), images={}, state=state, instruction=("close the door",)))


@runs
def test_the_interface_is_kept() -> None:
    suite = MetaworldSuite(cameras={"topview": [24, 32]})
    env = suite.make_env(cameras=None)
    assert isinstance(env, SuiteEnv)
    assert env.contract.hash == suite.contract().hash
    obs, _ = env.reset(seed=1, options={"task": "push-v3"})
    assert set(obs) == {"robot_obs", "scene_obs"} and env.observation_space.contains(obs)
    assert suite.versions()["mujoco"] == mujoco.__version__


@runs
@pytest.mark.parametrize("camera", ["topview", "corner", "corner2", "corner3", "corner4"])
@pytest.mark.parametrize("shadows", [True, False])
def test_frames_are_mujocos_own_the_right_way_up(camera: str, shadows: bool) -> None:
    env = MetaworldSuite(shadows=shadows).make_env(cameras={camera: (60, 80)})
    env.reset(seed=0, options={"task": "drawer-open-v3"})
    frame = env.frames()[camera]
    assert frame.shape == (60, 80, 3) and frame.dtype == np.uint8 and frame.std() > 10
    inner = env._inner["drawer-open-v3"]
    upside_down = inner.data.cam(camera).xmat.reshape(3, 3)[2, 1] < -1e-6
    with mujoco.Renderer(inner.model, 60, 80) as theirs:
        theirs.update_scene(inner.data, camera)
        for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION, mujoco.mjtRndFlag.mjRND_HAZE):
            theirs.scene.flags[flag] = shadows
        raw = theirs.render()
    expected = raw[::-1, ::-1] if upside_down else raw
    assert np.abs(frame.astype(int) - expected).mean() < 1
    env.close()


@runs
def test_pictures_follow_the_task() -> None:
    env = MetaworldSuite(shadows=False).make_env(cameras={"topview": (60, 60)})
    pictures = {}
    for task in ("drawer-open-v3", "door-open-v3", "drawer-open-v3"):
        env.reset(seed=0, options={"task": task})
        picture = env.frames()["topview"]
        np.testing.assert_array_equal(picture, pictures.setdefault(task, picture))
    assert np.abs(pictures["drawer-open-v3"].astype(int) - pictures["door-open-v3"]).mean() > 2
    env.close()

"""The original CALVIN simulator through our interface: its contract everywhere, itself where it is installed."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from foreact.sim import golden
from foreact.sim.adapters.calvin import CalvinSuite, calvin_contract, repository
from foreact.sim.adapters.calvin_env import CalvinEnv
from foreact.sim.border import find_border, full_state
from foreact.sim.desk_suite import DeskSuite
from foreact.sim.embodiment import desk_contract
from foreact.sim.expert_actor import ExpertActor
from foreact.sim.rollout import Job, Lockstep
from foreact.sim.suites import SuiteEnv, SuiteError, get_suite
from foreact.sim.tasks import TASKS
from foreact.vla.contract import adapt
from foreact.vla.errors import ConfigError

FIXTURES = (
    "move_slider_left",
    "move_slider_right",
    "open_drawer",
    "close_drawer",
    "turn_on_lightbulb",
    "turn_off_lightbulb",
    "turn_on_led",
    "turn_off_led",
)

SCRIPTED = {
    "open_drawer": {"open_drawer"},
    "slider_left": {"move_slider_left"},
    "push_red_left": {"push_red_block_left"},
}
"""Recorded rollouts that do a task."""

runs = pytest.mark.skipif(
    importlib.util.find_spec("calvin_env") is None or importlib.util.find_spec("pybullet") is None,
    reason="calvin_env is not installed; see docs/adapters.md",
)


def test_what_fits_the_desk_fits_the_original_and_back() -> None:
    offered = calvin_contract()
    assert offered == DeskSuite().contract()
    for required in (desk_contract(), ExpertActor("D").contract):
        adapter = adapt(required, offered, required_by="a policy of the desk", offered_by="the original")
        assert adapter.action_index == tuple(range(7))
        assert adapter.state_index[:15] == tuple(range(15))


def test_a_package_without_its_checkout_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "calvin_env").mkdir()
    (tmp_path / "calvin_env" / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "calvin_env", raising=False)
    importlib.invalidate_caches()
    with pytest.raises(SuiteError, match="no conf and data folders beside it; install it from its checkout"):
        repository()


@pytest.fixture(scope="module")
def suite() -> CalvinSuite:
    found = get_suite("calvin", {})
    assert isinstance(found, CalvinSuite)
    return found


@pytest.fixture(scope="module")
def env(suite: CalvinSuite) -> Iterator[CalvinEnv]:
    env = suite.make_env(cameras=None)
    yield env
    env.close()


def state(env: CalvinEnv, seed: int, task: str, steps: int = 30) -> np.ndarray:
    """All state numbers of a rollout of random actions."""
    rng = np.random.default_rng(seed)
    obs, _ = env.reset(seed=seed, options={"task": task})
    rows = [full_state(obs)]
    for _ in range(steps):
        obs, *_ = env.step(rng.uniform(-1, 1, 7))
        rows.append(full_state(obs))
    return np.array(rows)


@runs
def test_it_keeps_the_interface_and_knows_all_tasks(suite: CalvinSuite, env: CalvinEnv) -> None:
    assert isinstance(env, SuiteEnv)
    assert env.contract.hash == suite.contract().hash
    assert set(suite.tasks) <= set(TASKS) and set(FIXTURES) <= set(suite.tasks)
    assert len(suite.versions()["calvin_env"]) >= 3
    with pytest.raises(ConfigError, match="no task 'open_the_drawer'"):
        suite.instruction("open_the_drawer", "validation", 0)


@runs
def test_recorded_rollouts_of_it_are_repeated(env: CalvinEnv) -> None:
    """The recordings were made without this adapter."""
    rollouts = golden.read_rollouts(Path(__file__).parent / "data" / "golden_rollouts.tsv")
    assert len(rollouts) == 14
    for name, rollout in rollouts.items():
        env.reset(seed=0, options={"robot_obs": rollout.robot_obs[0], "scene_obs": rollout.scene_obs[0]})
        happened: set[str] = set()
        off = 0.0
        for action, then in zip(rollout.actions, rollout.robot_obs[1:], strict=True):
            obs, _, _, _, info = env.step(action)
            happened.update(info["tasks_happened"])
            off = max(off, float(np.abs(obs["robot_obs"][:3] - then[:3]).max()))
        # the table has five decimals; pushing a block makes more of that
        assert off < (1e-3 if name == "push_red_left" else 2e-5), f"{name}: the TCP was {off:.6f} m off"
        assert happened == SCRIPTED.get(name, set())


@runs
def test_a_rollout_follows_from_its_seed_alone(suite: CalvinSuite, env: CalvinEnv) -> None:
    state(env, 1, "turn_on_led")
    first = state(env, 5, "open_drawer")
    np.testing.assert_array_equal(state(env, 5, "open_drawer"), first)
    other = suite.make_env(cameras=None)
    np.testing.assert_array_equal(state(other, 5, "open_drawer"), first)
    other.close()
    third = suite.make_env(cameras=None)  # gets the number that the other had
    np.testing.assert_array_equal(state(env, 5, "open_drawer"), first)
    np.testing.assert_array_equal(state(third, 5, "open_drawer"), first)
    third.close()


@runs
def test_starts_are_those_of_the_desk(suite: CalvinSuite, env: CalvinEnv) -> None:
    desk = DeskSuite().make_env(cameras=None)
    for seed in range(3):
        ours, _ = desk.reset(seed=seed, options={"task": "close_drawer"})
        theirs, _ = env.reset(seed=seed, options={"task": "close_drawer"})
        np.testing.assert_allclose(theirs["robot_obs"][:3], ours["robot_obs"][:3], atol=1e-3)
        np.testing.assert_allclose(theirs["scene_obs"][:6], ours["scene_obs"][:6], atol=1e-3)


@runs
def test_one_task_can_follow_another(suite: CalvinSuite, env: CalvinEnv) -> None:
    """What has been done before a task begins does not count for it."""
    actor = suite.expert()
    border = find_border(actor.contract, suite, "the expert")
    obs, _ = env.reset(seed=2, options={"task": "open_drawer"})
    for task, undone in (("open_drawer", "close_drawer"), ("close_drawer", "open_drawer")):
        env.begin_task(task)
        actor.reset([0])
        for _ in range(suite.max_steps):
            plan = actor.plan(border.observation([0], [obs], [{}], [env.instruction]))
            obs, _, terminated, _, info = env.step(plan.actions[0, 0])
            assert undone not in info["tasks_happened"]
            if terminated:
                break
        assert task in info["tasks_happened"]


@runs
def test_two_of_them_draw_the_same_pictures(suite: CalvinSuite) -> None:
    envs = [suite.make_env(cameras={"rgb_static": (100, 100), "rgb_gripper": (84, 84)}) for _ in range(2)]
    pictures = []
    for env in envs:
        obs, _ = env.reset(seed=4, options={"task": "open_drawer"})
        assert set(obs) == {"robot_obs", "scene_obs"}
        pictures.append(env.frames())
    assert {k: v.shape for k, v in pictures[0].items()} == {"rgb_static": (100, 100, 3), "rgb_gripper": (84, 84, 3)}
    for name, picture in pictures[0].items():
        assert picture.dtype == np.uint8 and picture.std() > 10
        np.testing.assert_array_equal(picture, pictures[1][name], err_msg=name)
    for env in envs:
        env.close()


@runs
def test_the_desks_experts_solve_the_fixture_tasks_in_the_original(suite: CalvinSuite) -> None:
    actor = suite.expert()
    border = find_border(actor.contract, suite, "the expert")
    jobs = [
        Job(index=seed, seed=seed, tasks=(task,), instructions=(suite.instruction(task, "validation", 0),))
        for task in FIXTURES
        for seed in range(5)
    ]
    envs = [border.make_env(record=False) for _ in range(2)]
    done = list(Lockstep(actor, envs, border, max_steps=suite.max_steps, foresight=False).run(jobs))
    assert sum(rollout.solved for rollout in done) >= 0.9 * len(jobs)
    for env in envs:
        env.close()

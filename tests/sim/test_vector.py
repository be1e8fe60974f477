"""Several desks over several processes: the same numbers as single desks, autoreset, errors, and a clean end."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from foreact.sim.env import DeskEnv
from foreact.sim.tasks import reached_tasks
from foreact.sim.vector import DeskVectorEnv, WorkerError, split
from foreact.sim.vector_info import merge_infos
from foreact.vla.errors import ConfigError, ForeActError

SMALL = {"rgb_static": (24, 32), "rgb_gripper": (16, 16)}
ACTIONS = np.random.default_rng(0).uniform(-1, 1, (6, 3, 7)).astype(np.float32)


@pytest.fixture(scope="module")
def pair():
    with DeskVectorEnv(2, num_processes=2, scene="B", render=False, task="open_drawer") as envs:
        yield envs


def alone(number: int, limit: int) -> list[dict[str, np.ndarray]]:
    """Environment `number` by itself, with what `NextStep` does about the end of an episode."""
    env = DeskEnv("D", sizes=SMALL, max_episode_steps=limit)
    rows = [env.reset(seed=40 + number)[0]]
    ended = False
    for action in ACTIONS[:, number]:
        if ended:
            rows.append(env.reset()[0])
            ended = False
        else:
            obs, _, _, ended, _ = env.step(action)
            rows.append(obs)
    env.close()
    return rows


@pytest.mark.parametrize("processes", [1, 2])
def test_every_environment_gives_the_bits_of_a_desk_by_itself(processes: int) -> None:
    with DeskVectorEnv(3, num_processes=processes, scene="D", sizes=SMALL, max_episode_steps=4) as envs:
        found = [envs.reset(seed=40)[0]]
        ends = []
        for actions in ACTIONS:
            obs, _, terminated, truncated, _ = envs.step(actions)
            found.append(obs)
            ends.append(truncated)
            assert not terminated.any()
            assert envs.observation_space.contains(obs)
    assert np.array_equal(np.flatnonzero(np.array(ends).all(axis=1)), [3])
    for number in range(3):
        for step, wanted in enumerate(alone(number, 4)):
            for key, value in wanted.items():
                assert np.array_equal(found[step][key][number], value), (number, step, key)


def test_info_holds_one_entry_per_environment(pair: DeskVectorEnv) -> None:
    _, info = pair.reset(seed=1)
    assert info["task"].tolist() == ["open_drawer"] * 2
    assert info["_task"].tolist() == [True, True]
    _, reward, terminated, _, info = pair.step(np.zeros((2, 7), np.float32))
    assert info["success"].tolist() == info["is_success"].tolist() == terminated.tolist() == [False, False]
    assert reward.tolist() == [0.0, 0.0]
    assert [list(names) for names in info["tasks_happened"]] == [[], []]


def test_a_mask_resets_some_and_leaves_the_others_alone(pair: DeskVectorEnv) -> None:
    before, _ = pair.reset(seed=5)
    moved = pair.step(np.ones((2, 7), np.float32))[0]
    after, info = pair.reset(seed=[5, 6], options={"reset_mask": np.array([False, True])})
    assert np.array_equal(after["robot_obs"][0], moved["robot_obs"][0])
    assert np.array_equal(after["robot_obs"][1], before["robot_obs"][1])
    assert not np.array_equal(moved["robot_obs"][1], before["robot_obs"][1])
    assert info["_task"].tolist() == [False, True]


def test_same_step_resets_at_once_and_keeps_the_last_observation() -> None:
    with DeskVectorEnv(
        2, num_processes=2, autoreset_mode="SameStep", scene="D", render=False, max_episode_steps=1
    ) as envs:
        first = envs.reset(seed=3)[0]["robot_obs"]
        obs, _, _, truncated, info = envs.step(np.ones((2, 7), np.float32))
        assert envs.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    assert truncated.all()
    for number in range(2):
        last = info["final_obs"][number]["robot_obs"]
        env = DeskEnv("D", render=False)
        env.reset(seed=3 + number)
        assert np.array_equal(last, env.step(np.ones(7))[0]["robot_obs"])
        assert not np.array_equal(obs["robot_obs"][number], first[number])


def test_attributes_methods_and_pictures_of_the_environments(pair: DeskVectorEnv) -> None:
    pair.reset(seed=1)
    assert pair.call("task") == ("open_drawer", "open_drawer")
    assert all("open_drawer" in tasks for tasks in pair.call("feasible_tasks"))
    frames = pair.render()
    assert len(frames) == 2 and frames[0].shape == (200, 200, 3) and frames[0].std() > 10


def test_actions_can_be_begun_and_waited_for(pair: DeskVectorEnv) -> None:
    results = []
    for _ in range(2):
        pair.reset(seed=8)
        pair.step_async(np.ones((2, 7), np.float32))
        results.append(pair.step_wait()[0]["robot_obs"])
    assert np.array_equal(*results)
    pair.step_async(np.ones((2, 7), np.float32))
    with pytest.raises(WorkerError, match="call step_wait first"):
        pair.reset()
    pair.step_wait()
    with pytest.raises(WorkerError, match="call step_async first"):
        pair.step_wait()


def test_gymnasiums_vector_wrappers_fit() -> None:
    envs = gym.make_vec(
        "foreact/Desk-v0",
        num_envs=2,
        vectorization_mode="vector_entry_point",
        num_processes=1,
        scene="D",
        render=False,
        max_episode_steps=2,
    )
    envs = gym.wrappers.vector.RecordEpisodeStatistics(envs)
    envs.reset(seed=0)
    ends = [envs.step(envs.action_space.sample())[4].get("episode", {}).get("l") for _ in range(5)]
    envs.close()
    assert [None if end is None else end.tolist() for end in ends] == [None, [2, 2], None, None, [2, 2]]


@pytest.mark.parametrize("mode", ["sync", "async", "vector_entry_point"])
def test_gymnasium_makes_all_kinds(mode: str) -> None:
    kwargs: dict[str, Any] = {"vector_kwargs": {"context": "spawn"}} if mode == "async" else {}
    envs = gym.make_vec(
        "foreact/Desk-v0", num_envs=2, vectorization_mode=mode, scene="D", render=False, task="open_drawer", **kwargs
    )
    obs, _ = envs.reset(seed=7)
    after = envs.step(np.full((2, 7), 0.5, np.float32))[0]["robot_obs"]
    envs.close()
    for number in range(2):
        env = DeskEnv("D", render=False, task="open_drawer")
        assert np.array_equal(env.reset(seed=7 + number)[0]["scene_obs"], obs["scene_obs"][number])
        assert np.array_equal(env.step(np.full(7, 0.5))[0]["robot_obs"], after[number])


def test_mistakes_are_told_before_anything_is_started() -> None:
    before = len(multiprocessing.active_children())
    for arguments, words in (
        ({"num_envs": 0}, "1 or more"),
        ({"autoreset_mode": "nextstep"}, "NextStep"),
        ({"task": "open_drawr"}, "open_drawer"),
        ({"scene": "E"}, "no scene 'E'"),
        ({"sizes": {"rgb_statics": (8, 8)}}, "rgb_static"),
        ({"action_mode": "relative_cartesien"}, "relative_cartesian"),
    ):
        with pytest.raises(ForeActError, match=words):
            DeskVectorEnv(**{"num_envs": 2, **arguments})
    assert len(multiprocessing.active_children()) == before


def test_a_refused_request_is_explained_and_the_environments_go_on(pair: DeskVectorEnv) -> None:
    with pytest.raises(ForeActError, match="did you mean 'open_drawer'"):
        pair.reset(options={"task": "open_drawr"})
    with pytest.raises(ForeActError, match="finite"):
        pair.step(np.full((2, 7), np.nan, np.float32))
    with pytest.raises(ConfigError, match=r"\(2, 7\), found \(7,\)"):
        pair.step(np.zeros(7, np.float32))
    with pytest.raises(ConfigError, match="one for each of the 2"):
        pair.reset(seed=[1, 2, 3])
    with pytest.raises(ConfigError, match="reset_mask"):
        pair.reset(options={"reset_mask": np.zeros(2, bool)})
    pair.reset(seed=0)
    assert pair.step(np.zeros((2, 7), np.float32))[0]["robot_obs"].shape == (2, 15)


def test_a_failure_inside_arrives_with_its_traceback_and_ends_all() -> None:
    envs = DeskVectorEnv(2, num_processes=2, scene="D", render=False)
    with pytest.raises(WorkerError, match=r"process of environment 0 failed[\s\S]*no_such_method"):
        envs.call("no_such_method")
    with pytest.raises(WorkerError, match="closed"):
        envs.reset()


def test_a_killed_process_is_noticed_and_the_others_end() -> None:
    envs = DeskVectorEnv(3, num_processes=2, scene="D", render=False)
    envs.reset(seed=0)
    children = envs._processes
    os.kill(children[0].pid, signal.SIGKILL)
    with pytest.raises(WorkerError, match="environments 0 to 1 ended with exit status -9"):
        for _ in range(3):
            envs.step(np.zeros((3, 7), np.float32))
    assert not any(p.is_alive() for p in children)


_PARENT = """
import sys, time
from foreact.sim.vector import DeskVectorEnv

if __name__ == "__main__":
    envs = DeskVectorEnv(2, num_processes=2, scene="D", render=False)
    print(*envs.process_ids, flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks into /proc")
def test_killing_the_parent_leaves_no_process_and_no_named_memory(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(_PARENT)
    shm = Path("/dev/shm")
    named = set(shm.iterdir()) if shm.is_dir() else set()
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert len(pids) == 2 and all(Path(f"/proc/{pid}").exists() for pid in pids)
        mine = {path for path in shm.iterdir() if path.name.startswith("pym-")} - named if shm.is_dir() else set()
        assert not mine, "the memory must have lost its name as soon as it exists"
        parent.kill()
    deadline = time.monotonic() + 10
    while any(_runs(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(_runs(pid) for pid in pids)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_environments_are_spread_evenly() -> None:
    assert split(5, 2) == [(0, 3), (3, 2)]
    assert split(2, 8) == [(0, 1), (1, 1)]


def test_infos_of_parts_become_one() -> None:
    one = {"a": np.array([1, 2]), "_a": np.array([True, True]), "deep": {"x": np.array([1.5, 0.0])}}
    other = {"names": np.array([["stack"]], dtype=object)[:, 0], "deep": {"x": np.array([2.5])}}
    merged = merge_infos([(one, 2), (other, 1)])
    assert merged["a"].tolist() == [1, 2, 0]
    assert merged["_a"].tolist() == [True, True, False]
    assert merged["names"].tolist() == [None, None, "stack"]
    assert merged["deep"]["x"].tolist() == [1.5, 0.0, 2.5]


def test_the_names_of_what_happened_are_those_of_the_oracles() -> None:
    env = DeskEnv("D", render=False)
    obs, _ = env.reset(seed=0, options={"task": "open_drawer"})
    start = env.scene_info()
    opened = obs["scene_obs"].copy()
    opened[1] = 0.2
    env.data.joint("drawer").qpos[0] = opened[1]
    info = env.advance(np.zeros(7))
    assert info["success"] is True and info["is_success"] is True
    assert info["tasks_happened"] == ["open_drawer"] == reached_tasks(start, env.scene_info())

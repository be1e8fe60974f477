"""Snapshots for the oracles: worked out late, but of the moment they were taken."""

from __future__ import annotations

import multiprocessing
from typing import Any

import mujoco
import numpy as np
import pytest

from foreact.sim.env import DeskEnv
from foreact.sim.happened import HappenedTasks
from foreact.sim.rotations import quat_wxyz_to_matrix
from foreact.sim.scene_info import SceneInfo
from foreact.sim.scenes import BLOCKS
from foreact.sim.tasks import reached_tasks


@pytest.fixture
def env() -> DeskEnv:
    env = DeskEnv("A", render=False)
    env.reset(seed=4)
    return env


def sent(thing: Any) -> Any:
    """What arrives in another process."""
    ours, theirs = multiprocessing.Pipe()
    ours.send(thing)
    return theirs.recv()


def test_a_snapshot_does_not_follow_the_simulation(env: DeskEnv) -> None:
    free = env.model.joint("block_red")
    at, dof = free.qposadr[0], free.dofadr[0]
    env.data.qvel[dof : dof + 6] = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    taken, pose = env.scene_info(), env.data.qpos[at : at + 7].copy()
    for _ in range(3):
        env.step(np.zeros(7))
    assert not np.array_equal(env.data.qpos[at : at + 7], pose)
    block = taken.blocks["block_red"]
    np.testing.assert_array_equal(block.pos_world, pose[:3])
    np.testing.assert_allclose(block.R_world_block, quat_wxyz_to_matrix(pose[3:]), atol=1e-15)
    np.testing.assert_array_equal(block.lin_vel_world, [0.1, 0.2, 0.3])
    np.testing.assert_array_equal(block.ang_vel_block, [0.4, 0.5, 0.6])
    assert list(taken.blocks) == list(BLOCKS) and len(taken.blocks) == 3


def test_contacts_by_body_are_those_of_the_pairs(env: DeskEnv) -> None:
    env.step(np.zeros(7))
    info = env.scene_info()
    assert info.contacts, "resting blocks touch something"
    for name in {name for pair in info.contacts for name in pair}:
        assert info.contacts_of(name) == {b if a == name else a for a, b in info.contacts if name in (a, b)}
    assert info.contacts_of("nobody") == set()


def test_a_snapshot_that_was_sent_is_the_same(env: DeskEnv) -> None:
    info = env.scene_info()
    again: SceneInfo = sent(info)
    assert again.contacts == info.contacts and again.slide_m == info.slide_m
    for name in BLOCKS:
        np.testing.assert_array_equal(again.blocks[name].pos_world, info.blocks[name].pos_world)


def test_happened_tasks_read_like_a_list_and_are_asked_for_once(env: DeskEnv) -> None:
    start = env.scene_info()
    env.data.joint("drawer").qpos[0] += 0.15 if start.drawer_m < 0.1 else -0.15
    env.data.joint("slide").qpos[0] += 0.2 if start.slide_m < 0.2 else -0.2
    mujoco.mj_forward(env.model, env.data)
    now = env.scene_info()
    names = reached_tasks(start, now)
    assert len(names) == 2
    happened = HappenedTasks(start, now)
    assert happened == names and list(happened) == names and happened[0] == names[0] and happened[:1] == names[:1]
    assert names[0] in happened and "stack_block" not in happened and len(happened) == 2 and happened
    assert repr(happened) == repr(names)
    again = sent(happened)
    assert type(again) is list and again == names
    assert happened == HappenedTasks(start, now) and happened != HappenedTasks(start, start)

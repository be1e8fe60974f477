"""Scripted experts solve their task through `step` alone, in every scene; starts are what they promise."""

from __future__ import annotations

import numpy as np
import pytest

from foreact.sim.demonstrate import STEADY, DemonstrationSettings, demonstrate, episode_rng
from foreact.sim.env import DeskEnv
from foreact.sim.experts import Expert
from foreact.sim.language import TRAINING, VALIDATION
from foreact.sim.starts import NoStart, Start, draw_start, plan_starts
from foreact.sim.tasks import FIXTURE_TASKS, feasible
from foreact.vla.errors import ConfigError


@pytest.mark.parametrize("scene", "ABCD")
def test_each_expert_succeeds_with_and_without_slips(scene: str):
    env = DeskEnv(scene, render=False)
    for task in FIXTURE_TASKS:
        for settings in (STEADY, DemonstrationSettings()):
            episode = demonstrate(env, task, episode_rng(1, scene, task, 0), settings)
            assert episode is not None, (scene, task)
            assert episode.action is not None and np.abs(episode.action).max() <= 1.0
            assert episode.instruction in TRAINING[task]


def test_an_episode_depends_on_its_seed_alone():
    first = demonstrate(DeskEnv("D", render=False), "open_drawer", episode_rng(0, "D", "open_drawer", 3), STEADY)
    env = DeskEnv("D", render=False)
    env.reset(seed=77)  # what happened before must not matter
    second = demonstrate(env, "open_drawer", episode_rng(0, "D", "open_drawer", 3), STEADY)
    assert first is not None and second is not None
    assert first.state is not None and second.state is not None
    assert np.array_equal(first.state, second.state)


def test_slips_change_what_is_executed_and_not_the_label():
    env = DeskEnv("D", render=False)
    episode = demonstrate(env, "turn_on_led", episode_rng(0, "D", "turn_on_led", 0), DemonstrationSettings())
    assert episode is not None and episode.action is not None and episode.state is not None
    executed = episode.extras["action_executed"]
    assert not np.allclose(executed, episode.action)
    expert = Expert("turn_on_led", env.scene, speed=1.0)
    relabelled = [
        expert.act(s, o) for s, o in zip(episode.state.astype(np.float64), episode.extras["scene_obs"], strict=True)
    ]
    # The speed of the episode scales the label; its direction is the expert's own.
    cosine = [
        a[:3] @ b[:3] / (np.linalg.norm(a[:3]) * np.linalg.norm(b[:3]))
        for a, b in zip(episode.action, relabelled, strict=True)
    ]
    assert min(cosine) > 0.999


def test_action_free_episodes_have_no_state_and_no_actions():
    env = DeskEnv("A", render=False)
    episode = demonstrate(env, "open_drawer", episode_rng(0, "A", "open_drawer", 0), STEADY, action_free=True)
    assert episode is not None
    assert episode.state is None and episode.action is None and episode.extras == {}


def test_planned_starts_are_balanced_feasible_and_reproducible():
    def plan() -> list[Start]:
        return plan_starts("D", starts_per_task=3, tasks_per_start=2, tasks=FIXTURE_TASKS, seed=4)

    starts = plan()
    scene = DeskEnv("D", render=False).scene
    assert len(starts) == 12
    for start in starts:
        assert len(start.tasks) == 2
        assert sum(feasible(task, start.scene_obs, scene) for task in FIXTURE_TASKS) >= 4
        assert all(feasible(task, start.scene_obs, scene) for task in start.tasks)
    counts = [sum(task in start.tasks for start in starts) for task in FIXTURE_TASKS]
    assert counts == [3] * 8
    again = plan()
    assert all(np.array_equal(a.scene_obs, b.scene_obs) for a, b in zip(starts, again, strict=True))
    assert all(np.array_equal(a.robot_obs, b.robot_obs) for a, b in zip(starts, again, strict=True))
    assert len({tuple(start.robot_obs) for start in starts}) == len(starts)


def test_starts_that_cannot_be_are_refused():
    with pytest.raises(NoStart, match="tasks_per_start=2"):
        plan_starts("D", starts_per_task=1, tasks_per_start=2, tasks=["open_drawer", "close_drawer"], seed=0)
    env = DeskEnv("D", render=False)
    with pytest.raises(NoStart, match="never feasible at once"):
        draw_start(env, np.random.default_rng(0), ("open_drawer", "close_drawer"))


def test_the_arm_starts_in_free_space():
    env = DeskEnv("D", render=False)
    for seed in range(10):
        env.reset(seed=seed)
        assert not env.robot_touches_anything()


def test_unknown_expert_is_explained():
    with pytest.raises(ConfigError, match="did you mean 'open_drawer'"):
        Expert("open_drawr", DeskEnv("D", render=False).scene)


def test_no_validation_sentence_is_a_training_sentence():
    said = [sentence for sentences in TRAINING.values() for sentence in sentences]
    assert len(said) == len(set(said))
    assert set(TRAINING) == set(VALIDATION)
    assert not set(said) & set(VALIDATION.values())
    assert all(len(sentences) >= 10 for sentences in TRAINING.values())

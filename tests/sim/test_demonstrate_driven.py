"""A policy drives, and the expert says what it would have done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from foreact.sim.demonstrate import DemonstrationSettings, demonstrate, demonstrate_once, episode_rng
from foreact.sim.env import DeskEnv
from foreact.sim.language import training_instructions
from foreact.sim.manner import draw_manner
from foreact.sim.starts import draw_start

SETTINGS = DemonstrationSettings(driver_share=1.0, driver_steps=(15, 40), jitter=0.0, slip_probability=0.0)


class Wanderer:
    """Moves at random, and remembers what it did."""

    def __init__(self) -> None:
        self.did: list[np.ndarray] = []
        self.instruction = ""

    def begin(self, instruction: str) -> None:
        self.did, self.instruction = [], instruction
        self._rng = np.random.default_rng(3)

    def act(self, obs: Mapping[str, np.ndarray]) -> np.ndarray:
        assert obs["robot_obs"].shape == (15,)
        self.did.append(np.concatenate([self._rng.uniform(-1.0, 1.0, 6), [1.0]]))
        return self.did[-1]


@pytest.fixture(scope="module")
def env() -> DeskEnv:
    return DeskEnv("D", render=False)


@pytest.mark.parametrize("task", ["open_drawer", "push_red_block_left"])
def test_labels_are_the_experts_while_the_driver_acts(env: DeskEnv, task: str):
    driver = Wanderer()
    episode, _ = demonstrate_once(env, task, 0, 1, replace(SETTINGS, max_steps=360), driver=driver)
    assert episode is not None and episode.action is not None and episode.state is not None
    driven = int(episode.meta["driven_steps"])
    assert 15 <= driven <= 40 and len(driver.did) == driven and driver.instruction == episode.instruction
    executed = episode.extras["action_executed"]
    np.testing.assert_array_equal(executed[:driven], np.array(driver.did, dtype=np.float32))
    np.testing.assert_array_equal(executed[driven:], episode.action[driven:])
    # Independent of the driver: from each state that was visited, another expert of the same manner wants the same.
    rng = episode_rng(0, "D", task, 1, int(episode.meta["failed_attempts"]))
    draw_start(env, rng, tasks=(task,))
    rng.integers(len(training_instructions(task)))
    expert = draw_manner(SETTINGS, rng).expert(task, env.scene)
    for seen, scene, wanted in zip(episode.state, episode.extras["scene_obs"], episode.action, strict=True):
        np.testing.assert_allclose(expert.act(seen, scene), wanted, atol=2e-3)  # what is recorded is float32
    assert not np.allclose(executed[:driven, :6], episode.action[:driven, :6], atol=0.1)


def test_without_a_driver_nothing_changes(env: DeskEnv):
    plain = demonstrate(env, "open_drawer", episode_rng(0, "D", "open_drawer", 0), DemonstrationSettings())
    shares = replace(DemonstrationSettings(), driver_share=1.0, driver_steps=(15, 40))
    other = demonstrate(env, "open_drawer", episode_rng(0, "D", "open_drawer", 0), shares)
    assert plain is not None and other is not None and plain.action is not None and other.action is not None
    np.testing.assert_array_equal(plain.action, other.action)
    assert "driven_steps" not in plain.meta


def test_a_share_of_the_episodes_is_driven(env: DeskEnv):
    driver, settings = Wanderer(), replace(SETTINGS, driver_share=0.5, max_steps=300)
    found = [demonstrate_once(env, "move_slider_left", 0, i, settings, driver=driver)[0] for i in range(16)]
    driven = [int(episode.meta["driven_steps"]) for episode in found if episode is not None]
    assert len(driven) == 16 and 3 <= sum(steps == 0 for steps in driven) <= 13

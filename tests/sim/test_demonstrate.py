"""How demonstrations vary, and what happens when an expert fails."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from foreact.datasets.episode import EpisodeData
from foreact.sim.demonstrate import STEADY, DemonstrationSettings, demonstrate, demonstrate_once, episode_rng
from foreact.sim.env import DeskEnv
from foreact.sim.expert_law import PLAIN
from foreact.sim.manner import Disturbance, draw_manner


@pytest.fixture(scope="module")
def env() -> DeskEnv:
    return DeskEnv("D", render=False)


def _record(env: DeskEnv, task: str, settings: DemonstrationSettings, index: int = 0) -> EpisodeData:
    episode = demonstrate(env, task, episode_rng(0, "D", task, index), settings)
    assert episode is not None
    return episode


def _same(one: EpisodeData, other: EpisodeData) -> bool:
    assert one.state is not None and other.state is not None
    return np.array_equal(one.state, other.state) and one.instruction == other.instruction


def test_steady_episodes_do_not_depend_on_the_ranges_of_the_human_manner(env: DeskEnv):
    steady = DemonstrationSettings()
    other = replace(steady, gain=(0.1, 0.2), travel_m=(0.1, 0.2), off_centre=0.1, other_way=1.0, unsteady=(3.0, 4.0))
    assert _same(_record(env, "open_drawer", steady), _record(env, "open_drawer", other))


def test_human_episodes_differ_from_steady_ones_after_the_same_start(env: DeskEnv):
    steady = _record(env, "lift_red_block_table", DemonstrationSettings())
    human = _record(env, "lift_red_block_table", DemonstrationSettings(manner="human", max_steps=360))
    assert steady.state is not None and human.state is not None
    assert np.array_equal(steady.state[0], human.state[0])
    assert not _same(steady, human)


def test_manners_fill_their_ranges():
    settings = DemonstrationSettings(manner="human")
    rng = np.random.default_rng(0)
    drawn = [draw_manner(settings, rng) for _ in range(400)]
    for values, (low, high) in (
        ([m.speed for m in drawn], settings.speed),
        ([m.gain for m in drawn], settings.gain),
        ([m.style.travel_m for m in drawn], settings.travel_m),
        ([m.style.off_centre for m in drawn], (-settings.off_centre, settings.off_centre)),
        ([m.unsteady for m in drawn], settings.unsteady),
    ):
        margin = 0.05 * (high - low)
        assert low <= min(values) < low + margin and high - margin < max(values) <= high
    assert 0.18 < np.mean([m.style.other_way for m in drawn]) < 0.32
    plain = draw_manner(DemonstrationSettings(), np.random.default_rng(0))
    assert (plain.gain, plain.style, plain.unsteady) == (0.3, PLAIN, 1.0)


def test_unsteadiness_scales_jitter_and_the_chance_of_slips():
    def noise(settings: DemonstrationSettings, unsteady: float) -> np.ndarray:
        disturb = Disturbance(settings, np.random.default_rng(0), unsteady)
        return np.stack([disturb(np.zeros(7)) for _ in range(4000)])[:, :6]

    jitter = DemonstrationSettings(slip_probability=0.0)
    assert noise(jitter, 1.0).std() == pytest.approx(0.08, rel=0.02)
    assert noise(jitter, 0.5).std() == pytest.approx(0.04, rel=0.02)
    slips = DemonstrationSettings(jitter=0.0)
    share = [float((np.abs(noise(slips, u)).max(axis=1) > 0).mean()) for u in (0.5, 1.0)]
    # A slip of 5.5 steps on average, begun with chance p while there is none, lasts 5.5 p / (1 + 4.5 p) of the time.
    assert share == pytest.approx([0.053, 0.101], rel=0.25)
    assert not noise(STEADY, 1.0).any()


def test_a_failed_attempt_is_made_anew_with_the_next_sub_seed(env: DeskEnv):
    hurried = DemonstrationSettings(max_steps=38)
    for index in range(20):
        episode, failed = demonstrate_once(env, "open_drawer", 0, index, hurried)
        if failed:
            break
    else:
        pytest.fail("no attempt failed, so nothing is shown")
    assert episode is not None
    assert episode.meta["failed_attempts"] == failed
    assert (episode.meta["seed"], episode.meta["index"]) == (0, index)
    for attempt in range(failed):
        assert demonstrate(env, "open_drawer", episode_rng(0, "D", "open_drawer", index, attempt), hurried) is None
    again = demonstrate(env, "open_drawer", episode_rng(0, "D", "open_drawer", index, failed), hurried)
    assert again is not None and _same(episode, again)


def test_tries_are_bounded(env: DeskEnv):
    assert demonstrate_once(env, "open_drawer", 0, 0, DemonstrationSettings(max_steps=1), tries=3) == (None, 3)

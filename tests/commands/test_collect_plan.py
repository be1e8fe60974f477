"""Which episodes a collection has: CALVIN's amounts, even shares, and settings that contradict each other."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foreact.commands.collect_plan import PLAY, Job, divide, plan
from foreact.commands.collect_settings import CollectSettings
from foreact.commands.hydra_config import compose
from foreact.sim.tasks import FIXTURE_TASKS, TASKS
from foreact.vla.errors import ConfigError, ForeActError


def _settings(*argv: str) -> CollectSettings:
    return CollectSettings.parse(compose("collect", list(argv)))


def _plan(*argv: str) -> tuple[list[Job], list[Job]]:
    """Episodes of tasks, and sessions of play."""
    jobs = plan(_settings(*argv))
    assert len({job.name for job in jobs}) == len(jobs)
    return [j for j in jobs if j.task != PLAY], [j for j in jobs if j.task == PLAY]


# CALVIN's own numbers: language windows; frames less the share that a window covers.
@pytest.mark.parametrize(
    ("split", "episodes", "play"),
    [
        ("d", {"D": 5124}, 512_077 * 0.619),
        ("abc", {"A": 6010, "B": 5962, "C": 5898}, 1_795_045 * 0.624),
        ("abcd", {"A": 6010, "B": 5962, "C": 5897, "D": 5097}, 2_307_122 * 0.627),
    ],
)
def test_a_split_has_calvins_amounts(split: str, episodes: dict[str, int], play: float):
    tasks, sessions = _plan(f"split={split}")
    assert Counter(job.scene for job in tasks) == episodes
    assert sum(job.length for job in sessions) == pytest.approx(play, abs=1)
    assert all(1800 <= job.length <= 3600 for job in sessions)
    assert set(Counter(job.task for job in tasks)) == set(TASKS)
    per_task = Counter(job.task for job in tasks).values()
    assert max(per_task) - min(per_task) <= 1
    for scene in episodes:
        per_task = Counter(job.task for job in tasks if job.scene == scene).values()
        assert max(per_task) - min(per_task) <= 1


def test_a_tenth_of_a_split():
    tasks, sessions = _plan("split=d", "scale=0.1")
    assert len(tasks) == 512
    assert Counter(Counter(job.task for job in tasks).values()) == {15: 32, 16: 2}
    assert sum(job.length for job in sessions) == 31_698
    assert plan(_settings("split=d", "scale=0.1")) == [*sessions, *tasks]


def test_without_a_split_the_documented_commands_mean_what_they_did():
    tasks, sessions = _plan("out=data/desk_d", "scenes=[D]", "episodes_per_task=150")
    assert not sessions
    assert Counter(job.task for job in tasks) == dict.fromkeys(FIXTURE_TASKS, 150)
    assert [job.name for job in tasks[:2]] == ["D-move_slider_left-000000", "D-move_slider_right-000000"]
    settings = _settings()
    assert (settings.manner, settings.max_steps, settings.kind) == ("steady", 180, "demonstrations")


def test_named_tasks_and_play_of_every_scene():
    tasks, sessions = _plan("scenes=[A,B]", "tasks=[stack_block]", "episodes_per_task=2", "play_frames=5000")
    assert Counter(job.scene for job in tasks) == {"A": 2, "B": 2}
    lengths = {scene: sum(job.length for job in sessions if job.scene == scene) for scene in "AB"}
    assert lengths == {"A": 5000, "B": 5000}


def test_smaller_shares_of_language_are_among_larger_ones_and_even_over_tasks():
    kept = {}
    for fraction in (0.05, 0.1, 0.2, 1.0):
        tasks, _ = _plan("split=abcd", "scale=0.1", f"language_fraction={fraction}")
        kept[fraction] = {job.name for job in tasks if job.sentence}
        assert len(kept[fraction]) == int(len(tasks) * fraction + 0.5)
        per_task = Counter(dict.fromkeys(TASKS, 0)) + Counter(job.task for job in tasks if job.sentence)
        assert max(per_task.values()) - min(per_task.values()) <= 1
    assert kept[0.05] < kept[0.1] < kept[0.2] < kept[1.0]
    tasks, _ = _plan("split=abcd", "scale=0.1", "language_fraction=0")
    assert not any(job.sentence for job in tasks)


def test_only_labelled_play_has_sentences():
    assert not any(job.sentence for job in _plan("play_frames=4000")[1])
    assert all(job.sentence for job in _plan("play_frames=4000", "label_play=true")[1])


@given(
    total=st.integers(0, 10**6), shares=st.dictionaries(st.text("abcd", max_size=2), st.integers(1, 10**6), min_size=1)
)
def test_division_is_exact_and_each_part_is_within_one_of_its_share(total: int, shares: dict[str, int]):
    parts = divide(total, shares)
    assert sum(parts.values()) == total
    assert all(abs(parts[key] - total * shares[key] / sum(shares.values())) < 1 for key in shares)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["split=e"], "known: split/abc, split/abcd, split/d"),
        (["split=d", "scenes=[A]"], "split=d is of the scenes D, found scenes=[A]"),
        (["split=d", "episodes_per_task=3"], "episodes_per_task=3 cannot go with a split"),
        (["scale=0.5"], "scale=0.5 goes with split=d, abc or abcd"),
        (["play_frames=null"], "without a split, play_frames must be numbers"),
        (["tasks=al"], "no such set of tasks; known: all, blocks, fixtures"),
        (["tasks=[open_drawr]"], "did you mean 'open_drawer'"),
        (["tasks=[open_drawer,open_drawer]"], "tasks must be a list of different names"),
        (["scenes=[E]"], "scenes.0: Input should be 'A', 'B', 'C' or 'D', found 'E'"),
        (["session_steps=[10,15]"], "at least twice the first, found [10, 15]"),
        (["speed=[1.0,0.5]"], "speed must be [smallest, largest], found [1.0, 0.5]"),
        (["language_fraction=1.5"], "language_fraction: Input should be less than or equal to 1, found 1.5"),
        (["kind=films"], "kind: Input should be 'demonstrations' or 'video', found 'films'"),
        (["episodes_per_tusk=1"], "did you mean 'episodes_per_task'"),
    ],
)
def test_settings_that_mean_nothing_are_explained(argv: list[str], message: str):
    with pytest.raises(ForeActError) as error:
        plan(_settings(*argv))
    assert message in str(error.value)
    assert isinstance(error.value, ConfigError) or error.value.exit_code == 2

"""Play sessions are as long as asked for, know what was done in them, and depend on their seed alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foreact.sim.block_goals import held_block
from foreact.sim.demonstrate import DemonstrationSettings
from foreact.sim.env import DeskEnv
from foreact.sim.expert_law import Measured
from foreact.sim.language import TRAINING
from foreact.sim.manner import Manner
from foreact.sim.play import PlaySegment, PlaySettings, Session, play, segments_of, sentences_for, session_lengths
from foreact.sim.play_moves import PutDown, Retreat, act_towards
from foreact.sim.scene_state import BULB, DRAWER, LED, SLIDE
from foreact.sim.starts import draw_start

HUMAN = DemonstrationSettings(manner="human", max_steps=360)


def _play(env: DeskEnv, seed: int, length: int, settings: DemonstrationSettings = HUMAN) -> tuple[Session, Any]:
    rows: list[dict[str, np.ndarray]] = []
    session = play(env, np.random.default_rng(seed), length, settings, PlaySettings(), rows.append)
    return session, {key: np.stack([row[key] for row in rows]) for key in rows[0]}


@pytest.fixture(scope="module")
def played() -> tuple[Session, Any]:
    return _play(DeskEnv("D", render=False), seed=3, length=1500)


def test_a_session_has_its_length_and_its_segments_lie_in_it_one_after_the_other(played: tuple[Session, Any]):
    session, arrays = played
    assert {key: value.shape for key, value in arrays.items()} == {
        "state": (1500, 15), "action": (1500, 7), "scene_obs": (1500, 24), "action_executed": (1500, 7),
    }  # fmt: skip
    assert all(value.dtype == np.float32 for value in arrays.values())
    assert len(session.segments) >= 5
    end = -1
    for segment in session.segments:
        assert end < segment.first <= segment.last < 1500
        assert segment.done is None or segment.first < segment.done <= segment.last
        end = segment.last
    assert sum(s.success for s in session.segments) >= 0.5 * len(session.segments)


def _changed_as_said(task: str, before: np.ndarray, after: np.ndarray, slots: tuple[str, ...]) -> bool | None:
    """Whether two vectors of the scene differ as the task wants; None for tasks that poses alone do not tell."""
    moved = after - before
    if task.startswith("move_slider"):
        return (moved[SLIDE] if task.endswith("left") else -moved[SLIDE]) > 0.149
    if task.endswith("_drawer") and task.split("_")[0] in ("open", "close"):
        return (moved[DRAWER] if task.startswith("open") else -moved[DRAWER]) > 0.119
    if task.startswith("turn_"):
        return moved[BULB if task.endswith("bulb") else LED] == (1.0 if "_on_" in task else -1.0)
    if task.startswith(("lift", "push")) and task != "push_into_drawer":
        _, colour, _, where = task.split("_")
        x, _, z = moved[6 + 6 * slots.index(f"block_{colour}") :][:3]
        if task.startswith("push"):
            return (x if where == "right" else -x) > 0.099
        return z > (0.029 if where == "slider" else 0.049)
    return None


def test_what_a_session_says_was_done_is_seen_in_its_frames(played: tuple[Session, Any]):
    session, arrays = played
    slots = DeskEnv("D", render=False).scene.slot_order
    seen = [
        _changed_as_said(s.task, arrays["scene_obs"][s.first], arrays["scene_obs"][s.done], slots)
        for s in session.segments
        if s.done is not None
    ]
    judged = [found for found in seen if found is not None]
    assert len(judged) >= 4
    assert all(judged)


def test_a_session_depends_on_its_seed_alone():
    env = DeskEnv("A", render=False)
    first, arrays = _play(env, seed=1, length=300)
    env.reset(seed=5)  # what happened before must not matter
    second, again = _play(env, seed=1, length=300)
    assert first == second
    assert all(np.array_equal(arrays[key], again[key]) for key in arrays)
    other, _ = _play(env, seed=2, length=300)
    assert other != first


def test_tasks_that_take_too_long_are_given_up_and_the_session_goes_on():
    impatient = DemonstrationSettings(max_steps=4)
    session, arrays = _play(DeskEnv("D", render=False), 0, 200, impatient)
    assert len(arrays["action"]) == 200
    assert len(session.segments) >= 3
    assert not any(segment.success for segment in session.segments)
    assert {segment.last - segment.first + 1 for segment in session.segments} == {4}


def test_segments_go_through_the_metadata_and_only_successes_get_a_sentence():
    segments = [
        PlaySegment(task="open_drawer", first=0, last=48, done=40),
        PlaySegment(task="turn_on_led", first=60, last=100, done=None),
    ]
    meta = Session(segments=segments, rejected_draws=2).meta()
    assert all(isinstance(value, str | int) for value in meta.values())
    assert segments_of(dict(meta)) == segments
    assert (meta["segments_done"], meta["segments_failed"]) == (1, 1)
    assert segments_of({"task": "open_drawer"}) == []
    (labelled,) = sentences_for(segments, np.random.default_rng(0))
    assert (labelled.start, labelled.end) == (0, 49)
    assert labelled.instruction in TRAINING["open_drawer"]


def test_a_held_block_is_put_down_and_the_hand_withdraws():
    env = DeskEnv("B", render=False)
    start = draw_start(env, np.random.default_rng(4), ("stack_block",))
    env.reset(options={"robot_obs": start.robot_obs, "scene_obs": start.scene_obs})
    block = held_block(env.scene_info())
    assert block is not None
    for law in (Retreat(), PutDown(), Retreat()):
        for _ in range(120):
            now = Measured.of(env.robot_obs, env.scene_obs, env.scene)
            goal = law(now)
            if goal is None:
                break
            env.advance(act_towards(now, goal, Manner(speed=0.9)))
        else:
            pytest.fail(f"{type(law).__name__} did not end")
    assert held_block(env.scene_info()) is None
    at = env.scene_info().blocks[block].pos_world
    assert at[2] < 0.53 and at[1] < -0.05  # on the desk, or on a block on it
    assert env.robot_obs[2] > 0.5


@given(total=st.integers(0, 40_000), low=st.integers(1, 2000), more=st.integers(0, 2000), seed=st.integers(0, 9))
def test_sessions_have_allowed_lengths_and_sum_to_what_was_asked_for(total: int, low: int, more: int, seed: int):
    span = (low, 2 * low + more)
    lengths = session_lengths(total, span, np.random.default_rng(seed))
    assert sum(lengths) == total
    if total >= low:
        assert all(span[0] <= length <= span[1] for length in lengths)
    else:
        assert len(lengths) == (total > 0)

"""The chunk scheduler. Rows are filled with values that name their own step, so that any shift shows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foreact.robot_bridge.scheduler import Refusal, Scheduler, SchedulerSettings
from foreact.robot_bridge.types import ActionChunk

PERIOD_S = 1 / 7.5
SLOPE = 0.001
"""Joint 0 of the row for step s is SLOPE * (s + 1): where a steady policy wants to be at the end of step s."""
MODES = ("replace", "frozen_prefix", "ensemble")


def chunk(sequence: int, step: int, rows: int = 10, *, shift: float = 0.0, instruction_id: int = 0, gripper=None):
    """Joint 0 names the step; joint 1 is `shift`."""
    steps = np.arange(step, step + rows)
    q = np.stack([SLOPE * (steps + 1.0), np.full(rows, shift)], axis=1)
    g = np.ones(rows) if gripper is None else np.asarray(gripper, np.float64)
    return ActionChunk(
        sequence=sequence, instruction_id=instruction_id, observed_s=10.0 + step, step=step, joint_position=q, gripper=g
    )


def make(**values: Any) -> Scheduler:
    return Scheduler(SchedulerSettings(**{"late_steps": 100.0, **values}), PERIOD_S)


def joints(scheduler: Scheduler, time: float) -> np.ndarray:
    found = scheduler.target(time)
    assert found is not None
    return found[0]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("latency", [0.0, 0.4, 1.0, 2.7])
def test_rows_are_reached_at_their_own_step_whatever_the_latency(mode: str, latency: float) -> None:
    scheduler = make(mode=mode)
    assert scheduler.add(chunk(0, 0), 0.0, position=np.zeros(2)) is None
    assert scheduler.add(chunk(1, 5), 5.0 + latency) is None
    for time in np.arange(5.0 + latency, 15.0, 0.1):
        assert joints(scheduler, time)[0] == pytest.approx(SLOPE * time, abs=1e-12)
    assert scheduler.end == 15.0


@pytest.mark.fault("B12", n=1, event="first inference slower than the next")
def test_a_slow_first_chunk_starts_at_its_first_row_from_where_the_arm_stands() -> None:
    scheduler = make()
    standing = np.array([0.0, 0.0])
    assert scheduler.add(chunk(0, 0), 3.6, position=standing) is None
    assert scheduler.counts["skipped_rows"] == 0
    np.testing.assert_allclose(joints(scheduler, 3.6), standing, atol=1e-12)
    speed = scheduler.speed(3.6)
    assert speed is not None
    np.testing.assert_allclose(speed, 0.0, atol=1e-12)
    # Rows come one step apart from there; the next chunk was observed when two of them had been executed.
    assert joints(scheduler, 8.6)[0] == pytest.approx(SLOPE * 5)
    assert scheduler.add(chunk(1, 6), 6.6) is None
    assert scheduler.counts["skipped_rows"] == 0  # 0.6 of a row
    assert scheduler.executed(0.0, 6.6) == pytest.approx(3.0)


def test_two_chunks_observed_at_rest_begin_at_the_same_moment() -> None:
    scheduler = make()
    scheduler.add(chunk(0, 0), 2.0, position=np.zeros(2))
    first = joints(scheduler, 6.0)
    same_wish = chunk(1, 1)
    same_wish.joint_position[:] = chunk(0, 0).joint_position
    assert scheduler.add(same_wish, 3.0) is None
    np.testing.assert_allclose(joints(scheduler, 6.0), first, atol=1e-12)


def test_target_ends_with_the_last_row_and_then_there_is_none() -> None:
    scheduler = make()
    assert scheduler.target(0.0) is None
    scheduler.add(chunk(0, 0), 0.0, position=np.zeros(2))
    assert joints(scheduler, 10.0)[0] == pytest.approx(SLOPE * 10)
    assert scheduler.target(10.0 + 1e-6) is None
    assert scheduler.speed(10.1) is None
    assert scheduler.source(10.1) is None


def test_after_an_underrun_the_next_chunk_starts_from_rest_and_skips_only_what_was_executed() -> None:
    scheduler = make()
    scheduler.add(chunk(0, 0, rows=4), 0.0, position=np.zeros(2))
    standing = joints(scheduler, 4.0)
    assert scheduler.add(chunk(1, 3), 6.0, position=standing) is None
    np.testing.assert_allclose(joints(scheduler, 6.0), standing, atol=1e-12)
    assert scheduler.counts["skipped_rows"] == 1
    assert scheduler.end == pytest.approx(15.0)  # step 3 was executed before the plan ran out, nine rows are left
    source = scheduler.source(6.5)
    assert source is not None
    assert (source.sequence, source.step, source.row, source.observed_s) == (1, 3, 1, 13.0)


@pytest.mark.parametrize("mode", MODES)
def test_a_seam_has_neither_a_step_nor_a_corner(mode: str) -> None:
    scheduler = make(mode=mode)
    scheduler.add(chunk(0, 0), 0.0, position=np.zeros(2))
    for sequence, (step, now, shift) in enumerate([(2, 3.3, 0.05), (4, 5.1, -0.02), (5, 6.9, 0.04)], start=1):
        old, old_speed = joints(scheduler, now), scheduler.speed(now)
        assert old_speed is not None
        assert scheduler.add(chunk(sequence, step, shift=shift), now) is None
        new_speed = scheduler.speed(now)
        assert new_speed is not None
        np.testing.assert_allclose(joints(scheduler, now), old, atol=1e-12)
        np.testing.assert_allclose(new_speed, old_speed, atol=1e-12)
    # A mean still remembers the chunk that ended at 14.
    assert joints(scheduler, 15.0)[1] == pytest.approx(0.04, abs=0.03 if mode == "ensemble" else 1e-9)


def test_blend_is_as_long_as_asked_and_longer_where_acceleration_asks() -> None:
    short, long = make(blend_steps=2.0), make(blend_steps=2.0, max_blend_steps=7.0, acceleration=(1.0, 0.1))
    for scheduler in (short, long):
        scheduler.add(chunk(0, 0, rows=20), 0.0, position=np.zeros(2))
        scheduler.add(chunk(1, 5, rows=20, shift=0.09), 5.0)
    assert joints(short, 7.0)[1] == pytest.approx(0.09)
    assert joints(long, 11.9)[1] < 0.09
    assert joints(long, 12.0)[1] == pytest.approx(0.09)


def test_frozen_prefix_keeps_what_is_committed_and_fades_the_rest() -> None:
    scheduler = make(mode="frozen_prefix", commit_steps=1.0)
    scheduler.add(chunk(0, 0, gripper=np.ones(10)), 0.0, position=np.zeros(2))
    scheduler.add(chunk(1, 4, shift=0.06, gripper=-np.ones(10)), 5.5)
    np.testing.assert_allclose([joints(scheduler, t)[1] for t in (6.0, 7.0)], 0.0, atol=1e-12)
    fading = [joints(scheduler, float(t))[1] for t in range(7, 15)]
    assert all(a < b for a, b in zip(fading[:3], fading[1:4], strict=True))
    assert fading[4:] == pytest.approx([0.06] * 4)  # the old chunk ends at 10
    # With d = ceil(1.5 + 1) = 3 rows kept and 6 overlapping: c = 3/4 for row 3.
    weight = 0.75 * np.expm1(0.75) / (np.e - 1)
    assert joints(scheduler, 8.0)[1] == pytest.approx(0.06 * (1 - weight))
    grippers = [scheduler.target(t) for t in (6.0, 6.99, 7.0)]
    assert [g[1] for g in grippers if g is not None] == [1.0, 1.0, -1.0]


def test_ensemble_is_the_weighted_mean_of_all_chunks_that_reach_a_step() -> None:
    decay, rows = 0.2, 6
    scheduler = make(mode="ensemble", ensemble_decay=decay, ensemble_chunks=4, max_jump_rad=1.0, blend_steps=0.5)
    shifts = np.random.default_rng(0).uniform(-0.05, 0.05, 9)
    for step, shift in enumerate(shifts):
        assert scheduler.add(chunk(step, step, rows, shift=shift), float(step), position=np.array([0.0, shift])) is None
        if step == 0:
            continue
        for time in range(step + 1, step + rows + 1):  # ACT, algorithm 2, one step at a time
            reach = [s for s in range(max(step - 3, 0), step + 1) if s + rows >= time and s < time]
            weights = np.exp(-decay * np.arange(len(reach)))
            expected = (weights * shifts[reach]).sum() / weights.sum()
            assert joints(scheduler, float(time))[1] == pytest.approx(expected, abs=1e-9), (step, time)


def test_ensemble_closes_the_gripper_when_most_weight_is_for_it() -> None:
    scheduler = make(mode="ensemble", ensemble_decay=0.0)
    for step, sign in enumerate([1.0, -1.0, -1.0]):
        scheduler.add(chunk(step, step, gripper=np.full(10, sign)), float(step), position=np.zeros(2))
        found = scheduler.target(step + 0.5)
        assert found is not None
        assert found[1] == (1.0, -1.0, -1.0)[step]  # 1:0, then a tie that the newest decides, then 1:2


@pytest.mark.parametrize("mode", MODES)
def test_gripper_is_never_between_open_and_closed(mode: str) -> None:
    scheduler = make(mode=mode)
    rng = np.random.default_rng(1)
    for step in range(0, 30, 2):
        scheduler.add(chunk(step, step, gripper=rng.uniform(-1, 1, 10)), step + 0.7, position=np.array([0.0, 0.0]))
        found = [scheduler.target(step + 0.7 + t) for t in np.linspace(0, 9, 50)]
        assert {f[1] for f in found if f is not None} <= {-1.0, 1.0}


def test_gripper_changes_when_its_row_begins() -> None:
    scheduler = make()
    scheduler.add(chunk(0, 0, 4, gripper=[1, 1, -1, -1]), 0.0, position=np.zeros(2))
    found = [scheduler.target(t) for t in (0.0, 1.99, 2.0, 4.0)]
    assert [f[1] for f in found if f is not None] == [1.0, 1.0, -1.0, -1.0]


@pytest.mark.fault("B12", n=8, event="late, reordered, duplicate, future, passed or foreign chunk")
def test_chunks_that_must_not_move_the_arm_are_refused_and_change_nothing() -> None:
    scheduler = make(late_steps=2.0)
    scheduler.flush(0.0, instruction_id=3)
    assert scheduler.add(chunk(5, 0, instruction_id=3), 0.0, position=np.zeros(2)) is None
    before = joints(scheduler, 6.0)
    cases = [
        (chunk(5, 1, instruction_id=3), 1.5, Refusal.DUPLICATE),
        (chunk(4, 1, instruction_id=3), 1.5, Refusal.OVERTAKEN),
        (chunk(6, 1, instruction_id=2), 1.5, Refusal.OTHER_INSTRUCTION),
        (chunk(6, 1, instruction_id=4), 1.5, Refusal.OTHER_INSTRUCTION),
        (chunk(6, 2, instruction_id=3), 1.5, Refusal.FROM_THE_FUTURE),
        (chunk(6, 1, instruction_id=3), 3.1, Refusal.LATE),
        (chunk(6, 2, 1, instruction_id=3), 3.1, Refusal.PASSED),
        (chunk(6, 2, shift=0.2, instruction_id=3), 3.1, Refusal.JUMP),
    ]
    for bad, now, expected in cases:
        assert scheduler.add(bad, now) is expected
        assert scheduler.counts[expected.name.lower()] >= 1
        np.testing.assert_array_equal(joints(scheduler, 6.0), before)
    assert scheduler.counts["accepted"] == 1


@pytest.mark.fault("B6", n=9, event="chunk with NaN, Inf, wrong shape or type")
@pytest.mark.parametrize(
    ("joint_position", "gripper"),
    [
        (np.full((10, 2), np.nan), np.ones(10)),
        (np.where(np.eye(10, 2) > 0, np.inf, 0.0), np.ones(10)),
        (np.zeros((10, 2)), np.array([1.0] * 9 + [np.nan])),
        (np.zeros((10, 3)), np.ones(10)),
        (np.zeros((10, 2)), np.ones(9)),
        (np.zeros(10), np.ones(10)),
        (np.zeros((0, 2)), np.ones(0)),
        (np.zeros((10, 2), dtype=object), np.ones(10)),
        ([[0.0, 0.0]], np.ones(1)),
    ],
)
def test_malformed_chunks_are_refused_whole(joint_position: Any, gripper: Any) -> None:
    scheduler = make()
    scheduler.add(chunk(0, 0), 0.0, position=np.zeros(2))
    before = joints(scheduler, 5.0)
    bad = ActionChunk(
        sequence=1, instruction_id=0, observed_s=1.0, step=1, joint_position=joint_position, gripper=gripper
    )
    assert scheduler.add(bad, 1.0) is Refusal.MALFORMED
    np.testing.assert_array_equal(joints(scheduler, 5.0), before)


@pytest.mark.fault("B16", n=1, event="new instruction while chunks of the old one are on their way")
def test_flush_forgets_at_once_and_refuses_what_was_observed_before() -> None:
    scheduler = make()
    scheduler.flush(0.0, instruction_id=1)
    scheduler.add(chunk(0, 0, instruction_id=1), 0.0, position=np.zeros(2))
    scheduler.flush(3.4, instruction_id=2)
    assert scheduler.target(3.4) is None
    assert scheduler.add(chunk(1, 3, instruction_id=1), 4.0) is Refusal.OTHER_INSTRUCTION
    assert scheduler.add(chunk(2, 3, instruction_id=2), 4.0) is Refusal.BEFORE_FLUSH
    assert scheduler.add(chunk(3, 4, instruction_id=2), 4.6, position=np.zeros(2)) is None
    assert scheduler.end == pytest.approx(14.6)  # nothing was executed since step 4


def test_ensemble_forgets_with_the_flush() -> None:
    scheduler = make(mode="ensemble")
    scheduler.add(chunk(0, 0, shift=0.09), 0.0, position=np.zeros(2))
    scheduler.flush(1.0)
    scheduler.add(chunk(1, 1, shift=0.01), 1.0, position=np.zeros(2))
    assert joints(scheduler, 8.0)[1] == pytest.approx(0.01)


def test_steps_may_be_counted_anew_and_a_new_connection_starts_over() -> None:
    scheduler = make()
    scheduler.add(chunk(7, 50), 50.0, position=np.zeros(2))
    scheduler.flush(0.0, instruction_id=1)
    assert scheduler.add(chunk(8, 0, instruction_id=1), 1.0, position=np.zeros(2)) is None
    scheduler.reset()
    assert scheduler.add(chunk(0, 0, instruction_id=0), 0.5, position=np.zeros(2)) is None


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_whatever_arrives_the_stream_is_smooth_and_in_time(data: st.DataObject) -> None:
    """Random modes, latencies, order and gaps: no step, no stale row, never more rows skipped than steps executed."""
    mode = data.draw(st.sampled_from(MODES))
    scheduler = make(mode=mode, late_steps=data.draw(st.sampled_from([1.5, 4.0, 50.0])))
    rows = data.draw(st.integers(1, 12))
    now, taken, standing = 0.0, -1, np.zeros(2)
    for _ in range(data.draw(st.integers(1, 15))):
        gap = data.draw(st.floats(0.01, 6.0))
        now += gap
        here = scheduler.target(now)
        standing = standing if here is None else here[0]
        step = data.draw(st.integers(0, int(now)))
        sequence = data.draw(st.integers(0, 30))
        new = chunk(sequence, step, rows, shift=data.draw(st.floats(-0.04, 0.04)))
        new.joint_position[:, 0] = 0.0
        refusal = scheduler.add(new, now, position=standing)
        if refusal is not None:
            continue
        assert sequence > taken
        taken = sequence
        after = joints(scheduler, now)
        np.testing.assert_allclose(after, standing, atol=1e-12)
        source = scheduler.source(now)
        assert source is not None
        assert source.sequence == sequence
        executed = scheduler.executed(step, now)
        assert source.row <= executed + 1e-9 <= now - step + 2e-9
        assert scheduler.end == pytest.approx(now - executed + rows)
        stream = [scheduler.target(t) for t in np.linspace(now, now - executed + rows, 200)]
        positions = np.array([q for q, _ in (s for s in stream if s is not None)])
        assert len(positions) >= 199
        assert np.abs(positions).max() < 0.25

"""What a policy sends, late or malformed or for others: the rows of the event table with their bounds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from gate_steps import PANDA, comes_to_rest, until, world

from foreact.robot_bridge.causes import Cause
from foreact.robot_bridge.gate_world import START_Q, World
from foreact.robot_bridge.types import State

# ---- chunks ----------------------------------------------------------------------------------------------------------

Q = np.tile(np.array(START_Q[7]), (10, 1))
NAN, INF = Q.copy(), Q.copy()
NAN[3, 2], INF[9, 6] = np.nan, -np.inf
MALFORMED: list[Any] = [
    {"joint_position": NAN}, {"joint_position": INF}, {"joint_position": Q[0]}, {"joint_position": Q[:, :6]},
    {"joint_position": Q.astype(np.float32)}, {"joint_position": Q.astype(object)}, {"joint_position": Q.tolist()},
    {"joint_position": Q[:0], "gripper": np.ones(0)}, {"joint_position": np.zeros((1001, 7)), "gripper": np.ones(1001)},
    {"joint_position": Q + 0j}, {"joint_position": np.zeros((10, 7), "S8")}, {"joint_position": None},
    {"joint_position": np.ma.masked_array(Q, mask=True)}, {"joint_position": Q[None]},
    {"gripper": np.full(10, np.nan)}, {"gripper": np.ones(9)}, {"gripper": np.ones((10, 1))}, {"gripper": 1.0},
    {"sequence": 1.5}, {"sequence": True}, {"sequence": 1 << 70}, {"step": None}, {"step": "3"},
    {"observed_s": float("nan")}, {"observed_s": float("inf")}, {"observed_s": 1e12}, {"observed_s": None},
    {"inference_s": float("nan")}, {"instruction_id": "1"},
]  # fmt: skip


@pytest.mark.fault("B1", n=len(MALFORMED), event="malformed chunk")
@pytest.mark.parametrize("change", MALFORMED, ids=lambda change: ",".join(change))
def test_a_malformed_chunk(change: dict[str, Any]) -> None:
    w = world()
    before = w.gate.motion.observed_s
    w.gate.on_chunk(w.chunk(**change), w.now_s)
    assert w.gate.motion.observed_s == before  # nothing of it was taken
    w.tick()
    assert w.gate.state is State.HOLD and w.gate.cause is Cause.CHUNK_BAD
    comes_to_rest(w)
    until(w, State.RUNNING, 1.0)  # the next one is good


@pytest.mark.fault("B1", n=6, event="something that is no chunk")
@pytest.mark.parametrize("found", [None, 3, "chunk", b"\x80\x04.", {"joint_position": Q}, object()])
def test_something_else_than_a_chunk(found: object) -> None:
    w = world()
    w.gate.on_chunk(found, w.now_s)
    w.tick()
    assert w.gate.state is State.HOLD and w.gate.cause is Cause.CHUNK_BAD


@pytest.mark.fault("B1", n=1, event="three malformed chunks in ten seconds")
def test_three_malformed_chunks_are_a_fault() -> None:
    w = world()
    for gap_s in (0.0, 4.0, 4.0):
        w.run(gap_s)
        assert w.gate.state is State.RUNNING
        w.gate.on_chunk(None, w.now_s)
        w.tick()
    assert w.gate.state is State.FAULT and w.gate.cause is Cause.CHUNK_BAD
    w = world()
    for gap_s in (0.0, 6.0, 6.0):
        w.run(gap_s)
        w.gate.on_chunk(None, w.now_s)
        w.tick()
    assert w.gate.state is State.HOLD


@pytest.mark.fault("B1", n=2, event="targets far beyond the joint limits")
@pytest.mark.parametrize("value", [3.9, -1e300])
def test_targets_far_out_of_range(value: float) -> None:
    w = world()
    rows = w.chunk().joint_position.copy()
    rows[7, 4] = value
    w.gate.on_chunk(w.chunk(joint_position=rows), w.now_s)
    w.tick()
    assert w.gate.state is State.HOLD and w.gate.cause is Cause.OUT_OF_RANGE
    assert PANDA.joints[4] in w.events("state")[-1].message


@pytest.mark.fault("B1", n=1, event="targets a little beyond the joint limits, for long")
def test_more_than_half_of_the_ticks_clamped() -> None:
    w = World(PANDA)
    high = np.array(PANDA.position_high) - 0.1
    w.plan = lambda step, anchor: (
        anchor + np.minimum(0.02 * np.arange(1, w.rows + 1)[:, None] * np.eye(7)[4], high + 0.05 - anchor)
    )
    w.running(5.0)
    assert until(w, State.HOLD, 40.0) > 1.0
    assert w.gate.cause is Cause.OUT_OF_RANGE
    stream = np.array([t.position for t in w.sent if t.position.shape == w.sent[-1].position.shape])
    assert stream[..., 4].max() <= high[4] + 1e-9
    assert w.gate.motion.clipped["joint limit"] > 50


@pytest.mark.fault("B13", n=40, event="target that leaps")
@pytest.mark.parametrize("leap", [0.11, 0.2, 1.0, -0.3])
def test_a_leap_is_never_approached(leap: float) -> None:
    for seed in range(10):
        w = world(seed=seed)
        goal = w.chunk().joint_position + leap * np.eye(7)[seed % 7]
        w.gate.on_chunk(w.chunk(joint_position=goal), w.now_s)
        where = w.controller.setpoint.position.copy()
        w.tick()
        assert w.gate.state is State.HOLD
        assert w.gate.cause in (Cause.DISCONTINUITY, Cause.OUT_OF_RANGE)
        comes_to_rest(w)
        assert np.abs(w.controller.setpoint.position - where).max() < 0.06  # a brake, not a ramp


@pytest.mark.fault("B13", n=1, event="target whose tool leaps while no joint does")
def test_a_leap_of_the_tool() -> None:
    w = world()
    arm = w.gate.motion.kinematics
    goal = w.chunk().joint_position + 0.08 * np.sign(arm.jacobian(w.measured)[2])
    assert np.linalg.norm(arm.forward(goal[0])[0] - arm.forward(w.measured)[0]) > 0.06
    w.gate.on_chunk(w.chunk(joint_position=goal), w.now_s)
    w.tick()
    assert w.gate.state is State.HOLD and w.gate.cause is Cause.DISCONTINUITY
    assert " mm" in w.events("state")[-1].message


# ---- late, lost, reordered -------------------------------------------------------------------------------------------


@pytest.mark.fault("B12", n=1, event="no chunk comes any more")
def test_no_chunk_comes() -> None:
    w = world()
    w.silent.add("chunks")
    until(w, State.HOLD, 3 * w.settings.period_s)
    assert w.gate.cause is Cause.LATE_INFERENCE
    until(w, State.FAULT, 2.0 + 0.3)
    assert w.gate.cause is Cause.LATE_INFERENCE


@pytest.mark.fault("B12", n=1, event="the last chunk runs out")
def test_a_chunk_runs_out() -> None:
    w = world(rows=2, inference_period_s=2.0)
    w.silent.add("chunks")
    where = [w.controller.setpoint.position.copy()]
    until(w, State.HOLD, 2 * w.settings.period_s)
    assert w.gate.cause is Cause.EXHAUSTED
    for _ in range(30):
        w.tick()
        where.append(w.controller.setpoint.position.copy())
    assert np.abs(np.diff(where[-10:], axis=0)).max() < 1e-9  # the last step is not repeated


@pytest.mark.fault("B12", n=1, event="the policy answers more than two periods late")
def test_answers_too_late() -> None:
    w = world()
    w.answer_s = 2.0 * w.settings.period_s + 0.02
    until(w, State.HOLD, 1.0)
    assert w.gate.cause is Cause.LATE_INFERENCE


@pytest.mark.fault("B12", n=4, event="chunk twice, or overtaken, or of an earlier time")
def test_old_chunks_change_nothing() -> None:
    w = world()
    old = w.chunk()
    w.run(0.2)
    new = w.chunk()
    w.gate.on_chunk(new, w.now_s)
    plan = w.gate.target(w.gate.step + 0.5).copy()
    for chunk in (new, old, replace(new, joint_position=new.joint_position + 0.05), replace(old, sequence=10**6)):
        w.gate.on_chunk(chunk, w.now_s)
        np.testing.assert_array_equal(w.gate.target(w.gate.step + 0.5), plan)
    w.tick()
    assert w.gate.state is State.RUNNING


@pytest.mark.fault("B14", n=6, event="a policy that is not fast enough")
def test_warm_up() -> None:
    bound = 0.8 / 7.5
    for latencies, well in (
        ([], False), ([0.03] * 19, False), ([0.03] * 20, True), ([10 * 0.03, *[0.03] * 19], True),
        ([0.03] * 20 + [bound + 0.01] * 2, False), ([0.5] * 30 + [0.03] * 100, True), ([float("nan")] * 30, False),
    ):  # fmt: skip
        w = World(PANDA)
        w.prepare()
        w.gate.on_warmup(latencies)
        reasons = w.gate.arm(w.now_s)
        assert (not reasons) == well, (latencies[:3], reasons)
        assert well or ("warm-up" in reasons[0] or "p99" in reasons[0])


@pytest.mark.fault("B7", n=1, event="policy process is gone")
def test_policy_lost() -> None:
    w = world()
    w.silent.add("policy")
    w.gate.on_policy_lost(w.now_s, "CUDA error: out of memory")
    began = w.now_s
    until(w, State.HOLD, 0.1)
    assert "out of memory" in w.events("state")[-1].message
    w.silent.clear()  # another process says that it lives
    until(w, State.FAULT, 0.5 - (w.now_s - began))
    w.gate.disarm(w.now_s)
    w.run(0.2)
    assert any("warm-up" in reason for reason in w.gate.arm(w.now_s))
    w.gate.on_warmup([0.03] * 30)
    w.run(0.1)
    assert w.gate.arm(w.now_s) == []


@pytest.mark.fault("B21", n=8, event="another policy, normaliser, joint order, ... than configured")
@pytest.mark.parametrize(
    "wrong",
    [
        {"weights": "x"}, {"normaliser": "x"}, {"actions": "x"}, {"joints": "x"}, {"cameras": "x"}, {"contract": "x"},
        {"weights": None}, {"contract": None},
    ],
)  # fmt: skip
def test_identity(wrong: dict[str, str | None]) -> None:
    right = {name: f"hash of {name}" for name in ("weights", "normaliser", "actions", "joints", "cameras", "contract")}
    w = World(PANDA, identity=right)
    w.prepare()
    assert any("what it is" in reason for reason in w.gate.arm(w.now_s))
    stated = {k: v for k, v in {**right, **wrong}.items() if v is not None}
    w.gate.on_identity(stated)
    (name,) = wrong
    assert any(name in reason for reason in w.gate.arm(w.now_s))
    w.gate.on_identity(right)
    assert w.gate.arm(w.now_s) == []
    w.gate.on_identity(stated)  # replaced behind our back
    w.tick()
    assert w.gate.state is State.FAULT and w.gate.cause is Cause.POLICY_IDENTITY


# ---- words -----------------------------------------------------------------------------------------------------------


@pytest.mark.fault("B16", n=200, event="new words while the arm moves")
def test_instruction_change() -> None:
    w = World(PANDA)
    direction = {1: 1.0, 2: -1.0}

    def tagged(step: int, anchor: np.ndarray) -> np.ndarray:
        sign = direction[1 + w.instruction_id % 2]
        return np.clip(anchor + sign * 0.004 * np.arange(1, w.rows + 1)[:, None], Q[0] - 0.2, Q[0] + 0.2)

    w.plan = tagged
    w.running(0.4)
    for trial in range(200):
        w.run(0.1 + 0.01 * (trial % 13))
        assert w.gate.state is State.RUNNING
        stale = w.chunk()  # seen under the old words
        w.instruction_id += 1
        changed_s = w.now_s
        w.gate.on_instruction(w.instruction_id, w.now_s)
        assert w.gate.state is State.HOLD and w.gate.cause is Cause.INSTRUCTION_CHANGED
        assert w.gate.motion.scheduler.target(w.gate.motion.planned_step()) is None  # nothing old is left
        w.gate.on_chunk(stale, w.now_s)
        w.gate.on_chunk(replace(stale, instruction_id=w.instruction_id, sequence=10**6 + trial), w.now_s)
        assert w.gate.motion.observed_s is None
        until(w, State.RUNNING, 2.0)
        seen = w.gate.motion.observed_s
        assert seen is not None and seen > changed_s
    assert w.gate.state is State.RUNNING


def test_same_words_again_change_nothing() -> None:
    w = world()
    w.gate.on_instruction(w.instruction_id, w.now_s)
    w.tick()
    assert w.gate.state is State.RUNNING

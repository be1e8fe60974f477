"""Every row of the event table with its bound, on a clock that is set by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from foreact.robot_bridge.causes import Cause
from foreact.robot_bridge.gate_world import START_Q, World
from foreact.robot_bridge.limits import load_limits
from foreact.robot_bridge.types import RobotMode, State

PANDA = load_limits("panda")
TICK = 0.01


def world(**settings: Any) -> World:
    """RUNNING, at a random moment of its 100 Hz and 30 Hz rhythms."""
    seed = settings.pop("seed", 0)
    return World(PANDA, seed=seed, **settings).running(0.6 + 0.01 * (seed % 10))


def until(w: World, state: State, within_s: float) -> float:
    """How long it takes to get there; fails if it takes longer than `within_s` and the tick after."""
    began = w.now_s
    while w.gate.state is not state:
        w.tick()
        assert w.now_s - began <= within_s + TICK + 1e-6, f"{w.gate.state}, not {state}: {w.gate.log.last(2)}"
    return w.now_s - began


def comes_to_rest(w: World, within_s: float = 0.3) -> float:
    """How far the tool still goes [m]; fails if the arm is not at rest in time."""
    arm, path, stopped = w.gate.motion.kinematics, [w.controller.setpoint.position], None
    for i in range(round(within_s / TICK)):
        w.tick()
        path.append(w.controller.setpoint.position)
        if stopped is None and np.abs(w.controller.setpoint.velocity).max() <= 0.01:
            stopped = i
    assert stopped is not None and np.abs(w.controller.setpoint.velocity).max() <= 0.01
    points = arm.forward(np.array(path))[0]
    return float(np.linalg.norm(np.diff(points, axis=0), axis=1).sum())


def silence(what: str) -> Callable[[World], None]:
    """A source that stops."""
    return lambda w: w.silent.add(what)


# ---- sources that stop -----------------------------------------------------------------------------------------------

fault = pytest.mark.fault
SILENCES = [
    # source, cause, HOLD within, FAULT within [s]
    pytest.param("rgb_static", Cause.CAMERA_STALE, 0.1, 0.5, marks=fault("B10", n=20, event="camera stops")),
    pytest.param("joints", Cause.JOINTS_STALE, 0.02, 0.1, marks=fault("B6", n=20, event="joint states stop")),
    pytest.param("gripper", Cause.GRIPPER_SILENT, 0.1, 0.5, marks=fault("B6", n=20, event="gripper is silent")),
    pytest.param("policy", Cause.POLICY_LOST, 0.1, 0.5, marks=fault("B7", n=20, event="policy is silent")),
]


@pytest.mark.parametrize(("what", "cause", "hold_s", "fault_s"), SILENCES)
def test_a_source_that_stops(what: str, cause: Cause, hold_s: float, fault_s: float) -> None:
    for seed in range(20):
        w = world(seed=seed)
        began = w.now_s
        w.silent.add(what)
        until(w, State.HOLD, hold_s)
        assert w.gate.cause == cause
        assert comes_to_rest(w, 0.25) <= 0.05
        if w.gate.state is not State.FAULT:
            until(w, State.FAULT, fault_s - (w.now_s - began))
        assert w.gate.cause == cause
        w.silent.clear()
        assert not w.run(3.0) and w.gate.state is State.FAULT  # for good


@pytest.mark.fault("B10", n=10, event="camera slows down or jitters")
@pytest.mark.parametrize("every", [4, 5, 6, 8, 10])
@pytest.mark.parametrize("camera", ["rgb_static", "rgb_gripper"])
def test_a_slow_camera(camera: str, every: int) -> None:
    w = world()
    late = []
    for i in range(60):
        w.silent.discard(camera) if i % every == 0 else w.silent.add(camera)
        for _ in range(3):
            w.tick()
            late.append(w.gate.watches.cameras[camera].age_s(w.now_s))
            assert late[-1] <= 0.1 or w.gate.look(w.now_s) is None  # no inference on an old picture
            if w.gate.state is State.HOLD:
                assert w.gate.cause in (Cause.CAMERA_STALE, Cause.CAMERAS_OUT_OF_SYNC)
                return
            assert w.gate.state is State.RUNNING and late[-1] <= 0.1 + TICK
    pytest.fail("a picture every 130 ms or more must stop the arm")


@pytest.mark.fault("B10", n=1, event="camera whose pictures come late, with their true stamps")
def test_pictures_that_are_old_when_they_come() -> None:
    w = world()
    began = w.now_s
    original = w.picture
    w.picture = lambda camera, sequence: replace(original(camera, sequence), stamp_s=w.epoch_s + w.now_s - 0.15)
    until(w, State.HOLD, 0.1)
    assert w.gate.cause in (Cause.CAMERA_STALE, Cause.STAMPS) and w.now_s - began <= 0.1 + TICK
    assert w.gate.look(w.now_s) is None


@pytest.mark.fault("B11", n=10, event="camera freezes, stamps go on")
@pytest.mark.parametrize("camera", ["rgb_static", "rgb_gripper"])
@pytest.mark.parametrize("seed", range(5))
def test_a_frozen_camera(camera: str, seed: int) -> None:
    w = World(PANDA, seed=seed)
    w.plan = lambda step, anchor: anchor + 0.02 * np.arange(1, w.rows + 1)[:, None] * np.eye(7)[0]
    w.running(1.0 + 0.01 * seed)
    w.frozen.add(camera)
    until(w, State.HOLD, 5 / 30 + 0.034)  # the fifth equal picture
    assert w.gate.cause is Cause.CAMERA_FROZEN
    comes_to_rest(w)


def test_equal_pictures_of_a_scene_at_rest_are_no_fault() -> None:
    w = World(PANDA).armed()
    w.frozen.update({"rgb_static", "rgb_gripper"})
    w.run(2.0)
    assert w.gate.state is State.READY


@pytest.mark.fault("B10", n=3, event="cameras out of sync")
def test_cameras_out_of_sync() -> None:
    w = world()
    original = w.picture
    w.picture = lambda camera, sequence: replace(
        original(camera, sequence), stamp_s=w.epoch_s + w.now_s - (0.04 if camera == "rgb_gripper" else 0.0)
    )
    w.run(0.05)
    assert w.gate.look(w.now_s) is None and w.gate.look(w.now_s) is None
    w.tick()
    assert w.gate.state is State.RUNNING
    assert w.gate.look(w.now_s) is None
    w.tick()
    assert w.gate.state is State.HOLD and w.gate.cause is Cause.CAMERAS_OUT_OF_SYNC
    w.picture = original
    w.run(0.1)
    assert set(w.gate.look(w.now_s) or {}) == {"rgb_static", "rgb_gripper"}
    until(w, State.RUNNING, 1.0)


# ---- stamps and clocks -----------------------------------------------------------------------------------------------


@pytest.mark.fault("B17", n=8, event="the clock of the stamps is set")
@pytest.mark.parametrize("jump_s", [1.0, -1.0, 3600.0, -3600.0, 0.06, -0.06, 86400.0 * 365, -1e9])
def test_clock_jump(jump_s: float) -> None:
    w = world()
    w.epoch_s += jump_s
    until(w, State.HOLD, 0.1)
    assert w.gate.cause is Cause.CLOCK_JUMP
    assert comes_to_rest(w) <= 0.05
    until(w, State.RUNNING, 2.0)  # a clock that is steady again is no fault
    assert w.gate.watches.clock.jumps == 1


@pytest.mark.fault("B17", n=2, event="the clock of the stamps stands still or races")
@pytest.mark.parametrize("rate", [0.0, 2.0])
def test_a_clock_that_does_not_run_like_ours(rate: float) -> None:
    w = world()
    began, tick = w.now_s, w.tick
    original = w.epoch_s

    def warped() -> None:
        w.epoch_s = original + (rate - 1.0) * (w.now_s + TICK - began)
        tick()

    for _ in range(10):
        warped()
    assert w.gate.state is State.HOLD and w.gate.cause is Cause.CLOCK_JUMP
    for _ in range(250):
        warped()
    assert w.gate.state is State.FAULT


@pytest.mark.fault("B17", n=6, event="stamps in the future, or backwards, of one source")
@pytest.mark.parametrize("offset_s", [0.06, 100.0, -0.2])
@pytest.mark.parametrize("source", ["camera", "joints"])
def test_stamps_that_cannot_be(offset_s: float, source: str) -> None:
    w = world()
    if source == "camera":
        picture = w.picture
        w.picture = lambda camera, sequence: (
            lambda f: replace(f, stamp_s=f.stamp_s + offset_s)
        )(picture(camera, sequence))  # fmt: skip
    else:
        joints = w.joints
        w.joints = lambda **changes: joints(**{"stamp_s": w.epoch_s + w.now_s + offset_s, **changes})
    until(w, State.HOLD, 0.1)
    assert w.gate.cause in (Cause.STAMPS, Cause.CAMERA_STALE, Cause.JOINTS_STALE)
    until(w, State.FAULT, 2.3)


@pytest.mark.fault("B17", n=3, event="the steady clock itself runs backwards")
@pytest.mark.parametrize("now_s", [0.0, -1e9, float("nan")])
def test_a_steady_clock_that_is_none(now_s: float) -> None:
    w = world()
    assert w.gate.tick(now_s) is None
    assert w.gate.state is State.FAULT and w.gate.cause is Cause.CLOCK_JUMP


@pytest.mark.fault("B28", n=1, event="a tick of the gate is late")
@pytest.mark.parametrize("late_s", [0.06, 0.5, 3600.0])
def test_a_late_tick(late_s: float) -> None:
    w = world()
    w.now_s += late_s
    w.tick()
    assert w.gate.late_ticks == 1
    assert w.gate.state in (State.HOLD, State.FAULT)
    assert Cause.TICK_LATE in w.causes(State.HOLD) or w.gate.state is State.FAULT
    w = world()
    w.now_s += 0.04
    w.tick()
    assert w.gate.late_ticks == 0 and w.gate.cause is not Cause.TICK_LATE


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


# ---- the robot -------------------------------------------------------------------------------------------------------


@pytest.mark.fault("B15", n=100, event="emergency stop, protective stop, reflex")
@pytest.mark.parametrize("mode", [RobotMode.EMERGENCY_STOP, RobotMode.PROTECTIVE_STOP, RobotMode.REFLEX])
def test_robot_stops(mode: RobotMode) -> None:
    w = World(PANDA)
    for trial in range(34):
        w.gate.disarm(w.now_s)
        w.gate.on_mode(RobotMode.OK, w.now_s)
        w.running(0.3 + 0.01 * (trial % 15))
        w.gate.on_mode(mode, w.now_s)
        sent = len(w.sent)
        if trial % 2:
            w.gate.on_mode(RobotMode.OK, w.now_s)  # released before the gate's next tick
        w.controller.hold(w.measured)  # the robot drops what it has
        w.run(0.5)
        w.gate.on_mode(RobotMode.OK, w.now_s)
        where = w.measured.copy()
        w.run(1.0)
        assert w.gate.state is State.FAULT and w.gate.cause is Cause.ROBOT_MODE
        assert len(w.sent) == sent and np.array_equal(w.measured, where)
        assert w.gate.start(w.now_s, 1) != [] and w.gate.arm(w.now_s) != []


def test_a_robot_that_does_not_say_how_it_is() -> None:
    w = World(PANDA)
    w.prepare()
    w.gate.on_mode(RobotMode.UNKNOWN, w.now_s)
    assert any("well" in reason for reason in w.gate.arm(w.now_s))
    assert World(PANDA, require_mode=False).running().gate.state is State.RUNNING


@pytest.mark.fault("B25", n=3, event="too few control packets in time")
def test_packet_success() -> None:
    w = World(PANDA, packet_success=0.95)
    w.prepare()
    for rate, seconds, well in ((1.0, 5.0, False), (1.0, 6.0, True), (0.9, 11.0, False), (0.96, 11.0, True)):
        for _ in range(round(seconds * 10)):
            w.run(0.1)
            w.gate.on_packet_success(rate, w.now_s)
        reasons = w.gate.arm(w.now_s)
        assert (not reasons) == well, (rate, reasons)
        w.gate.disarm(w.now_s)


@pytest.mark.fault("B22", n=10, event="something holds the arm")
@pytest.mark.parametrize("seed", range(10))
def test_leash(seed: int) -> None:
    w = world(seed=seed)
    arm = w.gate.motion.kinematics
    w.blocked = True
    taut, apart, far = None, 0.0, 0.0
    while w.gate.state is State.RUNNING:
        w.tick()
        command = np.array(w.gate.motion.limiter.command(w.now_s))
        apart = max(apart, np.abs(command - w.measured).max())
        far = max(far, np.linalg.norm(arm.forward(command)[0] - arm.forward(w.measured)[0]))
        if taut is None and w.gate.motion.taut:
            taut = w.now_s
    assert w.gate.cause is Cause.LEASH and taut is not None
    assert w.now_s - taut <= 0.2 + TICK + 1e-6
    assert apart <= 0.1 and far <= 0.05 and max(apart / 0.1, far / 0.05) > 0.5
    # then the command goes to where the arm is: nothing is left that could leap when it is let go
    w.silent.add("chunks")
    sent = w.run(1.3)
    assert w.gate.state is State.HOLD
    assert max(np.abs(t.velocity).max() for t in sent[20:]) < 0.3
    assert np.abs(w.controller.setpoint.position - w.measured).max() < 0.005
    w.blocked = False
    before = w.measured.copy()
    w.tick()
    assert np.abs(w.measured - before).max() < 0.005


@pytest.mark.fault("B22", n=1, event="arm blocked for a moment only")
def test_a_short_touch_is_no_leash() -> None:
    w = world()
    w.measured = w.measured + 0.12 * np.eye(7)[6]
    w.blocked = True
    w.run(0.15)
    w.blocked = False
    w.run(0.5)
    assert w.gate.state is State.RUNNING


# ---- pictures --------------------------------------------------------------------------------------------------------

GOOD = np.zeros((12, 16, 3), np.uint8)
BAD_IMAGES: list[Any] = [
    {"image": np.zeros((16, 12, 3), np.uint8)}, {"image": np.zeros((24, 32, 3), np.uint8)}, {"image": GOOD[:, :, 0]},
    {"image": GOOD[:, :, :2]}, {"image": np.zeros((12, 16, 4), np.uint8)}, {"image": GOOD.astype(np.uint16)},
    {"image": GOOD.astype(np.float32)}, {"image": GOOD.tobytes()}, {"image": None}, {"image": GOOD.astype(object)},
    {"encoding": "bgr8"}, {"encoding": "jpeg"}, {"stamp_s": float("nan")}, {"image": GOOD[None]},
]  # fmt: skip


@pytest.mark.fault("B20", n=len(BAD_IMAGES), event="picture that the contract does not allow")
@pytest.mark.parametrize("change", BAD_IMAGES, ids=range(len(BAD_IMAGES)))
def test_image_contract(change: dict[str, Any]) -> None:
    w = world()
    w.gate.on_frame(replace(w.picture("rgb_static", 500), **change))
    w.gate.on_frame(w.picture("rgb_static", 501))  # a good one after it heals nothing
    w.tick()
    assert w.gate.state is State.FAULT and w.gate.cause is Cause.IMAGE_CONTRACT
    assert "rgb_static" in w.events("state")[-1].message
    w.gate.disarm(w.now_s)
    w.run(0.5)
    assert w.gate.arm(w.now_s) == []  # it was put right


def test_a_picture_the_transport_could_not_read() -> None:
    w = world()
    w.gate.on_bad_message("camera rgb_gripper", "step 250 is less than a row of 252 bytes", w.now_s)
    w.tick()
    assert w.gate.state is State.FAULT and w.gate.cause is Cause.IMAGE_CONTRACT
    w = world()
    w.gate.on_bad_message("camera of somebody else", "not our business", w.now_s)
    w.gate.on_frame(replace(w.picture("rgb_static", 1), camera="other"))
    w.tick()
    assert w.gate.state is State.RUNNING


BAD_JOINTS: list[Any] = [
    {"position": np.full(7, np.nan)}, {"position": np.zeros(6)}, {"position": np.zeros(7, np.float32)},
    {"velocity": np.full(7, np.inf)}, {"velocity": np.zeros(3)}, {"stamp_s": float("inf")}, {"position": None},
]  # fmt: skip


@pytest.mark.fault("B6", n=len(BAD_JOINTS), event="joint states that cannot be used")
@pytest.mark.parametrize("change", BAD_JOINTS, ids=range(len(BAD_JOINTS)))
def test_bad_joint_states(change: dict[str, Any]) -> None:
    w = world()
    joints = w.joints
    w.joints = lambda **more: joints(**{**change, **more})
    until(w, State.HOLD, 0.02)
    assert w.gate.cause is Cause.JOINTS_BAD
    until(w, State.FAULT, 0.1)


def test_joint_states_the_transport_could_not_read() -> None:
    w = world()
    w.silent.add("joints")
    w.gate.on_bad_message("joints", "panda_joint3 is missing", w.now_s)
    until(w, State.HOLD, 0.02)
    assert w.gate.cause is Cause.JOINTS_BAD and "panda_joint3" in w.events("state")[-1].message


# ---- the graph -------------------------------------------------------------------------------------------------------

GRAPHS: list[Any] = [
    ("joints", {"publishers": 2}, Cause.DUPLICATE_PUBLISHER, True),
    ("camera rgb_static", {"publishers": 2}, Cause.DUPLICATE_PUBLISHER, True),
    ("trajectory", {"publishers": 2}, Cause.DUPLICATE_PUBLISHER, True),
    ("gripper", {"publishers": 3}, Cause.DUPLICATE_PUBLISHER, True),
    ("instruction", {"publishers": 2}, Cause.DUPLICATE_PUBLISHER, True),
    ("joints", {"qos_problem": "reliability: offered best effort, requested reliable"}, Cause.QOS_MISMATCH, True),
    ("camera rgb_static", {"found_types": ("sensor_msgs/msg/PointCloud2",)}, Cause.TOPIC_TYPE, True),
    ("joints", {"publishers": 0, "found_types": ()}, Cause.TOPIC_MISSING, False),
    ("trajectory", {"subscribers": 0}, Cause.TOPIC_MISSING, False),
    ("instruction", {"publishers": 0}, None, False),
]  # fmt: skip


@pytest.mark.fault("B18", n=len(GRAPHS), event="second publisher, wrong type, wrong quality of service")
@pytest.mark.parametrize(("role", "change", "cause", "fault"), GRAPHS)
def test_graph(role: str, change: dict[str, Any], cause: Cause | None, fault: bool) -> None:
    w = World(PANDA)
    w.prepare()
    healthy = w.reports
    w.reports = [replace(r, **change) if r.role == role else r for r in healthy]
    topic = next(r.topic for r in healthy if r.role == role)
    w.run(1.0)
    reasons = w.gate.arm(w.now_s)
    assert (not reasons) == (cause is None)
    assert cause is None or topic in reasons[0]
    w.gate.disarm(w.now_s)
    w.reports = healthy
    w.run(1.0)
    w.running(0.5)
    w.reports = [replace(r, **change) if r.role == role else r for r in healthy]
    if fault:
        until(w, State.FAULT, 2.0)
        assert w.gate.cause is cause and topic in w.events("state")[-1].message
    else:
        w.run(2.0)
        assert w.gate.state is State.RUNNING


def test_nobody_looked_at_the_graph() -> None:
    w = World(PANDA)
    w.silent.add("graph")
    w.prepare()
    assert any("topics" in reason for reason in w.gate.arm(w.now_s))


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

"""The states of the gate: what leads from one to the next, and what does not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foreact.robot_bridge.causes import Cause
from foreact.robot_bridge.event_log import EventLog
from foreact.robot_bridge.gate import Gate
from foreact.robot_bridge.gate_lease import ArmLease, LeaseError, runtime_folder
from foreact.robot_bridge.gate_settings import GateSettings
from foreact.robot_bridge.gate_world import START_Q, World
from foreact.robot_bridge.limits import load_limits
from foreact.robot_bridge.types import RobotMode, State

PANDA = load_limits("panda")


def test_a_new_gate_is_disarmed_and_says_all_that_is_missing() -> None:
    gate = Gate(PANDA, GateSettings.from_mapping({"cameras": [{"name": "a", "height": 8, "width": 8}]}), EventLog())
    assert gate.state is State.DISARMED and gate.tick(1.0) is None
    reasons = " ".join(gate.arm(1.0))
    for word in ("camera a", "joints", "policy", "warm-up", "clock", "topics", "well"):
        assert word in reasons, (word, reasons)
    assert gate.state is State.DISARMED
    assert {e.kind for e in gate.log.last(99)} == {"refused"}


def test_the_straight_way() -> None:
    w = World(PANDA)
    w.prepare()
    assert w.gate.arm(w.now_s) == [] and w.gate.state is State.READY
    assert w.run(1.0) == [] and w.gate.state is State.READY  # words are there, but nobody said start
    assert w.gate.start(w.now_s, 1) == []
    assert w.run(2.0) and w.gate.state is State.RUNNING and w.gate.step >= 10
    w.gate.stop(w.now_s, "that is enough")
    assert w.gate.state is State.HOLD and w.gate.cause is Cause.OPERATOR
    w.run(0.4)
    assert w.gate.state is State.READY and w.run(1.0) == []
    assert w.gate.start(w.now_s, 1) == []
    w.run(0.5)
    assert w.gate.state is State.RUNNING
    w.gate.disarm(w.now_s)
    assert w.gate.state is State.DISARMED and w.run(1.0) == []
    assert w.causes(State.RUNNING) == ["operator", "operator"]


@pytest.mark.fault("B26", n=12, event="arm moves or has moved when it is armed or started")
@pytest.mark.parametrize("by_rad", [0.004, 0.006, -0.006, 0.1])
def test_start_pose(by_rad: float) -> None:
    w = World(PANDA).armed()
    assert w.gate.motion.limiter.end == pytest.approx(w.measured.tolist(), abs=0)
    moved = w.measured + by_rad * np.eye(7)[2]
    w.controller.hold(moved)
    w.measured = moved
    w.tick()
    reasons = w.gate.start(w.now_s, 1)
    assert bool(reasons) == (abs(by_rad) > 0.005), reasons
    w = World(PANDA)
    w.prepare()
    w.joints, joints = (lambda **c: joints(**{"velocity": np.full(7, by_rad), **c})), w.joints
    w.tick()
    assert bool(w.gate.arm(w.now_s)) == (abs(by_rad) > 0.01)
    w = World(PANDA)
    w.prepare()
    w.joints, joints = (lambda **c: joints(**{"velocity": None, **c})), w.joints
    w.run(0.05)
    assert w.gate.arm(w.now_s) == []  # its positions say that it rests


@pytest.mark.parametrize("q", [{3: -0.1}, {1: 1.7}, {1: 1.55, 3: -0.4}])
def test_arming_where_motion_may_not_begin(q: dict[int, float]) -> None:
    w = World(PANDA)
    where = w.measured.copy()
    for joint, value in q.items():
        where[joint] = value
    w.controller.hold(where)
    w.measured = where
    w.prepare()
    reasons = w.gate.arm(w.now_s)
    assert reasons and all("move it there" in reason for reason in reasons)


@pytest.mark.fault("B9", n=300, event="gate starts anew while policy and robot go on")
def test_a_new_gate_never_moves_by_itself() -> None:
    w = World(PANDA).running(0.5)
    for trial in range(300):
        w.gate = Gate(PANDA, w.settings, EventLog())
        w.gate.on_warmup([0.03] * 40)
        w.gate.on_mode(RobotMode.OK, w.now_s)
        w.gate.on_instruction(w.instruction_id, w.now_s)
        assert w.gate.state is State.DISARMED
        assert w.run(0.02 + 0.01 * (trial % 4)) == []
        if trial % 3 == 0:
            assert w.gate.start(w.now_s, 1) != [] and w.gate.state is State.DISARMED
        if trial % 3 == 1:
            w.gate.stop(w.now_s, "x")
            assert w.gate.state is State.DISARMED


def test_a_fault_is_left_by_disarming_only() -> None:
    w = World(PANDA).running()
    w.gate.on_mode(RobotMode.PROTECTIVE_STOP, w.now_s)
    w.gate.on_mode(RobotMode.OK, w.now_s)
    w.controller.hold(w.measured)
    w.gate.stop(w.now_s, "x")
    w.gate.on_instruction(7, w.now_s)
    w.instruction_id = 7
    assert w.gate.arm(w.now_s) == ["the gate is fault; disarm it first"]
    assert w.gate.start(w.now_s, 7) and w.run(3.0) == [] and w.gate.state is State.FAULT
    w.gate.disarm(w.now_s)
    w.run(0.1)
    assert w.gate.arm(w.now_s) == [] and w.gate.step == 0
    assert w.gate.start(w.now_s, 7) == []
    w.run(0.5)
    assert w.gate.state is State.RUNNING


@pytest.mark.parametrize("pause_s", [0.12, 0.5, 1.5])
def test_a_hold_ends_by_itself_within_two_seconds(pause_s: float) -> None:
    w = World(PANDA).running(1.0)
    step = w.gate.step
    w.silent.add("rgb_static")
    w.run_until(State.HOLD)
    stale = w.chunk()
    w.run(pause_s - 0.1)
    if w.gate.state is State.FAULT:  # half a second without a picture is no HOLD any more
        assert pause_s > 0.4
        return
    w.silent.clear()
    w.gate.on_chunk(stale, w.now_s)  # observed before the arm was at rest
    assert w.gate.state is State.HOLD
    w.run_until(State.RUNNING, within_s=0.5)
    seen = w.gate.motion.observed_s
    assert seen is not None and seen > stale.observed_s
    assert step <= w.gate.step <= step + 2  # steps stand still meanwhile: nothing is skipped


def test_a_hold_that_lasts_becomes_a_fault_with_its_cause() -> None:
    w = World(PANDA).running()
    w.gate.watches.sync.judge({})  # none dropped
    w.silent.add("chunks")
    w.run_until(State.FAULT, within_s=4.0)
    assert w.gate.cause is Cause.LATE_INFERENCE and "2 s" in w.events("state")[-1].message


def test_it_goes_on_from_rest_where_it_stands() -> None:
    w = World(PANDA).running(1.0)
    w.gate.on_instruction(2, w.now_s)
    w.instruction_id = 2
    w.silent.add("chunks")
    w.run(0.5)
    where = w.controller.setpoint.position.copy()
    assert not w.controller.setpoint.velocity.any()
    np.testing.assert_allclose(w.gate.target(w.gate.step), where, atol=1e-9)  # what the next chunk starts from
    w.silent.clear()
    w.run_until(State.RUNNING)
    w.run(0.06)
    assert np.abs(w.controller.setpoint.position - where).max() < 0.01


def test_speed_scale_stretches_time_not_the_way() -> None:
    def way(scale: float) -> tuple[float, np.ndarray]:
        w = World(PANDA, speed_scale=scale, inference_period_s=2.0, late_steps=5, rows=25)
        w.plan = lambda step, anchor: (
            np.array(START_Q[7]) + np.minimum(0.004 * (step + 1 + np.arange(25))[:, None], 0.1) * np.eye(7)[0]
        )
        w.running(0.2)
        began = w.now_s
        while w.gate.step < 20:
            w.tick()
        return w.now_s - began, w.gate.target(20.0)

    (slow_s, slow), (fast_s, fast) = way(0.25), way(0.5)
    np.testing.assert_allclose(slow, fast, atol=2e-3)
    assert slow_s / fast_s == pytest.approx(2.0, rel=0.1)


def test_gripper_command_follows_the_chunk() -> None:
    w = World(PANDA).running()
    assert w.gate.gripper_command == 1.0
    original = w.chunk
    w.chunk = lambda **c: original(**{"gripper": -np.ones(w.rows), **c})
    w.run(0.5)
    assert w.gate.gripper_command == -1.0


def test_camera_to_command_can_be_told_of_every_message() -> None:
    w = World(PANDA).running()
    ages = [t.start_s - t.observed_s for t in w.run(2.0) if t.observed_s is not None]
    assert len(ages) == 100 and min(ages) > 0.04 and max(ages) < 0.25


@pytest.mark.fault("B29", n=12, event="every stop names its cause")
def test_every_hold_and_fault_has_a_cause() -> None:
    w = World(PANDA)
    w.running()
    for what in ("rgb_static", "joints", "policy", "gripper", "chunks"):
        w.silent.add(what)
        w.run(3.0)
        assert w.gate.state is State.FAULT
        w.silent.clear()
        w.gate.disarm(w.now_s)
        w.run(0.5)
        assert w.gate.arm(w.now_s) == []
        w.gate.start(w.now_s, 1)
        w.run(0.5)
    stops = [e for e in w.events("state") if e.state in (State.HOLD, State.FAULT)]
    assert len(stops) >= 10
    for event in stops:
        assert event.cause in set(Cause) and event.message


# ---- a second bridge -------------------------------------------------------------------------------------------------


@pytest.mark.fault("B18", n=1, event="a second bridge for the same robot")
def test_two_bridges_are_never_both_armed(tmp_path: Path) -> None:
    first = World(PANDA, gate={"lease": ArmLease("panda 1", tmp_path)})
    second = World(PANDA, gate={"lease": ArmLease("panda 1", tmp_path)})
    other = World(PANDA, gate={"lease": ArmLease("panda 2", tmp_path)})
    first.armed()
    other.armed()
    second.prepare()
    reasons = second.gate.arm(second.now_s)
    assert len(reasons) == 1 and f"process {os.getpid()}" in reasons[0]
    first.gate.disarm(first.now_s)
    assert second.gate.arm(second.now_s) == []
    first.run(0.1)
    assert first.gate.arm(first.now_s) != []


@pytest.mark.fault("B18", n=1, event="the holder of the lease is killed")
def test_the_lease_goes_with_its_holder(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from foreact.robot_bridge.gate_lease import ArmLease\n"
        f"lease = ArmLease('arm', Path({str(tmp_path)!r})); print(repr(lease.acquire()), flush=True); time.sleep(60)"
    )
    source = Path(__file__).resolve().parents[2] / "src"
    holder = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(source)}
    )
    try:
        assert holder.stdout is not None and holder.stdout.readline().strip() == "''"
        lease = ArmLease("arm", tmp_path)
        assert f"process {holder.pid}" in lease.acquire() and not lease.held
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close() if holder.stdout else None
    assert lease.acquire() == "" and lease.held and lease.acquire() == ""
    lease.release()


def test_lease_files_are_not_led_astray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ArmLease("../../etc/passwd", tmp_path).path.parent == tmp_path
    assert ArmLease("...", tmp_path).path.name == "robot.lease"
    (tmp_path / "target").write_text("precious")
    (tmp_path / "arm.lease").symlink_to(tmp_path / "target")
    assert "cannot be opened" in ArmLease("arm", tmp_path).acquire()
    assert (tmp_path / "target").read_text() == "precious"
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert runtime_folder() == tmp_path / "foreact"
    (tmp_path / "foreact").chmod(0o777)
    with pytest.raises(LeaseError, match="only you"):
        runtime_folder()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "none"))
    with pytest.raises(LeaseError, match="XDG_RUNTIME_DIR"):
        runtime_folder()
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    assert runtime_folder() == tmp_path / f"foreact-{os.getuid()}"


# ---- the stop, through a controller ----------------------------------------------------------------------------------


@pytest.mark.fault("B6", n=300, event="gate stops sending at a random moment")
def test_stop_after_any_stall() -> None:
    """The gate dies: no tick any more. At rest within 300 ms, the tool within 50 mm, at the default 25 %."""
    w = World(PANDA)
    w.plan = _fast(w)
    w.running(0.5)
    arm = w.gate.motion.kinematics
    slowest, farthest, fastest = 0.0, 0.0, 0.0
    for trial in range(300):
        w.run(0.05 + 0.01 * (trial % 17))
        if w.gate.state is not State.RUNNING:
            w.run_until(State.RUNNING, within_s=3.0)
            w.run(0.3)
        now, path, rest = w.now_s, [w.controller.setpoint.position], None
        fastest = max(fastest, float(np.abs(w.controller.setpoint.velocity).max()))
        for i in range(1, 31):
            s = w.controller.update(now + 0.01 * i)
            path.append(s.position)
            if rest is None and np.abs(s.velocity).max() <= 0.01:
                rest = 0.01 * i
        assert rest is not None and rest <= 0.3
        points = arm.forward(np.array(path))[0]
        slowest, farthest = (
            max(slowest, rest),
            max(farthest, float(np.linalg.norm(np.diff(points, axis=0), axis=1).sum())),
        )
        w.now_s += 0.3  # the gate comes back, and sees the gap
        w.measured = w.controller.setpoint.position.copy()
        w.tick()
        assert w.gate.state in (State.HOLD, State.FAULT)
        if w.gate.state is State.FAULT:
            w.gate.disarm(w.now_s)
            w.run(0.2)
            assert w.gate.arm(w.now_s) == []
            w.gate.start(w.now_s, 1)
        w.run_until(State.RUNNING, within_s=3.0)
    assert fastest > 0.2 and slowest <= 0.22 and farthest <= 0.05


def _fast(w: World) -> Any:
    """To and fro at the speed that the limits allow."""

    def plan(step: int, anchor: np.ndarray) -> np.ndarray:
        s = (step + 1 + np.arange(w.rows))[:, None]
        wave = 0.25 * np.sin(0.22 * s + np.arange(7)) * np.array([1, 0.4, 1, 0.4, 1, 1, 1])
        path = np.array(START_Q[7]) + np.minimum(1.0, s / 20.0) * wave
        return path + (anchor - path[0]) * np.exp(-0.5 * np.arange(w.rows))[:, None]

    return plan

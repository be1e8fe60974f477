"""The robot itself and who is on its topics: the rows of the event table with their bounds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from gate_steps import PANDA, TICK, until, world

from foreact.robot_bridge.causes import Cause
from foreact.robot_bridge.gate_world import World
from foreact.robot_bridge.types import RobotMode, State

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


def described(**changes: Any) -> str:
    """A Panda's URDF, as its chain has it, with other numbers for joint 4 if wanted."""
    lines = ['<robot name="panda">']
    for i, (name, link) in enumerate(zip(PANDA.joints, PANDA.chain, strict=False)):
        xyz, rpy = (" ".join(map(str, part)) for part in (link.xyz, link.rpy))
        numbers = {"lower": PANDA.position_low[i], "upper": PANDA.position_high[i], "velocity": PANDA.velocity[i]}
        numbers |= changes if i == 3 else {}
        limit = " ".join(f'{key}="{value}"' for key, value in numbers.items())
        lines.append(
            f'<joint name="{name}" type="revolute"><origin xyz="{xyz}" rpy="{rpy}"/><axis xyz="0 0 1"/>'
            f"<limit {limit}/></joint>"
        )
    return "".join([*lines, "</robot>"])


@pytest.mark.fault("B5", n=3, event="the robot's URDF is missing, or another robot's: not armed")
def test_a_robot_that_is_not_the_one_of_the_limits_file_is_not_armed() -> None:
    w = World(PANDA, require_description=True)
    w.prepare()
    assert ["not described itself" in reason for reason in w.gate.arm(w.now_s)] == [True]
    for wrong, said in ((described(upper=-0.1169), "panda_joint4: upper limit"), ("<robot/>", "no joints")):
        w.gate.on_description(wrong)
        (reason,) = w.gate.arm(w.now_s)
        assert "not the panda" in reason and said in reason
        assert w.gate.state is State.DISARMED
    w.gate.on_description(described())
    w.running()
    assert w.gate.state is State.RUNNING


@pytest.mark.fault("B5", n=1, event="another robot describes itself while the arm moves: FAULT")
def test_another_description_while_the_arm_moves_ends_in_fault() -> None:
    w = World(PANDA, require_description=True)
    w.gate.on_description(described())
    w.running()
    w.gate.on_description(described())  # robot_state_publisher was started again: the same robot
    w.run(0.3)
    assert w.gate.state is State.RUNNING
    w.gate.on_description(described(upper=-0.1169))
    w.tick()
    assert w.gate.state is State.FAULT and w.gate.cause is Cause.WRONG_ROBOT
    w.run(1.0)
    w.gate.disarm(w.now_s)
    assert any("not the panda" in reason for reason in w.gate.arm(w.now_s))
    w.gate.on_description(described())
    assert w.gate.arm(w.now_s) == []


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

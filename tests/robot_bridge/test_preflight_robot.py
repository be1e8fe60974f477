"""What preflight finds before an arm is armed: a robot as it should be, and every way in which it is not."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from bridge_chain import BODIES, GreyBody, small_robot

from foreact.robot_bridge.mailbox import Mail, Mailbox
from foreact.robot_bridge.preflight import Line, check
from foreact.robot_bridge.sim_robot import SimRobot
from foreact.robot_bridge.transport_memory import MemoryLink
from foreact.robot_bridge.types import JointSample, RobotMode, TopicReport
from foreact.sim.embodiment import desk_contract
from foreact.vla.serving.background import in_background
from foreact.vla.serving.openpi_server import OpenPiServer
from foreact.vla.serving.service import PolicyService

ROBOT = small_robot()
SECONDS = 2.0


def heard(do: Callable[[SimRobot], Any] = lambda robot: None) -> tuple[Mail, list[TopicReport]]:
    """Everything a robot sends in two seconds, and who is on its topics."""
    body = BODIES.setdefault("D", GreyBody())
    body.restart(body.draw_start(None, 0))
    robots: list[SimRobot] = []
    link = MemoryLink(ROBOT.topic_names(), clock=lambda: robots[0].now_s if robots else 0.0)
    robots.append(SimRobot(body, link.robot))
    box = Mailbox(frames=4096)
    link.transport.start(box)
    robots[0].start()
    do(robots[0])
    robots[0].step(SECONDS)
    return box.take(), list(link.transport.graph())


def bad(lines: list[Line]) -> dict[str, Line]:
    return {line.what: line for line in lines if not line.fits}


def test_a_robot_as_its_file_says_fits_in_every_line() -> None:
    lines = check(ROBOT, *heard(), SECONDS, ())
    assert bad(lines) == {}
    told = " ".join(line.what for line in lines)
    for part in ("network", "camera rgb_static", "camera rgb_gripper", "joint states", "robot mode", "trajectory"):
        assert part in told


@pytest.mark.fault("B20", n=6, event="preflight: cameras, joints, mode or URDF are not what the robot file says")
@pytest.mark.parametrize(
    ("do", "what", "found"),
    [
        (lambda r: r.set_camera_fault("rgb_static", "stop"), "camera rgb_static", "no picture"),
        (lambda r: r.set_camera_fault("rgb_gripper", "slow", 4), "camera rgb_gripper", "7"),
        (lambda r: setattr(r.joint_faults, "drop", 0.9), "joint states", "Hz"),
        (lambda r: setattr(r.joint_faults, "drop", 1.0), "joint states", "0 Hz"),
        (lambda r: r.set_mode(RobotMode.PROTECTIVE_STOP), "robot mode", "protective_stop"),
        (lambda r: r.side.publish_description("<robot/>"), "robot description", "no joints"),
    ],
)
def test_what_does_not_fit_is_a_line_of_its_own(do: Callable, what: str, found: str) -> None:
    lines = bad(check(ROBOT, *heard(do), SECONDS, ()))
    assert found in lines[what].found
    assert set(lines) == {what}


def test_a_robot_that_is_not_there_fits_nowhere() -> None:
    link = MemoryLink(ROBOT.topic_names())
    lines = bad(check(ROBOT, Mail(), list(link.transport.graph()), SECONDS, ()))
    assert {"camera rgb_static", "camera rgb_gripper", "joint states", "robot mode", "robot description"} <= set(lines)
    assert any("trajectory" in what and "nobody listens" in line.found for what, line in lines.items())


@pytest.mark.parametrize(
    ("role", "change", "found"),
    [
        ("camera rgb_static", {"publishers": 2}, "2 publishers"),
        ("camera rgb_static", {"qos_problem": "RELIABILITY does not fit"}, "RELIABILITY"),
        ("joints", {"found_types": ("std_msgs/msg/String",)}, "std_msgs/msg/String"),
        ("instruction", {"publishers": 2}, "2 publishers"),
        ("trajectory", {"publishers": 2}, "2 publishers"),
        ("trajectory", {"subscribers": 0}, "nobody listens"),
    ],
)
def test_a_topic_that_others_use_differently_is_named(role: str, change: dict[str, Any], found: str) -> None:
    mail, graph = heard()
    graph = [dataclasses.replace(r, **change) if r.role == role else r for r in graph]
    topic = next(r.topic for r in graph if r.role == role)
    lines = bad(check(ROBOT, mail, graph, SECONDS, ()))
    assert list(lines) == [f"{role} {topic}"]
    assert found in lines[f"{role} {topic}"].found


def joints(mail: Mail, change: Callable[[np.ndarray, int], np.ndarray]) -> Mail:
    moved: list[JointSample] = [
        dataclasses.replace(s, position=change(s.position.copy(), i)) for i, s in enumerate(mail.joints)
    ]
    return dataclasses.replace(mail, joints=moved)


def beyond(q: np.ndarray, _: int) -> np.ndarray:
    q[3] = 0.5  # above the Panda's fourth joint
    return q


def test_an_arm_beyond_its_limits_or_in_motion_is_refused() -> None:
    mail, graph = heard()
    lines = bad(check(ROBOT, joints(mail, beyond), graph, SECONDS, ()))
    assert "panda_joint4 at 0.500" in lines["joint positions"].found
    moving = joints(mail, lambda q, i: q + 2e-3 * i)
    assert "motion" in bad(check(ROBOT, moving, graph, SECONDS, ()))


def test_messages_that_could_not_be_read_and_an_open_network_are_lines() -> None:
    mail, graph = heard()
    mail = dataclasses.replace(mail, bad=[("camera rgb_static", "is of 10x10 pixels", 0.0)])
    lines = bad(check(ROBOT, mail, graph, SECONDS, ("anybody may publish",)))
    assert lines["network"].found == "anybody may publish"
    assert lines["messages of camera rgb_static"].found == "is of 10x10 pixels"


@contextmanager
def server(**more: Any) -> Iterator[str]:
    from foreact.vla.actors import make_actor

    service = PolicyService(make_actor("random", desk_contract()), about={"title": "random"}, **more)
    service.warm_up(5)
    with in_background(OpenPiServer(service, "127.0.0.1", 0)) as urls:
        yield urls[0]


@pytest.mark.fault("S14", n=2, event="preflight: the policy server is not there, or was not started for a robot")
def test_the_policy_server_is_asked_too() -> None:
    mail, graph = heard()
    lines = bad(check(ROBOT, mail, graph, SECONDS, (), url="ws://127.0.0.1:9"))
    assert "foreact serve" in lines["policy server"].advice
    with server() as url:
        assert "--robot" in bad(check(ROBOT, mail, graph, SECONDS, (), url=url))["policy server"].found
    with server(to_joints=lambda observation, plan, anchor: {}) as url:
        lines = check(ROBOT, mail, graph, SECONDS, (), url=url)
        assert bad(lines) == {}
        assert any(line.what == "policy: speed" for line in lines)


def test_a_policy_too_slow_or_of_another_robot_is_a_line() -> None:
    mail, graph = heard()
    faster = small_robot(speed_scale=1.0)
    fields = [f for f in faster.contract.state if f.name != "gripper_width"]
    poorer = small_robot(contract=faster.contract.model_copy(update={"state": tuple(fields)}))
    with server(to_joints=lambda observation, plan, anchor: {}) as url:
        lines = bad(check(poorer, mail, graph, SECONDS, (), url=url))
    assert any("gripper_width" in line.what + line.found for line in lines.values())


# ---- the commands, over DDS ------------------------------------------------------------------------------------------


def test_preflight_and_the_operators_commands_over_dds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path
) -> None:
    """A robot and a bridge on real topics; preflight finds them, and an operator arms, speaks, stops and disarms."""
    pytest.importorskip("cyclonedds", reason="needs pip's cyclonedds: pip install '.[robot]'")
    import os
    import time

    import typer
    from bridge_chain import ClockedPolicy, Script

    from foreact.commands.robot_operator import operator
    from foreact.commands.robot_preflight import preflight
    from foreact.robot_bridge import assemble as assembling
    from foreact.robot_bridge import config
    from foreact.robot_bridge.bridge import Bridge
    from foreact.robot_bridge.dds_transport import DdsRobotSide, DdsTransport
    from foreact.robot_bridge.event_log import EventLog
    from foreact.robot_bridge.gate import Gate
    from foreact.robot_bridge.gate_lease import ArmLease
    from foreact.robot_bridge.network import read_network
    from foreact.robot_bridge.observe import Observer
    from foreact.robot_bridge.operator import NoBridge, Operator
    from foreact.robot_bridge.sim_robot_loop import run_in_real_time

    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    monkeypatch.setattr(config, "load_robot", lambda name: ROBOT)
    domain = 40 + os.getpid() % 20
    scope = read_network(domain_id=domain)
    names = ROBOT.topic_names()
    with pytest.raises(NoBridge, match="robot run"):
        alone = Operator(names, scope)
        try:
            alone.open(0.5)
        finally:
            alone.close()
    body = BODIES.setdefault("D", GreyBody())
    robot = SimRobot(body, DdsRobotSide(names, scope))
    robot.start()
    ended = threading.Event()
    loop = threading.Thread(target=lambda: run_in_real_time(robot, ended))
    loop.start()
    arm = ROBOT.arm()
    made = assembling.gate_settings(ROBOT)
    policy = ClockedPolicy(Script(np.full(7, 0.01)), time.monotonic, lambda: 0.001)
    gate = Gate(arm, made, EventLog(), lease=ArmLease("preflight", tmp_path))
    observer = Observer.of_robot(ROBOT)
    bridge = Bridge(ROBOT, gate, DdsTransport(names, scope), policy, observer, policy.client.metadata)  # type: ignore
    ticking = threading.Thread(target=lambda: bridge.run(ended.is_set))
    try:
        with pytest.raises(typer.Exit) as found:
            preflight("x", transport="dds", domain_id=domain, seconds=2.0, policy=False, as_json=True, url="",
                      allow_network=False)  # fmt: skip
        told = json.loads(capsys.readouterr().out)
        assert told["fits"] is (found.value.exit_code == 0)
        cameras = [line for line in told["lines"] if line["what"].startswith("camera")]
        assert len(cameras) == 4  # two topics, two cameras
        bridge.start()
        bridge.warm_up(20)
        policy.instant = False
        ticking.start()
        with operator("x", domain) as person:
            end, done, sentence = time.monotonic() + 10.0, False, ""
            while not done and time.monotonic() < end:
                done, sentence = person.command("arm")
                time.sleep(0.0 if done else 0.2)
            assert done, sentence
            assert person.wait(lambda: person.state.get("state") == "ready", 3.0)
            person.say("open the drawer")
            assert person.wait(lambda: person.state.get("state") == "running", 5.0), gate.log.last(5)
            assert bridge.conversation.words == "open the drawer"
            assert person.command("stop") == (True, "stopping")
            assert person.command("arm", False) == (True, "disarmed")
            assert person.wait(lambda: person.state.get("state") == "disarmed", 3.0)
            assert person.wait(lambda: person.diagnostics is not None, 3.0)
    finally:
        ended.set()
        loop.join(5.0)
        if ticking.is_alive():
            ticking.join(5.0)
        robot.close()

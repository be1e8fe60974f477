"""What is heard on the topics beside what the robot file promises: one line each, before anything is armed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from foreact.robot_bridge.assemble import policy_contract
from foreact.robot_bridge.config import Robot
from foreact.robot_bridge.limits import RobotLimits, check_urdf
from foreact.robot_bridge.mailbox import Mail
from foreact.robot_bridge.types import RobotMode, TopicReport
from foreact.vla.errors import ForeActError
from foreact.vla.preflight import compare
from foreact.vla.serving.client import ClientSettings, connect

_RATE = 0.8
"""Part of the promised rate that must be heard."""
_JOINTS_HZ = 50.0
"""The gate holds when joints are older than 20 ms."""


@dataclass(frozen=True)
class Line:
    """One thing that must fit."""

    what: str
    expected: str
    found: str
    fits: bool
    advice: str = ""


def check(
    robot: Robot, mail: Mail, graph: Sequence[TopicReport], seconds: float, refusals: Sequence[str], *, url: str = ""
) -> list[Line]:
    """Every line, in reading order.

    Args:
        robot: What is promised.
        mail: Everything that was heard.
        graph: Who is on the topics.
        seconds: How long was listened.
        refusals: Why the network is too open to arm.
        url: Of the policy server to ask; empty: none.
    """
    arm = robot.arm()
    lines = [_network(refusals), *(_topic(report) for report in graph)]
    lines += [_camera(robot, mail, name, seconds) for name in (c.name for c in robot.contract.cameras)]
    lines += _joints(arm, mail, seconds)
    lines += _mode(mail)
    lines += _description(robot, arm, mail)
    lines += [
        Line(f"messages of {role}", "as their topic promises", text, False, "see the sentence")
        for role, text in {role: text for role, text, _ in mail.bad}.items()
    ]
    return lines + (_policy(robot, url) if url else [])


def _network(refusals: Sequence[str]) -> Line:
    found = "; ".join(refusals) or "closed"
    return Line("network", "nobody else can command the robot", found, not refusals, "see docs/robot-bring-up.md")


def _topic(report: TopicReport) -> Line:
    problems = [report.qos_problem] if report.qos_problem else []
    problems += [f"type {kind}" for kind in report.found_types if kind != report.expected_type]
    role = report.role.split()[0]
    advice = ""
    if report.direction == "in" and role in ("camera", "joints") and report.publishers != 1:
        problems.append(f"{report.publishers} publishers")
        advice = "start the driver" if report.publishers == 0 else "stop the others; there must be one"
    if report.direction == "in" and role in ("mode", "description", "instruction") and report.publishers > 1:
        problems.append(f"{report.publishers} publishers")
        advice = "stop the others; there must be one"
    if report.direction == "out" and role in ("trajectory", "gripper"):
        if report.subscribers < 1:
            problems.append("nobody listens")
            advice = "start the controller, or name its topic under topics: in the robot file"
        if report.publishers > 1:
            problems.append(f"{report.publishers} publishers")
            advice = "stop the others; nobody else may command the arm"
    found = "; ".join(problems) or "fits"
    return Line(f"{report.role} {report.topic}", report.expected_type, found, not problems, advice)


def _camera(robot: Robot, mail: Mail, name: str, seconds: float) -> Line:
    frames = [frame for frame in mail.frames if frame.camera == name]
    wanted = robot.contract.camera(name)
    rate = len(frames) / seconds
    shapes = {f"{f.image.shape[0]}x{f.image.shape[1]} {f.encoding}" for f in frames}
    fits = rate >= _RATE * robot.contract.rate_hz and all(
        f.image.shape[:2] == (wanted.height, wanted.width) for f in frames
    )
    return Line(
        f"camera {name}",
        f"{wanted.height}x{wanted.width} at {robot.contract.rate_hz:g} Hz",
        f"{', '.join(sorted(shapes)) or 'no picture'} at {rate:.1f} Hz",
        fits,
        "" if fits else "set the driver's size and rate, or change the robot file; nothing is resized on the way",
    )


def _joints(arm: RobotLimits, mail: Mail, seconds: float) -> list[Line]:
    rate = len(mail.joints) / seconds
    lines = [
        Line(
            "joint states", f"{len(arm.joints)} joints at {_JOINTS_HZ:g} Hz or more", f"{rate:.0f} Hz",
            rate >= _JOINTS_HZ, "" if rate >= _JOINTS_HZ else "raise the update rate of the joint_state_broadcaster",
        )
    ]  # fmt: skip
    if mail.joints:
        q = mail.joints[-1].position
        outside = [
            f"{name} at {x:.3f}"
            for name, x, low, high in zip(arm.joints, q, arm.position_low, arm.position_high, strict=True)
            if not low <= x <= high
        ]
        lines.append(
            Line(
                "joint positions", f"within the limits of {arm.robot}", ", ".join(outside) or "inside", not outside,
                "" if not outside else "is this the right limits file? else move the arm by the vendor's own means",
            )
        )  # fmt: skip
        steps = np.abs(np.diff([s.position for s in mail.joints], axis=0)) if len(mail.joints) > 1 else np.zeros(1)
        moving = float(steps.max()) > 1e-3
        lines.append(
            Line("motion", "at rest", "it moves" if moving else "at rest", not moving, "stop it first" * moving)
        )
    return lines


def _mode(mail: Mail) -> list[Line]:
    if not mail.modes:
        return [Line("robot mode", "ok", "not said", False, "name the topic under topics.mode in the robot file")]
    mode = mail.modes[-1][0]
    return [
        Line("robot mode", "ok", str(mode), mode is RobotMode.OK, "" if mode is RobotMode.OK else "clear it by hand")
    ]


def _description(robot: Robot, arm: RobotLimits, mail: Mail) -> list[Line]:
    what, expected = "robot description", f"the URDF of {arm.robot}"
    if not robot.topic_names().robot_description:
        return [Line(what, "not asked for", "the robot file says that there is none", True)]
    if not mail.descriptions:
        advice = "start robot_state_publisher, or name its topic under topics.robot_description in the robot file"
        return [Line(what, expected, "none", False, advice)]
    problems = check_urdf(arm, mail.descriptions[-1])
    advice = "use the limits file of the robot that is there" if problems else ""
    return [Line(what, expected, "; ".join(problems) or "fits", not problems, advice)]


def _policy(robot: Robot, url: str) -> list[Line]:
    try:
        client = connect(url, ClientSettings(request_timeout_s=robot.policy.timeout_s, reconnect=False))
    except ForeActError as error:
        return [Line("policy server", url, str(error), False, "start it with `foreact serve CHECKPOINT --robot FILE`")]
    try:
        metadata = client.metadata
        required = policy_contract(metadata, url)
    except ForeActError as error:
        return [Line("policy server", url, str(error), False)]
    finally:
        client.close()
    lines = [
        Line(f"policy: {line.what}", line.required, line.offered, line.verdict != "does not fit", line.advice)
        for line in compare(required, robot.contract)
    ]
    steps = robot.policy.execute_steps or int(metadata.get("execute_steps", 1))
    latency, bound = float(dict(metadata.get("latency_ms", {})).get("p99", 0.0)), 0.8e3 * steps * robot.period_s
    return [
        *lines,
        Line(
            "policy: speed", f"p99 below {bound:.0f} ms", f"{latency:.0f} ms", latency <= bound,
            "" if latency <= bound else "a smaller policy, a GPU, or a lower speed_scale",
        ),
    ]  # fmt: skip

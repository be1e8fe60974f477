"""Bridge and robot over DDS on this machine: data both ways, rates, closing, settings."""

from __future__ import annotations

import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from foreact.robot_bridge.network import NetworkScope, Range
from foreact.robot_bridge.robot_side import ReceivedTrajectory
from foreact.robot_bridge.topic_names import TopicNames, make_topics
from foreact.robot_bridge.transport_errors import TransportError
from foreact.robot_bridge.types import (
    CameraFrame,
    DiagnosticLine,
    JointSample,
    RobotMode,
    State,
    TopicReport,
    Trajectory,
)

pytest.importorskip("cyclonedds", reason="needs cyclonedds: pip install '.[robot]'")

from foreact.robot_bridge.dds_domain import domain_settings
from foreact.robot_bridge.dds_transport import DdsRobotSide, DdsTransport

SCOPE = NetworkScope(domain_id=103 + os.getpid() % 100)
NAMES = make_topics({}, [("front", 48, 64), ("wrist", 24, 32)], ("a1", "a2"), ("f1", "f2"))
PACKED = make_topics({"cameras": {"front": "/front/image_raw/compressed"}}, [("front", 48, 64)], ("a1", "a2"))


class Box:
    """An `Inbox` that keeps everything."""

    def __init__(self) -> None:
        self.got: dict[str, list[Any]] = defaultdict(list)

    def frame(self, frame: CameraFrame) -> None:
        self.got[frame.camera].append(frame)

    def joints(self, sample: JointSample) -> None:
        self.got["joints"].append(sample)

    def mode(self, mode: RobotMode, received_s: float) -> None:
        self.got["mode"].append(mode)

    def instruction(self, text: str, received_s: float) -> None:
        self.got["instruction"].append(text)

    def description(self, urdf: str) -> None:
        self.got["description"].append(urdf)

    def bad_message(self, role: str, message: str, received_s: float) -> None:
        self.got["bad"].append((role, message))

    def command(self, name: str, value: bool) -> tuple[bool, str]:
        self.got["command"].append((name, value, threading.current_thread().name))
        return name != "arm", f"{name} was heard"


def until(what: Callable[[], object], seconds: float = 5.0) -> float:
    """How long it took until `what` was true."""
    began = time.monotonic()
    while not what():
        assert time.monotonic() - began < seconds, "it did not happen"
        time.sleep(0.01)
    return time.monotonic() - began


@pytest.fixture
def box() -> Box:
    return Box()


@pytest.fixture
def bridge(box: Box) -> Iterator[DdsTransport]:
    made = DdsTransport(NAMES, SCOPE, hardware_id="panda")
    made.start(box)
    yield made
    made.close()


@pytest.fixture
def robot(bridge: DdsTransport) -> Iterator[tuple[DdsRobotSide, dict[str, list[Any]]]]:
    told: dict[str, list[Any]] = defaultdict(list)
    made = DdsRobotSide(NAMES, SCOPE)
    made.start(told["trajectory"].append, told["gripper"].append, lambda role, text: told["bad"].append((role, text)))
    until(lambda: report(bridge, "trajectory").subscribers == 1 and report(bridge, "camera front").publishers == 1)
    yield made, told
    made.close()


def report(bridge: DdsTransport, role: str) -> TopicReport:
    return next(r for r in bridge.graph() if r.role == role)


def rest(n: int) -> Trajectory:
    return Trajectory(
        start_s=time.monotonic(), time_from_start_s=np.array([0.1, 0.2]), position=np.full((2, 2), float(n)),
        velocity=np.zeros((2, 2)), acceleration=np.zeros((2, 2)),
    )  # fmt: skip


def test_what_the_robot_says_arrives(
    bridge: DdsTransport, box: Box, robot: tuple[DdsRobotSide, dict[str, list[Any]]]
) -> None:
    side, _ = robot
    image = np.random.default_rng(0).integers(0, 255, (48, 64, 3)).astype(np.uint8)
    before = time.monotonic()
    side.publish_mode(RobotMode.OK)
    for n in range(3):
        side.publish_frame("front", image, 100.0 + n)
        side.publish_frame("wrist", image[:24, :32], 100.0 + n)
        side.publish_joints([0.1 * n, -0.5], [1.0, 2.0], 0.04, 100.0 + n)
        until(lambda n=n: all(len(box.got[k]) == n + 1 for k in ("front", "wrist", "joints")))
    frames, joints = box.got["front"], box.got["joints"]
    assert [f.sequence for f in frames] == [0, 1, 2] and [f.stamp_s for f in frames] == [100.0, 101.0, 102.0]
    assert all(np.array_equal(f.image, image) for f in frames) and np.array_equal(
        box.got["wrist"][0].image, image[:24, :32]
    )
    assert before <= frames[0].received_s <= frames[2].received_s <= time.monotonic()
    assert joints[2].position.tolist() == [0.2, -0.5] and joints[2].velocity.tolist() == [1.0, 2.0]
    assert joints[2].gripper_width_m == pytest.approx(0.04)
    assert box.got["mode"] == [RobotMode.OK] and not box.got["bad"]


def test_what_the_bridge_says_arrives(bridge: DdsTransport, robot: tuple[DdsRobotSide, dict[str, list[Any]]]) -> None:
    _, told = robot
    for n in range(3):
        bridge.send_trajectory(rest(n))
        until(lambda n=n: len(told["trajectory"]) == n + 1)
    found: ReceivedTrajectory = told["trajectory"][2]
    assert found.joints == ("a1", "a2") and found.stamp_s == 0.0
    assert found.position.tolist() == [[2, 2], [2, 2]] and found.velocity is not None
    assert np.allclose(found.time_from_start_s, [0.1, 0.2])
    bridge.send_gripper(-1.0)
    until(lambda: told["gripper"] == [-1.0])
    bridge.send_gripper(1.0)
    until(lambda: told["gripper"] == [-1.0, 1.0])


def test_jpeg_cameras_and_foresight() -> None:
    box, side, bridge = Box(), DdsRobotSide(PACKED, SCOPE), DdsTransport(PACKED, SCOPE)
    try:
        bridge.start(box)
        side.start(lambda _: None, lambda _: None)
        until(lambda: report(bridge, "camera front").publishers == 1)
        flat = np.full((48, 64, 3), (200, 100, 50), np.uint8)
        side.publish_frame("front", flat, 5.0)
        until(lambda: box.got["front"])
        assert np.abs(box.got["front"][0].image.astype(int) - flat).max() <= 3
        bridge.send_foresight({"front": flat, "unknown": flat}, 5.0)
        bridge.send_diagnostics([DiagnosticLine(name="gate", level=0, message="fine")])
    finally:
        bridge.close()
        side.close()


def test_the_last_mode_is_told_to_those_who_come_late(box: Box) -> None:
    side = DdsRobotSide(NAMES, SCOPE)
    bridge = DdsTransport(NAMES, SCOPE)
    try:
        side.start(lambda _: None, lambda _: None)
        side.publish_mode(RobotMode.PROTECTIVE_STOP)
        bridge.start(box)
        until(lambda: box.got["mode"] == [RobotMode.PROTECTIVE_STOP])
    finally:
        bridge.close()
        side.close()


def test_the_description_is_told_to_those_who_come_late(box: Box) -> None:
    side = DdsRobotSide(NAMES, SCOPE)
    bridge = DdsTransport(NAMES, SCOPE)
    text = f"<robot>{'<link/>' * 20_000}</robot>"  # as long as real ones: several packets
    try:
        side.start(lambda _: None, lambda _: None)
        side.publish_description(text)
        bridge.start(box)
        until(lambda: box.got["description"] == [text])
    finally:
        bridge.close()
        side.close()


def test_rates_are_counted(bridge: DdsTransport, robot: tuple[DdsRobotSide, dict[str, list[Any]]]) -> None:
    side, _ = robot
    bridge.graph()
    time.sleep(1.05)
    bridge.graph()
    end, n = time.monotonic() + 1.1, 0
    while time.monotonic() < end:
        side.publish_joints([0.0, 0.0], [0.0, 0.0], 0.0, 1.0)
        n += 1
        time.sleep(0.02)
    rate = report(bridge, "joints").rate_hz
    assert rate is not None and 0.6 * n / 1.1 < rate < 1.4 * n / 1.1
    assert report(bridge, "trajectory").rate_hz is None


def test_closing_twice_and_sending_afterwards_does_nothing(box: Box) -> None:
    bridge = DdsTransport(NAMES, SCOPE)
    bridge.start(box)
    bridge.close()
    bridge.close()
    bridge.send_trajectory(rest(0))
    bridge.send_state(State.FAULT, None)
    assert bridge.graph() == []
    with pytest.raises(TransportError, match="make a new one"):
        bridge.start(box)


def test_one_domain_is_not_opened_in_two_ways(bridge: DdsTransport, box: Box) -> None:
    elsewhere = DdsTransport(NAMES, NetworkScope(domain_id=SCOPE.domain_id, range=Range.OFF))
    with pytest.raises(TransportError, match="other settings"):
        elsewhere.start(box)


def test_settings_follow_the_range() -> None:
    near = domain_settings(NetworkScope(), "<A/>")
    assert "<AllowMulticast>false</AllowMulticast>" in near and '"127.0.0.1"' in near and 'address="localhost"' in near
    assert near.endswith(",<A/>")
    # An interface may be selected only once.
    assert "NetworkInterface" not in domain_settings(NetworkScope(), "<networkInterface name='lo'/>").split(",")[0]
    peers = domain_settings(NetworkScope(static_peers=("10.0.0.7", 'a"<')))
    assert "NetworkInterface" not in peers and 'address="10.0.0.7"' in peers and "a&quot;&lt;" in peers
    assert "AllowMulticast" not in domain_settings(NetworkScope(range=Range.SUBNET))
    assert f"ros_discovery_off_{os.getpid()}" in domain_settings(NetworkScope(range=Range.OFF))
    assert domain_settings(NetworkScope(range=Range.SYSTEM_DEFAULT), "<A/>") == "<A/>"


def test_names_and_sizes_are_taken_as_they_are(bridge: DdsTransport) -> None:
    assert isinstance(bridge.names, TopicNames)
    roles = [r.role for r in bridge.graph()]
    assert roles == [s.role for s in NAMES.specs()] and len(roles) == 16

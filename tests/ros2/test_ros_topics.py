"""The transport itself, in this process: what comes, what goes, who does not fit; and pip's cyclonedds beside it."""

# pyright: reportMissingImports=false
from __future__ import annotations

import itertools
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="needs ROS 2 (rclpy); see docs/ros2.md")

from rclpy.duration import Duration  # noqa: E402
from rclpy.qos import (  # noqa: E402
    DurabilityPolicy,
    LivelinessPolicy,
    QoSCompatibility,
    QoSProfile,
    ReliabilityPolicy,
    qos_check_compatible,
)
from sensor_msgs.msg import CompressedImage, Image, JointState  # noqa: E402
from std_msgs.msg import Bool, String  # noqa: E402
from std_msgs.msg import Int32 as OtherType  # noqa: E402
from trajectory_msgs.msg import JointTrajectory  # noqa: E402

from foreact.robot_bridge.config import load_robot  # noqa: E402
from foreact.robot_bridge.network import NetworkScope  # noqa: E402
from foreact.robot_bridge.robot_side import ReceivedTrajectory  # noqa: E402
from foreact.robot_bridge.ros_qos import misfits, profile  # noqa: E402
from foreact.robot_bridge.ros_robot_side import RosRobotSide  # noqa: E402
from foreact.robot_bridge.ros_transport import RosTransport  # noqa: E402
from foreact.robot_bridge.topic_names import TopicNames, make_topics  # noqa: E402
from foreact.robot_bridge.types import RobotMode, State, TopicReport, Trajectory  # noqa: E402

pytestmark = pytest.mark.ros

ROBOT = load_robot("desk_sim")
ARM = ROBOT.arm()
NAMES = make_topics({}, [("front", 48, 64), ("wrist", 24, 32)], ARM.joints, ARM.gripper.joints)
PACKED = make_topics({"cameras": {"front": "/front/image_raw/compressed"}}, [("front", 48, 64)], ARM.joints)
TRAJECTORY = Trajectory(
    start_s=0.0, time_from_start_s=np.array([0.01, 0.02]), position=np.linspace(-1.0, 1.0, 14).reshape(2, 7),
    velocity=np.zeros((2, 7)), acceleration=np.zeros((2, 7)), observed_s=1.0,
)  # fmt: skip


class Box:
    """An `Inbox` that keeps everything."""

    def __init__(self) -> None:
        self.got: dict[str, list[Any]] = defaultdict(list)

    def frame(self, frame: Any) -> None:
        self.got[frame.camera].append(frame)

    def joints(self, sample: Any) -> None:
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
        if name == "arm":
            time.sleep(0.8)
        self.got["command"].append((name, value, threading.current_thread().name))
        return name != "arm", f"{name} was heard"


@pytest.fixture
def box() -> Box:
    return Box()


@pytest.fixture
def open_transport(ros: Any, box: Box) -> Iterator[Callable[..., RosTransport]]:
    """Starts a transport on a node called /foreact."""
    opened: list[tuple[RosTransport, Any]] = []

    def make(names: TopicNames = NAMES, **options: Any) -> RosTransport:
        node = rclpy.create_node("foreact", context=ros.context)
        ros.executor.add_node(node)
        transport = RosTransport(node, names, ARM, **options)
        opened.append((transport, node))
        transport.start(box)
        return transport

    yield make
    for transport, node in opened:
        transport.close()
        ros.executor.remove_node(node)
        node.destroy_node()


@pytest.fixture(params=["rclpy", "cyclonedds"])
def robot(request: Any) -> Iterator[Callable[..., Any]]:
    """The robot's end: rclpy's, or that of pip's cyclonedds."""
    opened: list[Any] = []

    def make(names: TopicNames = NAMES) -> Any:
        opened.append(_robot_side(request.param, names))
        return opened[-1]

    yield make
    for side in opened:
        side.close()


def _robot_side(kind: str, names: TopicNames) -> Any:
    if kind == "rclpy":
        return RosRobotSide(names)
    pytest.importorskip("cyclonedds", reason="needs pip's cyclonedds")
    from foreact.robot_bridge.dds_transport import DdsRobotSide

    return DdsRobotSide(names)


def both_ways(transport: Any, side: Any, box: Box, wait_until: Callable[..., float], names: TopicNames) -> None:
    """Pictures, joints and a mode in; a trajectory and a gripper's command out."""
    heard: list[ReceivedTrajectory] = []
    grips: list[float] = []
    side.start(heard.append, grips.append)
    wait_until(lambda: all(r.publishers for r in transport.graph() if r.role == "joints") and transport.graph(), 10.0)
    picture = np.random.default_rng(3).integers(0, 256, (48, 64, 3), np.uint8)
    side.publish_mode(RobotMode.OK)
    began = time.time()

    def seen() -> bool:
        side.publish_frame("front", picture, began)
        side.publish_joints(np.arange(7.0), np.full(7, 0.5), 0.03, began)
        transport.send_trajectory(replace(TRAJECTORY, start_s=time.monotonic()))
        transport.send_gripper(-1.0)
        time.sleep(0.03)
        wanted = box.got["front"] and box.got["joints"] and box.got["mode"] and heard
        return bool(wanted and (grips or not names.gripper_joints))

    wait_until(seen, 10.0, "not everything came")
    frame, sample = box.got["front"][-1], box.got["joints"][-1]
    if names.cameras["front"].compressed:
        assert frame.image.shape == (48, 64, 3) and frame.encoding == "jpeg"
    else:
        assert np.array_equal(frame.image, picture) and frame.encoding == "rgb8"
    assert abs(frame.stamp_s - began) < 1e-6 and abs(time.monotonic() - frame.received_s) < 5.0
    assert np.array_equal(sample.position, np.arange(7.0)) and np.array_equal(sample.velocity, np.full(7, 0.5))
    assert abs(sample.stamp_s - began) < 1e-6
    assert box.got["mode"][-1] is RobotMode.OK
    assert np.array_equal(heard[-1].position, TRAJECTORY.position) and heard[-1].joints == ARM.joints
    assert np.allclose(heard[-1].time_from_start_s, [0.01, 0.02])
    assert abs(heard[-1].stamp_s - time.time()) < 5.0 if names.stamped else heard[-1].stamp_s == 0.0
    assert not box.got["bad"], box.got["bad"]
    if names.gripper_joints:
        assert grips[-1] == -1.0 and abs(sample.gripper_width_m - 0.03) < 1e-9


@pytest.mark.parametrize("names", [NAMES, PACKED], ids=["raw", "compressed"])
def test_messages_go_both_ways(
    open_transport: Any, robot: Callable[..., Any], box: Box, wait_until: Callable[..., float], names: TopicNames
) -> None:
    both_ways(open_transport(names), robot(names), box, wait_until, names)


def test_a_bridge_of_pips_cyclonedds_leads_a_robot_of_rclpy(box: Box, wait_until: Callable[..., float]) -> None:
    pytest.importorskip("cyclonedds", reason="needs pip's cyclonedds")
    from foreact.robot_bridge.dds_transport import DdsTransport

    transport, side = DdsTransport(NAMES), RosRobotSide(NAMES)
    try:
        transport.start(box)
        both_ways(transport, side, box, wait_until, NAMES)
        found = {r.role: r for r in transport.graph()}
        assert found["joints"].found_types[0] == "sensor_msgs/msg/JointState" and not found["joints"].qos_problem
        assert isinstance(transport.scope, NetworkScope)
    finally:
        transport.close()
        side.close()


def test_it_starts_again_after_it_was_closed(
    open_transport: Any, box: Box, wait_until: Callable[..., float], ros: Any
) -> None:
    transport = open_transport()
    words = ros.node.create_publisher(String, "/foreact/instruction", profile(NAMES.specs()[4].qos))
    words.publish(String(data="push the block"))
    wait_until(lambda: box.got["instruction"], 5.0)
    transport.close()
    transport.send_trajectory(TRAJECTORY)
    transport.send_state(State.READY, None)
    assert transport.graph() == ()
    box.got.clear()
    transport.start(box)
    wait_until(lambda: box.got["instruction"] == ["push the block"], 5.0, "a latched instruction comes again")
    wait_until(lambda: len(transport.graph()) == len(NAMES.specs()), 5.0)


def test_bad_messages_are_named_and_survived(
    open_transport: Any, box: Box, wait_until: Callable[..., float], ros: Any
) -> None:
    open_transport()
    images = ros.node.create_publisher(Image, "/front/image_raw", 1)
    joints = ros.node.create_publisher(JointState, "/joint_states", 1)
    words = ros.node.create_publisher(String, "/foreact/instruction", profile(NAMES.specs()[4].qos))
    small = Image(height=2, width=2, encoding="rgb8", step=6, data=bytes(12))
    small.header.stamp.sec = 5
    nameless = JointState(name=[ARM.joints[0]], position=[1.0])
    hostile = JointState(name=list(ARM.joints), position=[float("nan")] * 7)
    hostile.header.stamp.sec = 5

    def three() -> bool:
        for publisher, message in (
            (images, small), (joints, nameless), (joints, hostile), (words, String(data="a\x07b")),
        ):  # fmt: skip
            publisher.publish(message)
            time.sleep(0.05)
        return len({(role, text[:25]) for role, text in box.got["bad"]}) >= 4

    wait_until(three, 10.0, str(box.got["bad"]))
    texts = dict(box.got["bad"])
    assert "2x2 pixels, expected 48x64" in texts["camera front"]
    assert any("lack" in text for role, text in box.got["bad"] if role == "joints")
    assert any("not finite" in text for role, text in box.got["bad"] if role == "joints")
    assert "U+0007" in texts["instruction"]
    assert not box.got["front"] and not box.got["joints"] and not box.got["instruction"]


def test_a_stop_does_not_wait_behind_an_arm(
    open_transport: Any, box: Box, wait_until: Callable[..., float], ros: Any
) -> None:
    open_transport()
    arm, stop = (ros.node.create_publisher(Bool, f"/foreact/{name}", 1) for name in ("arm", "stop"))
    replies = ros.listen(String, "/foreact/reply")
    wait_until(lambda: arm.get_subscription_count() and stop.get_subscription_count(), 5.0)
    arm.publish(Bool(data=True))
    time.sleep(0.1)
    began = time.monotonic()
    stop.publish(Bool(data=True))
    stop.publish(Bool(data=False))
    wait_until(lambda: box.got["command"], 5.0)
    assert time.monotonic() - began < 0.5 and box.got["command"][0][0] == "stop"
    wait_until(lambda: len(replies) == 2, 5.0)
    assert '"arm was heard"' in replies[1][1].data and '"done": false' in replies[1][1].data
    assert [name for name, *_ in box.got["command"]] == ["stop", "arm"]


def test_what_it_sends_is_seen(open_transport: Any, wait_until: Callable[..., float], ros: Any) -> None:
    transport = open_transport()
    foresight = ros.listen(CompressedImage, "/foreact/foresight/front/compressed", reliability=2)
    commands = ros.listen(JointTrajectory, "/joint_trajectory_controller/joint_trajectory")
    picture = np.full((48, 64, 3), 90, np.uint8)

    def all_seen() -> bool:
        transport.send_foresight({"front": picture, "unknown": picture}, 12.5)
        transport.send_trajectory(replace(TRAJECTORY, start_s=time.monotonic()))
        time.sleep(0.05)
        return bool(foresight and commands)

    wait_until(all_seen, 5.0)
    import simplejpeg

    message = foresight[-1][1]
    assert (message.header.stamp.sec, message.header.stamp.nanosec) == (12, 500_000_000)
    assert np.abs(simplejpeg.decode_jpeg(bytes(message.data)).astype(int) - 90).max() <= 2
    assert list(commands[-1][1].points[1].positions) == TRAJECTORY.position[1].tolist()
    assert not transport.errors


# --- who does not fit (B19) -----------------------------------------------------------------------------------------

SHORT = Duration(seconds=0.01)
PAIRS = {
    # name: (role, type, peer is a publisher, its policies, the word that must be named)
    "a mode that is best effort": ("mode", String, True, dict(reliability=2, durability=2), "reliability"),
    "a mode that is not kept": ("mode", String, True, dict(durability=2), "durability"),
    "an instruction that is not kept": ("instruction", String, True, dict(durability=2), "durability"),
    "a listener who wants old commands": ("trajectory", JointTrajectory, False, dict(durability=1), "durability"),
    "a listener with a deadline": ("trajectory", JointTrajectory, False, dict(deadline=SHORT), "deadline"),
    "a listener who wants signs of life": (
        "trajectory", JointTrajectory, False, dict(liveliness=LivelinessPolicy.MANUAL_BY_TOPIC), "liveliness",
    ),
    "a listener with a lease": (
        "trajectory", JointTrajectory, False, dict(liveliness_lease_duration=SHORT), "liveliness lease",
    ),
    "a listener who wants old foresight": (
        "foresight front", CompressedImage, False, dict(durability=1), "durability",
    ),
}  # fmt: skip


@pytest.mark.fault("B19", n=8, event="incompatible QoS on rclpy")
@pytest.mark.parametrize("case", PAIRS)
def test_a_misfit_is_named_in_two_seconds(
    open_transport: Any, wait_until: Callable[..., float], ros: Any, qos: Callable[..., Any], case: str
) -> None:
    role, kind, publishes, policies, word = PAIRS[case]
    transport = open_transport()

    def report() -> TopicReport | None:
        return next((r for r in transport.graph() if r.role == role), None)

    wait_until(report, 5.0)
    before = report()
    assert before is not None and not before.qos_problem
    theirs = qos(**policies)
    if publishes:
        peer = ros.node.create_publisher(kind, before.topic, theirs)
    else:
        peer = ros.node.create_subscription(kind, before.topic, lambda message: None, theirs)

    def named() -> str:
        found = report()
        assert found is not None, transport._graph.failed
        return found.qos_problem

    took = wait_until(named, 5.0)
    problem = named()
    assert took < 2.0
    assert before.topic in problem and "/test_client" in problem and word in problem, problem
    # and DDS agrees: the two are never connected
    ours = profile(next(spec.qos for spec in NAMES.specs() if spec.role == role))
    compatible, _ = qos_check_compatible(*((theirs, ours) if publishes else (ours, theirs)))
    assert compatible == QoSCompatibility.ERROR
    (ros.node.destroy_publisher if publishes else ros.node.destroy_subscription)(peer)
    wait_until(lambda: not named(), 5.0, "it is forgotten when the misfit leaves")


def test_misfits_are_those_of_rmw() -> None:
    """Every combination of the four policies, against the middleware's own judgement."""
    spans = (None, Duration(seconds=0.01), Duration(seconds=1.0))
    choices = list(itertools.product(
        (ReliabilityPolicy.RELIABLE, ReliabilityPolicy.BEST_EFFORT),
        (DurabilityPolicy.VOLATILE, DurabilityPolicy.TRANSIENT_LOCAL),
        (LivelinessPolicy.AUTOMATIC, LivelinessPolicy.MANUAL_BY_TOPIC),
        spans, spans,
    ))  # fmt: skip

    def make(choice: tuple[Any, ...]) -> QoSProfile:
        names = ("reliability", "durability", "liveliness", "deadline", "liveliness_lease_duration")
        return QoSProfile(depth=1, **{n: v for n, v in zip(names, choice, strict=True) if v is not None})

    for offered, requested in itertools.product(map(make, choices), map(make, choices)):
        compatible, reason = qos_check_compatible(offered, requested)
        assert bool(misfits(offered, requested)) == (compatible == QoSCompatibility.ERROR), (offered, requested, reason)


@pytest.mark.fault("B18", n=3, event="another publisher on a topic of the bridge, on rclpy")
@pytest.mark.parametrize("role", ["joints", "camera front", "trajectory"])
def test_another_publisher_is_counted_and_named(
    open_transport: Any, wait_until: Callable[..., float], ros: Any, role: str
) -> None:
    transport = open_transport()
    spec = next(spec for spec in NAMES.specs() if spec.role == role)
    kind = {"joints": JointState, "camera front": Image, "trajectory": JointTrajectory}[role]
    ours = 1 if spec.direction == "out" else 0
    wait_until(lambda: [r.publishers for r in transport.graph() if r.role == role] == [ours], 5.0)
    ros.node.create_publisher(kind, spec.topic, 1)
    second = 0 if ours else 1
    if second:
        ros.node.create_publisher(kind, spec.topic, 1)
    took = wait_until(lambda: [r.publishers for r in transport.graph() if r.role == role] == [2], 5.0)
    assert took < 2.0
    if ours:
        assert any("/test_client publishes here too" in note for r in transport.graph() for note in r.notes)


def test_a_client_of_the_controllers_action_is_counted(
    open_transport: Any, wait_until: Callable[..., float], ros: Any
) -> None:
    from control_msgs.action import FollowJointTrajectory
    from rclpy.action import ActionClient

    transport = open_transport()
    name = next(spec.action for spec in NAMES.specs() if spec.role == "trajectory")
    wait_until(lambda: [r.publishers for r in transport.graph() if r.role == "trajectory"] == [1], 5.0)
    client = ActionClient(ros.node, FollowJointTrajectory, name)
    took = wait_until(lambda: [r.publishers for r in transport.graph() if r.role == "trajectory"] == [2], 5.0)
    assert took < 2.0 and any("1 may send goals to" in note for r in transport.graph() for note in r.notes)
    client.destroy()
    wait_until(lambda: [r.publishers for r in transport.graph() if r.role == "trajectory"] == [1], 5.0)


def test_another_type_on_a_topic_is_named(open_transport: Any, wait_until: Callable[..., float], ros: Any) -> None:
    transport = open_transport()
    ros.node.create_publisher(OtherType, "/robot_mode", 1)
    wait_until(lambda: any("std_msgs/msg/Int32" in r.found_types for r in transport.graph() if r.role == "mode"), 5.0)

"""The bridge on pip's cyclonedds and a robot on rclpy, in two processes on this machine, see each other as ROS 2 nodes.

Runs in a sourced ROS 2 shell with rmw_cyclonedds; rclpy and pip's cyclonedds are never in the same process.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from foreact.robot_bridge.network import NetworkScope
from foreact.robot_bridge.topic_names import make_topics
from foreact.robot_bridge.types import DiagnosticLine, RobotMode, State, TopicReport, Trajectory

pytest.importorskip("cyclonedds", reason="needs cyclonedds: pip install '.[robot]'")

from foreact.robot_bridge.dds_transport import DdsRobotSide, DdsTransport

pytestmark = pytest.mark.ros

DOMAIN = 103 + os.getpid() % 100
NAMES = make_topics({}, [("front", 48, 64)], ("a1", "a2"), ("f1", "f2"))
ENVIRONMENT = {
    **os.environ, "ROS_DOMAIN_ID": str(DOMAIN), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
    "RMW_IMPLEMENTATION": "rmw_cyclonedds_cpp",
}  # fmt: skip

COMMON = """
import array, json, sys, time
import numpy as np, rclpy
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from std_msgs.msg import String, Bool, Float64MultiArray
from sensor_msgs.msg import CompressedImage, Image, JointState
from trajectory_msgs.msg import JointTrajectory
from diagnostic_msgs.msg import DiagnosticArray
rclpy.init()
latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
def spin(node, seconds, done=lambda: False):
    end = time.monotonic() + seconds
    while time.monotonic() < end and not done():
        rclpy.spin_once(node, timeout_sec=0.02)
"""

ROBOT = (
    COMMON
    + """
node = Node("camera_driver")
camera = node.create_publisher(Image, "/front/image_raw", qos_profile_sensor_data)
joints = node.create_publisher(JointState, "/joint_states", 10)
mode = node.create_publisher(String, "/robot_mode", latched)
words = node.create_publisher(String, "/foreact/instruction", latched)
arm = node.create_publisher(Bool, "/foreact/arm", 1)
mode.publish(String(data="ok")); words.publish(String(data="open the drawer"))
got = {"trajectory": 0, "diagnostics": 0, "state": [], "reply": [], "foresight": 0, "gripper": []}
last = {}
def trajectory(m): got["trajectory"] += 1; last["t"] = m
def diagnostics(m): got["diagnostics"] += 1; last["d"] = m
def foresight(m): got["foresight"] += 1; last["f"] = m
node.create_subscription(JointTrajectory, "/joint_trajectory_controller/joint_trajectory", trajectory, 1)
node.create_subscription(DiagnosticArray, "/diagnostics", diagnostics, 10)
node.create_subscription(CompressedImage, "/foreact/foresight/front/compressed", foresight, qos_profile_sensor_data)
node.create_subscription(String, "/foreact/state", lambda m: got["state"].append(json.loads(m.data)["state"]), latched)
node.create_subscription(String, "/foreact/reply", lambda m: got["reply"].append(json.loads(m.data)["command"]), 10)
node.create_subscription(
    Float64MultiArray, "/gripper_controller/commands", lambda m: got["gripper"].append(list(m.data)), 10)
n = 0
def tick():
    global n
    now = node.get_clock().now().to_msg()
    encoding = ("rgb8", "bgr8")[n % 2]
    pixels = np.zeros((48, 64, 3), np.uint8); pixels[..., 0 if encoding == "rgb8" else 2] = 200; pixels[..., 1] = 50
    image = Image(height=48, width=64, encoding=encoding, step=64 * 3, data=array.array("B", pixels.tobytes()))
    image.header.stamp = now; camera.publish(image)
    state = JointState(name=["f2", "a2", "f1", "a1"], position=[0.01, 0.2, 0.03, 0.1])
    state.header.stamp = now; joints.publish(state); n += 1
node.create_timer(1 / 30, tick)
spin(node, 2.0)
arm.publish(Bool(data=True))
spin(node, 8.0, lambda: n >= 120 and got["reply"] and got["trajectory"] >= 20)
ours = node.get_publishers_info_by_topic("/joint_trajectory_controller/joint_trajectory")
got |= {
    "sent": n, "nodes": node.get_node_names(),
    "publishers": [(i.node_name, i.topic_type, i.topic_type_hash.version) for i in ours],
    "subscribers": [i.node_name for i in node.get_subscriptions_info_by_topic("/front/image_raw")],
    "positions": [list(p.positions) for p in last["t"].points] if "t" in last else None,
    "after": [p.time_from_start.sec + p.time_from_start.nanosec * 1e-9 for p in last["t"].points],
    "status": [(s.name, ord(s.level), s.message) for s in last["d"].status],
    "jpeg": bytes(last["f"].data[:2]).hex() if "f" in last else "",
}
print(json.dumps(got))
"""
)


class Box:
    """An `Inbox` that keeps everything."""

    def __init__(self) -> None:
        self.got: dict[str, list[Any]] = defaultdict(list)

    def frame(self, frame: Any) -> None:
        self.got["frame"].append(frame)

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
        self.got["command"].append((name, value))
        return True, "done"


@pytest.fixture
def box() -> Box:
    return Box()


@pytest.fixture
def bridge(box: Box) -> Iterator[DdsTransport]:
    made = DdsTransport(NAMES, NetworkScope(domain_id=DOMAIN), hardware_id="panda")
    made.start(box)
    yield made
    made.close()


@contextmanager
def rclpy_process(script: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", script], env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def report(bridge: DdsTransport, role: str) -> TopicReport:
    return next(r for r in bridge.graph() if r.role == role)


def until(what: Callable[[], object], seconds: float) -> float:
    began = time.monotonic()
    while not what():
        assert time.monotonic() - began < seconds, "it did not happen"
        time.sleep(0.02)
    return time.monotonic() - began


def say(bridge: DdsTransport, n: int) -> None:
    """What a bridge says in a tick."""
    bridge.send_trajectory(
        Trajectory(
            start_s=time.monotonic(), time_from_start_s=np.array([0.01, 0.2]),
            position=np.array([[0.1, 0.2], [0.3, 0.4]]), velocity=np.zeros((2, 2)), acceleration=np.zeros((2, 2)),
        )
    )  # fmt: skip
    if n % 10 == 0:
        bridge.send_diagnostics([DiagnosticLine(name="gate", level=1, message="slow", values={"p99": "3"})])
        bridge.send_foresight({"front": np.zeros((48, 64, 3), np.uint8)}, time.time())


def test_a_robot_on_rclpy_and_the_bridge_understand_each_other(bridge: DdsTransport, box: Box) -> None:
    bridge.send_state(State.READY, None)
    with rclpy_process(ROBOT) as process:
        n = 0
        while process.poll() is None and n < 600:
            say(bridge, n)
            if n == 60:
                bridge.send_gripper(1.0)
            n += 1
            time.sleep(1 / 30)
        out, err = process.communicate(timeout=20)
    assert process.returncode == 0, err[-2000:]
    assert "type hash" not in err, "ROS found every type hash: " + err[:500]
    found = json.loads(out)
    # To the bridge.
    frames, joints = box.got["frame"], box.got["joints"]
    assert not box.got["bad"]
    assert len(frames) >= 0.9 * found["sent"] and len(joints) >= 0.9 * found["sent"]
    assert {f.encoding for f in frames} == {"rgb8", "bgr8"}
    assert all(f.image[5, 7].tolist() == [200, 50, 0] for f in frames)
    assert joints[0].position.tolist() == [0.1, 0.2] and joints[0].velocity is None
    assert joints[0].gripper_width_m == pytest.approx(0.04)
    assert box.got["mode"] == [RobotMode.OK] and box.got["instruction"] == ["open the drawer"]
    assert box.got["command"] == [("arm", True)]
    # From the bridge.
    assert found["trajectory"] >= 20 and found["diagnostics"] >= 2 and found["state"] == ["ready"]
    assert found["positions"] == [[0.1, 0.2], [0.3, 0.4]] and np.allclose(found["after"], [0.01, 0.2])
    assert found["status"] == [["gate", 1, "slow"]] and found["reply"] == ["arm"]
    assert found["foresight"] >= 2 and found["jpeg"] == "ffd8" and found["gripper"] == [[0.04, 0.04]]
    # As a node among nodes.
    assert "foreact" in found["nodes"] and found["subscribers"] == ["foreact"]
    assert found["publishers"] == [["foreact", "trajectory_msgs/msg/JointTrajectory", 1]]


def test_the_bridge_names_the_nodes_it_finds(bridge: DdsTransport) -> None:
    script = (
        COMMON
        + """
node = Node("rival", namespace="/left")
node.create_publisher(JointTrajectory, "/joint_trajectory_controller/joint_trajectory", 1)
spin(node, 30.0)
"""
    )
    with rclpy_process(script):
        until(lambda: report(bridge, "trajectory").publishers == 2, 15.0)
        until(lambda: "/left/rival publishes here too" in report(bridge, "trajectory").notes, 2.0)
    # It was killed, so only its lease of ten seconds ends it.
    until(lambda: report(bridge, "trajectory").publishers == 1, 20.0)


MISFITS = {
    "instruction that is not kept": (
        'node.create_publisher(String, "/foreact/instruction", 1)', "instruction", "durability",
    ),
    "mode by best effort": (
        'node.create_publisher(String, "/robot_mode", QoSProfile(depth=1, '
        "durability=DurabilityPolicy.TRANSIENT_LOCAL, reliability=ReliabilityPolicy.BEST_EFFORT))",
        "mode", "reliability",
    ),
    "controller that wants old commands": (
        'node.create_subscription(JointTrajectory, "/joint_trajectory_controller/joint_trajectory", print, latched)',
        "trajectory", "durability",
    ),
    "controller with a deadline": (
        "from rclpy.duration import Duration\n"
        'node.create_subscription(JointTrajectory, "/joint_trajectory_controller/joint_trajectory", print, '
        "QoSProfile(depth=1, deadline=Duration(seconds=1)))",
        "trajectory", "deadline",
    ),
    "viewer that wants old frames": (
        'node.create_subscription(CompressedImage, "/foreact/foresight/front/compressed", print, latched)',
        "foresight front", "durability",
    ),
    "arm by best effort": (
        'node.create_publisher(Bool, "/foreact/arm", qos_profile_sensor_data)', "arm", "reliability",
    ),
}  # fmt: skip


@pytest.mark.fault("B19", n=len(MISFITS), event="an rclpy node whose QoS does not fit")
@pytest.mark.parametrize("name", MISFITS)
def test_misfits_of_rclpy_nodes_are_named_within_two_seconds(bridge: DdsTransport, name: str) -> None:
    make, role, policy = MISFITS[name]
    topic = report(bridge, role).topic
    script = f'{COMMON}\nnode = Node("wrong")\n{make}\nprint("made", flush=True)\nspin(node, 30.0)\n'
    with rclpy_process(script) as process:
        assert process.stdout is not None and process.stdout.readline().strip() == "made"
        took = until(lambda: report(bridge, role).qos_problem, 10.0)
        assert took < 2.0
        until(lambda: "/wrong does not fit" in report(bridge, role).qos_problem, 2.0)
        sentence = report(bridge, role).qos_problem
        assert topic in sentence and policy in sentence, sentence


def test_a_robot_on_dds_is_heard_by_rclpy() -> None:
    script = (
        COMMON
        + """
node = Node("listener")
got = {"image": 0, "joints": 0, "mode": []}
def image(m): got["image"] += 1; got["pixel"] = list(m.data[:3]); got["size"] = [m.height, m.width, m.step, m.encoding]
def joints(m): got["joints"] += 1; got["names"] = list(m.name); got["position"] = list(m.position)
node.create_subscription(Image, "/front/image_raw", image, qos_profile_sensor_data)
node.create_subscription(JointState, "/joint_states", joints, qos_profile_sensor_data)
node.create_subscription(String, "/robot_mode", lambda m: got["mode"].append(m.data), latched)
command = node.create_publisher(JointTrajectory, "/joint_trajectory_controller/joint_trajectory", 1)
from trajectory_msgs.msg import JointTrajectoryPoint
def tick():
    p = JointTrajectoryPoint(positions=[1.0, 2.0], velocities=[0.0, 0.0]); p.time_from_start.nanosec = 200000000
    command.publish(JointTrajectory(joint_names=["a1", "a2"], points=[p]))
node.create_timer(0.05, tick)
spin(node, 15.0, lambda: got["image"] > 20 and got["joints"] > 20 and got["mode"])
spin(node, 0.5)
print(json.dumps(got))
"""
    )
    told: list[Any] = []
    side = DdsRobotSide(NAMES, NetworkScope(domain_id=DOMAIN))
    side.start(told.append, lambda _: None)
    try:
        side.publish_mode(RobotMode.PROTECTIVE_STOP)
        image = np.full((48, 64, 3), (1, 2, 3), np.uint8)
        with rclpy_process(script) as process:
            while process.poll() is None:
                side.publish_frame("front", image, time.time())
                side.publish_joints([0.5, -0.5], [0.0, 0.0], 0.06, time.time())
                time.sleep(1 / 30)
            out, err = process.communicate(timeout=20)
    finally:
        side.close()
    assert process.returncode == 0, err[-2000:]
    found = json.loads(out)
    assert found["image"] > 20 and found["pixel"] == [1, 2, 3] and found["size"] == [48, 64, 192, "rgb8"]
    assert found["names"] == ["a1", "a2", "f1", "f2"] and found["position"] == [0.5, -0.5, 0.03, 0.03]
    assert found["mode"] == ["protective_stop"]
    assert told and told[-1].position.tolist() == [[1.0, 2.0]] and told[-1].acceleration is None


@pytest.mark.skipif(shutil.which("ros2") is None, reason="no ros2 command")
def test_the_ros2_command_lists_and_echoes(bridge: DdsTransport) -> None:
    def ros2(*words: str, seconds: float = 25.0) -> str:
        process = subprocess.Popen(["ros2", *words], env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)
        began, n = time.monotonic(), 0
        while process.poll() is None:
            assert time.monotonic() - began < seconds, words
            say(bridge, n)
            n += 1
            time.sleep(0.1)
        return process.communicate()[0]

    now = ["--no-daemon", "--spin-time", "3"]
    assert "/foreact" in ros2("node", "list", *now).split()
    listed = ros2("topic", "list", "-t", *now)
    assert "/diagnostics [diagnostic_msgs/msg/DiagnosticArray]" in listed
    assert "/foreact/foresight/front/compressed [sensor_msgs/msg/CompressedImage]" in listed
    info = ros2("topic", "info", "-v", NAMES.trajectory, *now)
    assert "Node name: foreact" in info and "RIHS01_179b33eba59d676f" in info and "Reliability: RELIABLE" in info
    echoed = ros2("topic", "echo", "--once", "--no-daemon", "--spin-time", "3", "/diagnostics",
                  "diagnostic_msgs/msg/DiagnosticArray")  # fmt: skip
    assert "name: gate" in echoed and "message: slow" in echoed and "hardware_id: panda" in echoed

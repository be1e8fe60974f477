"""The whole way: pictures and joints of a ROS 2 robot to a policy server, and its plans back as motion of the arm."""

# pyright: reportMissingImports=false
from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="needs ROS 2 (rclpy); see docs/ros2.md")

from diagnostic_msgs.msg import DiagnosticArray  # noqa: E402
from geometry_msgs.msg import TwistStamped  # noqa: E402
from rosgraph_msgs.msg import Clock  # noqa: E402
from sensor_msgs.msg import CompressedImage  # noqa: E402
from std_msgs.msg import String  # noqa: E402
from std_srvs.srv import SetBool  # noqa: E402

from foreact.robot_bridge.limits import load_limits  # noqa: E402

pytestmark = pytest.mark.ros
LIMITS = load_limits("panda")


def arm_it(ros: Any, wait_until: Callable[..., float], node: Any) -> None:
    """Armed as soon as everything has been seen."""
    said: list[str] = []

    def armed() -> bool:
        done, message = ros.trigger("arm")
        said.append(message)
        return done

    wait_until(armed, 20.0, f"not armed: {said[-1:]}; {node.text}")


def state_of(box: list[tuple[float, Any]]) -> str:
    return json.loads(box[-1][1].data)["state"] if box else ""


def test_an_instruction_moves_the_arm(
    ros: Any, bridge: Callable[..., Any], arm: Any, robot_file: Callable[..., str], wait_until: Callable[..., float]
) -> None:
    states = ros.listen(String, "/foreact/state", durability=1)
    diagnostics = ros.listen(DiagnosticArray, "/diagnostics")
    foresight = ros.listen(CompressedImage, "/foreact/foresight/rgb_static/compressed", reliability=2)
    node = bridge(robot=robot_file(), speed_scale=0.5)
    assert ros.change("configure") and ros.change("activate"), node.text
    time.sleep(1.0)
    assert not arm.trajectories and state_of(states) == "disarmed"
    arm_it(ros, wait_until, node)
    assert not arm.trajectories, "armed, but nobody said what to do"
    ros.say("open the drawer")
    wait_until(lambda: len(arm.trajectories) > 100, 60.0, lambda: node.text)
    wait_until(lambda: len(foresight) > 2, 60.0, lambda: node.text)
    moved = np.abs(arm.q - np.array(arm.START)).max()
    assert moved > 0.02, (moved, node.text, arm.controller.counts, arm.bad)
    assert arm.controller.counts["rejected"] == 0 and arm.controller.counts["non_finite_received"] == 0
    for trajectory in arm.trajectories:
        assert trajectory.joints == LIMITS.joints and trajectory.time_from_start_s[-1] <= 0.2 + 1e-6
        assert not trajectory.velocity[-1].any() and np.isfinite(trajectory.position).all()
        assert (np.abs(trajectory.velocity) <= np.array(LIMITS.velocity)).all()
    # diagnostics come at 1 Hz, with what goes on
    wait_until(lambda: len(diagnostics) >= 5, 10.0)
    gaps = np.diff([at for at, _ in diagnostics[-5:]])
    assert 0.8 < gaps.mean() < 1.3, gaps
    levels = {status.name: status for status in diagnostics[-1][1].status}
    gate = next(status for name, status in levels.items() if name.endswith(": gate"))
    assert gate.hardware_id == arm.robot.name or gate.message
    assert any(name.endswith(": camera rgb_static") for name in levels)
    # the header of foresight is that of the picture it was made from
    message = foresight[-1][1]
    assert 0.0 < time.time() - (message.header.stamp.sec + 1e-9 * message.header.stamp.nanosec) < 20.0
    done, message = ros.trigger("stop")
    assert done, message
    wait_until(lambda: state_of(states) == "ready", 10.0, lambda: node.text)
    rest = arm.q.copy()
    time.sleep(0.5)
    assert np.abs(arm.q - rest).max() < 1e-6
    assert ros.call(SetBool, "/foreact/takeover", SetBool.Request(data=True)).message


@pytest.mark.fault("B8", n=3, event="SIGKILL of the rclpy node while the arm moves")
def test_the_arm_rests_when_the_node_is_killed(
    ros: Any, bridge: Callable[..., Any], arm: Any, robot_file: Callable[..., str], wait_until: Callable[..., float]
) -> None:
    file = robot_file()

    def moves_after(before: int) -> bool:
        return len(arm.trajectories) > before + 20

    for _ in range(3):
        node = bridge(robot=file, speed_scale=0.5)
        assert ros.change("configure") and ros.change("activate"), node.text
        arm_it(ros, wait_until, node)
        before = len(arm.trajectories)
        ros.say("open the drawer")
        wait_until(partial(moves_after, before), 30.0)
        node.end(9)
        time.sleep(0.5)
        rest, count = arm.q.copy(), len(arm.trajectories)
        time.sleep(0.5)
        assert np.array_equal(arm.q, rest) and len(arm.trajectories) == count
        wait_until(lambda: "/foreact" not in ros.node.get_fully_qualified_node_names(), 30.0)


def test_a_dry_run_sends_nothing(
    ros: Any, bridge: Callable[..., Any], arm: Any, robot_file: Callable[..., str], wait_until: Callable[..., float]
) -> None:
    states = ros.listen(String, "/foreact/state", durability=1)
    node = bridge(robot=robot_file(), dry_run=True)
    assert ros.change("configure") and ros.change("activate"), node.text
    arm_it(ros, wait_until, node)
    ros.say("open the drawer")
    wait_until(lambda: state_of(states) == "running", 30.0, lambda: node.text)
    time.sleep(1.0)
    assert not arm.trajectories and np.array_equal(arm.q, arm.START)


def test_goals_of_the_action(
    ros: Any, bridge: Callable[..., Any], arm: Any, robot_file: Callable[..., str], wait_until: Callable[..., float]
) -> None:
    node = bridge(robot=robot_file(output="action"), speed_scale=0.5)
    assert ros.change("configure") and ros.change("activate"), node.text
    publishers = ros.node.count_publishers("/joint_trajectory_controller/joint_trajectory")
    assert publishers == 0, "commands go one way only"
    arm_it(ros, wait_until, node)
    ros.say("open the drawer")
    wait_until(lambda: arm.side.action.counts["accepted"] > 60, 60.0, lambda: node.text)
    at = np.array([trajectory.received_s for trajectory in arm.trajectories])
    assert np.median(np.diff(at)) > 0.03, "at most 25 goals a second"
    assert np.abs(arm.q - np.array(arm.START)).max() > 0.01
    counts = arm.side.action.counts
    assert counts["refused"] == 0 and counts["preempted"] > 40
    assert "refused" not in node.text and "gave a goal up" not in node.text, node.text
    assert ros.trigger("stop")[0]
    wait_until(lambda: counts["succeeded"] >= 1, 10.0, "the last goal of a stop is reached")


def test_goals_that_come_too_seldom_are_refused(
    ros: Any, bridge: Callable[..., Any], robot_file: Callable[..., str], wait_until: Callable[..., float]
) -> None:
    node = bridge(robot=robot_file(output="action"), action_rate_hz=10.0)
    assert ros.change("configure") is False
    wait_until(lambda: "a goal every 100 ms" in node.text, 5.0, lambda: node.text)


def test_twists_for_servo(
    ros: Any, bridge: Callable[..., Any], arm: Any, robot_file: Callable[..., str], wait_until: Callable[..., float]
) -> None:
    twists = ros.listen(TwistStamped, "/servo_node/delta_twist_cmds")
    # The arm of this test obeys trajectories, so it stays where it is; the leash must be longer than the way.
    node = bridge(robot=robot_file(output="servo_twist", topics={"base_frame": "panda_link0"}), speed_scale=0.2)
    assert ros.change("configure") and ros.change("activate"), node.text
    arm_it(ros, wait_until, node)
    ros.say("open the drawer")
    wait_until(lambda: len(twists) > 20, 30.0, lambda: node.text)
    assert not arm.trajectories
    for _, message in twists:
        linear, angular = message.twist.linear, message.twist.angular
        assert message.header.frame_id == "panda_link0" and message.header.stamp.sec > 0
        assert np.linalg.norm([linear.x, linear.y, linear.z]) <= LIMITS.tcp_speed_m_s + 1e-9
        assert np.linalg.norm([angular.x, angular.y, angular.z]) <= LIMITS.tcp_turn_rad_s + 1e-9
    ros.trigger("disarm")
    time.sleep(0.7)
    count = len(twists)
    time.sleep(0.3)
    assert len(twists) == count, "twists end, so Servo stops"
    last = twists[-1][1].twist
    assert max(abs(v) for v in (last.linear.x, last.linear.y, last.linear.z)) < 1e-3


@pytest.mark.fault("B18", n=1, event="second rclpy bridge on the same robot")
def test_a_second_bridge_is_refused(
    ros: Any, bridge: Callable[..., Any], arm: Any, robot_file: Callable[..., str], wait_until: Callable[..., float]
) -> None:
    file = robot_file()
    first = bridge(robot=file)
    assert ros.change("configure") and ros.change("activate"), first.text
    arm_it(ros, wait_until, first)
    states = ros.listen(String, "/foreact/state", durability=1)
    second = bridge(name="other", robot=file)
    assert ros.change("configure", "/other") and ros.change("activate", "/other"), second.text
    took = wait_until(lambda: state_of(states) == "fault", 5.0, lambda: first.text)
    assert took < 2.5 and "2 publishers" in json.loads(states[-1][1].data)["message"]
    time.sleep(1.0)
    done, message = ros.trigger("arm", "/other")
    assert not done and "2 publishers" in message, message


@pytest.mark.fault("S15", n=3, event="a bridge that others on the network could reach")
@pytest.mark.parametrize(
    ("environment", "armed"),
    [
        ({"ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET"}, False),
        ({"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST", "ROS_STATIC_PEERS": "192.0.2.7"}, False),
        ({"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}, True),
    ],
)
def test_it_is_not_armed_where_strangers_could_command(
    ros: Any, bridge: Callable[..., Any], arm: Any, robot_file: Callable[..., str], wait_until: Callable[..., float],
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], armed: bool,
) -> None:  # fmt: skip
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    node = bridge(robot=robot_file())
    assert ros.change("configure") and ros.change("activate"), node.text
    if armed:
        arm_it(ros, wait_until, node)
        return
    time.sleep(2.0)
    done, message = ros.trigger("arm")
    assert not done and "anyone on the network could command the robot" in message


@pytest.mark.parametrize("word", ["LOCALHOSTS", "localhost"])
def test_a_misspelt_range_ends_configure(
    ros: Any, start: Callable[..., Any], wait_until: Callable[..., float], policy_url: str, word: str
) -> None:
    node = start(
        [sys.executable, "-m", "foreact.robot_bridge.ros_node", "--ros-args", "-p", f"url:={policy_url}"],
        {**os.environ, "ROS_AUTOMATIC_DISCOVERY_RANGE": word},
    )
    assert ros.change("configure") is False
    wait_until(lambda: "is not a value that ROS 2 knows" in node.text, 5.0, lambda: node.text)


def test_use_sim_time(
    ros: Any, bridge: Callable[..., Any], arm: Any, robot_file: Callable[..., str], wait_until: Callable[..., float]
) -> None:
    """Stamps are those of /clock, and a jump of it is a HOLD."""
    clock = ros.node.create_publisher(Clock, "/clock", 10)
    offset = [1000.0 - time.monotonic()]
    diagnostics = ros.listen(DiagnosticArray, "/diagnostics")
    states = ros.listen(String, "/foreact/state", durability=1)

    def tell() -> None:
        now = time.monotonic() + offset[0]
        message = Clock()
        message.clock.sec, message.clock.nanosec = int(now), int(now % 1 * 1e9)
        clock.publish(message)

    ros.node.create_timer(0.005, tell)
    node = bridge(robot=robot_file(), use_sim_time=True, dry_run=True)
    assert ros.change("configure") and ros.change("activate"), node.text
    wait_until(lambda: len(diagnostics) > 1, 10.0)
    stamp = diagnostics[-1][1].header.stamp
    assert abs(stamp.sec - (time.monotonic() + offset[0])) < 5.0
    # The arm's pictures are stamped with the wall clock, far ahead of this one: it says so, and is not armed.
    done, message = ros.trigger("arm")
    assert not done, message
    offset[0] += 30.0
    time.sleep(0.2)
    done, message = ros.trigger("arm")
    assert not done and "clock" in message, message
    assert state_of(states) == "disarmed"

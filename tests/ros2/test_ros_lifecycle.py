"""Transitions, services and parameters of the node, in a process of its own."""

# pyright: reportMissingImports=false
from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

rclpy = pytest.importorskip("rclpy", reason="needs ROS 2 (rclpy); see docs/ros2.md")

from std_msgs.msg import String  # noqa: E402

from foreact.robot_bridge.ros_parameters import FIXED, SETTINGS  # noqa: E402

pytestmark = pytest.mark.ros


def test_every_transition(ros: Any, bridge: Callable[..., Any], arm: Any, robot_file: Callable[..., str]) -> None:
    node = bridge(robot=robot_file())
    assert ros.state() == "unconfigured"
    assert ros.trigger("arm")[0] is False and "not active" in ros.trigger("arm")[1]
    assert ros.change("configure"), node.text
    assert ros.state() == "inactive"
    states = ros.listen(String, "/foreact/state", durability=1)
    for _ in range(2):  # leaving and coming back takes no new start of the process
        assert ros.change("activate"), node.text
        assert ros.state() == "active"
        armed, message = ros.trigger("arm")
        for _ in range(20):
            if armed:
                break
            time.sleep(0.5)
            armed, message = ros.trigger("arm")
        assert armed, message
        assert ros.trigger("stop") == (True, "stopping")
        assert ros.trigger("disarm") == (True, "disarmed")
        assert ros.trigger("arm")[0]
        assert ros.change("deactivate"), node.text
        assert '"disarmed"' in states[-1][1].data
        assert not ros.trigger("arm")[0]
    assert ros.change("cleanup")
    assert ros.state() == "unconfigured"
    assert ros.change("configure"), node.text
    assert ros.change("activate"), node.text
    assert node.end(signal.SIGINT) == 0, node.text


def test_an_unknown_transition_is_answered_and_survived(ros: Any, bridge: Callable[..., Any]) -> None:
    node = bridge()
    assert ros.change("activate") is False
    assert ros.change("deactivate") is False
    assert ros.state() == "unconfigured"
    assert node.process.poll() is None
    assert node.end(signal.SIGTERM) == 0


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"url": "ws://127.0.0.1:9"}, "is not there"),
        ({"robot": "no_such_robot"}, "no robot 'no_such_robot'"),
        ({"events": "/proc/no/such/folder"}, "cannot be written"),
        ({"token_file": "/no/such/file"}, "token file"),
    ],
)
def test_what_cannot_be_configured_is_said(
    ros: Any, bridge: Callable[..., Any], wait_until: Callable[..., float], parameters: dict[str, str], sentence: str
) -> None:
    node = bridge(**parameters)
    assert ros.change("configure") is False
    assert ros.state() == "unconfigured"
    wait_until(lambda: sentence in node.text, 5.0, lambda: node.text)
    assert "Traceback" not in node.text


def test_it_refuses_a_parameter_out_of_range_at_the_start() -> None:
    for words, sentence in (
        ("speed_scale:=1.5", "from 0 to 1"), ("warm_up:=2", "from 20 to 1000"), ("dry_run:=7", "expected a bool"),
    ):  # fmt: skip
        found = subprocess.run(
            [sys.executable, "-m", "foreact.robot_bridge.ros_node", "--ros-args", "-p", words],
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert found.returncode == 1, found
        assert sentence in found.stderr and "Traceback" not in found.stderr, found.stderr


OTHER: dict[type, tuple[Any, ...]] = {bool: (True, False), int: (25, 50), float: (0.5, 25.0), str: ("/tmp/x", "")}


@pytest.mark.fault("S17", n=108, event="parameters set while configured")
def test_no_safety_parameter_changes_once_configured(ros: Any, bridge: Callable[..., Any], arm: Any) -> None:
    node = bridge()
    assert ros.set({"speed_scale": 0.5}) == [(True, "")]  # not configured yet
    assert ros.set({"speed_scale": 1.01})[0][0] is False
    assert ros.set({"speed_scale": float("nan")})[0][0] is False
    assert ros.set({"speed_scale": float("inf")})[0][0] is False
    assert ros.set({"no_such_parameter": 1})[0][0] is False
    assert ros.set({"dry_run": 1})[0][0] is False
    assert ros.change("configure"), node.text
    tried = refused = 0
    for state in ("inactive", "active"):
        if state == "active":
            assert ros.change("activate"), node.text
        for setting in [s for s in SETTINGS if s.fixed]:
            for value in OTHER[type(setting.default)]:
                for batch in ({setting.name: value}, {"foresight_quality": 50, setting.name: value}):
                    tried += 1
                    refused += not ros.set(batch)[-1][0]
        for value in (True, False):
            tried += 1
            (done, reason), = ros.set({"use_sim_time": value})  # fmt: skip
            refused += not done
            assert "cannot be changed while the node is configured" in reason
    assert len(FIXED) == sum(s.fixed for s in SETTINGS) + 1
    assert (tried, refused) == (108, 108)
    assert ros.set({"foresight_quality": 55}) == [(True, "")]
    assert ros.set({"foresight_quality": 101})[0][0] is False
    assert ros.change("deactivate") and ros.change("cleanup")
    assert ros.set({"speed_scale": 0.25}) == [(True, "")]


def test_parameters_are_described(ros: Any, bridge: Callable[..., Any]) -> None:
    from rcl_interfaces.srv import DescribeParameters

    bridge()
    request = DescribeParameters.Request(names=[s.name for s in SETTINGS])
    found = ros.call(DescribeParameters, "/foreact/describe_parameters", request).descriptors
    for setting, descriptor in zip(SETTINGS, found, strict=True):
        assert descriptor.description == setting.text
        ranges = [*descriptor.floating_point_range, *descriptor.integer_range]
        expected = [] if setting.low is None else [(setting.low, setting.high)]
        assert [(r.from_value, r.to_value) for r in ranges] == expected

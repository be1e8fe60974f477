"""What of the rclpy side needs no ROS: the sentence where there is none, its threads, twists, rates, policies."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from foreact.robot_bridge.config import load_robot
from foreact.robot_bridge.gate_settings import GateSettings
from foreact.robot_bridge.made_up import made_up
from foreact.robot_bridge.ros_action import GATE, check_rate
from foreact.robot_bridge.ros_make import RosbagsMaker
from foreact.robot_bridge.ros_parameters import SETTINGS, apply
from foreact.robot_bridge.ros_qos import misfits
from foreact.robot_bridge.ros_servo import ServoOutput
from foreact.robot_bridge.ros_threads import Latest, Queue
from foreact.robot_bridge.types import JointSample, Trajectory
from foreact.vla.errors import ConfigError

ROBOT = load_robot("desk_sim")


def until(what, seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)


@pytest.mark.skipif(importlib.util.find_spec("rclpy") is not None, reason="rclpy is here")
def test_without_ros_it_says_what_to_do() -> None:
    found = subprocess.run(
        [sys.executable, "-m", "foreact.robot_bridge.ros_node"], capture_output=True, text=True, timeout=60
    )
    assert found.returncode == 1
    assert "rclpy" in found.stderr and "source /opt/ros/jazzy/setup.bash" in found.stderr
    assert "Traceback" not in found.stderr


def test_the_node_needs_neither_torch_nor_mujoco() -> None:
    code = (
        "import sys, foreact.robot_bridge.ros_node, foreact.robot_bridge.ros_transport, foreact.robot_bridge.assemble;"
        "print(sorted({'torch', 'mujoco', 'rclpy', 'cyclonedds', 'transformers'} & set(sys.modules) - {'rclpy'}))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert found.stdout.strip() == "[]"


def test_only_the_newest_of_each_kind_is_done() -> None:
    done: list[str] = []
    errors: list[Exception] = []
    gate = threading.Event()
    worker = Latest("test", errors.append)
    worker.put("first", gate.wait)
    until(lambda: not worker._jobs)
    for i in range(50):
        worker.put("a", lambda i=i: done.append(f"a{i}"))
    worker.put("bad", lambda: 1 // 0)
    worker.put("b", lambda: done.append("b"))
    gate.set()
    worker.close()
    assert done == ["a49", "b"] and worker.replaced == 49
    assert [type(error) for error in errors] == [ZeroDivisionError]
    worker.put("late", lambda: done.append("late"))
    assert done == ["a49", "b"]


def test_a_queue_keeps_order_and_refuses_too_many() -> None:
    done: list[int] = []
    gate = threading.Event()
    worker = Queue("test", waiting=3)
    worker.put(gate.wait)
    until(lambda: not worker._jobs)
    taken = [worker.put(lambda i=i: done.append(i)) for i in range(5)]
    gate.set()
    worker.close()
    assert taken == [True, True, True, False, False] and done == [0, 1, 2] and worker.refused == 2


def test_twists_follow_the_command_and_end() -> None:
    arm = ROBOT.arm()
    output = ServoOutput(ROBOT.topic_names(), RosbagsMaker(), arm, lambda error: None)
    q = np.array([0.0, 0.2, 0.0, -2.0, 0.0, 2.2, 0.8])
    assert output.twist(0.0) is None, "nothing was measured"
    output.joints(JointSample(position=q, velocity=None, gripper_width_m=0.0, stamp_s=0.0, received_s=0.0))
    assert output.twist(0.0) is None, "nothing was commanded"
    times = np.arange(1, 16) * 0.01
    way = q + np.outer(np.minimum(times, 0.1), [0.3, 0, 0, 0, 0, 0, 0])  # the first joint turns at 0.3 rad/s
    still = np.zeros_like(way)
    output.send(Trajectory(start_s=1.0, time_from_start_s=times, position=way, velocity=still, acceleration=still))
    fastest = 0.0
    for tick in range(12):
        now = 1.0 + 0.01 * tick
        here = q + np.array([0.3 * min(0.01 * tick, 0.1), 0, 0, 0, 0, 0, 0])
        output.joints(JointSample(position=here, velocity=None, gripper_width_m=0.0, stamp_s=0.0, received_s=now))
        twist = output.twist(now)
        assert twist is not None
        fastest = max(fastest, float(twist.angular[2]))
    assert 0.25 < fastest <= 0.35  # about the base's z axis, as the joint turns
    sent = 0
    while output.twist(1.2 + 0.01 * sent) is not None:
        sent += 1
        assert sent < 100, "it never ends"
    assert output.twist(5.0) is None


def test_a_goal_comes_before_the_arm_brakes() -> None:
    check_rate(25.0, GateSettings.from_mapping(GATE))
    check_rate(50.0, GateSettings())
    with pytest.raises(ConfigError, match="a goal every 40 ms, but a command holds only 40 ms"):
        check_rate(25.0, GateSettings())


def test_parameters_go_into_the_robot() -> None:
    values = {setting.name: setting.default for setting in SETTINGS}
    assert apply(ROBOT, values) == ROBOT
    changed = apply(
        ROBOT, {**values, "speed_scale": 0.5, "execute_steps": 3, "foresight_every": 0, "url": "ws://127.0.0.1:1"}
    )
    assert changed.speed_scale == 0.5 and changed.policy.execute_steps == 3 and changed.policy.foresight_every == 0
    assert changed.policy.url == "ws://127.0.0.1:1" and changed.contract == ROBOT.contract


def test_made_up_pictures_are_of_the_contracts_shapes() -> None:
    frames, joints = made_up(ROBOT)
    assert {n: f.image.shape for n, f in frames.items()} == {
        c.name: (c.height, c.width, 3) for c in ROBOT.contract.cameras
    }
    arm = ROBOT.arm()
    assert (np.array(arm.position_low) < joints.position).all()
    assert (joints.position < np.array(arm.position_high)).all()


def test_misfits_have_words() -> None:
    span = SimpleNamespace(nanoseconds=0)
    base = {
        "reliability": 1, "durability": 1, "liveliness": 1, "deadline": span, "liveliness_lease_duration": span,
    }  # fmt: skip
    best, full = SimpleNamespace(**{**base, "reliability": 2, "durability": 2}), SimpleNamespace(**base)
    assert misfits(full, best) == [] and misfits(full, full) == []
    assert misfits(best, full) == [
        "reliability (offered best effort, requested reliable)",
        "durability (offered volatile, requested transient local)",
    ]
    soon = SimpleNamespace(**{**base, "deadline": SimpleNamespace(nanoseconds=10_000_000)})
    assert misfits(full, soon) == ["deadline (offered infinite, requested 0.01 s)"]
    assert misfits(soon, full) == []

"""Somebody who tries to command the arm, or to be its cameras and joints: a program of its own, started by
test_ros_security.py with an environment that says who it is. It prints one line of JSON: what it could do."""

# pyright: reportMissingImports=false
from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import rclpy
from control_msgs.action import FollowJointTrajectory
from rclpy.action import ActionClient
from rclpy.parameter import Parameter
from rosidl_runtime_py.utilities import get_message

from foreact.robot_bridge import messages_out
from foreact.robot_bridge.config import load_robot
from foreact.robot_bridge.ros_make import RclpyMaker
from foreact.robot_bridge.ros_qos import profile
from foreact.robot_bridge.topic_names import TopicSpec
from foreact.robot_bridge.types import Trajectory

MARK = 0.123
"""Position of every joint in what it sends [rad], by which it is known."""
MAKE, NAMES = RclpyMaker(), load_robot("desk_sim").topic_names()


def command() -> Any:
    """A trajectory that fits."""
    rest = np.zeros((2, len(NAMES.arm_joints)))
    made = Trajectory(
        start_s=0.0, time_from_start_s=np.array([0.01, 0.02]), position=rest + MARK, velocity=rest, acceleration=rest,
        observed_s=1.0,
    )  # fmt: skip
    return messages_out.joint_trajectory(MAKE, NAMES.arm_joints, made)


def message(spec: TopicSpec) -> Any:
    """One that fits the topic."""
    if spec.role == "trajectory":
        return command()
    if spec.role == "gripper":
        return messages_out.gripper(MAKE, 1.0, NAMES)
    if spec.role == "joints":
        joints = (*NAMES.arm_joints, *NAMES.gripper_joints)
        return messages_out.joint_state(MAKE, joints, [MARK] * len(joints), [0.0] * len(joints), time.time())
    name = spec.role.removeprefix("camera ")
    camera = NAMES.cameras[name]
    return messages_out.raw_image(MAKE, np.zeros((camera.height, camera.width, 3), np.uint8), time.time(), name)


def wait(node: Any, what: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not (done := what()) and time.monotonic() < end:
        rclpy.spin_once(node, timeout_sec=0.02)
    return done


def main(roles: list[str], n: int, patience_s: float) -> dict[str, Any]:
    """Try `n` times on each topic; then `n` goals, if "action" is among the roles."""
    found: dict[str, Any] = {"joined": False, "sent": {}, "matched": {}, "refused": {}}
    try:
        rclpy.init()
        node = rclpy.create_node(
            "intruder", enable_rosout=False, start_parameter_services=False,
            parameter_overrides=[Parameter("start_type_description_service", value=False)],
        )  # fmt: skip
    except Exception as error:
        return {**found, "refused": {"domain": str(error)[:200]}}
    found["joined"] = True
    ways: dict[str, Any] = {}
    for spec in NAMES.specs():
        if spec.role in roles:
            try:
                ways[spec.role] = (spec, node.create_publisher(get_message(spec.type), spec.topic, profile(spec.qos)))
            except Exception as error:
                found["refused"][spec.role] = str(error)[:200]
    wait(node, lambda: bool(ways) and all(p.get_subscription_count() for _, p in ways.values()), patience_s)
    for role, (spec, publisher) in ways.items():
        found["sent"][role] = 0
        for _ in range(n):
            publisher.publish(message(spec))
            found["sent"][role] += 1
            rclpy.spin_once(node, timeout_sec=0.005)
            time.sleep(0.005)
        found["matched"][role] = publisher.get_subscription_count()
    if "action" in roles:
        try:
            client = ActionClient(node, FollowJointTrajectory, NAMES.full(NAMES.action))
        except Exception as error:
            found["refused"]["action"] = str(error)[:200]
        else:
            found["matched"]["action"] = wait(node, client.server_is_ready, patience_s / 2)
            for _ in range(n):
                client.send_goal_async(FollowJointTrajectory.Goal(trajectory=command()))
                rclpy.spin_once(node, timeout_sec=0.01)
            found["sent"]["action"] = n
    wait(node, lambda: False, 0.5)
    return found


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1].split(","), int(sys.argv[2]), float(sys.argv[3]))), flush=True)

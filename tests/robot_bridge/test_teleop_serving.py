"""A person on the way of a policy: keys in a terminal, plans of a service, joint targets of the arm."""

from __future__ import annotations

import os
import pty
import time

import numpy as np
import pytest

from foreact.robot_bridge.config import load_robot
from foreact.robot_bridge.kinematics import Kinematics
from foreact.robot_bridge.planner_hook import robot_hook
from foreact.robot_bridge.teleop import TeleopActor
from foreact.robot_bridge.teleop_keys import Keyboard
from foreact.vla.serving.service import PolicyService

pytest.importorskip("mink")


def test_keys_become_joint_targets_that_move_the_tool_and_rest() -> None:
    robot = load_robot("desk_sim")
    master, slave = pty.openpty()
    with Keyboard(slave) as keys:
        actor = TeleopActor(robot.contract, keys, execute_steps=1, chunk_steps=4)
        service = PolicyService(actor, to_joints=robot_hook("desk_sim")(actor.contract))
        service.warm_up(2)
        assert service.metadata["robot"] and service.metadata["chunk"] == 4
        service.join("gate")
        q = np.array([0.0, -0.4, 0.0, -2.2, 0.0, 1.9, 0.8])
        state = np.zeros(robot.contract.state_size, np.float32)
        state[-1] = -1  # the gripper is closed, and stays so
        question = {
            "kind": "plan", "state": state, "prompt": "by hand",
            "anchor": q, "gripper_command": -1.0,
        }  # fmt: skip
        arm = Kinematics(robot.arm())
        at_rest = service.submit("gate", question).result(timeout=30)
        # The tool rests; the elbow may still move to where the arm likes it.
        rests = np.array([arm.forward(row)[0] for row in at_rest["joint_position"]])
        assert np.allclose(rests, arm.forward(q)[0], atol=1e-4) and (at_rest["gripper"] == -1).all()
        os.write(master, b"w")
        time.sleep(0.02)
        moved = service.submit("gate", question).result(timeout=30)
        assert moved["actions"][:, 0].tolist() == [1, 0, 0, 0]
        tool = np.array([arm.forward(row)[0] for row in [q, *moved["joint_position"]]])
        assert np.allclose(tool[1] - tool[0], [0.02, 0, 0], atol=2e-3)  # one step forward
        assert np.abs(np.diff(tool[1:], axis=0)).max() < 1e-3  # and then rest
    os.close(master)
    os.close(slave)

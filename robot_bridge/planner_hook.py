"""What `foreact serve --robot CONFIG` adds to a policy: its plans as joint targets of that robot."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from foreact.robot_bridge.arm_actions import ChunkRefused
from foreact.robot_bridge.arm_ik import IkSettings
from foreact.robot_bridge.arm_planner import ArmTargets
from foreact.robot_bridge.config import load_robot
from foreact.robot_bridge.kinematics import origin_matrix
from foreact.vla.contract import Contract
from foreact.vla.policy import Observation, Plan
from foreact.vla.serving.requests import Anchor

ToJoints = Callable[[Observation, Plan, Anchor], Mapping[str, Any]]


def robot_hook(config: str) -> Callable[[Contract], ToJoints]:
    """From a robot file and a policy's contract to a function that turns plans into joint targets.

    Args:
        config: Name or path, see `foreact.robot_bridge.config.load_robot`.

    Raises:
        ForeActError: If the file is not valid, or the arm cannot follow the policy's actions.
    """
    robot = load_robot(config)

    def make(contract: Contract) -> ToJoints:
        arm = ArmTargets(
            contract, robot.arm(), origin_matrix(robot.T_world_base), robot.period_s, robot.posture,
            IkSettings.from_mapping(robot.ik),
        )  # fmt: skip

        def to_joints(observation: Observation, plan: Plan, anchor: Anchor) -> dict[str, Any]:
            actions = plan.actions[0]
            # The first half must be within reach: the next plan comes before the second half is due.
            needed = robot.policy.execute_steps or max(1, len(actions) // 2)
            try:
                chunk = arm.targets(actions, anchor.joint_position, anchor.gripper_command, min(needed, len(actions)))
            except ChunkRefused as refusal:
                return {"refused": str(refusal)}
            return {"joint_position": chunk.joint_position, "gripper": chunk.gripper, "ik": dict(chunk.info)}

        return to_joints

    return make

"""What the policy is shown: the newest frame of every camera, and its state computed from measured joints.

Only fields in the table below can be asked for; a policy that wants another one does not fit the robot.

Shape legend: N arm joints, S state size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from foreact.robot_bridge.config import Robot
from foreact.robot_bridge.kinematics import Kinematics, matrix_to_rpy, origin_matrix
from foreact.robot_bridge.types import CameraFrame, JointSample
from foreact.vla.contract import Adapter, Contract, ContractMismatch, adapt
from foreact.vla.errors import did_you_mean
from foreact.vla.images import resize_frame


@dataclass(frozen=True, slots=True)
class _Known:
    """What fields are computed from."""

    joints: JointSample
    gripper_command: float
    T_world_tcp: np.ndarray


_FIELDS: dict[str, Callable[[_Known], np.ndarray]] = {
    "tcp_position": lambda known: known.T_world_tcp[:3, 3],
    "tcp_euler": lambda known: matrix_to_rpy(known.T_world_tcp[:3, :3]),
    "gripper_width": lambda known: np.array([known.joints.gripper_width_m or 0.0]),
    "joint_position": lambda known: known.joints.position,
    "joint_velocity": lambda known: (
        np.zeros_like(known.joints.position) if known.joints.velocity is None else known.joints.velocity
    ),
    "gripper_command": lambda known: np.array([known.gripper_command]),
}
"""State field of a contract -> its numbers, in the units of the desk's contract: m, rad, extrinsic x-y-z angles."""


class Observer:
    """Makes observations of one robot for one policy.

    Args:
        robot: What it offers.
        kinematics: Of its arm.
        required: The policy's contract.

    Raises:
        ContractMismatch: With one line per difference.
    """

    def __init__(self, robot: Robot, kinematics: Kinematics, required: Contract):
        for field in robot.contract.state:
            if field.name not in _FIELDS:
                raise ContractMismatch(
                    f"robot {robot.name}: the bridge cannot compute the state field {field.name!r}; "
                    f"{did_you_mean(field.name, _FIELDS)}"
                )
        self.adapter: Adapter = adapt(
            required, robot.contract, required_by="the policy", offered_by=f"robot {robot.name}"
        )
        self._robot, self._kinematics = robot, kinematics
        self._T_world_base = origin_matrix(robot.T_world_base)
        self.cameras = tuple(self.adapter.resize)

    @classmethod
    def of_robot(cls, robot: Robot) -> Observer:
        """For whoever wants all that the robot offers, such as a recorder."""
        return cls(robot, Kinematics(robot.arm()), robot.contract)

    def images(self, frames: Mapping[str, CameraFrame]) -> dict[str, np.ndarray]:
        """Camera -> (H, W, 3) uint8 in the policy's sizes."""
        return {name: resize_frame(frames[name].image, *size) for name, size in self.adapter.resize.items()}

    def state(self, joints: JointSample, gripper_command: float) -> np.ndarray:
        """(S,) float32 in the policy's order."""
        return self.adapter.state(self.robot_state(joints, gripper_command)).astype(np.float32)

    def robot_state(self, joints: JointSample, gripper_command: float) -> np.ndarray:
        """(S,) float64 of the robot's own contract."""
        known = _Known(joints, gripper_command, self.T_world_tcp(joints.position))
        parts = [np.asarray(_FIELDS[field.name](known), np.float64) for field in self._robot.contract.state]
        for field, part in zip(self._robot.contract.state, parts, strict=True):
            if part.shape != (field.size,):
                raise ContractMismatch(
                    f"robot {self._robot.name}: state field {field.name!r} has {part.shape[0]} numbers on this arm, "
                    f"its contract says {field.size}"
                )
        return np.concatenate([np.zeros(0), *parts])

    def T_world_tcp(self, q: np.ndarray) -> np.ndarray:
        """(4, 4) pose of the tool centre point for joints (N,) [rad]."""
        T_base_tcp = np.eye(4)
        T_base_tcp[:3, 3], T_base_tcp[:3, :3] = self._kinematics.forward(q)
        return self._T_world_base @ T_base_tcp

"""What the policy process does for a robot: an observation in, a chunk of joint targets out.

It knows nothing of wires and clocks. Whoever calls it passes the joints that are commanded at the step of the
observation; the policy's actions go on from there.

Shape legend: K rows, N joints.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foreact.robot_bridge.arm_actions import ActionLayout, ChunkRefused, nearest_euler
from foreact.robot_bridge.arm_ik import ChunkIk, IkReport, IkSettings
from foreact.robot_bridge.kinematics import matrix_to_rpy
from foreact.robot_bridge.limits import RobotLimits
from foreact.vla.contract import Contract

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class JointChunk:
    """Targets for an arm."""

    joint_position: Array
    """(K, N) [rad]."""
    gripper: Array
    """(K,): +1 open, -1 close."""
    info: dict[str, float]
    """For logs: how far the solution is from the wanted poses, how near a singularity, how much was clipped."""


class ArmTargets:
    """Turns chunks of contract actions into joint targets, for one robot.

    Args:
        contract: The policy's: its action fields say what the numbers mean.
        limits: The arm's.
        T_world_base: (4, 4): where the base stands in the frame that the contract calls "world".
        period_s: One policy step on the robot [s].
        posture: Rest posture (N,) [rad]; see `ChunkIk`.
        settings: Of inverse kinematics.

    Raises:
        ContractMismatch: If the arm cannot follow such actions.
        ConfigError: If inverse kinematics is needed and its libraries are not installed.
    """

    def __init__(
        self,
        contract: Contract,
        limits: RobotLimits,
        T_world_base: ArrayLike,
        period_s: float,
        posture: ArrayLike | None = None,
        settings: IkSettings | None = None,
    ):
        self.limits = limits
        self.layout = ActionLayout.of(contract, len(limits.joints))
        self._settings = settings or IkSettings()
        self._ik = None if self.layout.joints else ChunkIk(limits, period_s, posture, self._settings)
        T_frame_base = np.asarray(T_world_base, np.float64) if self.layout.frame == "world" else np.eye(4)
        self._T_frame_base, self._T_base_frame = T_frame_base, np.linalg.inv(T_frame_base)
        self._euler: Array | None = None

    def reset(self) -> None:
        """A new task begins: Euler angles are chosen anew."""
        self._euler = None

    def targets(
        self, actions: np.ndarray, anchor: ArrayLike, gripper: float, required_rows: int | None = None
    ) -> JointChunk:
        """Joint targets of one chunk.

        Args:
            actions: Shape (K, A).
            anchor: Joints (N,) [rad] commanded at the step of the observation.
            gripper: Present gripper command, +1 open or -1 close.
            required_rows: From this row on, what the arm cannot reach is cut off, not refused. None: every row counts.

        Raises:
            ChunkRefused: If the actions are malformed, or lead where the arm cannot.
        """
        anchor = np.asarray(anchor, np.float64)
        n = len(self.limits.joints)
        if anchor.shape != (n,) or not np.isfinite(anchor).all():
            raise ChunkRefused(f"the anchor must be {n} finite joints, found {np.array2string(anchor, threshold=8)}")
        actions, beyond = self.layout.clip(actions)
        commands = self.layout.gripper_commands(actions, gripper)
        info: dict[str, float] = {"clipped_numbers": float(beyond)}
        if self._ik is None:
            wanted = self.layout.joint_targets(actions, anchor)
            q = np.clip(wanted, self.limits.position_low, self.limits.position_high)
            info["limited_rows"] = float((q != wanted).any(axis=1).sum())
            return JointChunk(joint_position=q, gripper=commands, info=info)
        T_frame_tcp = self._T_frame_base @ self._ik.forward(anchor)
        euler = matrix_to_rpy(T_frame_tcp[:3, :3])
        euler = euler if self._euler is None else nearest_euler(euler, self._euler)
        poses, _ = self.layout.poses(actions, T_frame_tcp[:3, 3], euler)
        self._euler = euler
        report = self._ik.solve(anchor, self._T_base_frame @ poses)
        count = self._reached(report, len(actions) if required_rows is None else required_rows)
        info |= {
            "ik_cut_rows": float(len(actions) - count),
            "ik_position_error_m": float(report.position_error_m.max()),
            "ik_rotation_error_rad": float(report.rotation_error_rad.max()),
            "ik_condition": float(report.condition.max()),
            "ik_near_singularity": float(report.condition.max() > self._settings.singular_condition),
            "ik_iterations": float(report.iterations),
            "limited_rows": float(report.limited.sum()),
        }
        return JointChunk(joint_position=report.joint_position[:count], gripper=commands[:count], info=info)

    def _reached(self, report: IkReport, required: int) -> int:
        """How many rows from the first on come close enough to their poses."""
        settings = self._settings
        bad = (report.position_error_m > settings.position_tolerance_m) | (
            report.rotation_error_rad > settings.rotation_tolerance_rad
        )
        row = int(bad.argmax()) if bad.any() else len(bad)
        if row >= required:
            return row
        causes = [
            text
            for text, true in (
                ("a joint is at its limit", bool(report.limited[row])),
                ("the arm is near a singularity", bool(report.condition[row] > settings.singular_condition)),
            )
            if true
        ]
        raise ChunkRefused(
            f"row {row} of {len(bad)} leads where the {self.limits.robot} cannot: the nearest it comes is "
            f"{1e3 * report.position_error_m[row]:.1f} mm and {1e3 * report.rotation_error_rad[row]:.0f} mrad away "
            f"(allowed {1e3 * settings.position_tolerance_m:g} mm and {1e3 * settings.rotation_tolerance_rad:g} mrad)"
            + (f"; {' and '.join(causes)}" if causes else "")
        )

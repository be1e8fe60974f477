"""Actions to robot motion: target pose, inverse kinematics and a velocity servo, as in CALVIN.

CALVIN runs 8 physics steps of 1/240 s per action. PyBullet's joint motors close, in each physics step, 10 %
of the remaining joint error, at no more than 2 rad/s (fingers 1 m/s) and within a force limit. MuJoCo has no
such motor, so its torque is computed here before each physics step:

    v_wanted = clip(0.1 (q_target - q) / dt, -v_max, v_max)
    torque   = M (v_wanted - v) / dt + coriolis

With M the joint-space inertia this reaches `v_wanted` exactly in free space. Contact forces are not part of
it, so the arm gives way to them with the stiffness that its inertia (and armature) allows.

Frames and units: world frame, metres, radians. Euler angles are extrinsic xyz (`foreact.sim.rotations`).
Source: mees/calvin_env `robot.py` (MIT) for the actions; Bullet's `btMultiBodyJointMotor` for the servo law.
"""

from __future__ import annotations

import mujoco
import numpy as np
from numpy.typing import ArrayLike, NDArray

from foreact.sim.ik import PandaIK
from foreact.sim.panda import (
    ARM_JOINTS,
    ARMATURE_ARM,
    ARMATURE_FINGER,
    FINGER_JOINTS,
    FINGER_OPEN_M,
    N_ARM,
    Q_LOWER,
    Q_UPPER,
    TCP_SITE,
)
from foreact.sim.rotations import (
    euler_xyz_to_matrix,
    matrix_to_euler_xyz,
    quat_wxyz_to_matrix,
    quat_xyzw_to_wxyz,
)
from foreact.vla.errors import ForeActError

Array = NDArray[np.float64]

SUBSTEPS = 8
"""Physics steps per action: 240 Hz physics, 30 Hz control."""
POS_STEP_M = 0.02
EULER_STEP_RAD = 0.05
"""What one unit of a relative action adds to the target pose."""
SERVO_FRACTION = 0.1
MAX_ARM_VEL = 2.0
MAX_FINGER_VEL = 1.0
ARM_TORQUE_LIMIT = 200.0
CLOSE_FORCE_LIMIT = 200.0
OPEN_FORCE_LIMIT = 2.0
"""Motor limits [N m, N] on what moves the real inertia; the armature's share is scaled with it."""


class BadAction(ForeActError):
    """An action has the wrong length or is not finite."""

    def __init__(self, what: str, expected: str, found: object) -> None:
        super().__init__(f"{what} must be {expected}, found {found}; check the policy's action space")


class CartesianController:
    """Drives the Panda in a compiled scene; remembers the target pose and the last gripper command.

    Every `apply_*` method advances the physics by 8 steps, that is to the next 30 Hz control tick. It works
    on any `MjData` of the model it was made for and overwrites only the robot's `qfrc_applied`.
    """

    def __init__(self, model: mujoco.MjModel) -> None:
        names = (*ARM_JOINTS, *FINGER_JOINTS)
        self._model = model
        self.ik = PandaIK()
        """What turns target poses into joint targets."""
        self._site = int(model.site(TCP_SITE).id)
        self._q = _contiguous([int(model.joint(n).qposadr[0]) for n in names])
        self._v = _contiguous([int(model.joint(n).dofadr[0]) for n in names])
        self._armature = np.array([*ARMATURE_ARM, ARMATURE_FINGER, ARMATURE_FINGER])
        self._max_vel = np.array([MAX_ARM_VEL] * N_ARM + [MAX_FINGER_VEL] * 2)
        self._min_vel = -self._max_vel
        self._limit = np.array([ARM_TORQUE_LIMIT] * N_ARM + [CLOSE_FORCE_LIMIT] * 2)
        self._accel = np.zeros(model.nv)
        self._force = np.zeros(model.nv)
        self._real = np.zeros(len(names))
        self._q_target = np.zeros(len(names))
        self._target_pos = np.zeros(3)
        self._target_euler = np.zeros(3)
        self._gripper = 1.0

    @property
    def gripper_command(self) -> float:
        """The last gripper command: +1 open, -1 close."""
        return self._gripper

    @property
    def target_pose(self) -> tuple[Array, Array]:
        """Where relative actions have led so far: position (3,) [m] and Euler angles (3,) [rad, not wrapped]."""
        return self._target_pos.copy(), self._target_euler.copy()

    def reset(self, data: mujoco.MjData, robot_obs: ArrayLike) -> None:
        """Put the robot where a `robot_obs` (15,) says, at rest, and aim at the pose it is then in.

        Joints come from entries 7-13, each finger takes half of entry 6, the gripper command is entry 14.
        The TCP entries 0-5 are ignored, as in CALVIN: they follow from the joints.
        """
        obs = _finite("robot_obs", robot_obs, 15)
        q = data.qpos[self._q]
        q[:N_ARM] = obs[7:14]
        q[N_ARM:] = obs[6] / 2
        data.qvel[self._v] = 0.0
        data.qfrc_applied[self._v] = 0.0
        mujoco.mj_kinematics(self._model, data)
        self._gripper = 1.0 if obs[14] > 0.0 else -1.0
        self._q_target[:] = q
        self._limit[N_ARM:] = CLOSE_FORCE_LIMIT
        self._target_pos, matrix = self.ik.forward(obs[7:14])
        self._target_euler = matrix_to_euler_xyz(matrix)

    def apply_relative(self, data: mujoco.MjData, action: ArrayLike) -> None:
        """Move the target pose by `action` (7,) and follow it for one control step.

        Entries 0-2 add 0.02 m per unit along the world axes, entries 3-5 add 0.05 rad per unit to the
        target's Euler angles (component by component, not composed), entry 6 > 0 opens the gripper, else it
        closes. The target persists: what the arm could not follow yet, it follows in the next steps.
        """
        act = _finite("a relative action", action, 7)
        self._target_pos = self._target_pos + POS_STEP_M * act[:3]
        self._target_euler = self._target_euler + EULER_STEP_RAD * act[3:6]
        self._follow_pose(data, euler_xyz_to_matrix(self._target_euler), act[6])

    def apply_absolute(self, data: mujoco.MjData, pos_world: ArrayLike, rotation: ArrayLike, gripper: float) -> None:
        """Aim at a TCP pose for one control step: position (3,) [m], Euler (3,) [rad] or quaternion xyzw (4,).

        The target pose of relative actions becomes this pose. (CALVIN leaves it where it was, so that a later
        relative action jumps back.)
        """
        pos = _finite("a target position", pos_world, 3)
        if np.size(rotation) == 4:
            matrix = quat_wxyz_to_matrix(quat_xyzw_to_wxyz(_finite("a quaternion xyzw", rotation, 4)))
            euler = matrix_to_euler_xyz(matrix)
        else:
            euler = _finite("a target rotation (Euler xyz, or quaternion xyzw)", rotation, 3)
            matrix = euler_xyz_to_matrix(euler)
        self._target_pos, self._target_euler = pos.copy(), euler.copy()
        self._follow_pose(data, matrix, gripper)

    def apply_joint_relative(self, data: mujoco.MjData, dq: ArrayLike, gripper: float) -> None:
        """Aim at the measured arm joints plus `dq` (7,) [rad] for one control step."""
        measured = data.qpos[self._q][:N_ARM]
        self.apply_joint_absolute(data, measured + _finite("a joint step", dq, N_ARM), gripper)

    def apply_joint_absolute(self, data: mujoco.MjData, q_arm: ArrayLike, gripper: float) -> None:
        """Aim at arm joints (7,) [rad], clipped to the command limits, for one control step."""
        q = np.clip(_finite("a joint target", q_arm, N_ARM), Q_LOWER, Q_UPPER)
        self._target_pos, matrix = self.ik.forward(q)
        self._target_euler = matrix_to_euler_xyz(matrix)
        self._follow_joints(data, q, gripper)

    def aim(self, q_arm: ArrayLike, gripper: float) -> None:
        """Set the targets of the servo and nothing else: arm joints (7,) [rad], clipped to the command limits.

        For a native joint controller, which aims anew before each physics step; `hold` then advances the physics. The
        target pose of relative actions stays as it is.
        """
        self._aim(np.clip(_finite("a joint target", q_arm, N_ARM), Q_LOWER, Q_UPPER), gripper)

    def hold(self, data: mujoco.MjData, substeps: int = SUBSTEPS) -> None:
        """Advance the physics by `substeps` steps towards the joint targets that are already set."""
        model, dof = self._model, self._v
        rate = 1.0 / model.opt.timestep
        gain = SERVO_FRACTION * rate
        # Views and buffers are looked up once: the loop is short, so each lookup would be felt.
        q, v, applied = data.qpos[self._q], data.qvel[dof], data.qfrc_applied[dof]
        bias, gravcomp = data.qfrc_bias[dof], data.qfrc_gravcomp[dof]
        accel, force, real = self._accel[dof], self._force[dof], self._real
        for _ in range(substeps):
            mujoco.mj_step1(model, data)
            np.subtract(self._q_target, q, out=accel)
            accel *= gain
            np.minimum(accel, self._max_vel, out=accel)
            np.maximum(accel, self._min_vel, out=accel)
            accel -= v
            accel *= rate
            mujoco.mj_mulM(model, data, self._force, self._accel)
            # Bullet has no armature: apply its limit to the rest, and let the armature's share shrink alike.
            np.multiply(self._armature, accel, out=real)
            np.subtract(force, real, out=real)
            np.abs(real, out=real)
            np.maximum(real, self._limit, out=real)
            np.divide(self._limit, real, out=real)
            np.multiply(force, real, out=applied)
            applied += bias
            applied -= gravcomp
            mujoco.mj_step2(model, data)

    def robot_obs(self, data: mujoco.MjData) -> Array:
        """The 15-vector of CALVIN: TCP xyz and Euler, gripper width, 7 joints, last gripper command.

        Like PyBullet's cached link state, the TCP pose is the one MuJoCo computed at the start of the last
        physics step, while joints and width are those at its end. After `mj_forward` both are current.
        """
        q = data.qpos[self._q]
        obs = np.empty(15)
        obs[:3] = data.site_xpos[self._site]
        obs[3:6] = matrix_to_euler_xyz(data.site_xmat[self._site])
        obs[6] = q[N_ARM] + q[N_ARM + 1]
        obs[7:14] = q[:N_ARM]
        obs[14] = self._gripper
        return obs

    def _follow_pose(self, data: mujoco.MjData, matrix_world: Array, gripper: float) -> None:
        q = self.ik.solve(data.qpos[self._q][:N_ARM], self._target_pos, matrix_world)
        self._follow_joints(data, q, gripper)

    def _follow_joints(self, data: mujoco.MjData, q_arm: Array, gripper: float) -> None:
        self._aim(q_arm, gripper)
        self.hold(data)

    def _aim(self, q_arm: Array, gripper: float) -> None:
        opening = float(gripper) > 0.0
        self._gripper = 1.0 if opening else -1.0
        self._q_target[:N_ARM] = q_arm
        self._q_target[N_ARM:] = FINGER_OPEN_M if opening else 0.0
        self._limit[N_ARM:] = OPEN_FORCE_LIMIT if opening else CLOSE_FORCE_LIMIT


def _finite(what: str, values: ArrayLike, length: int) -> Array:
    array = np.asarray(values, dtype=np.float64)
    if array.shape != (length,):
        raise BadAction(what, f"a vector of {length} numbers", f"shape {array.shape}")
    if not np.isfinite(array).all():
        raise BadAction(what, "finite", array.tolist())
    return array


def _contiguous(addresses: list[int]) -> slice:
    """The addresses as one slice: views are cheaper than fancy indexing, and the robot is added in one piece."""
    if addresses != list(range(addresses[0], addresses[0] + len(addresses))):
        raise ForeActError(f"the Panda's joints must be consecutive in the model, found addresses {addresses}")
    return slice(addresses[0], addresses[-1] + 1)

"""Inverse kinematics the way PyBullet solves it: damped least squares with a weak pull to a rest pose.

CALVIN commands TCP poses and lets `pybullet.calculateInverseKinematics` (null-space variant, default
settings) turn them into joints. Its damping is so strong that twenty iterations leave an error of some
percent, which is visible in recorded motion; so the iteration itself is reproduced here, not just its fixed
point:

    dq = J^T U^-1 e + (I - J^T U^-1 J) g (q_rest - q),   U = J J^T + lambda^2 I,   lambda = 0.6, g = 0.001

repeated 20 times, or until the position error seen at the start of an iteration is below 0.1 mm.
Source: Buss and Kim's BussIK as shipped with Bullet (`CalcDeltaThetasDLSwithNullspace`, zlib licence).

Within one control step the arm moves a few centimetres at most, so J hardly changes over the iterations. The
default solver measures e and J only once per entry of `REFRESHES` and runs the remaining iterations on the
linear model `e <- lambda^2 U^-1 (e - J p)`, with p the pull; `solve_slowly` measures every time.
"""

from __future__ import annotations

import mujoco
import numpy as np
from numpy.typing import NDArray

from foreact.sim.panda import FINGER_JOINTS, HOME_Q, N_ARM, Q_LOWER, Q_UPPER, TCP_SITE, add_panda

Array = NDArray[np.float64]

DAMPING_SQ = 0.6**2
NULLSPACE_GAIN = 0.001
ITERATIONS = 20
RESIDUAL_M = 1e-4
MAX_STEP_RAD = np.pi / 4
REFRESHES = (3, 4, 5, 8)
"""How many iterations run on each measured Jacobian; the sum is `ITERATIONS`."""
LINEAR_REACH = 0.1
"""Pose error (metres and radians in one norm) above which the Jacobian is measured in every iteration."""


class PandaIK:
    """Solves for arm joints on a robot-only model, so the cost does not grow with the scene.

    The arithmetic is done by MuJoCo's own small routines on buffers made once: at this size a NumPy operation
    costs more in bookkeeping than in numbers.
    """

    def __init__(self) -> None:
        spec = mujoco.MjSpec()
        add_panda(spec)
        for element in (*spec.equalities, *(spec.joint(name) for name in FINGER_JOINTS), *spec.geoms):
            spec.delete(element)
        self._model = spec.compile()
        self._data = mujoco.MjData(self._model)
        self._site = int(self._model.site(TCP_SITE).id)
        self._q = self._data.qpos
        self._pos = self._data.site_xpos[self._site]
        self._mat = self._data.site_xmat[self._site].reshape(3, 3)
        self._body_quat = self._data.xquat[self._model.site_bodyid[self._site]]
        self._quat_site_body = np.empty(4)
        mujoco.mju_negQuat(self._quat_site_body, self._model.site_quat[self._site])
        self._jac = np.zeros((6, N_ARM))
        self._jac_pos, self._jac_rot = self._jac[:3], self._jac[3:]
        self._factor = np.zeros((6, 6))
        self._factor_flat = self._factor.reshape(-1)
        self._damping = (DAMPING_SQ * np.eye(6)).reshape(-1)
        self._home_pull = NULLSPACE_GAIN * HOME_Q
        self._error = np.zeros(6)
        self._error_pos, self._error_rot = self._error[:3], self._error[3:]
        self._twist, self._residual, self._total = np.zeros((3, 6))
        self._rows, self._ones = np.zeros((ITERATIONS, 6)), np.ones(ITERATIONS)
        self._row = list(self._rows)
        self._pull, self._step = np.zeros((2, N_ARM))
        self._goal_quat, self._turn = np.zeros((2, 4))

    def forward(self, q_arm: Array) -> tuple[Array, Array]:
        """TCP position (3,) [m] and rotation matrix (3, 3) in the world, for arm joints (7,) [rad]."""
        self._q[:] = q_arm
        mujoco.mj_kinematics(self._model, self._data)
        return self._pos.copy(), self._mat.copy()

    def solve(self, q_start: Array, pos_world: Array, matrix_world: Array) -> Array:
        """Arm joints (7,) [rad] that bring the TCP near a pose, within the command limits.

        Args:
            q_start: Joints to start from, shape (7,) [rad]: the measured ones.
            pos_world: Wanted TCP position, shape (3,) [m].
            matrix_world: Wanted TCP rotation matrix, shape (3, 3).
        """
        return self._solve(q_start, pos_world, matrix_world, REFRESHES)

    def solve_slowly(self, q_start: Array, pos_world: Array, matrix_world: Array) -> Array:
        """As `solve`, with error and Jacobian measured in every iteration: the reference for `solve`."""
        return self._solve(q_start, pos_world, matrix_world, (1,) * ITERATIONS)

    def _solve(self, q_start: Array, pos_world: Array, matrix_world: Array, refreshes: tuple[int, ...]) -> Array:
        self._q[:] = q_start
        mujoco.mju_mat2Quat(self._goal_quat, np.ascontiguousarray(matrix_world, dtype=np.float64).reshape(-1))
        # what the body that carries the site has to be turned to
        mujoco.mju_mulQuat(self._goal_quat, self._goal_quat.copy(), self._quat_site_body)
        self._measure(pos_world)
        if sum(e * e for e in self._error.tolist()) > LINEAR_REACH**2:
            refreshes = (1,) * ITERATIONS
        for round_, iterations in enumerate(refreshes):
            if round_:
                self._measure(pos_world)
            if self._iterate(iterations):
                break
        return np.minimum(np.maximum(self._q, Q_LOWER), Q_UPPER)

    def _measure(self, pos_world: Array) -> None:
        """Set the Jacobian and the pose error (6,) at the present joints: metres, then rotation vector [rad]."""
        model, data = self._model, self._data
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        mujoco.mj_jacSite(model, data, self._jac_pos, self._jac_rot, self._site)
        mujoco.mju_sub(self._error_pos, pos_world, self._pos)
        mujoco.mju_negQuat(self._turn, self._body_quat)
        mujoco.mju_mulQuat(self._turn, self._goal_quat, self._turn.copy())
        mujoco.mju_quat2Vel(self._error_rot, self._turn, 1.0)

    def _iterate(self, iterations: int) -> bool:
        """Move the joints by several iterations on one Jacobian; whether the position error has become small.

        Iteration k adds `row_k = U^-1 (e_k - J p)`, where `e_k = lambda^2 row_(k-1)`; the rows add up, and one
        product turns their sum into joints.
        """
        jac, residual, pull, step = self._jac, self._residual, self._pull, self._step
        mujoco.mju_mulMatMatT(self._factor, jac, jac)
        mujoco.mju_addTo(self._factor_flat, self._damping)
        mujoco.mju_cholFactor(self._factor, 0.0)
        mujoco.mju_addScl(pull, self._home_pull, self._q, -NULLSPACE_GAIN)
        mujoco.mju_mulMatVec(self._twist, jac, pull)
        mujoco.mju_scl(self._twist, self._twist, -1.0)
        mujoco.mju_add(residual, self._error, self._twist)
        x, y, z = self._error_pos.tolist()
        small = x * x + y * y + z * z <= RESIDUAL_M**2
        previous = None
        done = 0
        for row in self._row[:iterations]:
            if previous is not None:
                x, y, z, *_ = previous.tolist()
                small = x * x + y * y + z * z <= (RESIDUAL_M / DAMPING_SQ) ** 2
                mujoco.mju_addScl(residual, self._twist, previous, DAMPING_SQ)
            mujoco.mju_cholSolve(row, self._factor, residual)
            previous = row
            done += 1
            if small:
                break
        mujoco.mju_mulMatTVec(self._total, self._rows[:done], self._ones[:done])
        mujoco.mju_mulMatTVec(step, jac, self._total)
        mujoco.mju_addToScl(step, pull, done)
        largest = max(map(abs, step.tolist()))
        if largest > done * MAX_STEP_RAD:
            step *= done * MAX_STEP_RAD / largest
        mujoco.mju_addTo(self._q, step)
        return small

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

from foreact.sim.panda import HOME_Q, N_ARM, Q_LOWER, Q_UPPER, TCP_SITE, add_panda
from foreact.sim.rotations import rotation_vector

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
    """Solves for arm joints on a robot-only model, so the cost does not grow with the scene."""

    def __init__(self) -> None:
        spec = mujoco.MjSpec()
        add_panda(spec)
        for geom in list(spec.geoms):
            spec.delete(geom)
        self._model = spec.compile()
        self._data = mujoco.MjData(self._model)
        self._site = int(self._model.site(TCP_SITE).id)
        self._qpos_arm = self._data.qpos[:N_ARM]
        self._pos = self._data.site_xpos[self._site]
        self._mat = self._data.site_xmat[self._site].reshape(3, 3)
        self._jac = np.zeros((6, self._model.nv))
        self._jac_arm = np.zeros((6, N_ARM))
        self._damping = DAMPING_SQ * np.eye(6)
        self._rows = np.zeros((ITERATIONS, 6))

    def forward(self, q_arm: Array) -> tuple[Array, Array]:
        """TCP position (3,) [m] and rotation matrix (3, 3) in the world, for arm joints (7,) [rad]."""
        self._qpos_arm[:] = q_arm
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
        q = np.array(q_start, dtype=np.float64)
        error = self._measure(q, pos_world, matrix_world)
        if error @ error > LINEAR_REACH**2:
            refreshes = (1,) * ITERATIONS
        for round_, iterations in enumerate(refreshes):
            if round_:
                error = self._measure(q, pos_world, matrix_world)
            jac = self._jac_arm
            inverse = np.linalg.inv(jac @ jac.T + self._damping)
            pull = NULLSPACE_GAIN * (HOME_Q - q)
            offset = inverse @ (jac @ pull)
            shrink = DAMPING_SQ * inverse
            # Row k holds U^-1 (e_k - J p); the rows add up, and one product turns their sum into joints.
            rows = self._rows[:iterations]
            row = inverse @ error
            row -= offset
            rows[0] = row
            for k in range(1, iterations):
                row = shrink @ row
                row -= offset
                rows[k] = row
            errors = DAMPING_SQ * rows[: iterations - 1, :3]
            small = np.concatenate(([error[:3] @ error[:3]], (errors * errors).sum(axis=1))) <= RESIDUAL_M**2
            converged = bool(small.any())
            done = int(small.argmax()) + 1 if converged else iterations
            total = rows[:done].sum(axis=0)
            step = jac.T @ total + done * pull
            largest = float(np.abs(step).max())
            if largest > done * MAX_STEP_RAD:
                step *= done * MAX_STEP_RAD / largest
            q += step
            if converged:
                break
        return np.clip(q, Q_LOWER, Q_UPPER)

    def _measure(self, q_arm: Array, pos_world: Array, matrix_world: Array) -> Array:
        """Set `_jac_arm` at `q_arm` and return the pose error (6,): metres, then rotation vector [rad]."""
        self._qpos_arm[:] = q_arm
        mujoco.mj_kinematics(self._model, self._data)
        mujoco.mj_comPos(self._model, self._data)
        mujoco.mj_jacSite(self._model, self._data, self._jac[:3], self._jac[3:], self._site)
        self._jac_arm[:] = self._jac[:, :N_ARM]
        error = np.empty(6)
        error[:3] = pos_world - self._pos
        error[3:] = rotation_vector(matrix_world @ self._mat.T)
        return error

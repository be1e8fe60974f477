"""Whether the arm can be somewhere: kinematics and collisions of one pose, for experts that must choose a grasp.

A law knows the scene but not its physics. This module keeps one model of each scene beside the running one, puts
door, drawer, blocks and arm into a measured state, and reports what would touch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import mujoco
import numpy as np
from numpy.typing import NDArray

from foreact.sim.desk import add_desk
from foreact.sim.expert_law import Measured
from foreact.sim.ik import PandaIK
from foreact.sim.panda import ARM_JOINTS, FINGER_JOINTS, HOME_Q, Q_LOWER, Q_UPPER, TCP_SITE, add_panda, physics_options
from foreact.sim.rotations import euler_xyz_to_matrix, rotation_vector
from foreact.sim.scene_state import DRAWER, ROBOT, SLIDE, SWITCH, desk_index, write_block_pose
from foreact.sim.scenes import SceneSpec, get_scene

Array = NDArray[np.float64]

CLEARANCE_M = 0.006
"""Parts of the robot closer to something than this count as touching it."""
NEAR_M, NEAR_RAD = 0.004, 0.05
"""What is left between a wanted pose and the reachable one where the pose counts as reachable."""
ITERATIONS, DAMPING, PULL = 40, 0.05, 0.15
"""Of the inverse kinematics."""
HOME_POSE = np.array([0.02586889, -0.2313129, 0.5712808, math.pi, 0.0, 1.50013585])
"""TCP pose (6,) of the home joints: position [m] and Euler angles [rad]."""
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.0, 1.0, 1.0)
"""Of a leg, at which the controller's inverse kinematics is asked."""
STUCK_M, STUCK_RAD = 0.012, 0.1
"""What it may leave; feedback makes up for it."""
LIMIT_RAD = 0.02
"""A joint so near its limit no longer takes part, and the hand drifts aside."""


class Reach:
    """Answers for one scene; keeps the last measured state."""

    def __init__(self, scene: SceneSpec) -> None:
        self.scene = scene
        spec = mujoco.MjSpec()
        physics_options(spec)
        add_desk(spec, scene)
        add_panda(spec)
        self._model = spec.compile()
        self._data = mujoco.MjData(self._model)
        self._ik = PandaIK()
        index = desk_index(self._model)
        self._names = index.body_names
        self._fixtures = index.fixture_qpos
        self._arm = [int(self._model.joint(name).qposadr[0]) for name in ARM_JOINTS]
        self._fingers = [int(self._model.joint(name).qposadr[0]) for name in FINGER_JOINTS]
        self._arm_dof = [int(self._model.joint(name).dofadr[0]) for name in ARM_JOINTS]
        self._site = int(self._model.site(TCP_SITE).id)
        for geom in range(self._model.ngeom):
            if self._names[self._model.geom_bodyid[geom]] == ROBOT:
                self._model.geom_margin[geom] = CLEARANCE_M

    def look(self, now: Measured) -> None:
        """Take over door, drawer, lever and blocks."""
        values = np.zeros(4)
        values[[SLIDE, DRAWER, SWITCH]] = now.slide, now.drawer, now.switch
        self._data.qpos[self._fixtures] = values
        for name, block in now.blocks.items():
            self.move_block(name, block.pos, block.euler)

    def move_block(self, name: str, pos: Array, euler: Array) -> None:
        """Put one block somewhere: position (3,) [m], extrinsic xyz angles (3,) [rad]."""
        write_block_pose(self._model, self._data, name, pos, euler)

    def joints(self, pos: Array, euler: Array) -> Array | None:
        """Arm joints (7,) [rad] of a TCP pose, or None if the arm cannot take it.

        Of the solutions the one nearest to the home pose, as the controller's inverse kinematics prefers; it comes
        from the same iteration with less damping and a stronger pull, because here only the end matters.
        """
        q, matrix, data = HOME_Q, euler_xyz_to_matrix(euler), self._data
        jac_pos, jac_rot = np.zeros((3, self._model.nv)), np.zeros((3, self._model.nv))
        error = np.empty(6)
        for _ in range(ITERATIONS):
            data.qpos[self._arm] = q
            mujoco.mj_kinematics(self._model, data)
            mujoco.mj_comPos(self._model, data)
            error[:3] = pos - data.site_xpos[self._site]
            error[3:] = rotation_vector(matrix @ data.site_xmat[self._site].reshape(3, 3).T)
            left = float(np.linalg.norm(error[:3])), float(np.linalg.norm(error[3:]))
            mujoco.mj_jacSite(self._model, data, jac_pos, jac_rot, self._site)
            jac = np.concatenate([jac_pos[:, self._arm_dof], jac_rot[:, self._arm_dof]])
            inverse = np.linalg.inv(jac @ jac.T + DAMPING**2 * np.eye(6))
            pull = PULL * (HOME_Q - q)
            step = jac.T @ (inverse @ (error - jac @ pull)) + pull
            step *= min(1.0, 0.4 / max(float(np.abs(step).max()), 1e-9))
            if max(left[0] / NEAR_M, left[1] / NEAR_RAD) < 0.5 and float(np.abs(step).max()) < 0.02:
                break
            q = np.clip(q + step, Q_LOWER, Q_UPPER)
        return q if left[0] < NEAR_M and left[1] < NEAR_RAD else None

    def follows(self, poses: Sequence[tuple[Array, Array]]) -> Array | None:
        """The joints at the last of the TCP poses when the controller's own inverse kinematics passes through them.

        From the home pose on; None if it gets stuck at joint limits, as happens near the robot with a tilted hand.
        """
        q, (pos, euler) = HOME_Q, (HOME_POSE[:3], HOME_POSE[3:])
        for goal_pos, goal_euler in poses:
            turn = (goal_euler - euler + math.pi) % (2 * math.pi) - math.pi
            for share in SHARES:
                at = pos + min(1.0, share) * (goal_pos - pos)
                matrix = euler_xyz_to_matrix(euler + min(1.0, share) * turn)
                q = self._ik.solve(q, at, matrix)
            pos, euler = goal_pos, goal_euler
            reached, turned = self._ik.forward(q)
            off_rad = float(np.linalg.norm(rotation_vector(euler_xyz_to_matrix(euler) @ turned.T)))
            at_limit = bool(np.any(q < Q_LOWER + LIMIT_RAD) or np.any(q > Q_UPPER - LIMIT_RAD))
            if math.dist(reached, pos) > STUCK_M or off_rad > STUCK_RAD or at_limit:
                return None
        return q

    def touched(self, joints: Array, width: float, held: str = "") -> set[str]:
        """What the robot would touch, and what else the block `held` would touch (which may touch the robot)."""
        self._data.qpos[self._arm] = joints
        self._data.qpos[self._fingers] = width / 2
        mujoco.mj_kinematics(self._model, self._data)
        mujoco.mj_comPos(self._model, self._data)
        mujoco.mj_collision(self._model, self._data)
        found: set[str] = set()
        for one, other in self._model.geom_bodyid[self._data.contact.geom[: self._data.ncon]]:
            pair = {self._names[one], self._names[other]}
            if pair & {ROBOT, held} and pair != {ROBOT, held}:
                found |= pair - {ROBOT, held}
        return found


@cache
def reach_of(scene_name: str) -> Reach:
    """The one `Reach` of a scene in this process."""
    return Reach(get_scene(scene_name))

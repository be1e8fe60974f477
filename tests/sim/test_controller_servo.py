"""The servo's torque in one physics step against its law, with the inertia matrix written out."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest

from foreact.sim import golden
from foreact.sim.panda import ARMATURE_ARM, ARMATURE_FINGER, HOME_Q

ARMATURE = np.array([*ARMATURE_ARM, ARMATURE_FINGER, ARMATURE_FINGER])
MAX_VEL = np.array([2.0] * 7 + [1.0] * 2)


def law(model: mujoco.MjModel, qpos: np.ndarray, qvel: np.ndarray, target: np.ndarray, limit: np.ndarray) -> np.ndarray:
    """Torques (9,): M (clip(0.1 (q* - q) / dt) - v) / dt, limited, plus Coriolis; from a simulation of its own."""
    data = mujoco.MjData(model)
    data.qpos[:], data.qvel[:] = qpos, qvel
    mujoco.mj_forward(model, data)
    columns = []
    for unit in np.eye(model.nv):
        column = np.zeros(model.nv)
        mujoco.mj_mulM(model, data, column, unit)
        columns.append(column)
    inertia = np.array(columns)
    accel = 240.0 * (np.clip(0.1 * 240.0 * (target - qpos), -MAX_VEL, MAX_VEL) - qvel)
    force = inertia @ accel
    real = np.abs((inertia - np.diag(ARMATURE)) @ accel)
    force *= np.minimum(1.0, limit / np.maximum(real, 1e-9))
    return force + data.qfrc_bias - data.qfrc_gravcomp


@pytest.mark.parametrize(
    ("reach", "gripper", "finger_limit", "limited"),
    [(0.01, 1.0, 2.0, False), (0.01, -1.0, 200.0, False), (0.5, 1.0, 2.0, True)],
)
def test_torque_in_one_physics_step(reach: float, gripper: float, finger_limit: float, limited: bool) -> None:
    model, data, controller = golden.lone_robot()
    controller.reset(data, np.array([*[0.0] * 6, 0.04, *HOME_Q, gripper]))
    goal = HOME_Q + reach * np.array([1, -1, 1, 1, -1, 1, -1])
    controller.apply_joint_absolute(data, goal, gripper)
    if limited:
        data.qvel[:7] = 3.0 * np.array([-1, 1, -1, -1, 1, -1, 1])  # a long way from what is wanted
    qpos, qvel = data.qpos.copy(), data.qvel.copy()
    controller.hold(data, substeps=1)
    target = np.array([*goal, *[0.04 if gripper > 0 else 0.0] * 2])
    limit = np.array([200.0] * 7 + [finger_limit] * 2)
    wanted = law(model, qpos, qvel, target, limit)
    np.testing.assert_allclose(data.qfrc_applied, wanted, rtol=1e-9, atol=1e-9)
    unlimited = law(model, qpos, qvel, target, np.full(9, np.inf))
    assert bool(np.abs(unlimited - wanted)[:7].max() > 1.0) is limited

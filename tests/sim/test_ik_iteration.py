"""The inverse kinematics, done by MuJoCo's routines on shared buffers, against its formula in plain NumPy."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest

from foreact.sim.ik import PandaIK
from foreact.sim.panda import HOME_Q, Q_LOWER, Q_UPPER, add_panda
from foreact.sim.rotations import euler_xyz_to_matrix, matrix_to_euler_xyz, rotation_vector


@pytest.fixture(scope="module")
def ik() -> PandaIK:
    return PandaIK()


@pytest.fixture(scope="module")
def robot() -> tuple[mujoco.MjModel, mujoco.MjData]:
    spec = mujoco.MjSpec()
    add_panda(spec)
    model = spec.compile()
    return model, mujoco.MjData(model)


def reference(robot, q: np.ndarray, pos: np.ndarray, matrix: np.ndarray) -> tuple[np.ndarray, int]:
    """dq = J^T U^-1 e + (I - J^T U^-1 J) g (q_rest - q), U = J J^T + 0.36 I, until the error was below 0.1 mm."""
    model, data = robot
    q = q.copy()
    for iteration in range(1, 21):
        data.qpos[:7] = q
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        jac = np.zeros((6, model.nv))
        mujoco.mj_jacSite(model, data, jac[:3], jac[3:], model.site("tcp").id)
        jac = jac[:, :7]
        site = data.site("tcp")
        error = np.concatenate([pos - site.xpos, rotation_vector(matrix @ site.xmat.reshape(3, 3).T)])
        inverse = np.linalg.inv(jac @ jac.T + 0.36 * np.eye(6))
        step = jac.T @ inverse @ error + (np.eye(7) - jac.T @ inverse @ jac) @ (0.001 * (HOME_Q - q))
        q += step * min(1.0, np.pi / 4 / np.abs(step).max())
        if np.linalg.norm(error[:3]) <= 1e-4:
            return np.clip(q, Q_LOWER, Q_UPPER), iteration
    return np.clip(q, Q_LOWER, Q_UPPER), 20


@pytest.mark.parametrize("scale", [0.3, 1.0, 30.0])
def test_measuring_every_time_is_the_formula(ik: PandaIK, robot, scale: float) -> None:
    rng = np.random.default_rng(int(scale * 10))
    pos, matrix = ik.forward(HOME_Q)
    for _ in range(20):
        q = HOME_Q + 0.05 * rng.normal(size=7)
        goal = euler_xyz_to_matrix(matrix_to_euler_xyz(matrix) + 0.03 * scale * rng.normal(size=3))
        goal_pos = pos + 0.015 * scale * rng.normal(size=3)
        wanted, _ = reference(robot, q, goal_pos, goal)
        np.testing.assert_allclose(ik.solve_slowly(q, goal_pos, goal), wanted, atol=1e-9)


def test_it_stops_early_as_the_formula_does(ik: PandaIK, robot) -> None:
    pos, matrix = ik.forward(HOME_Q)
    goal_pos = pos + np.array([2e-4, 0.0, 0.0])
    wanted, iterations = reference(robot, HOME_Q, goal_pos, matrix)
    assert 1 < iterations < 20
    np.testing.assert_allclose(ik.solve_slowly(HOME_Q, goal_pos, matrix), wanted, atol=1e-12)


def test_the_linear_model_ends_close_to_the_formula_within_a_control_step(ik: PandaIK, robot) -> None:
    pos, matrix = ik.forward(HOME_Q)
    rng = np.random.default_rng(3)
    for _ in range(20):
        goal = euler_xyz_to_matrix(matrix_to_euler_xyz(matrix) + rng.uniform(-0.05, 0.05, 3))
        goal_pos = pos + rng.uniform(-0.02, 0.02, 3)
        wanted, _ = reference(robot, HOME_Q, goal_pos, goal)
        found = ik.solve(HOME_Q, goal_pos, goal)
        assert np.abs(found - wanted).max() < 2e-3
        assert np.linalg.norm(ik.forward(found)[0] - ik.forward(wanted)[0]) < 5e-4


def test_the_inputs_are_left_alone_and_the_answer_is_the_callers_own(ik: PandaIK) -> None:
    pos, matrix = ik.forward(HOME_Q)
    q, goal_pos, goal = HOME_Q.copy(), pos + 0.01, matrix.copy()
    first = ik.solve(q, goal_pos, goal)
    kept = first.copy()
    ik.solve(q, goal_pos - 0.05, goal)
    assert np.array_equal(first, kept)
    assert np.array_equal(q, HOME_Q) and np.array_equal(goal, matrix) and np.array_equal(goal_pos, pos + 0.01)


def test_goals_need_not_be_contiguous(ik: PandaIK) -> None:
    pos, matrix = ik.forward(HOME_Q)
    np.testing.assert_array_equal(
        ik.solve(HOME_Q, pos + 0.01, np.asfortranarray(matrix)), ik.solve(HOME_Q, pos + 0.01, matrix)
    )

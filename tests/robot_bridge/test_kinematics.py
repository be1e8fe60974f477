"""Forward kinematics and Jacobian against MuJoCo, finite differences and published poses."""

from __future__ import annotations

import numpy as np
import pytest

from foreact.robot_bridge.kinematics import Kinematics, matrix_to_rpy, rpy_to_matrix
from foreact.robot_bridge.limits import load_limits
from foreact.sim.ik import PandaIK
from foreact.sim.panda import BASE_POS_WORLD
from foreact.sim.rotations import euler_xyz_to_matrix, matrix_to_euler_xyz

ROBOTS = ("panda", "fr3", "ur5e")


def poses(name: str, count: int, seed: int = 0) -> np.ndarray:
    """(count, N) joints, anywhere in their ranges."""
    limits = load_limits(name)
    return np.random.default_rng(seed).uniform(limits.position_low, limits.position_high, (count, len(limits.joints)))


def test_panda_is_the_simulated_one() -> None:
    ours, mujoco = Kinematics(load_limits("panda")), PandaIK()
    for q in poses("panda", 100):
        position, matrix = ours.forward(q)
        expected, expected_matrix = mujoco.forward(q)
        np.testing.assert_allclose(position, expected - np.array(BASE_POS_WORLD), atol=1e-12)
        np.testing.assert_allclose(matrix, expected_matrix, atol=1e-12)


def test_ur5e_at_zero_is_where_its_drawing_says() -> None:
    # base_link to tool0 with all joints 0: a2 + a3 ahead, d4 + d6 to the side, d1 - d5 up.
    position, matrix = Kinematics(load_limits("ur5e")).forward(np.zeros(6))
    np.testing.assert_allclose(position, [0.425 + 0.3922, 0.1333 + 0.0996, 0.1625 - 0.0997], atol=1e-9)
    np.testing.assert_allclose(matrix, [[-1, 0, 0], [0, 0, 1], [0, 1, 0]], atol=1e-8)


def test_fr3_differs_from_the_panda_by_its_tool_alone() -> None:
    panda = load_limits("panda")
    fr3 = load_limits("fr3").changed(flange_to_tcp=panda.flange_to_tcp.model_dump())
    for q in poses("fr3", 20):
        np.testing.assert_allclose(Kinematics(fr3).forward(q)[0], Kinematics(panda).forward(q)[0], atol=1e-12)


@pytest.mark.parametrize("name", ROBOTS)
def test_jacobian_is_the_derivative(name: str) -> None:
    arm, h = Kinematics(load_limits(name)), 1e-6
    for q in poses(name, 20):
        found = arm.jacobian(q)
        for joint in range(len(q)):
            step = np.zeros(len(q))
            step[joint] = h
            (p1, r1), (p0, r0) = arm.forward(q + step), arm.forward(q - step)
            spin = (r1 - r0) @ arm.forward(q)[1].T / (2 * h)  # the cross product with the angular velocity
            expected = [*(p1 - p0) / (2 * h), spin[2, 1], spin[0, 2], spin[1, 0]]
            np.testing.assert_allclose(found[:, joint], expected, atol=1e-8)


@pytest.mark.parametrize("name", ROBOTS)
def test_batches_and_plain_floats_agree(name: str) -> None:
    arm, q = Kinematics(load_limits(name)), poses(name, 12)
    positions, matrices = arm.forward(q.reshape(3, 4, -1))
    assert positions.shape == (3, 4, 3) and matrices.shape == (3, 4, 3, 3)
    for i, row in enumerate(q):
        np.testing.assert_allclose(positions.reshape(-1, 3)[i], arm.forward(row)[0], atol=1e-12)
        np.testing.assert_allclose(matrices.reshape(-1, 3, 3)[i], arm.forward(row)[1], atol=1e-12)
        assert arm.position(row.tolist()) == arm.pose(row.tolist())[0] == arm.columns(row.tolist())[0]
    with pytest.raises(ValueError, match="joints must have shape"):
        arm.forward(np.zeros((2, 3)))


@pytest.mark.parametrize("name", ROBOTS)
def test_reach_bounds_how_far_the_tool_moves(name: str) -> None:
    arm = Kinematics(load_limits(name))
    rng = np.random.default_rng(1)
    for q in poses(name, 200):
        step = rng.normal(0.0, 0.3, len(q))
        moved = np.linalg.norm(arm.forward(q + step)[0] - arm.forward(q)[0])
        assert moved <= np.abs(step) @ np.array(arm.reach_m) + 1e-12


def test_an_axis_may_point_anywhere() -> None:
    panda = load_limits("panda")
    chain = [link.model_dump() for link in panda.chain]
    chain[3]["axis"] = (0.0, 0.0, -1.0)
    chain[4]["axis"] = (0.6, 0.0, 0.8)
    arm, q = Kinematics(panda.changed(chain=chain)), poses("panda", 1)[0]
    # A turn about -z by q is one about z by -q; a tilted axis leaves points on it where they are.
    columns = arm.jacobian(q)
    assert np.linalg.norm(columns[3:], axis=0) == pytest.approx(np.ones(7))
    flipped = np.array(q)
    flipped[3] *= -1.0
    chain[3]["axis"] = (0.0, 0.0, 1.0)
    np.testing.assert_allclose(arm.forward(q)[0], Kinematics(panda.changed(chain=chain)).forward(flipped)[0], atol=1e-9)


def test_angles_are_those_of_the_simulator() -> None:
    rng = np.random.default_rng(2)
    for angles in [*rng.uniform(-1.5, 1.5, (50, 3)), np.array([0.3, np.pi / 2, 0.2])]:
        matrix = rpy_to_matrix(angles)
        np.testing.assert_allclose(matrix, euler_xyz_to_matrix(angles), atol=1e-12)
        np.testing.assert_allclose(matrix_to_rpy(matrix), matrix_to_euler_xyz(matrix), atol=1e-9)

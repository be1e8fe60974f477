"""Rotation helpers against independent constructions: axis rotations, group laws, hand-computed values."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foreact.sim import rotations as rot

ANGLE = st.floats(-3.1, 3.1)
PITCH = st.floats(-1.5, 1.5)


def axis_rotation(axis: int, angle: float) -> np.ndarray:
    i, j = ((1, 2), (2, 0), (0, 1))[axis]
    matrix = np.eye(3)
    matrix[i, i] = matrix[j, j] = math.cos(angle)
    matrix[i, j], matrix[j, i] = -math.sin(angle), math.sin(angle)
    return matrix


@settings(max_examples=100, deadline=None)
@given(ANGLE, PITCH, ANGLE)
def test_euler_is_extrinsic_xyz_and_round_trips(a, b, c):
    matrix = rot.euler_xyz_to_matrix([a, b, c])
    np.testing.assert_allclose(matrix, axis_rotation(2, c) @ axis_rotation(1, b) @ axis_rotation(0, a), atol=1e-12)
    np.testing.assert_allclose(rot.matrix_to_euler_xyz(matrix), [a, b, c], atol=1e-9)
    quat = rot.matrix_to_quat_wxyz(matrix)
    assert quat[0] >= 0 and np.linalg.norm(quat) == pytest.approx(1)
    np.testing.assert_allclose(rot.quat_wxyz_to_matrix(quat), matrix, atol=1e-12)
    np.testing.assert_allclose(rot.quat_wxyz_to_euler_xyz(rot.euler_xyz_to_quat_wxyz([a, b, c])), [a, b, c], atol=1e-7)


def test_gimbal_lock_still_gives_the_same_rotation():
    for pitch in (math.pi / 2, -math.pi / 2):
        matrix = rot.euler_xyz_to_matrix([0.3, pitch, 0.1])
        np.testing.assert_allclose(rot.euler_xyz_to_matrix(rot.matrix_to_euler_xyz(matrix)), matrix, atol=1e-9)


def test_known_quaternion_of_a_quarter_turn_about_z():
    half = math.sqrt(0.5)
    np.testing.assert_allclose(rot.euler_xyz_to_quat_wxyz([0, 0, math.pi / 2]), [half, 0, 0, half], atol=1e-12)
    np.testing.assert_allclose(rot.quat_xyzw_to_wxyz([1, 2, 3, 4]), [4, 1, 2, 3])
    np.testing.assert_allclose(rot.quat_wxyz_to_xyzw([4, 1, 2, 3]), [1, 2, 3, 4])


@pytest.mark.parametrize("angle", [0.0, 1e-12, 1e-6, 0.5, 3.0, math.pi])
def test_rotation_vector_and_angle(angle):
    axis = np.array([2.0, -1.0, 2.0]) / 3.0
    skew = np.cross(np.eye(3), axis)
    matrix = np.eye(3) + math.sin(angle) * skew + (1 - math.cos(angle)) * skew @ skew
    vector = rot.rotation_vector(matrix)
    # at half a turn, axis and -axis are the same rotation
    sign = np.sign(vector @ axis) if angle == math.pi else 1.0
    np.testing.assert_allclose(sign * vector, angle * axis, atol=1e-7)
    assert rot.rotation_angle_between(np.eye(3), matrix) == pytest.approx(angle, abs=1e-7)


def test_zero_quaternion_is_refused():
    with pytest.raises(ValueError, match="not zero"):
        rot.quat_wxyz_to_matrix([0, 0, 0, 0])

"""Rotations as the simulator uses them: Euler angles, matrices and quaternions, without scipy.

Euler angles are *extrinsic xyz* in radians: turn by `a` about the fixed x axis, then by `b` about y, then
by `c` about z, so `R = Rz(c) @ Ry(b) @ Rx(a)`. This is what PyBullet (and so CALVIN) calls Euler.
Quaternions are `wxyz` (MuJoCo) unless the name says `xyzw` (PyBullet, ROS). All outputs are float64.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def euler_xyz_to_matrix(euler: ArrayLike) -> Array:
    """Rotation matrix (3, 3) of extrinsic xyz Euler angles (3,) [rad]."""
    a, b, c = np.asarray(euler, dtype=np.float64).tolist()
    sa, ca, sb, cb, sc, cc = math.sin(a), math.cos(a), math.sin(b), math.cos(b), math.sin(c), math.cos(c)
    return np.array(
        [
            [cc * cb, cc * sb * sa - sc * ca, cc * sb * ca + sc * sa],
            [sc * cb, sc * sb * sa + cc * ca, sc * sb * ca - cc * sa],
            [-sb, cb * sa, cb * ca],
        ]
    )


def matrix_to_euler_xyz(matrix: ArrayLike) -> Array:
    """Extrinsic xyz Euler angles (3,) [rad] of a rotation matrix (3, 3) or (9,).

    Roll and yaw lie in [-pi, pi], pitch in [-pi/2, pi/2]. At pitch = +-pi/2 only one of roll and yaw is
    determined; roll is then 0.
    """
    r00, r01, _, r10, r11, _, r20, r21, r22 = np.asarray(matrix, dtype=np.float64).ravel().tolist()
    return np.array(_euler_xyz(r00, r01, r10, r11, r20, r21, r22))


def _euler_xyz(
    r00: float, r01: float, r10: float, r11: float, r20: float, r21: float, r22: float
) -> tuple[float, float, float]:
    """The angles of the rotation matrix with these entries, see `matrix_to_euler_xyz`."""
    horizontal = math.hypot(r00, r10)
    pitch = math.atan2(-r20, horizontal)
    if horizontal < 1e-9:
        return 0.0, pitch, math.atan2(-r01, r11)
    return math.atan2(r21, r22), pitch, math.atan2(r10, r00)


def quat_wxyz_to_matrix(quat: ArrayLike) -> Array:
    """Rotation matrix (3, 3) of a quaternion wxyz (4,); it is normalised first.

    Raises:
        ValueError: If the quaternion is zero or not finite.
    """
    w, x, y, z = np.asarray(quat, dtype=np.float64).tolist()
    norm2 = w * w + x * x + y * y + z * z
    if not (math.isfinite(norm2) and norm2 > 0.0):
        raise ValueError(f"a rotation quaternion must be finite and not zero, found wxyz {(w, x, y, z)}")
    s = 2.0 / norm2
    return np.array(
        [
            [1.0 - s * (y * y + z * z), s * (x * y - z * w), s * (x * z + y * w)],
            [s * (x * y + z * w), 1.0 - s * (x * x + z * z), s * (y * z - x * w)],
            [s * (x * z - y * w), s * (y * z + x * w), 1.0 - s * (x * x + y * y)],
        ]
    )


def matrix_to_quat_wxyz(matrix: ArrayLike) -> Array:
    """Unit quaternion wxyz (4,) with w >= 0 of a rotation matrix (3, 3) or (9,)."""
    r = np.asarray(matrix, dtype=np.float64).reshape(3, 3)
    # Of the four squared components take the largest: the division below is then never by a small number.
    squares = (
        1.0 + r[0, 0] + r[1, 1] + r[2, 2],
        1.0 + r[0, 0] - r[1, 1] - r[2, 2],
        1.0 - r[0, 0] + r[1, 1] - r[2, 2],
        1.0 - r[0, 0] - r[1, 1] + r[2, 2],
    )
    k = max(range(4), key=squares.__getitem__)
    wx, wy, wz = r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1]
    xy, xz, yz = r[0, 1] + r[1, 0], r[0, 2] + r[2, 0], r[1, 2] + r[2, 1]
    big = squares[k]
    rows = ((big, wx, wy, wz), (wx, big, xy, xz), (wy, xy, big, yz), (wz, xz, yz, big))
    quat = np.array(rows[k])
    quat /= np.linalg.norm(quat)
    return -quat if quat[0] < 0.0 else quat


def euler_xyz_to_quat_wxyz(euler: ArrayLike) -> Array:
    """Unit quaternion wxyz (4,) with w >= 0 of extrinsic xyz Euler angles (3,) [rad]."""
    return matrix_to_quat_wxyz(euler_xyz_to_matrix(euler))


def quat_wxyz_to_euler_xyz(quat: ArrayLike) -> Array:
    """Extrinsic xyz Euler angles (3,) [rad] of a quaternion wxyz (4,); it is normalised first.

    Raises:
        ValueError: If the quaternion is zero or not finite.
    """
    return np.array(euler_xyz_of_quat(*np.asarray(quat, dtype=np.float64).tolist()))


def euler_xyz_of_quat(w: float, x: float, y: float, z: float) -> tuple[float, float, float]:
    """As `quat_wxyz_to_euler_xyz`, from and to plain numbers: several times faster, for inner loops."""
    norm2 = w * w + x * x + y * y + z * z
    if not (math.isfinite(norm2) and norm2 > 0.0):
        raise ValueError(f"a rotation quaternion must be finite and not zero, found wxyz {(w, x, y, z)}")
    s = 2.0 / norm2
    return _euler_xyz(
        1.0 - s * (y * y + z * z),
        s * (x * y - z * w),
        s * (x * y + z * w),
        1.0 - s * (x * x + z * z),
        s * (x * z - y * w),
        s * (y * z + x * w),
        1.0 - s * (x * x + y * y),
    )


def quat_xyzw_to_wxyz(quat: ArrayLike) -> Array:
    """Reorder a quaternion from PyBullet/ROS order (xyzw) to MuJoCo order (wxyz)."""
    x, y, z, w = np.asarray(quat, dtype=np.float64)
    return np.array([w, x, y, z])


def quat_wxyz_to_xyzw(quat: ArrayLike) -> Array:
    """Reorder a quaternion from MuJoCo order (wxyz) to PyBullet/ROS order (xyzw)."""
    w, x, y, z = np.asarray(quat, dtype=np.float64)
    return np.array([x, y, z, w])


def rotation_vector(matrix: ArrayLike) -> Array:
    """Axis times angle (3,) [rad] of a rotation matrix (3, 3) or (9,); the angle lies in [0, pi]."""
    r00, r01, r02, r10, r11, r12, r20, r21, r22 = np.asarray(matrix, dtype=np.float64).ravel().tolist()
    x, y, z = r21 - r12, r02 - r20, r10 - r01
    sine, cosine = 0.5 * math.sqrt(x * x + y * y + z * z), 0.5 * (r00 + r11 + r22 - 1.0)
    angle = math.atan2(sine, cosine)
    if cosine > -0.99:
        scale = 0.5 if sine < 1e-9 else 0.5 * angle / sine
        return np.array([scale * x, scale * y, scale * z])
    # Near half a turn the skew part vanishes; the quaternion still knows the axis.
    w, *axis = matrix_to_quat_wxyz(matrix)
    norm = math.sqrt(sum(v * v for v in axis))
    return np.array(axis) * (2.0 * math.atan2(norm, w) / norm)


def rotation_angle_between(matrix_a: ArrayLike, matrix_b: ArrayLike) -> float:
    """Smallest angle [rad] that turns one rotation matrix (3, 3) into the other."""
    a = np.asarray(matrix_a, dtype=np.float64).reshape(3, 3)
    b = np.asarray(matrix_b, dtype=np.float64).reshape(3, 3)
    return float(np.linalg.norm(rotation_vector(a.T @ b)))

"""Where the tool is, and how fast it goes: forward kinematics and Jacobian of a chain of turning joints, in NumPy.

One pose at a time is computed in plain floats: for seven joints that is several times faster than array operations,
and the gate does it in every tick. Batches use arrays.

Frames: the base of the limits file. Shape legend: N joints, B any batch shape.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foreact.robot_bridge.limits import Origin, RobotLimits

Array = NDArray[np.float64]

Row = tuple[float, float, float]
Matrix = tuple[Row, Row, Row]
Nine = tuple[float, float, float, float, float, float, float, float, float]


def rpy_to_matrix(rpy: Sequence[float]) -> Array:
    """Rotation matrix (3, 3) of extrinsic x-y-z angles (3,) [rad], as in a URDF: `Rz(yaw) Ry(pitch) Rx(roll)`."""
    a, b, c = (float(angle) for angle in rpy)
    sa, ca, sb, cb, sc, cc = math.sin(a), math.cos(a), math.sin(b), math.cos(b), math.sin(c), math.cos(c)
    return np.array(
        [
            [cc * cb, cc * sb * sa - sc * ca, cc * sb * ca + sc * sa],
            [sc * cb, sc * sb * sa + cc * ca, sc * sb * ca - cc * sa],
            [-sb, cb * sa, cb * ca],
        ]
    )


def matrix_to_rpy(matrix: ArrayLike) -> Array:
    """Extrinsic x-y-z angles (3,) [rad] of a rotation matrix (3, 3); at pitch +-90 degrees roll is 0."""
    r = np.asarray(matrix, np.float64)
    horizontal = math.hypot(r[0, 0], r[1, 0])
    pitch = math.atan2(-r[2, 0], horizontal)
    if horizontal < 1e-9:
        return np.array([0.0, pitch, math.atan2(-r[0, 1], r[1, 1])])
    return np.array([math.atan2(r[2, 1], r[2, 2]), pitch, math.atan2(r[1, 0], r[0, 0])])


def origin_matrix(origin: Origin) -> Array:
    """(4, 4) homogeneous matrix."""
    out = np.eye(4)
    out[:3, :3] = rpy_to_matrix(origin.rpy)
    out[:3, 3] = origin.xyz
    return out


class Kinematics:
    """Of one arm with its tool.

    The chain is brought to a form in which every joint turns about z: `T = F0 Rz(q0) F1 Rz(q1) ... Fn`.
    """

    def __init__(self, limits: RobotLimits):
        self.n = len(limits.joints)
        fixed: list[Array] = []
        ahead = np.eye(4)
        for link in limits.chain:
            ahead = ahead @ origin_matrix(link)
            if link.axis is not None:
                to_z = _turn_z_to(link.axis)
                fixed.append(ahead @ to_z)
                ahead = to_z.T  # a rotation: its transpose turns back
        fixed.append(ahead @ origin_matrix(limits.flange_to_tcp))
        self._fixed = np.stack(fixed)
        steps = tuple(tuple(float(x) for x in (*m[:3, :3].ravel(), *m[:3, 3])) for m in fixed)
        self._first, self._others = steps[0], steps[1:]
        # Upper bounds of how far the TCP moves per radian of each joint [m]: the length of what it carries.
        lengths = np.linalg.norm(self._fixed[:, :3, 3], axis=1)
        self.reach_m = tuple(float(x) for x in np.cumsum(lengths[::-1])[::-1][1:])

    def forward(self, q: ArrayLike) -> tuple[Array, Array]:
        """TCP position (..., 3) [m] and rotation (..., 3, 3) in the base frame, for joints (..., N) [rad]."""
        q = np.asarray(q, np.float64)
        if q.shape[-1:] != (self.n,):
            raise ValueError(f"joints must have shape (..., {self.n}), found {q.shape}")
        if q.ndim == 1:
            position, rotation = self.pose(q.tolist())
            return np.array(position), np.array(rotation)
        cos, sin = np.cos(q)[..., None], np.sin(q)[..., None]
        shape = q.shape[:-1]
        rotation = np.broadcast_to(self._fixed[0, :3, :3], (*shape, 3, 3))
        position = np.broadcast_to(self._fixed[0, :3, 3], (*shape, 3))
        for i in range(self.n):
            x, y, z = rotation[..., 0], rotation[..., 1], rotation[..., 2]
            c, s = cos[..., i, :], sin[..., i, :]
            turned = np.stack([c * x + s * y, c * y - s * x, z], axis=-1)
            step = self._fixed[i + 1]
            position = position + turned @ step[:3, 3]
            rotation = turned @ step[:3, :3]
        return np.ascontiguousarray(position), np.ascontiguousarray(rotation)

    def pose(self, q: Sequence[float]) -> tuple[Row, Matrix]:
        """As `forward`, of one configuration, in plain floats."""
        (r0, r1, r2, r3, r4, r5, r6, r7, r8), p = self._frames(q)
        return p, ((r0, r1, r2), (r3, r4, r5), (r6, r7, r8))

    def position(self, q: Sequence[float]) -> Row:
        """TCP position [m] of one configuration, in plain floats."""
        return self._frames(q)[1]

    def jacobian(self, q: ArrayLike) -> Array:
        """(6, N) of joints (N,): TCP velocity [m/s] above angular velocity [rad/s], per joint rate, base frame."""
        columns = self.columns(np.asarray(q, np.float64).tolist())[1]
        return np.array(columns).T

    def columns(self, q: Sequence[float]) -> tuple[Row, list[tuple[float, float, float, float, float, float]]]:
        """TCP position, and the columns of the Jacobian, one per joint, in plain floats."""
        axes: list[tuple[float, float, float, float, float, float]] = []
        _, (px, py, pz) = self._frames(q, axes)
        columns = []
        for ax, ay, az, ox, oy, oz in axes:
            x, y, z = px - ox, py - oy, pz - oz
            columns.append((ay * z - az * y, az * x - ax * z, ax * y - ay * x, ax, ay, az))
        return (px, py, pz), columns

    def _frames(
        self, q: Sequence[float], axes: list[tuple[float, float, float, float, float, float]] | None = None
    ) -> tuple[Nine, Row]:
        """Rotation, by row, and position of the TCP; appends the axis and origin of every joint to `axes`."""
        r0, r1, r2, r3, r4, r5, r6, r7, r8, px, py, pz = self._first
        sin, cos = math.sin, math.cos
        for angle, (f0, f1, f2, f3, f4, f5, f6, f7, f8, fx, fy, fz) in zip(q, self._others, strict=True):
            if axes is not None:
                axes.append((r2, r5, r8, px, py, pz))
            s, c = sin(angle), cos(angle)
            x0, y0, x1, y1, x2, y2 = (
                c * r0 + s * r1, c * r1 - s * r0, c * r3 + s * r4, c * r4 - s * r3, c * r6 + s * r7, c * r7 - s * r6,
            )  # fmt: skip
            px += x0 * fx + y0 * fy + r2 * fz
            py += x1 * fx + y1 * fy + r5 * fz
            pz += x2 * fx + y2 * fy + r8 * fz
            r0, r1, r2 = x0 * f0 + y0 * f3 + r2 * f6, x0 * f1 + y0 * f4 + r2 * f7, x0 * f2 + y0 * f5 + r2 * f8
            r3, r4, r5 = x1 * f0 + y1 * f3 + r5 * f6, x1 * f1 + y1 * f4 + r5 * f7, x1 * f2 + y1 * f5 + r5 * f8
            r6, r7, r8 = x2 * f0 + y2 * f3 + r8 * f6, x2 * f1 + y2 * f4 + r8 * f7, x2 * f2 + y2 * f5 + r8 * f8
        return (r0, r1, r2, r3, r4, r5, r6, r7, r8), (px, py, pz)


def _turn_z_to(axis: Sequence[float]) -> Array:
    """(4, 4) rotation that brings the z axis onto a unit vector."""
    x, y, z = axis
    out = np.eye(4)
    if z < -1.0 + 1e-12:
        out[1, 1] = out[2, 2] = -1.0
        return out
    k = 1.0 / (1.0 + z)
    out[:3, :3] = [[1 - k * x * x, -k * x * y, x], [-k * x * y, 1 - k * y * y, y], [-x, -y, z]]
    return out

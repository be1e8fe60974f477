"""How far a rotation turns from one frame to the next, whatever it is written as."""

from __future__ import annotations

import numpy as np

from foreact.vla.contract import Field


def rotation_steps(part: Field, values: np.ndarray, scale: float) -> np.ndarray | None:
    """(T - 1,) angles [rad] between rotations (T, size) of a field; None if the field is not an absolute rotation.

    Euler angles jump by whole turns, and near the pole by anything, while the hand hardly turns: only the angle between
    the rotations tells.
    """
    if part.relative or part.rotation is None:
        return None
    if part.rotation == "quat_xyzw" and part.size == 4:
        unit = values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-9)
        dots = np.abs((unit[1:] * unit[:-1]).sum(1))
        return 2 * np.arccos(np.clip(dots, 0, 1))
    if part.rotation == "euler_xyz" and part.size == 3:
        matrices = matrices_from_euler(values * scale)
    elif part.rotation == "rotvec" and part.size == 3:
        matrices = _from_rotvec(values * scale)
    else:
        return None
    traces = np.einsum("tij,tij->t", matrices[1:], matrices[:-1])
    return np.arccos(np.clip((traces - 1) / 2, -1, 1))


def matrices_from_euler(angles: np.ndarray) -> np.ndarray:
    """(T, 3) extrinsic x-y-z angles to (T, 3, 3): Rz Ry Rx."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles).T, np.sin(angles).T
    rows = [
        [cz * cy, cz * sy * sx - sz * cx, cz * sy * cx + sz * sx],
        [sz * cy, sz * sy * sx + cz * cx, sz * sy * cx - cz * sx],
        [-sy, cy * sx, cy * cx],
    ]
    return np.stack([np.stack(row, -1) for row in rows], -2)


def _from_rotvec(vectors: np.ndarray) -> np.ndarray:
    """(T, 3) rotation vectors to (T, 3, 3), by Rodrigues' formula."""
    angle = np.linalg.norm(vectors, axis=1)
    x, y, z = (vectors / np.maximum(angle, 1e-12)[:, None]).T
    zero = np.zeros_like(x)
    cross = np.stack([np.stack(r, -1) for r in ([zero, -z, y], [z, zero, -x], [-y, x, zero])], -2)
    sin, cos = np.sin(angle)[:, None, None], np.cos(angle)[:, None, None]
    return np.eye(3) + sin * cross + (1 - cos) * cross @ cross

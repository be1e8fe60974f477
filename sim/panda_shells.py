"""The seen surface of the Panda's wrist, hand and fingers: convex hulls over a few dimensions, drawn only.

Nothing here has mass or touches anything. Dimensions in metres, in the frame of the body that carries the
shell; they were fitted to the silhouette of CALVIN's renders (mees/calvin_env, MIT). No mesh was copied.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import mujoco
import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]

# Half outline of the hand, (y, z) from the flange to the fingers, and by how much its rim is inset in y and z
# where the outline meets the front and back faces.
HAND_OUTLINE = ((0.045, -0.024), (0.086, 0.005), (0.090, 0.030), (0.092, 0.052), (0.091, 0.059))
HAND_HALF_X = 0.0316
HAND_RIM = (0.010, 0.006)
# Wrist: a disc about the flange axis and a second one beside it, (x = y of the centre, radius, low z, high z).
WRIST_DISCS = ((0.0, 0.037, 0.030, 0.100), (0.048, 0.033, 0.075, 0.100))
# Finger sections from root to tip: (z, inner y, outer y, half width in x).
FINGER_SECTIONS = (
    (0.000, 0.012, 0.0275, 0.0105),
    (0.025, 0.0031, 0.0230, 0.0090),
    (0.060, 0.0040, 0.0138, 0.0080),
    (0.094, 0.0035, 0.0040, 0.0078),
)
# Gel pad at the finger tip: centre and half sizes.
SEEN_PAD = ((0.0, 0.0025, 0.083), (0.0055, 0.002, 0.0115))
# Link 6 is drawn a little slimmer than it is felt: link -> capsules (from, to, radius).
SEEN_CAPSULES = {
    6: (((0.0, 0.0, 0.0), (0.05, 0.0, 0.0), 0.053), ((0.086, -0.005, 0.0), (0.086, 0.038, 0.0), 0.045)),
}


def hand_points() -> Points:
    """Corners (N, 3) of the hand's hull."""
    rim_y, rim_z = HAND_RIM
    centre_z = (HAND_OUTLINE[0][1] + HAND_OUTLINE[-1][1]) / 2.0
    points = []
    for y, z in HAND_OUTLINE:
        inset_z = z - math.copysign(min(rim_z, abs(z - centre_z)), z - centre_z)
        for side_y in (-1.0, 1.0):
            for side_x in (-1.0, 1.0):
                points.append((side_x * 0.6 * HAND_HALF_X, side_y * y, z))
                points.append((side_x * HAND_HALF_X, side_y * (y - rim_y), inset_z))
    return np.array(points)


def wrist_points(sides: int = 12) -> Points:
    """Corners (N, 3) of the hull over the two discs."""
    points = []
    for centre, radius, low, high in WRIST_DISCS:
        for k in range(sides):
            angle = 2.0 * math.pi * (k + 0.5) / sides
            x, y = centre + radius * math.cos(angle), centre + radius * math.sin(angle)
            points += [(x, y, low), (x, y, high)]
    return np.array(points)


def finger_points() -> Points:
    """Corners (N, 3) of the finger's hull."""
    return np.array(
        [
            (side * half_x, y, z)
            for z, inner, outer, half_x in FINGER_SECTIONS
            for y in (inner, outer)
            for side in (-1.0, 1.0)
        ]
    )


def add_shell(spec: mujoco.MjSpec, body: mujoco.MjsBody, name: str, points: Points, rgba: Sequence[float]) -> None:
    """Draw the convex hull of `points` (N, 3) on `body`, without mass and without contacts."""
    if not any(mesh.name == name for mesh in spec.meshes):
        spec.add_mesh(name=name, uservert=points.ravel())
    body.add_geom(
        type=mujoco.mjtGeom.mjGEOM_MESH, meshname=name, rgba=rgba, contype=0, conaffinity=0, mass=0.0, group=2
    )

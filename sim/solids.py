"""Visual meshes put together from convex prisms, with flat faces and texture coordinates in metres.

A table made of one mesh per body instead of many boxes needs few draw calls, which is what a software
renderer is slow at. Only what is seen is built here; collision shapes are plain boxes and cylinders.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import mujoco
import numpy as np

Point = tuple[float, float]
Vertex = tuple[float, float, float]

SLOPE_FOOT: Point = (0.02, 0.44)
"""(y, z) of the lower edge of the sloped cabinet face; s = 0, n = 0 (CALVIN, mees/calvin_env, MIT)."""
SLOPE_T = (0.5, math.sqrt(3.0) / 2.0)
"""(y, z) direction up along the slope: the face leans back by 30 degrees."""
SLOPE_N = (-math.sqrt(3.0) / 2.0, 0.5)
"""(y, z) direction of the outward normal, towards the robot."""
SLOPE_QUAT = (math.cos(math.pi / 6), math.sin(math.pi / 6), 0.0, 0.0)
"""Turns local y into the slope direction and local z into its normal (60 degrees about x), wxyz."""


def slope_yz(s: float, n: float) -> Point:
    """World (y, z) of the point `s` metres up the sloped face and `n` metres off it."""
    return (
        SLOPE_FOOT[0] + s * SLOPE_T[0] + n * SLOPE_N[0],
        SLOPE_FOOT[1] + s * SLOPE_T[1] + n * SLOPE_N[1],
    )


def _ring(corners: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """The corners (N, 3) of a convex face, counter-clockwise seen from where `normal` points to."""
    around = corners - corners.mean(axis=0)
    right = around[0]
    up = np.cross(normal, right)
    return corners[np.argsort(np.arctan2(around @ up / np.linalg.norm(up), around @ right / np.linalg.norm(right)))]


@dataclass
class Solid:
    """A growing list of convex prisms, written into a model as one visual mesh."""

    tile_m: float = 0.5
    """Edge of one texture tile [m]."""
    vertices: list[Vertex] = field(default_factory=list)
    texcoords: list[Point] = field(default_factory=list)
    faces: list[tuple[int, int, int]] = field(default_factory=list)

    def box(self, low: Sequence[float], high: Sequence[float], grain: str = "x") -> Solid:
        """Add the axis-aligned box between two corners (x, y, z)."""
        (x0, y0, z0), (x1, y1, z1) = low, high
        return self.prism(x0, x1, [(y0, z0), (y1, z0), (y1, z1), (y0, z1)], grain)

    def prism(self, x0: float, x1: float, profile_yz: Sequence[Point], grain: str = "x") -> Solid:
        """Add a convex (y, z) profile, counter-clockwise seen from +x, drawn out from x0 to x1."""
        left = [(x0, y, z) for y, z in profile_yz]
        right = [(x1, y, z) for y, z in profile_yz]
        self._polygon(right, grain)
        self._polygon(left[::-1], grain)
        for i in range(len(profile_yz)):
            j = (i + 1) % len(profile_yz)
            self._polygon([left[i], left[j], right[j], right[i]], grain)
        return self

    def sloped_box(
        self, x0: float, x1: float, s: Point, n: Point, origin: Point = (0.0, 0.0), grain: str = "x"
    ) -> Solid:
        """Add a box aligned with the sloped face: extents along x, up the slope and off it.

        `origin` is the (y, z) of the body frame; it is subtracted.
        """
        corners = [(s[0], n[0]), (s[0], n[1]), (s[1], n[1]), (s[1], n[0])]
        profile = [slope_yz(*corner) for corner in corners]
        profile = [(y - origin[0], z - origin[1]) for y, z in profile]
        return self.prism(x0, x1, profile[::-1], grain)

    def chamfered_box(self, low: Sequence[float], high: Sequence[float], cut: float) -> Solid:
        """Add an axis-aligned box whose twelve edges and eight corners are cut off, `cut` metres from each edge."""
        return self._chamfered(low, high, cut, lambda point: point)

    def chamfered_sloped_box(self, x: Point, s: Point, n: Point, cut: float, origin: Point = (0.0, 0.0)) -> Solid:
        """Add a box with cut edges aligned with the sloped face, see `sloped_box`."""

        def place(point: Vertex) -> Vertex:
            y, z = slope_yz(point[1], point[2])
            return (point[0], y - origin[0], z - origin[1])

        return self._chamfered((x[0], s[0], n[0]), (x[1], s[1], n[1]), cut, place)

    def _chamfered(
        self, low: Sequence[float], high: Sequence[float], cut: float, place: Callable[[Vertex], Vertex]
    ) -> Solid:
        centre = [(a + b) / 2.0 for a, b in zip(low, high, strict=True)]
        half = [(b - a) / 2.0 for a, b in zip(low, high, strict=True)]
        full, inset = np.array(half), np.array(half) - cut
        for signs in itertools.product((-1, 0, 1), repeat=3):
            # one nonzero sign is a face, two an edge, three a corner; a zero runs along the inset extent
            sides = [i for i in range(3) if signs[i]]
            runs = [i for i in range(3) if not signs[i]]
            corners = []
            for ends in itertools.product((-1, 1), repeat=len(runs)):
                for outer in sides:
                    corner = np.array(signs) * inset
                    corner[runs] = np.array(ends) * inset[runs]
                    corner[outer] = signs[outer] * full[outer]
                    corners.append(corner)
            if sides:
                ring = _ring(np.array(corners), np.array(signs, dtype=float))
                self._polygon([place(tuple((centre + corner).tolist())) for corner in ring], "x")
        return self

    def _polygon(self, points: list[Vertex], grain: str) -> None:
        corner = np.asarray(points)
        normal = np.cross(corner[1] - corner[0], corner[2] - corner[0])
        axis = int(np.argmax(np.abs(normal)))
        # the texture's u runs along the grain; seen end-on, the grain is taken along y
        u_axis = {"x": (1, 0, 0), "z": (2, 2, 1)}[grain][axis]
        v_axis = 3 - axis - u_axis
        base = len(self.vertices)
        for point in points:
            self.vertices.append(point)
            self.texcoords.append((point[u_axis] / self.tile_m, point[v_axis] / self.tile_m))
        for k in range(1, len(points) - 1):
            self.faces.append((base, base + k, base + k + 1))

    def add_to(self, spec: mujoco.MjSpec, name: str) -> str:
        """Write the mesh into `spec` and return its name."""
        faces = np.asarray(self.faces, dtype=np.int32).ravel()
        mesh = spec.add_mesh(name=name)
        mesh.uservert = np.asarray(self.vertices, dtype=np.float32).ravel()
        mesh.userface = faces
        mesh.usertexcoord = np.asarray(self.texcoords, dtype=np.float32).ravel()
        mesh.userfacetexcoord = faces
        # prisms may overlap, so only the surface has a meaningful inertia (it is never used)
        mesh.inertia = mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL
        return name

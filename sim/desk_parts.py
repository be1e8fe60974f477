"""Building blocks of the desk: materials, visual meshes, collision boxes and their friction.

Friction. Bullet multiplies the coefficients of a pair, MuJoCo takes those of the geom with the higher
priority (the larger value between equals). The priorities below give the products of CALVIN
(mees/calvin_env, MIT): block-block 0.49, finger-block 0.70, table-block 0.35, floor-block 0.70, and 0.5
between a finger and the handles, the lever and the button.
"""

from __future__ import annotations

from collections.abc import Sequence

import mujoco
import numpy as np
from numpy.typing import NDArray

from foreact.sim.solids import Solid

BLOCK_FRICTION, BLOCK_PRIORITY = 0.49, 0
FINGER_FRICTION, FINGER_PRIORITY = 0.70, 1
"""What the robot's finger geoms must carry."""
TABLE_FRICTION, TABLE_PRIORITY = 0.35, 2
FLOOR_FRICTION = 0.70
GRIP_FRICTION, GRIP_PRIORITY = 0.50, 3
"""Handles, lever and button."""

TOUCH_DISTANCE_M = 0.0005
"""Two bodies touch when they are closer than this; Bullet counts gaps of about 0.5 mm."""

VISUAL_GROUP, COLLISION_GROUP = 2, 3
"""Geom groups; renderers show groups 0 to 2."""

Size = Sequence[float]


def friction(sliding: float) -> list[float]:
    """Sliding, torsional and rolling friction; the last two are MuJoCo's defaults."""
    return [sliding, 0.005, 0.0001]


def add_material(
    spec: mujoco.MjSpec,
    name: str,
    picture: NDArray[np.uint8] | None = None,
    rgba: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
    repeat: tuple[float, float] = (1.0, 1.0),
) -> str:
    """Add a matt material, with a texture when a picture (H, W, 3) is given, and return its name."""
    material = spec.add_material(name=name, rgba=list(rgba))
    material.specular = 0.0
    material.shininess = 0.0
    material.reflectance = 0.0
    material.texrepeat = list(repeat)
    if picture is not None:
        texture = spec.add_texture(name=name, type=mujoco.mjtTexture.mjTEXTURE_2D)
        texture.height, texture.width, texture.nchannel = picture.shape
        texture.data = picture.tobytes()
        material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = name
    return name


def add_visual(spec: mujoco.MjSpec, body: mujoco.MjsBody, name: str, solid: Solid, material: str) -> None:
    """Show `solid` (in the frame of `body`) without mass and without contacts."""
    body.add_geom(
        name=name,
        type=mujoco.mjtGeom.mjGEOM_MESH,
        meshname=solid.add_to(spec, name),
        material=material,
        contype=0,
        conaffinity=0,
        mass=0.0,
        group=VISUAL_GROUP,
    )


def add_collision_box(
    body: mujoco.MjsBody,
    name: str,
    low: Size,
    high: Size,
    *,
    sliding: float = TABLE_FRICTION,
    priority: int = TABLE_PRIORITY,
) -> mujoco.MjsGeom:
    """An unseen box between two corners (x, y, z) in the frame of `body`."""
    centre = [(a + b) / 2.0 for a, b in zip(low, high, strict=True)]
    half = [(b - a) / 2.0 for a, b in zip(low, high, strict=True)]
    return body.add_geom(
        name=name,
        type=mujoco.mjtGeom.mjGEOM_BOX,
        pos=centre,
        size=half,
        mass=0.0,
        group=COLLISION_GROUP,
        friction=friction(sliding),
        priority=priority,
    )


def set_inertia(body: mujoco.MjsBody, mass: float, com: Size, box: Size) -> None:
    """Give `body` the mass and the inertia of a homogeneous box with edges `box` around `com`."""
    x2, y2, z2 = (edge * edge for edge in box)
    body.explicitinertial = True
    body.mass = mass
    body.ipos = list(com)
    body.inertia = [mass * (y2 + z2) / 12.0, mass * (x2 + z2) / 12.0, mass * (x2 + y2) / 12.0]

"""Objects that are only there to be seen: drawn, without mass, without contacts, hidden until asked for.

Every desk carries a few of them with alpha 0, which MuJoCo does not draw, so that a compiled model can show
them at a reset (`foreact.sim.looks`). They stand where no task happens: on the cabinet and on the floor.
"""

from __future__ import annotations

import colorsys

import mujoco
import numpy as np

from foreact.sim.desk_parts import VISUAL_GROUP
from foreact.sim.scenes import SceneSpec

N_DISTRACTORS = 4
PARKED = (0.0, 0.0, -3.0)
_SHAPES = (
    mujoco.mjtGeom.mjGEOM_BOX,
    mujoco.mjtGeom.mjGEOM_CYLINDER,
    mujoco.mjtGeom.mjGEOM_ELLIPSOID,
    mujoco.mjtGeom.mjGEOM_BOX,
)
# (x low, x high, y low, y high, z): the floor under, before and behind the desk
_FLOOR = ((-0.30, 0.20, -0.10, 0.12, 0.0), (-0.05, 0.55, -0.60, -0.30, 0.0), (-1.60, -0.50, 0.90, 1.05, 0.0))
_CABINET = (-0.40, 0.40, 0.155, 0.165, 0.648)


def distractor_name(number: int) -> str:
    """Name of the geom of distractor `number`."""
    return f"distractor_{number}"


def add_distractors(spec: mujoco.MjSpec) -> None:
    """Add the hidden objects to the world of `spec`."""
    for number, shape in enumerate(_SHAPES):
        spec.worldbody.add_geom(
            name=distractor_name(number),
            type=shape,
            pos=list(PARKED),
            size=[0.02, 0.02, 0.02],
            rgba=[0.5, 0.5, 0.5, 0.0],
            contype=0,
            conaffinity=0,
            mass=0.0,
            group=VISUAL_GROUP,
        )


def show_distractor(model: mujoco.MjModel, rng: np.random.Generator, number: int, scene: SceneSpec) -> None:
    """Put distractor `number` somewhere out of the way with a random size, yaw and colour."""
    geom = model.geom(distractor_name(number)).id
    half = rng.uniform(0.012, 0.03, 3)
    x0, x1, y0, y1, z = (_CABINET, *_FLOOR)[rng.integers(1 + len(_FLOOR))]
    if z > 0.0:
        half[:2] = np.minimum(half[:2], 0.02)
        x = _free_of_lamps(rng.uniform(x0, x1), scene)
    else:
        half *= 2.0
        x = rng.uniform(x0, x1)
    model.geom_size[geom] = half
    # MuJoCo's cylinder has its half height in the second place
    height = half[1] if model.geom_type[geom] == mujoco.mjtGeom.mjGEOM_CYLINDER else half[2]
    model.geom_pos[geom] = (x, rng.uniform(y0, y1), z + height)
    yaw = rng.uniform(-np.pi, np.pi)
    model.geom_quat[geom] = (np.cos(yaw / 2.0), 0.0, 0.0, np.sin(yaw / 2.0))
    # greens and oranges, muted: nothing that could pass for a block
    hue = rng.choice([rng.uniform(0.08, 0.14), rng.uniform(0.25, 0.5)])
    model.geom_rgba[geom] = (*colorsys.hsv_to_rgb(hue, rng.uniform(0.2, 0.6), rng.uniform(0.3, 0.9)), 1.0)


def _free_of_lamps(x: float, scene: SceneSpec) -> float:
    """`x`, or a place beside the lamp that stands there."""
    for lamp_x, reach in ((scene.led_x, 0.11), (scene.bulb_xy[0], 0.06)):
        if abs(x - lamp_x) < reach:
            x = lamp_x + (reach if lamp_x < 0.0 else -reach)
    return x

"""CALVIN's play table rebuilt from primitives: static parts, blocks, floor, lights and the static camera.

`add_desk` fills an empty or robot-carrying `MjSpec`. Geometry, masses and camera: CALVIN, mees/calvin_env
(MIT), lengths after its global scaling of 0.8; scene differences are in `scenes.py`. Bodies are named after
the links of the original table: desk (base_link), plank, slide, drawer, button, switch, led, bulb.
"""

from __future__ import annotations

import itertools

import mujoco

from foreact.sim.desk_fixtures import SWITCH_S, add_button, add_door, add_drawer, add_switch
from foreact.sim.desk_parts import (
    BLOCK_FRICTION,
    BLOCK_PRIORITY,
    COLLISION_GROUP,
    FLOOR_FRICTION,
    TABLE_FRICTION,
    TABLE_PRIORITY,
    TOUCH_DISTANCE_M,
    VISUAL_GROUP,
    add_collision_box,
    add_material,
    add_visual,
    friction,
)
from foreact.sim.distractors import add_distractors
from foreact.sim.scenes import SWITCH_TRAVEL, SceneSpec
from foreact.sim.solids import SLOPE_QUAT, Solid, slope_yz
from foreact.sim.textures import checker, wood

GRAVITY = (0.0, 0.0, -9.8)
CAMERA_STATIC = "rgb_static"
CAMERA_POS_WORLD = (2.871459, -2.166602, 2.555160)
CAMERA_TARGET_WORLD = (-0.026242, -0.030233, 0.392000)
CAMERA_FOVY_DEG = 10.0
CAMERA_XYAXES = (0.7232, 0.5141, -0.4611, -0.0303, 0.6906, 0.7226)
"""Image right and image up of the static camera in the world."""

FIXTURES = ("slide", "drawer", "button", "switch")
"""The moving bodies; each has one slide joint of the same name."""
BLOCK_RGBA = {
    "block_red": (1.0, 0.0, 0.0, 1.0),
    "block_blue": (0.0, 0.0, 1.0, 1.0),
    "block_pink": (1.0, 0.0, 1.0, 1.0),
}
BLOCK_MASS_KG = 1.0
BULB_RADIUS = 0.028
BULB_SEEN_Y, BULB_SEEN_Z = 0.160, 0.022
"""Where the bulb is drawn: world y, and height over the cabinet; the same in all original renders."""
PLANK_TOP_Z = 0.441
"""One millimetre above the desk: blocks rest at 0.461 there in the recorded states, and at 0.460 outside."""


def add_desk(spec: mujoco.MjSpec, scene: SceneSpec) -> None:
    """Add the whole desk of `scene` with blocks, floor, lights and the static camera to `spec`.

    Also sets gravity and the drawing quality (no shadows, no multisampling). The time step is left alone.
    """
    spec.option.gravity = list(GRAVITY)
    spec.add_text(name="scene", data=scene.name)
    _add_materials(spec, scene)
    _set_quality(spec)
    _add_floor_light_camera(spec)
    _add_static_desk(spec, scene)
    _add_lamps(spec, scene)
    for add_fixture in (add_door, add_drawer, add_button, add_switch):
        add_fixture(spec, scene)
    for name in scene.block_sizes:
        _add_block(spec, scene, name)
    add_distractors(spec)
    # the parts overlap by construction (a drawer in its housing, a button in its ring)
    for one, other in itertools.combinations(("desk", "plank", *FIXTURES), 2):
        spec.add_exclude(name=f"exclude_{one}_{other}", bodyname1=one, bodyname2=other)


def _add_materials(spec: mujoco.MjSpec, scene: SceneSpec) -> None:
    table = wood(scene.table_rgb, scene.grain, seed=ord(scene.name))
    add_material(spec, "wood_table", table)
    if scene.front_rgb != scene.table_rgb:
        add_material(spec, "wood_front", wood(scene.front_rgb, "fine", seed=1))
    else:
        add_material(spec, "wood_front", wood(scene.front_rgb, scene.grain, seed=ord(scene.name) + 100))
    # tiles of 1.0 x 1.0 m, so squares of half a metre
    add_material(spec, "floor", checker(), repeat=(10.0, 10.0))
    add_material(spec, "grey", rgba=(0.4, 0.4, 0.4, 1.0))
    add_material(spec, "black", rgba=(0.02, 0.02, 0.02, 1.0))
    add_material(spec, "slot", rgba=tuple(0.8 * c / 255.0 for c in scene.table_rgb) + (1.0,))
    for block, rgba in BLOCK_RGBA.items():
        add_material(spec, block, rgba=rgba)


def _set_quality(spec: mujoco.MjSpec) -> None:
    quality = spec.visual.quality
    quality.offsamples = 0
    quality.shadowsize = 0
    quality.numslices = 16
    quality.numstacks = 8
    quality.numquads = 1
    spec.visual.global_.offwidth = 200
    spec.visual.global_.offheight = 200
    # clip planes are given in units of the extent: 0.01 m and 10 m
    spec.stat.extent = 1.0
    spec.stat.center = [0.0, 0.0, 0.4]
    spec.visual.map.znear = 0.01
    spec.visual.map.zfar = 10.0
    spec.visual.headlight.active = 0


def _add_floor_light_camera(spec: mujoco.MjSpec) -> None:
    world = spec.worldbody
    world.add_geom(
        name="floor",
        type=mujoco.mjtGeom.mjGEOM_PLANE,
        size=[5.0, 5.0, 5.0],
        material="floor",
        friction=friction(FLOOR_FRICTION),
        priority=TABLE_PRIORITY,
    )
    # one light from above and a little behind: upward faces get 0.94 of their colour, the sloped and the vertical
    # faces that the cameras see 0.6 of it, as in the original renders
    world.add_light(
        name="sun",
        type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL,
        pos=[0.0, 0.0, 3.0],
        dir=[0.0, -0.32, -0.947],
        ambient=[0.6, 0.6, 0.6],
        diffuse=[0.356, 0.356, 0.356],
        specular=[0.0, 0.0, 0.0],
        castshadow=False,
    )
    camera = world.add_camera(name=CAMERA_STATIC, pos=list(CAMERA_POS_WORLD), fovy=CAMERA_FOVY_DEG)
    camera.alt.type = mujoco.mjtOrientation.mjORIENTATION_XYAXES
    camera.alt.xyaxes = list(CAMERA_XYAXES)


def _add_static_desk(spec: mujoco.MjSpec, scene: SceneSpec) -> None:
    """Slab, legs, drawer housing and cabinet: one body, one mesh, boxes for contacts."""
    body = spec.worldbody.add_body(name="desk")
    seen = Solid()
    left, right = scene.niche_x
    cavity = (scene.drawer_x - 0.20, scene.drawer_x + 0.20)
    boxes = {
        "slab": ((-0.44, -0.18, 0.40), (0.44, 0.02, 0.44)),
        "slab_rear": ((-0.44, 0.02, 0.40), (0.44, 0.18, 0.42)),
        "housing_left": ((-0.42, -0.16, 0.30), (cavity[0], 0.16, 0.40)),
        "housing_right": ((cavity[1], -0.16, 0.30), (0.42, 0.16, 0.40)),
        "housing_back": ((cavity[0], 0.06, 0.30), (cavity[1], 0.16, 0.40)),
        "housing_floor": ((cavity[0], -0.16, 0.30), (cavity[1], 0.06, 0.32)),
        "niche_back": ((left, 0.16, 0.42), (right, 0.18, 0.648)),
        "niche_ceiling": ((left, 0.14, 0.628), (right, 0.16, 0.6478)),
    }
    for ix, x in enumerate((-0.44, 0.40)):
        for iy, y in enumerate((-0.18, 0.148)):
            boxes[f"leg_{ix}{iy}"] = ((x, y, 0.0), (x + 0.04, y + 0.032, 0.40))
    for name, (low, high) in boxes.items():
        add_collision_box(body, f"desk_{name}", low, high)
        if not name.startswith("niche"):
            seen.box(low, high, grain="z" if name.startswith("leg") else "x")
    seen.box((left, 0.16, 0.42), (right, 0.18, 0.628))

    cheek = [(0.02, 0.42), (0.18, 0.42), (0.18, 0.6478), (0.14, 0.6478), (0.02, 0.44)]
    lintel_y, _ = slope_yz((0.628 - 0.44) / (3.0**0.5 / 2.0), 0.0)
    lintel = [(lintel_y, 0.628), (0.18, 0.628), (0.18, 0.6478), (0.14, 0.6478)]
    for side, (x0, x1) in {"left": (-0.44, left), "right": (right, 0.44)}.items():
        seen.prism(x0, x1, cheek)
        _add_cheek(body, side, x0, x1)
    seen.prism(left, right, lintel)
    add_visual(spec, body, "desk_wood", seen, "wood_table")

    slots = Solid()
    for x in (scene.switch_x - 0.05, scene.switch_x + 0.05):
        slots.sloped_box(x - 0.008, x + 0.008, (SWITCH_S - 0.016, SWITCH_S + SWITCH_TRAVEL + 0.016), (-0.002, 0.0006))
    add_visual(spec, body, "switch_slots", slots, "slot")

    button_x, button_y = scene.button_xy
    body.add_geom(
        name="button_ring",
        type=mujoco.mjtGeom.mjGEOM_CYLINDER,
        pos=[button_x, button_y, 0.45],
        size=[0.04, 0.01, 0.0],
        material="wood_table",
        group=VISUAL_GROUP,
        friction=friction(TABLE_FRICTION),
        priority=TABLE_PRIORITY,
    )
    plank = spec.worldbody.add_body(name="plank", pos=[(left + right) / 2.0, 0.09, PLANK_TOP_Z - 0.01])
    half = ((right - left) / 2.0, 0.07, 0.01)
    low, high = [-h for h in half], list(half)
    add_collision_box(plank, "plank", low, high)
    add_visual(spec, plank, "plank_wood", Solid().box(low, high), "wood_table")


def _add_cheek(body: mujoco.MjsBody, side: str, x0: float, x1: float) -> None:
    """Contacts of the solid beside the niche: a thick board in the slope and two boxes behind it."""
    board = 0.04
    y, z = slope_yz(0.12, -board / 2.0)
    body.add_geom(
        name=f"desk_cheek_{side}_face",
        type=mujoco.mjtGeom.mjGEOM_BOX,
        pos=[(x0 + x1) / 2.0, y, z],
        quat=list(SLOPE_QUAT),
        size=[(x1 - x0) / 2.0, 0.12, board / 2.0],
        group=COLLISION_GROUP,
        friction=friction(TABLE_FRICTION),
        priority=TABLE_PRIORITY,
    )
    add_collision_box(body, f"desk_cheek_{side}_low", (x0, 0.075, 0.42), (x1, 0.18, 0.53))
    add_collision_box(body, f"desk_cheek_{side}_high", (x0, 0.13, 0.53), (x1, 0.18, 0.6478))


def _add_lamps(spec: mujoco.MjSpec, scene: SceneSpec) -> None:
    """The LED plate and the bulb on top of the cabinet; white while off."""
    led = spec.worldbody.add_body(name="led", pos=[scene.led_x, 0.16, 0.648])
    led.add_geom(
        name="led",
        type=mujoco.mjtGeom.mjGEOM_BOX,
        pos=[0.0, 0.0, 0.008],
        size=[0.08, 0.02, 0.008],
        rgba=[1.0, 1.0, 1.0, 1.0],
        group=VISUAL_GROUP,
        friction=friction(TABLE_FRICTION),
    )
    bulb = spec.worldbody.add_body(name="bulb", pos=[scene.bulb_xy[0], scene.bulb_xy[1] + BULB_RADIUS, 0.648])
    sphere = {"type": mujoco.mjtGeom.mjGEOM_SPHERE, "size": [BULB_RADIUS, 0.0, 0.0]}
    bulb.add_geom(
        name="bulb_contact", pos=[0.0, 0.0, 0.022], group=COLLISION_GROUP, friction=friction(TABLE_FRICTION), **sphere
    )
    bulb.add_geom(
        name="bulb",
        pos=[0.0, BULB_SEEN_Y - scene.bulb_xy[1] - BULB_RADIUS, BULB_SEEN_Z],
        rgba=[1.0, 1.0, 1.0, 1.0],
        contype=0,
        conaffinity=0,
        mass=0.0,
        group=VISUAL_GROUP,
        **sphere,
    )


def _add_block(spec: mujoco.MjSpec, scene: SceneSpec, name: str) -> None:
    """A free box of 1 kg with the inertia of its shape, parked at its place in a row on the desk."""
    size = scene.block_sizes[name]
    row = scene.slot_order.index(name)
    x0, x1 = scene.desk_area_x
    body = spec.worldbody.add_body(name=name, pos=[x0 + (x1 - x0) * (0.2 + 0.3 * row), -0.08, 0.46])
    body.add_freejoint(name=name)
    body.add_geom(
        name=name,
        type=mujoco.mjtGeom.mjGEOM_BOX,
        size=[edge / 2.0 for edge in size],
        material=name,
        mass=BLOCK_MASS_KG,
        group=VISUAL_GROUP,
        condim=4,
        friction=friction(BLOCK_FRICTION),
        priority=BLOCK_PRIORITY,
        # contacts are listed a little before they push, so that a light touch counts as one
        margin=0.0,
        gap=TOUCH_DISTANCE_M,
    )

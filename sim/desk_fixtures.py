"""The moving parts of the desk: sliding door, drawer, button and lever switch.

Geometry, masses, ranges and forces: CALVIN, mees/calvin_env (MIT), lengths after its global scaling of 0.8.
Door, drawer and lever are held by 4 N of dry friction, without springs or detents.
"""

from __future__ import annotations

import mujoco

from foreact.sim.desk_parts import (
    COLLISION_GROUP,
    GRIP_FRICTION,
    GRIP_PRIORITY,
    TABLE_FRICTION,
    TABLE_PRIORITY,
    VISUAL_GROUP,
    add_collision_box,
    add_visual,
    friction,
    set_inertia,
)
from foreact.sim.scenes import BUTTON_TRAVEL, DRAWER_TRAVEL, SWITCH_TRAVEL, SceneSpec
from foreact.sim.solids import SLOPE_QUAT, SLOPE_T, Solid, slope_yz

DRY_FRICTION_N = 4.0
DAMPING_NS_M = 0.5
BUTTON_SPRING_N_M = 20.0
SWITCH_ARMATURE_KG = 1.0
"""Added to the lever's motion (ours): so light a part would creep down by its own weight."""
DOOR_S, DOOR_ORIGIN = 0.11, (0.075, 0.5353)
"""Where up the slope the door's origin lies, and its world (y, z)."""
SWITCH_ORIGIN = (0.0609, 0.4949)
"""World (y, z) of the lever's link: 0.068 up the slope, 0.008 behind the face."""
SWITCH_S = 0.077
"""Where up the slope the middle of the lever is; fitted to the original renders within half a pixel."""
SWITCH_LOOP_N, SWITCH_BAR_N = (-0.016, 0.028), (0.028, 0.048)
"""The loop is 0.064 long and dips 0.016 into the panel; the bar closes it in front."""

HANDLE_CUT = 0.004
"""How far the drawn edges of the grey handles are cut off [m]; what is felt keeps sharp edges."""

SWITCH_SEEN_LOWER = 0.002
"""The lever is drawn this much further down the slope than it is felt [m], as in the original renders."""


def _slide_joint(body: mujoco.MjsBody, name: str, axis: tuple[float, float, float], travel: float) -> mujoco.MjsJoint:
    return body.add_joint(
        name=name,
        type=mujoco.mjtJoint.mjJNT_SLIDE,
        axis=list(axis),
        range=[0.0, travel],
        limited=mujoco.mjtLimited.mjLIMITED_TRUE,
        damping=DAMPING_NS_M,
        frictionloss=DRY_FRICTION_N,
        # as rigid as the contact solver resolves reliably: a load of 3 N creeps by about 0.1 mm/s
        solimp_friction=[0.985, 0.985, 0.001, 0.5, 2.0],
        solref_friction=[0.01, 1.0],
        # stiff and strongly damped: a joint set beyond its stop creeps back instead of being thrown
        solref_limit=[-2400.0, -240.0],
    )


def _sloped_box(
    body: mujoco.MjsBody,
    name: str,
    x: tuple[float, float],
    s: tuple[float, float],
    n: tuple[float, float],
    origin: tuple[float, float],
    grip: bool,
) -> None:
    """A collision box aligned with the sloped face; `origin` is the world (y, z) of the body frame."""
    y, z = slope_yz((s[0] + s[1]) / 2.0, (n[0] + n[1]) / 2.0)
    body.add_geom(
        name=name,
        type=mujoco.mjtGeom.mjGEOM_BOX,
        pos=[(x[0] + x[1]) / 2.0, y - origin[0], z - origin[1]],
        quat=list(SLOPE_QUAT),
        size=[(x[1] - x[0]) / 2.0, (s[1] - s[0]) / 2.0, (n[1] - n[0]) / 2.0],
        mass=0.0,
        group=COLLISION_GROUP,
        friction=friction(GRIP_FRICTION if grip else TABLE_FRICTION),
        priority=GRIP_PRIORITY if grip else TABLE_PRIORITY,
    )


def add_door(spec: mujoco.MjSpec, scene: SceneSpec) -> None:
    """The plate in front of the niche, in the sloped plane, with a U handle 0.08 off the face."""
    body = spec.worldbody.add_body(name="slide", pos=[scene.door_x, *DOOR_ORIGIN])
    _slide_joint(body, "slide", (-1.0, 0.0, 0.0), scene.door_travel)
    set_inertia(body, 1.543, (0.14, 0.0, 0.0), (0.28, 0.13, 0.19))
    plate = ((0.0, 0.28), (0.0, 0.22), (0.0, 0.02))
    handle = {
        "bar": ((0.12, 0.16), (DOOR_S - 0.08, DOOR_S + 0.08), (0.06, 0.08)),
        "post_low": ((0.12, 0.16), (DOOR_S - 0.08, DOOR_S - 0.06), (0.02, 0.06)),
        "post_high": ((0.12, 0.16), (DOOR_S + 0.06, DOOR_S + 0.08), (0.02, 0.06)),
    }
    wood, grey = Solid(), Solid()
    wood.sloped_box(*plate[0], plate[1], plate[2], DOOR_ORIGIN)
    _sloped_box(body, "slide_plate", *plate, DOOR_ORIGIN, grip=False)
    for part, (x, s, n) in handle.items():
        grey.chamfered_sloped_box(x, s, n, HANDLE_CUT, DOOR_ORIGIN)
        _sloped_box(body, f"slide_handle_{part}", x, s, n, DOOR_ORIGIN, grip=True)
    add_visual(spec, body, "slide_wood", wood, "wood_front")
    add_visual(spec, body, "slide_handle", grey, "grey")


def add_drawer(spec: mujoco.MjSpec, scene: SceneSpec) -> None:
    """A tray 0.36 x 0.20 x 0.06 inside, with a front panel and a bar handle; a finger fits behind the bar."""
    body = spec.worldbody.add_body(name="drawer", pos=[scene.drawer_x, 0.0, 0.32])
    _slide_joint(body, "drawer", (0.0, -1.0, 0.0), DRAWER_TRAVEL)
    set_inertia(body, 4.231, (0.0, -0.07, 0.03), (0.40, 0.24, 0.08))
    tray = {
        "floor": ((-0.20, -0.16, 0.0), (0.20, 0.06, 0.02)),
        "left": ((-0.20, -0.16, 0.02), (-0.18, 0.06, 0.08)),
        "right": ((0.18, -0.16, 0.02), (0.20, 0.06, 0.08)),
        "back": ((-0.18, 0.04, 0.02), (0.18, 0.06, 0.08)),
        "front": ((-0.22, -0.18, -0.02), (0.22, -0.16, 0.08)),
    }
    handle = {
        "bar": ((-0.12, -0.26, 0.02), (0.12, -0.24, 0.06)),
        "post_left": ((-0.12, -0.24, 0.02), (-0.10, -0.18, 0.06)),
        "post_right": ((0.10, -0.24, 0.02), (0.12, -0.18, 0.06)),
    }
    wood, grey = Solid(), Solid()
    for part, (low, high) in tray.items():
        wood.box(low, high)
        add_collision_box(body, f"drawer_{part}", low, high)
    for part, (low, high) in handle.items():
        grey.chamfered_box(low, high, HANDLE_CUT)
        add_collision_box(body, f"drawer_handle_{part}", low, high, sliding=GRIP_FRICTION, priority=GRIP_PRIORITY)
    add_visual(spec, body, "drawer_wood", wood, "wood_front")
    add_visual(spec, body, "drawer_handle", grey, "grey")


def add_button(spec: mujoco.MjSpec, scene: SceneSpec) -> None:
    """A black cylinder, 0.02 down against about 4 N less its weight; its top is at z = 0.484."""
    body = spec.worldbody.add_body(name="button", pos=[*scene.button_xy, 0.46])
    body.add_joint(
        name="button",
        type=mujoco.mjtJoint.mjJNT_SLIDE,
        axis=[0.0, 0.0, -1.0],
        range=[0.0, BUTTON_TRAVEL],
        limited=mujoco.mjtLimited.mjLIMITED_TRUE,
        # a soft spring far from rest: 4.0 N released, 4.4 N pressed
        stiffness=BUTTON_SPRING_N_M,
        springref=-DRY_FRICTION_N / BUTTON_SPRING_N_M,
        damping=2.0,
        solimp_limit=[0.99, 0.999, 0.001, 0.5, 2.0],
    )
    set_inertia(body, 0.154, (0.0, 0.0, 0.012), (0.055, 0.055, 0.024))
    body.add_geom(
        name="button",
        type=mujoco.mjtGeom.mjGEOM_CYLINDER,
        pos=[0.0, 0.0, 0.012],
        size=[0.032, 0.012, 0.0],
        material="black",
        mass=0.0,
        group=VISUAL_GROUP,
        friction=friction(GRIP_FRICTION),
        priority=GRIP_PRIORITY,
    )


def add_switch(spec: mujoco.MjSpec, scene: SceneSpec) -> None:
    """A lever: a loop 0.12 wide that stands off the sloped face and moves 0.088 up along it."""
    body = spec.worldbody.add_body(name="switch", pos=[scene.switch_x, *SWITCH_ORIGIN])
    joint = _slide_joint(body, "switch", (0.0, *SLOPE_T), SWITCH_TRAVEL)
    joint.armature = SWITCH_ARMATURE_KG
    set_inertia(body, 0.239, (0.0, -0.025, 0.02), (0.12, 0.06, 0.04))
    s = (SWITCH_S - 0.016, SWITCH_S + 0.016)
    loop = {
        "bar": ((-0.06, 0.06), s, SWITCH_BAR_N),
        "post_left": ((-0.06, -0.04), s, SWITCH_LOOP_N),
        "post_right": ((0.04, 0.06), s, SWITCH_LOOP_N),
    }
    grey = Solid()
    for part, (x, s_range, n_range) in loop.items():
        seen_s = (s_range[0] - SWITCH_SEEN_LOWER, s_range[1] - SWITCH_SEEN_LOWER)
        grey.chamfered_sloped_box(x, seen_s, n_range, HANDLE_CUT, SWITCH_ORIGIN)
        _sloped_box(body, f"switch_{part}", x, s_range, n_range, SWITCH_ORIGIN, grip=True)
    add_visual(spec, body, "switch_lever", grey, "grey")

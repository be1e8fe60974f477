"""Reading, writing and drawing the state of the desk: `scene_obs` (24), contacts and random starts.

`scene_obs` (CALVIN, mees/calvin_env, MIT): slide, drawer, button, switch [m], bulb, LED (0/1), then three
blocks of x, y, z [m] and extrinsic xyz Euler angles [rad] in the scene's own slot order.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass

import mujoco
import numpy as np
from numpy.typing import ArrayLike, NDArray

from foreact.sim.desk import FIXTURES
from foreact.sim.desk_parts import TOUCH_DISTANCE_M
from foreact.sim.lights import LightState, is_pressed
from foreact.sim.rotations import euler_xyz_of_quat, euler_xyz_to_matrix
from foreact.sim.scenes import BLOCKS, SceneSpec, get_scene
from foreact.vla.errors import ForeActError

Array = NDArray[np.float64]

SCENE_OBS_DIM = 24
SLIDE, DRAWER, BUTTON, SWITCH, BULB, LED = range(6)
"""Dims 0 to 5 of `scene_obs`."""

ROBOT, FLOOR = "robot", "floor"
_DESK_BODIES = ("desk", "plank", *FIXTURES, "led", "bulb", *BLOCKS)
_LAMP_OFF = (1.0, 1.0, 1.0, 1.0)
_LED_ON = (0.0, 1.0, 0.0, 1.0)
_BULB_ON = (1.0, 1.0, 0.0, 1.0)


class BadSceneObs(ForeActError):
    """A scene vector has the wrong shape or holds values that are not finite."""


class NoDesk(ForeActError):
    """A model was not built with `add_desk`."""


@dataclass(frozen=True)
class DeskIndex:
    """Where the desk's joints, bodies and lamps are in one compiled model."""

    scene: SceneSpec
    fixture_qpos: Array
    """Addresses (4,) in qpos: slide, drawer, button, switch."""
    fixture_at: tuple[int, ...]
    """The same addresses as plain numbers."""
    fixture_dof: Array
    block_qpos: dict[str, int]
    """First of the seven addresses in qpos of each block."""
    block_dof: dict[str, int]
    body_names: tuple[str, ...]
    """Name per body id; all links of the robot are "robot", the world is "floor"."""
    geom_bodies: tuple[str, ...]
    """The same name per geom id."""
    led_geom: int
    bulb_geom: int


_INDEX: weakref.WeakKeyDictionary[mujoco.MjModel, DeskIndex] = weakref.WeakKeyDictionary()


def desk_index(model: mujoco.MjModel) -> DeskIndex:
    """The index of a model built with `add_desk`; computed once per model."""
    index = _INDEX.get(model)
    if index is None:
        index = _INDEX[model] = _make_index(model)
    return index


def _scene_name(model: mujoco.MjModel) -> str:
    """The scene name that `add_desk` wrote into the model."""
    text_id = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_TEXT, "scene")
    if text_id < 0:
        raise NoDesk("this model has no desk: build it with foreact.sim.desk.add_desk")
    start = model.text_adr[text_id]
    data = bytes(model.text_data)[start : start + model.text_size[text_id]]
    return data.split(b"\0")[0].decode()


def _make_index(model: mujoco.MjModel) -> DeskIndex:
    names = [model.body(i).name for i in range(model.nbody)]
    names = [name if name in _DESK_BODIES else ROBOT for name in names]
    names[0] = FLOOR
    return DeskIndex(
        scene=get_scene(_scene_name(model)),
        fixture_qpos=np.array([model.joint(name).qposadr[0] for name in FIXTURES]),
        fixture_at=tuple(int(model.joint(name).qposadr[0]) for name in FIXTURES),
        fixture_dof=np.array([model.joint(name).dofadr[0] for name in FIXTURES]),
        block_qpos={name: int(model.joint(name).qposadr[0]) for name in BLOCKS},
        block_dof={name: int(model.joint(name).dofadr[0]) for name in BLOCKS},
        body_names=tuple(names),
        geom_bodies=tuple(names[body] for body in model.geom_bodyid.tolist()),
        led_geom=model.geom("led").id,
        bulb_geom=model.geom("bulb").id,
    )


def read_scene_obs(model: mujoco.MjModel, data: mujoco.MjData, lights: LightState) -> Array:
    """The vector (24,) float64 of the present state."""
    index = desk_index(model)
    qpos = data.qpos.tolist()
    obs = [qpos[at] for at in index.fixture_at]
    obs += float(lights.bulb), float(lights.led)
    for name in index.scene.slot_order:
        at = index.block_qpos[name]
        obs += qpos[at : at + 3]
        obs += euler_xyz_of_quat(*qpos[at + 3 : at + 7])
    return np.array(obs)


def check_scene_obs(scene_obs: ArrayLike) -> Array:
    """`scene_obs` as float64 (24,).

    Raises:
        BadSceneObs: If the shape is another one or a value is not finite.
    """
    obs = np.asarray(scene_obs, dtype=np.float64)
    if obs.shape != (SCENE_OBS_DIM,):
        raise BadSceneObs(f"scene_obs must have shape ({SCENE_OBS_DIM},), found {obs.shape}")
    if not np.isfinite(obs).all():
        bad = np.flatnonzero(~np.isfinite(obs)).tolist()
        raise BadSceneObs(f"scene_obs must be finite, dims {bad} are not")
    return obs


def write_scene_obs(
    model: mujoco.MjModel, data: mujoco.MjData, scene_obs: ArrayLike, rules: str = "2022-12"
) -> LightState:
    """Put the desk into the state of `scene_obs` (24,), at rest, and return the lamps that belong to it.

    The robot is left alone. Run `mj_forward` afterwards. Values beyond a stop are accepted; the stop then
    pushes back.

    Raises:
        BadSceneObs: If the vector has the wrong shape or is not finite.
    """
    obs = check_scene_obs(scene_obs)
    index = desk_index(model)
    data.qpos[index.fixture_qpos] = obs[:4]
    data.qvel[index.fixture_dof] = 0.0
    for slot, name in enumerate(index.scene.slot_order):
        pos, euler = obs[6 + 6 * slot : 9 + 6 * slot], obs[9 + 6 * slot : 12 + 6 * slot]
        write_block_pose(model, data, name, pos, euler)
    lights = LightState(
        led=bool(obs[LED] > 0.5),
        bulb=bool(obs[BULB] > 0.5),
        rules=rules,
        pressed=is_pressed(float(obs[BUTTON])),
    )
    show_lights(model, lights)
    return lights


def write_block_pose(
    model: mujoco.MjModel, data: mujoco.MjData, name: str, pos_world: ArrayLike, euler: ArrayLike
) -> None:
    """Put one block somewhere, at rest: position (3,) [m], extrinsic xyz Euler angles (3,) [rad]."""
    index = desk_index(model)
    at, dof = index.block_qpos[name], index.block_dof[name]
    quat = np.empty(4)
    mujoco.mju_mat2Quat(quat, euler_xyz_to_matrix(euler).ravel())
    data.qpos[at : at + 3] = pos_world
    data.qpos[at + 3 : at + 7] = quat
    data.qvel[dof : dof + 6] = 0.0


def show_lights(model: mujoco.MjModel, lights: LightState) -> None:
    """Colour the lamps: LED green and bulb yellow when on, white when off."""
    index = desk_index(model)
    model.geom_rgba[index.led_geom] = _LED_ON if lights.led else _LAMP_OFF
    model.geom_rgba[index.bulb_geom] = _BULB_ON if lights.bulb else _LAMP_OFF


def step_lights(model: mujoco.MjModel, data: mujoco.MjData, lights: LightState) -> None:
    """Update `lights` from the button and the lever, once per control step, and recolour the lamps."""
    qpos, address = data.qpos, desk_index(model).fixture_at
    before = (lights.led, lights.bulb)
    lights.update(float(qpos[address[BUTTON]]), float(qpos[address[SWITCH]]))
    if (lights.led, lights.bulb) != before:
        show_lights(model, lights)


def touching(model: mujoco.MjModel, data: mujoco.MjData) -> set[tuple[str, str]]:
    """Pairs of bodies closer than 0.5 mm, each pair sorted by name.

    The robot counts as one body, "robot"; the floor is "floor". Gaps are seen where a block is involved;
    other pairs count when they overlap. Contacts are those of the last collision pass in `data`.
    """
    names = desk_index(model).geom_bodies
    pairs: set[tuple[str, str]] = set()
    contact = data.contact
    for (one, other), gap in zip(contact.geom.tolist(), contact.dist.tolist(), strict=True):
        if gap < TOUCH_DISTANCE_M:
            a, b = names[one], names[other]
            if a != b:
                pairs.add((a, b) if a < b else (b, a))
    return pairs

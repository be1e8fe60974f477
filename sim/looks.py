"""Other looks of the same desk: textures, colours, light, cameras and objects to be ignored, drawn at a reset.

`apply_look` changes a compiled model in place, always starting from its nominal look, so the result depends on
the generator alone; `restore_look` brings the nominal look back, bit for bit. Masses, shapes that touch, joints
and contacts are never changed. Call it before `mj_forward`, for example right before `DeskEnv.set_state`:

    apply_look(env.model, np.random.default_rng(7), Looks(distractors=3))
"""

from __future__ import annotations

import colorsys
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, fields

import mujoco
import numpy as np
from numpy.typing import NDArray

from foreact.sim.desk import CAMERA_STATIC
from foreact.sim.distractors import N_DISTRACTORS, show_distractor
from foreact.sim.panda import GRIPPER_CAMERA
from foreact.sim.rendering import textures_changed
from foreact.sim.scene_state import desk_index
from foreact.sim.scenes import BLOCKS
from foreact.sim.textures import Image, two_colours, wood
from foreact.vla.errors import ForeActError, did_you_mean

Range = tuple[float, float]
STYLES = ("wood", "solid", "checker")
_GRAINS = ("fine", "straight", "oak")
_BOARDS = 4
_CHANGED = (
    "tex_data",
    "mat_rgba",
    "geom_rgba",
    "geom_pos",
    "geom_quat",
    "geom_size",
    "light_dir",
    "light_ambient",
    "light_diffuse",
    "cam_pos",
    "cam_quat",
    "cam_fovy",
)


class BadLooks(ForeActError):
    """A setting of `Looks` makes no sense."""

    exit_code = 2


@dataclass(frozen=True, kw_only=True)
class Looks:
    """What may vary and by how much. Zero, or a range of (1, 1), leaves a thing as it is."""

    table: bool = True
    """Another surface for the table."""
    front: bool = True
    """Another surface for the door and the drawer."""
    floor: bool = True
    """Other colours of the floor."""
    styles: tuple[str, ...] = STYLES
    """Surfaces to choose from: wood, solid, checker."""
    block_hue_deg: float = 6.0
    """The hue of a block turns by at most this [deg]; red stays red, blue blue and pink pink."""
    block_brightness: Range = (0.75, 1.0)
    """Factor on the value of a block's colour."""
    robot_brightness: Range = (0.85, 1.05)
    """Factor on the colours of the robot."""
    light_tilt_deg: float = 20.0
    """The direction of the light turns by at most this [deg]."""
    light_gain: Range = (0.8, 1.1)
    """Factor on the light, for the ambient and the directed part apart."""
    light_tint: float = 0.05
    """Each of red, green and blue of the light changes by at most this share."""
    static_shift_m: float = 0.03
    """The static camera moves by at most this along each axis [m]."""
    static_turn_deg: float = 0.3
    """The static camera turns by at most this about each axis [deg]."""
    hand_shift_m: float = 0.004
    hand_turn_deg: float = 1.5
    fovy_share: float = 0.03
    """The view angles change by at most this share."""
    distractors: int = 2
    """At most so many objects to be ignored, 0 to 4."""
    hand_alone: bool = False
    """The links of the arm are not drawn, and the hand has any colour: a gripper that floats. Nothing else changes."""

    def __post_init__(self) -> None:
        for style in self.styles:
            if style not in STYLES:
                raise BadLooks(f"no surface style {style!r}; {did_you_mean(style, STYLES)}")
        if not self.styles:
            raise BadLooks("styles is empty; name at least one of wood, solid, checker")
        if not 0 <= self.distractors <= N_DISTRACTORS:
            raise BadLooks(f"distractors must be 0 to {N_DISTRACTORS}, found {self.distractors}")
        if not 0.0 <= self.block_hue_deg <= 15.0:
            raise BadLooks(f"block_hue_deg must be 0 to 15 to keep colours by their names, found {self.block_hue_deg}")
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in ("block_brightness", "robot_brightness", "light_gain"):
                if not 0.0 < value[0] <= value[1] <= 2.0:
                    raise BadLooks(f"{field.name} must be (low, high) with 0 < low <= high <= 2, found {value}")
            elif isinstance(value, float) and not 0.0 <= value < 45.0:
                raise BadLooks(f"{field.name} must be 0 or more and below 45, found {value}")


UNCHANGED = Looks(
    table=False,
    front=False,
    floor=False,
    block_hue_deg=0.0,
    block_brightness=(1.0, 1.0),
    robot_brightness=(1.0, 1.0),
    light_tilt_deg=0.0,
    light_gain=(1.0, 1.0),
    light_tint=0.0,
    static_shift_m=0.0,
    static_turn_deg=0.0,
    hand_shift_m=0.0,
    hand_turn_deg=0.0,
    fovy_share=0.0,
    distractors=0,
)
"""Nothing varies; `dataclasses.replace` it to vary one thing."""

_nominal: weakref.WeakKeyDictionary[mujoco.MjModel, dict[str, NDArray]] = weakref.WeakKeyDictionary()


def apply_look(model: mujoco.MjModel, rng: np.random.Generator, looks: Looks | None = None) -> None:
    """Give `model`, built with `add_desk` and `add_panda`, a random look drawn from `rng`; see the module.

    Lamps keep their colours, since these are part of the state.

    Raises:
        NoDesk: If the model has no desk.
    """
    looks = looks or Looks()
    scene = desk_index(model).scene
    if model not in _nominal:
        _nominal[model] = {name: getattr(model, name).copy() for name in _CHANGED}
    _write_nominal(model)
    # one generator per subject: switching one of them off does not change the others
    surfaces, blocks, light, cameras, objects = _children(rng, 5)
    _vary_surfaces(model, surfaces, looks)
    _vary_colours(model, blocks, looks)
    _vary_light(model, light, looks)
    _vary_cameras(model, cameras, looks)
    for number in range(int(objects.integers(looks.distractors + 1))):
        show_distractor(model, objects, number, scene)
    textures_changed(model)


def restore_look(model: mujoco.MjModel) -> None:
    """Bring the nominal look back; nothing happens to a model that has it."""
    if model in _nominal:
        _write_nominal(model)
        textures_changed(model)


def _children(rng: np.random.Generator, count: int) -> list[np.random.Generator]:
    """Generators that depend on the state of `rng` alone (`Generator.spawn` counts its calls instead)."""
    return [np.random.default_rng(int(seed)) for seed in rng.integers(2**63, size=count)]


def _write_nominal(model: mujoco.MjModel) -> None:
    index = desk_index(model)
    lamps = [index.led_geom, index.bulb_geom]
    lit = model.geom_rgba[lamps].copy()
    for name, values in _nominal[model].items():
        getattr(model, name)[...] = values
    model.geom_rgba[lamps] = lit


def _vary_surfaces(model: mujoco.MjModel, rng: np.random.Generator, looks: Looks) -> None:
    wishes = {"wood_table": looks.table, "wood_front": looks.front, "floor": looks.floor}
    for (name, wanted), own in zip(wishes.items(), _children(rng, len(wishes)), strict=True):
        if wanted:
            picture = _floor(own) if name == "floor" else _surface(own, looks.styles)
            _write_texture(model, name, picture)
            if name == "wood_table":
                # the slots of the lever are a shade of the table
                model.mat_rgba[model.material("slot").id, :3] = 0.8 * picture.mean(axis=(0, 1)) / 255.0


def _surface(rng: np.random.Generator, styles: Sequence[str]) -> Image:
    """A tile (256, 256, 3) for table or front."""
    style = styles[int(rng.integers(len(styles)))]
    if style == "wood":
        # browns, from dark walnut to bleached ash
        brown = colorsys.hsv_to_rgb(rng.uniform(0.05, 0.10), rng.uniform(0.2, 0.6), rng.uniform(0.4, 0.97))
        return wood(
            255.0 * np.array(brown), _GRAINS[int(rng.integers(len(_GRAINS)))], seed=1000 + int(rng.integers(_BOARDS))
        )
    first = 255.0 * np.array(colorsys.hsv_to_rgb(rng.uniform(), rng.uniform(0.0, 0.35), rng.uniform(0.35, 0.95)))
    second = first * rng.uniform(0.75, 0.95) if style == "checker" else first
    return two_colours(first, second, squares=int(rng.choice([4, 8, 16])))


def _floor(rng: np.random.Generator) -> Image:
    first = 255.0 * np.array(colorsys.hsv_to_rgb(rng.uniform(), rng.uniform(0.0, 0.2), rng.uniform(0.5, 1.0)))
    return two_colours(first, first * rng.uniform(0.75, 1.0))


def _write_texture(model: mujoco.MjModel, name: str, picture: Image) -> None:
    texture = model.texture(name).id
    start = int(model.tex_adr[texture])
    model.tex_data[start : start + picture.size] = picture.ravel()


def _vary_colours(model: mujoco.MjModel, rng: np.random.Generator, looks: Looks) -> None:
    for name in BLOCKS:
        row = model.mat_rgba[model.material(name).id]
        hue, saturation, value = colorsys.rgb_to_hsv(*(float(c) for c in row[:3]))
        hue = (hue + rng.uniform(-1.0, 1.0) * looks.block_hue_deg / 360.0) % 1.0
        row[:3] = colorsys.hsv_to_rgb(hue, saturation, min(1.0, value * rng.uniform(*looks.block_brightness)))
    robot = np.array([model.body(int(body)).name.startswith("panda") for body in model.geom_bodyid])
    factor = rng.uniform(*looks.robot_brightness)
    model.geom_rgba[robot, :3] = np.minimum(1.0, model.geom_rgba[robot, :3] * factor)
    if looks.hand_alone:
        body = np.array([model.body(int(body)).name for body in model.geom_bodyid])
        model.geom_rgba[np.char.startswith(body, "panda_link"), 3] = 0.0  # MuJoCo draws nothing with an alpha of 0
        hand = np.isin(body, ("panda_hand", "panda_leftfinger", "panda_rightfinger"))
        colour = colorsys.hsv_to_rgb(rng.uniform(), rng.uniform(0.0, 0.8), rng.uniform(0.3, 1.0))
        model.geom_rgba[hand, :3] = colour


def _vary_light(model: mujoco.MjModel, rng: np.random.Generator, looks: Looks) -> None:
    light = model.light("sun").id
    axis = rng.normal(size=3)
    turn = _turn(axis / np.linalg.norm(axis), rng.uniform(0.0, np.radians(looks.light_tilt_deg)))
    if looks.light_tilt_deg:
        direction = np.empty(3)
        mujoco.mju_rotVecQuat(direction, model.light_dir[light], turn)
        model.light_dir[light] = direction
    tint = 1.0 + rng.uniform(-1.0, 1.0, 3) * looks.light_tint
    model.light_ambient[light] *= (tint * rng.uniform(*looks.light_gain)).astype(np.float32)
    model.light_diffuse[light] *= (tint * rng.uniform(*looks.light_gain)).astype(np.float32)


def _vary_cameras(model: mujoco.MjModel, rng: np.random.Generator, looks: Looks) -> None:
    for name, shift_m, turn_deg in (
        (CAMERA_STATIC, looks.static_shift_m, looks.static_turn_deg),
        (GRIPPER_CAMERA, looks.hand_shift_m, looks.hand_turn_deg),
    ):
        camera = model.camera(name).id
        shift, angles, zoom = rng.uniform(-1.0, 1.0, 3), rng.uniform(-1.0, 1.0, 3), rng.uniform(-1.0, 1.0)
        model.cam_pos[camera] += shift * shift_m
        model.cam_fovy[camera] *= 1.0 + zoom * looks.fovy_share
        if turn_deg:
            # small angles about the camera's own axes
            angle = np.radians(turn_deg) * np.linalg.norm(angles)
            quat = np.empty(4)
            mujoco.mju_mulQuat(quat, model.cam_quat[camera], _turn(angles / np.linalg.norm(angles), float(angle)))
            model.cam_quat[camera] = quat


def _turn(axis: NDArray[np.float64], angle: float) -> NDArray[np.float64]:
    """Quaternion (4,) wxyz of a turn by `angle` [rad] about the unit vector `axis` (3,)."""
    quat = np.empty(4)
    mujoco.mju_axisAngle2Quat(quat, axis, angle)
    return quat

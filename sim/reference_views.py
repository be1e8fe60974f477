"""How close the drawn desk is to CALVIN's: part by part, colour and silhouette, against recorded pictures.

A reference folder holds, per scene and state, `D_off.png` (static camera, 200 x 200), `D_off_hand.png` (hand
camera, 84 x 84) and `D_off_parts.png` (the part seen in each pixel of the static picture: 1 + its place in
PARTS, 0 for none). "off" is everything closed, "on" everything open and lit. The pictures were made with
calvin_env (mees/calvin_env, MIT) and its CPU renderer, which samples a pixel at its lower left corner where
OpenGL samples the middle; `sample_like_reference` moves our sample points there, so that half a pixel is not
taken for an error of shape.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import mujoco
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from foreact.sim.env import DeskEnv
from foreact.sim.rendering import CAMERA_SIZES, CameraRenderer
from foreact.sim.scenes import SCENES
from foreact.sim.starts import NEUTRAL_ROBOT_OBS
from foreact.vla.errors import ForeActError

Picture = NDArray[np.uint8]
STATES = ("off", "on")
PARTS = (
    "table",
    "door",
    "drawer",
    "slide_handle",
    "drawer_handle",
    "switch_lever",
    "button",
    "led",
    "bulb",
    "block_red",
    "block_blue",
    "block_pink",
    "robot",
    "floor_light",
    "floor_dark",
)
_GEOM_PARTS = {"slide_wood": "door", "drawer_wood": "drawer"}
_FLOOR_LIMIT = 223
"""Grey level between the light and the dark squares of the floor."""

# Where the blocks lie in the pictures, (x, y) [m], all with yaw 90 degrees; fitted to the pictures.
_LEFT, _RIGHT = (0.05, -0.12), (0.25, -0.12)
_BLOCKS = {
    "A": {"block_pink": (-0.15, -0.12), "block_blue": _RIGHT, "block_red": (-0.24, 0.0924)},
    "B": {"block_red": (-0.30, -0.12), "block_blue": _LEFT, "block_pink": (-0.03, 0.0924)},
    "C": {"block_blue": _LEFT, "block_red": _RIGHT, "block_pink": (-0.03, 0.0924)},
    "D": {"block_red": _LEFT, "block_blue": _RIGHT, "block_pink": (-0.24, 0.0924)},
}
_OPEN_SLIDE, _OPEN_DRAWER, _SWITCH_UP = 0.28, 0.22, 0.088


class NoReference(ForeActError):
    """A reference picture is missing or has the wrong size."""


@dataclass(frozen=True)
class PartMatch:
    """One part in one static picture."""

    scene: str
    state: str
    part: str
    reference_rgb: tuple[float, float, float]
    """Mean colour in the reference, 0-255, over the part's pixels there."""
    ours_rgb: tuple[float, float, float]
    """Mean colour in our picture, over the part's pixels there."""
    iou: float
    """Intersection over union of the two silhouettes, 0 to 1."""
    pixels: int
    """Size in the reference."""

    @property
    def colour_gap(self) -> float:
        """Largest difference of the mean colours over the three channels, 0-255."""
        return max(abs(a - b) for a, b in zip(self.reference_rgb, self.ours_rgb, strict=True))


def reference_scene_obs(scene: str, state: str) -> NDArray[np.float64]:
    """`scene_obs` (24,) of the recorded pictures."""
    obs = np.zeros(24)
    for slot, name in enumerate(SCENES[scene].slot_order):
        x, y = _BLOCKS[scene][name]
        obs[6 + 6 * slot : 12 + 6 * slot] = (x, y, 0.461 if y > 0.0 else 0.46, 0.0, 0.0, np.pi / 2.0)
    if state == "on":
        obs[:6] = (_OPEN_SLIDE, _OPEN_DRAWER, 0.0, _SWITCH_UP, 1.0, 1.0)
    return obs


def load_reference(folder: Path, scene: str, state: str) -> tuple[Picture, Picture, Picture]:
    """Static picture (200, 200, 3), hand picture (84, 84, 3) and part numbers (200, 200), all uint8.

    Raises:
        NoReference: If a file is missing or of another size.
    """
    return (
        _read(folder / f"{scene}_{state}.png", "RGB", (200, 200, 3)),
        _read(folder / f"{scene}_{state}_hand.png", "RGB", (84, 84, 3)),
        _read(folder / f"{scene}_{state}_parts.png", "L", (200, 200)),
    )


def _read(path: Path, mode: str, shape: tuple[int, ...]) -> Picture:
    try:
        picture = np.asarray(Image.open(path).convert(mode))
    except OSError as error:
        raise NoReference(f"cannot read the reference picture {path}: {error}") from None
    if picture.shape != shape:
        raise NoReference(
            f"{path} must be {shape[1]} x {shape[0]} pixels, found {picture.shape[1]} x {picture.shape[0]}"
        )
    return picture


def sample_like_reference(model: mujoco.MjModel) -> None:
    """Move the sample points of both cameras from the middle of each pixel to its lower left corner."""
    for name, (height, width) in CAMERA_SIZES.items():
        camera = model.camera(name).id
        focal = 0.5 / np.tan(np.radians(model.cam_fovy[camera]) / 2.0)
        model.cam_sensorsize[camera] = (1.0, 1.0)
        model.cam_resolution[camera] = (width, height)
        model.cam_intrinsic[camera] = (focal, focal, -0.5 / width, 0.5 / height)


def draw_state(env: DeskEnv, renderer: CameraRenderer, state: str) -> tuple[Picture, Picture, Picture]:
    """Our static picture, hand picture and part numbers in a reference state, shaped as in `load_reference`."""
    env.set_state(NEUTRAL_ROBOT_OBS, reference_scene_obs(env.scene.name, state))
    pictures = renderer.render_all(env.data)
    static = pictures["rgb_static"]
    numbers = np.array([*(_part_number(env.model, i) for i in range(env.model.ngeom)), 0], dtype=np.uint8)
    parts = numbers[renderer.geom_ids(env.data, "rgb_static")]
    light, dark = (1 + PARTS.index(name) for name in ("floor_light", "floor_dark"))
    parts[(parts == light) & (static.mean(axis=-1) < _FLOOR_LIMIT)] = dark
    return static, pictures["rgb_gripper"], parts


def _part_number(model: mujoco.MjModel, geom: int) -> int:
    name, body = model.geom(geom).name, model.body(int(model.geom_bodyid[geom])).name
    if name == "floor":
        part = "floor_light"
    elif name in PARTS:
        part = name
    elif name in _GEOM_PARTS:
        part = _GEOM_PARTS[name]
    else:
        part = "table" if body in ("desk", "plank") else "robot"
    return 1 + PARTS.index(part)


def compare_parts(
    scene: str, state: str, reference: tuple[Picture, Picture], ours: tuple[Picture, Picture]
) -> list[PartMatch]:
    """Compare two static pictures, each with its part numbers, for every part that the reference shows."""
    (reference_rgb, reference_parts), (our_rgb, our_parts) = reference, ours
    matches = []
    for number, part in enumerate(PARTS, start=1):
        there, here = reference_parts == number, our_parts == number
        if there.any():
            matches.append(
                PartMatch(
                    scene=scene,
                    state=state,
                    part=part,
                    reference_rgb=_mean_rgb(reference_rgb, there),
                    ours_rgb=_mean_rgb(our_rgb, here),
                    iou=float((there & here).sum() / (there | here).sum()),
                    pixels=int(there.sum()),
                )
            )
    return matches


def measure_scene(folder: Path, scene: str) -> list[PartMatch]:
    """All parts of one scene in both states.

    Raises:
        NoReference: If a reference picture is missing.
        NoGlBackend: If nothing can draw on this machine.
    """
    env = DeskEnv(scene, render=False)
    sample_like_reference(env.model)
    matches = []
    with CameraRenderer(env.model) as renderer:
        for state in STATES:
            static, _, parts = load_reference(folder, scene, state)
            our_static, _, our_parts = draw_state(env, renderer, state)
            matches += compare_parts(scene, state, (static, parts), (our_static, our_parts))
    return matches


def _mean_rgb(picture: Picture, mask: NDArray[np.bool_]) -> tuple[float, float, float]:
    if not mask.any():
        return (0.0, 0.0, 0.0)
    red, green, blue = picture[mask].mean(axis=0).tolist()
    return (red, green, blue)

"""Random starts of the desk.

Blocks as in CALVIN (mees/calvin_env, MIT): every block picks desk, niche left or niche right, each with the
same chance, a uniform place in it and a uniform yaw; all are drawn again until no two blocks touch. There
the fixtures start closed and off; ours can start at either end of their travel as well.
"""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np
from numpy.typing import NDArray

from foreact.sim.lights import LightState
from foreact.sim.scene_state import (
    BULB,
    DRAWER,
    LED,
    ROBOT,
    SCENE_OBS_DIM,
    SLIDE,
    SWITCH,
    desk_index,
    touching,
    write_scene_obs,
)
from foreact.sim.scenes import (
    BLOCK_SPAWN_Z,
    BLOCKS,
    DESK_AREA_Y,
    DRAWER_TRAVEL,
    NICHE_AREA_Y,
    NICHE_SPAWN_Z,
    SWITCH_TRAVEL,
    SceneSpec,
)
from foreact.vla.errors import ConfigError, ForeActError, did_you_mean

MAX_TRIES = 1000
DEEP_M = 0.0005
"""A block further inside something than this would be thrown out by the contact."""
FIXTURE_STARTS = ("closed", "random")


class NoFreePlace(ForeActError):
    """No draw without touching blocks was found."""


@dataclass(frozen=True)
class RandomStart:
    """What a random reset chose."""

    scene_obs: NDArray[np.float64]
    """The vector (24,) that was written."""
    lights: LightState
    rejected: int
    """How many draws were thrown away because blocks touched something they should not."""


def random_reset(
    rng: np.random.Generator,
    model: mujoco.MjModel,
    data: mujoco.MjData,
    fixtures: str = "closed",
    rules: str = "2022-12",
) -> RandomStart:
    """Draw a start, write it into `data` and run `mj_forward`.

    Args:
        rng: Source of chance; the same state gives the same start.
        model: A model built with `add_desk`.
        data: Changed in place; the robot's joints are left alone.
        fixtures: "closed" (all closed and off, as in CALVIN) or "random" (door, drawer and lever each at one
            of its ends, LED on or off, all with chance 1/2).
        rules: Version of the lamp rules.

    Raises:
        ConfigError: If `fixtures` is neither.
        NoFreePlace: If 1000 draws all collide.
    """
    if fixtures not in FIXTURE_STARTS:
        raise ConfigError(f"no start of the fixtures {fixtures!r}; {did_you_mean(fixtures, FIXTURE_STARTS)}")
    scene = desk_index(model).scene
    obs = np.zeros(SCENE_OBS_DIM)
    if fixtures == "random":
        _draw_fixtures(rng, scene, obs)
    for rejected in range(MAX_TRIES):
        _draw_blocks(rng, scene, obs)
        lights = write_scene_obs(model, data, obs, rules)
        mujoco.mj_forward(model, data)
        if not _blocks_collide(model, data):
            return RandomStart(scene_obs=obs, lights=lights, rejected=rejected)
    raise NoFreePlace(f"no start of scene {scene.name} without touching blocks in {MAX_TRIES} draws")


def _draw_fixtures(rng: np.random.Generator, scene: SceneSpec, obs: NDArray[np.float64]) -> None:
    door, drawer, lever, led = rng.integers(0, 2, size=4)
    obs[SLIDE] = door * scene.door_travel
    obs[DRAWER] = drawer * DRAWER_TRAVEL
    obs[SWITCH] = lever * SWITCH_TRAVEL
    obs[BULB], obs[LED] = lever, led


def _draw_blocks(rng: np.random.Generator, scene: SceneSpec, obs: NDArray[np.float64]) -> None:
    areas = (
        (scene.desk_area_x, DESK_AREA_Y, BLOCK_SPAWN_Z),
        (scene.niche_left_x, NICHE_AREA_Y, NICHE_SPAWN_Z),
        (scene.niche_right_x, NICHE_AREA_Y, NICHE_SPAWN_Z),
    )
    for slot in range(len(BLOCKS)):
        x_range, y_range, z = areas[int(rng.integers(0, 3))]
        start = 6 + 6 * slot
        obs[start : start + 3] = rng.uniform(*x_range), rng.uniform(*y_range), z
        obs[start + 3 : start + 6] = 0.0, 0.0, rng.uniform(-np.pi, np.pi)


def _blocks_collide(model: mujoco.MjModel, data: mujoco.MjData) -> bool:
    """Whether a block touches anything but desk and plank, or is stuck in one of these (a niche wall).

    The robot does not count: where it stands must not change which blocks a seed gives.
    """
    for pair in touching(model, data):
        others = [name for name in pair if name not in BLOCKS]
        if len(others) == 0 or (len(others) == 1 and others[0] not in ("desk", "plank", ROBOT)):
            return True
    names = desk_index(model).body_names
    deep = model.geom_bodyid[data.contact.geom[data.contact.dist < -DEEP_M]]
    pairs = [{names[one], names[other]} for one, other in deep]
    return any(pair.intersection(BLOCKS) and ROBOT not in pair for pair in pairs)

"""The spaces of the desk for gymnasium, known before a desk is built."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import gymnasium as gym
import numpy as np

from foreact.sim.embodiment import ACTION_MODES
from foreact.vla.errors import ConfigError, did_you_mean

Obs = dict[str, np.ndarray]
ROBOT_OBS_DIM, SCENE_OBS_DIM = 15, 24
MAX_DEPTH_M = 10.0
"""No camera measures farther."""


def observation_space(sizes: Mapping[str, tuple[int, int]], depth: bool = False) -> gym.spaces.Space[Obs]:
    """Frames (H, W, 3) uint8 of the cameras in `sizes` (name -> (H, W)), `robot_obs` (15,), `scene_obs` (24,).

    With `depth`, also (H, W) float32 [m] per camera, named by `depth_name`.
    """
    spaces: dict[str, gym.Space[Any]] = {
        name: gym.spaces.Box(0, 255, (height, width, 3), np.uint8) for name, (height, width) in sizes.items()
    }
    if depth:
        for name, size in sizes.items():
            spaces[depth_name(name)] = gym.spaces.Box(0.0, MAX_DEPTH_M, size, np.float32)
    spaces["robot_obs"] = gym.spaces.Box(-10.0, 10.0, (ROBOT_OBS_DIM,), np.float64)
    spaces["scene_obs"] = gym.spaces.Box(-10.0, 10.0, (SCENE_OBS_DIM,), np.float64)
    return cast("gym.spaces.Space[Obs]", gym.spaces.Dict(spaces))


def depth_name(camera: str) -> str:
    """The observation that holds the depth of a colour camera: "depth_static" for "rgb_static"."""
    return f"depth_{camera.removeprefix('rgb_')}"


def action_space(action_mode: str) -> gym.spaces.Box:
    """The float32 box of one of `ACTION_MODES`.

    Raises:
        ConfigError: If the mode is unknown.
    """
    if action_mode not in ACTION_MODES:
        raise ConfigError(f"unknown action_mode {action_mode!r}; {did_you_mean(action_mode, ACTION_MODES)}")
    bound = ACTION_MODES[action_mode]
    return gym.spaces.Box(bound.low, bound.high, dtype=np.float32)

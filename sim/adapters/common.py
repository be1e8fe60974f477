"""What the adapters share: checked tasks, cameras, options and actions, and frames with shadows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np

from foreact.sim.rendering import CameraRenderer
from foreact.vla.contract import Contract
from foreact.vla.errors import ConfigError, did_you_mean

Sizes = Mapping[str, tuple[int, int]]


def checked_task(task: str, tasks: Iterable[str], suite: str) -> str:
    """`task`, if the suite has it.

    Raises:
        ConfigError: If it has not.
    """
    tasks = tuple(tasks)
    if task not in tasks:
        raise ConfigError(f"{suite} has no task {task!r}; {did_you_mean(task, tasks)}")
    return task


def checked_sizes(sizes: Mapping[str, Any], known: Iterable[str], suite: str) -> dict[str, tuple[int, int]]:
    """Camera name -> (height, width), if all cameras exist and all sizes are two positive integers.

    Raises:
        ConfigError: If not.
    """
    known = tuple(known)
    checked: dict[str, tuple[int, int]] = {}
    for name, size in sizes.items():
        if name not in known:
            raise ConfigError(f"{suite} has no camera {name!r}; {did_you_mean(str(name), known)}")
        numbers = list(size) if isinstance(size, Iterable) and not isinstance(size, str) else []
        if len(numbers) != 2 or not all(isinstance(n, (int, np.integer)) and n > 0 for n in numbers):
            raise ConfigError(f"camera {name}: expected [height, width] in pixels, found {size!r}")
        checked[name] = (int(numbers[0]), int(numbers[1]))
    return checked


def checked_reset_options(options: Mapping[str, Any] | None, *more: str) -> dict[str, Any]:
    """Reset options, if all are known.

    Raises:
        ConfigError: If one is not.
    """
    known = ("task", "instruction", *more)
    options = dict(options or {})
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ConfigError(f"unknown reset options {unknown}; known: {', '.join(known)}")
    return options


def checked_action(action: np.ndarray, contract: Contract) -> np.ndarray:
    """(A,) float64, clipped to the contract's range.

    Raises:
        ConfigError: If the shape is another, or a number is not finite.
    """
    action = np.array(action, dtype=np.float64)
    if action.shape != (contract.action_size,) or not np.all(np.isfinite(action)):
        raise ConfigError(
            f"action must be {contract.action_size} finite numbers, found shape {action.shape}: {action!r:.120}"
        )
    space = action_space(contract)
    return np.clip(action, space.low, space.high)


def action_space(contract: Contract) -> gym.spaces.Box:
    """The bounds of a contract's action fields, (A,) float32."""
    low = np.concatenate([np.full(f.size, -np.inf if f.low is None else f.low, np.float32) for f in contract.action])
    high = np.concatenate([np.full(f.size, np.inf if f.high is None else f.high, np.float32) for f in contract.action])
    return gym.spaces.Box(low, high, dtype=np.float32)


def observation_space(contract: Contract, robot: int, rendered: bool) -> gym.spaces.Dict:
    """Frames where they are rendered, `robot_obs` (robot,), and `scene_obs` where state is left for it."""
    spaces: dict[str, gym.Space[Any]] = {}
    if rendered:
        spaces = {c.name: gym.spaces.Box(0, 255, (c.height, c.width, 3), np.uint8) for c in contract.cameras}
    spaces["robot_obs"] = gym.spaces.Box(-np.inf, np.inf, (robot,), np.float64)
    if contract.state_size > robot:
        spaces["scene_obs"] = gym.spaces.Box(-np.inf, np.inf, (contract.state_size - robot,), np.float64)
    return gym.spaces.Dict(spaces)


def task_of_instruction(instruction: str, sentences: Mapping[str, str], suite: str) -> str:
    """The task that a sentence asks for.

    Args:
        instruction: The sentence.
        sentences: Sentence -> task.
        suite: Named in the message.

    Raises:
        ConfigError: If no task of the suite is asked for in these words.
    """
    if instruction not in sentences:
        raise ConfigError(
            f"{suite}'s expert knows its task by the sentence, and no task has {instruction!r}; "
            f"{did_you_mean(instruction, sentences) if len(sentences) <= 50 else 'use the sentences of the suite'}"
        )
    return sentences[instruction]


class ShadowRenderer(CameraRenderer):
    """Draws shadows, reflections and haze, as MuJoCo does by default; several times slower in software."""

    def _open(self) -> tuple[mujoco.MjrContext, mujoco.MjvScene]:
        context, scene = super()._open()
        for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION, mujoco.mjtRndFlag.mjRND_HAZE):
            scene.flags[flag] = 1
        return context, scene

"""Demonstrations: a scripted expert acts in the environment and is recorded.

The executed action is the expert's plus noise and occasional slips; the recorded label is what the expert wanted. So
the data shows how to come back from a mistake (noise injection as in DART, Laskey et al. 2017).
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

from foreact.datasets.episode import EpisodeData
from foreact.sim.env import DeskEnv
from foreact.sim.experts import Expert
from foreact.sim.language import training_instructions
from foreact.sim.starts import draw_start


@dataclass(frozen=True, kw_only=True)
class DemonstrationSettings:
    """How experts vary; the meaning of each field is in `configs/collect.yaml`."""

    max_steps: int = 180
    tail_steps: int = 8
    speed: tuple[float, float] = (0.75, 1.0)
    jitter: float = 0.08
    slip_probability: float = 0.02
    slip_steps: tuple[int, int] = (3, 8)
    slip_size: float = 1.0


STEADY = DemonstrationSettings(speed=(0.9, 0.9), jitter=0.0, slip_probability=0.0)
"""An expert at its best: no noise, one speed."""


class Disturbance:
    """Noise on executed actions: Gaussian jitter, and slips that push one way for a few steps."""

    def __init__(self, settings: DemonstrationSettings, rng: np.random.Generator) -> None:
        self._settings = settings
        self._rng = rng
        self._left = 0
        self._push = np.zeros(6)

    def __call__(self, action: np.ndarray) -> np.ndarray:
        """The action (7,) that is executed when `action` (7,) was wanted; the gripper is never disturbed."""
        settings, rng = self._settings, self._rng
        if self._left == 0 and rng.random() < settings.slip_probability:
            self._left = int(rng.integers(settings.slip_steps[0], settings.slip_steps[1] + 1))
            self._push = rng.uniform(-settings.slip_size, settings.slip_size, 6) * np.repeat([1.0, 0.5], 3)
        noise = rng.normal(0.0, settings.jitter, 6)
        if self._left > 0:
            self._left -= 1
            noise = noise + self._push
        return np.concatenate([np.clip(action[:6] + noise, -1.0, 1.0), action[6:]])


def episode_rng(seed: int, scene: str, task: str, index: int) -> np.random.Generator:
    """The random stream of one episode; the same wherever and whenever it is recorded."""
    return np.random.default_rng([seed, zlib.crc32(f"{scene}/{task}".encode()), index])


def demonstrate(
    env: DeskEnv, task: str, rng: np.random.Generator, settings: DemonstrationSettings, *, action_free: bool = False
) -> EpisodeData | None:
    """Record one episode of `task` from a random start, or None when the expert fails.

    Frame t is what was seen before action t. With `action_free`, state and actions are left out (video).
    """
    start = draw_start(env, rng, tasks=(task,))
    sentences = training_instructions(task)
    instruction = sentences[int(rng.integers(len(sentences)))]
    expert = Expert(task, env.scene, speed=float(rng.uniform(*settings.speed)))
    disturb = Disturbance(settings, rng)
    obs, _ = env.reset(options={"robot_obs": start.robot_obs, "scene_obs": start.scene_obs, "task": task})
    cameras = [camera.name for camera in env.contract.cameras] if env.renders else []
    columns: dict[str, list[np.ndarray]] = {
        key: [] for key in (*cameras, "state", "action", "scene_obs", "action_executed")
    }
    done_at: int | None = None
    for step in range(settings.max_steps + settings.tail_steps):
        wanted = expert.act(obs["robot_obs"], obs["scene_obs"])
        executed = disturb(wanted)
        for key, value in (
            *((name, obs[name]) for name in cameras),
            ("state", obs["robot_obs"]),
            ("action", wanted),
            ("scene_obs", obs["scene_obs"]),
            ("action_executed", executed),
        ):
            columns[key].append(value)
        obs, _, success, _, _ = env.step(executed)
        if success and done_at is None:
            done_at = step
        if done_at is None and step >= settings.max_steps - 1:
            return None
        if done_at is not None and step >= done_at + settings.tail_steps:
            break
    stacked = {key: np.stack(values) for key, values in columns.items()}
    return EpisodeData(
        images={name: stacked[name] for name in cameras},
        state=None if action_free else stacked["state"].astype(np.float32),
        action=None if action_free else stacked["action"].astype(np.float32),
        extras={}
        if action_free
        else {key: stacked[key].astype(np.float32) for key in ("scene_obs", "action_executed")},
        instruction=instruction,
        meta={
            "task": task,
            "scene": env.scene.name,
            "success_step": done_at,
            "rejected_draws": start.rejected_draws,
        },
    )

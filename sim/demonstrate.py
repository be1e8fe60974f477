"""Demonstrations: a scripted expert acts in the environment and is recorded.

The executed action is the expert's plus noise and occasional slips; the recorded label is what the expert wanted. So
the data shows how to come back from a mistake (noise injection as in DART, Laskey et al. 2017). A trained policy may
drive first, with the expert's labels all the same: then the mistakes are its own (DAgger, Ross et al. 2011).
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Protocol

import numpy as np

from foreact.datasets.episode import EpisodeData
from foreact.sim.env import DeskEnv
from foreact.sim.language import training_instructions
from foreact.sim.manner import STEADY, DemonstrationSettings, Disturbance, draw_manner
from foreact.sim.starts import NoStart, draw_start

__all__ = [
    "MAX_TRIES",
    "STEADY",
    "DemonstrationSettings",
    "Disturbance",
    "Driver",
    "demonstrate",
    "demonstrate_once",
    "episode_rng",
]

MAX_TRIES = 20
"""An episode whose expert fails so often in a row is given up."""


class Driver(Protocol):
    """Acts in the expert's stead at the beginning of an episode."""

    def begin(self, instruction: str) -> None:
        """A new episode begins."""
        ...

    def act(self, obs: Mapping[str, np.ndarray]) -> np.ndarray:
        """The action (7,) that is executed; `obs` is what `DeskEnv` shows, once per control step."""
        ...


def episode_rng(seed: int, scene: str, task: str, index: int, attempt: int = 0) -> np.random.Generator:
    """The random stream of one attempt at an episode; the same wherever and whenever it is recorded."""
    parts = [seed, zlib.crc32(f"{scene}/{task}".encode()), index]
    return np.random.default_rng([*parts, attempt] if attempt else parts)


def demonstrate(
    env: DeskEnv,
    task: str,
    rng: np.random.Generator,
    settings: DemonstrationSettings,
    *,
    action_free: bool = False,
    driver: Driver | None = None,
) -> EpisodeData | None:
    """Record one episode of `task` from a random start, or None when the expert fails.

    Frame t is what was seen before action t. With `action_free`, state and actions are left out (video). A `driver`
    begins some of the episodes (`settings.driver_share`), for so many steps (`driver_steps`); meta tells how many.

    Raises:
        NoStart: If no start of the task could be drawn.
    """
    start = draw_start(env, rng, tasks=(task,))
    sentences = training_instructions(task)
    instruction = sentences[int(rng.integers(len(sentences)))]
    manner = draw_manner(settings, rng)
    expert = manner.expert(task, env.scene)
    disturb = Disturbance(settings, rng, manner.unsteady)
    driven = _driven_steps(settings, rng) if driver is not None else 0
    if driver is not None:
        driver.begin(instruction)
    obs, _ = env.reset(options={"robot_obs": start.robot_obs, "scene_obs": start.scene_obs, "task": task})
    columns: dict[str, list[np.ndarray]] = {}
    done_at: int | None = None
    for step in range(settings.max_steps + settings.tail_steps):
        wanted = expert.act(obs["robot_obs"], obs["scene_obs"])
        executed = driver.act(obs) if driver is not None and step < driven else disturb(wanted)
        for key, value in frame_parts(env, obs, wanted, executed).items():
            columns.setdefault(key, []).append(value)
        obs, _, success, _, _ = env.step(executed)
        if success and done_at is None:
            done_at = step
        if done_at is None and step >= settings.max_steps - 1:
            return None
        if done_at is not None and step >= done_at + settings.tail_steps:
            break
    stacked = {key: np.stack(values) for key, values in columns.items()}
    return EpisodeData(
        images={name: stacked[name] for name in cameras_of(env)},
        state=None if action_free else stacked["state"],
        action=None if action_free else stacked["action"],
        extras={} if action_free else {key: stacked[key] for key in ("scene_obs", "action_executed")},
        instruction=instruction,
        meta={
            "task": task,
            "scene": env.scene.name,
            "success_step": done_at,
            "rejected_draws": start.rejected_draws,
            **({} if driver is None else {"driven_steps": driven}),
        },
    )


def _driven_steps(settings: DemonstrationSettings, rng: np.random.Generator) -> int:
    low, high = settings.driver_steps
    return int(rng.integers(low, high + 1)) if rng.random() < settings.driver_share else 0


def demonstrate_once(
    env: DeskEnv,
    task: str,
    seed: int,
    index: int,
    settings: DemonstrationSettings,
    *,
    tries: int = MAX_TRIES,
    action_free: bool = False,
    driver: Driver | None = None,
) -> tuple[EpisodeData | None, int]:
    """Episode `index` of `task`: attempts with one sub-seed after the other until the expert succeeds.

    Returns:
        The episode, or None after `tries` failures; and how many attempts failed. The episode's meta tells the latter
        as "failed_attempts", and the seed and the index.
    """
    for attempt in range(tries):
        try:
            rng = episode_rng(seed, env.scene.name, task, index, attempt)
            episode = demonstrate(env, task, rng, settings, action_free=action_free, driver=driver)
        except NoStart:
            episode = None
        if episode is not None:
            episode.meta.update(seed=seed, index=index, failed_attempts=attempt)
            return episode, attempt
    return None, tries


def cameras_of(env: DeskEnv) -> list[str]:
    """The cameras whose frames are in the observations of `env`."""
    return [camera.name for camera in env.contract.cameras] if env.renders else []


def frame_parts(
    env: DeskEnv, obs: Mapping[str, np.ndarray], wanted: np.ndarray, executed: np.ndarray
) -> dict[str, np.ndarray]:
    """What is recorded of one step: frames by camera, state (15,), action (7,), scene_obs (24,), action_executed (7,).

    All but the frames are float32.
    """
    numbers = {"state": obs["robot_obs"], "action": wanted, "scene_obs": obs["scene_obs"], "action_executed": executed}
    return {name: obs[name] for name in cameras_of(env)} | {k: v.astype(np.float32) for k, v in numbers.items()}

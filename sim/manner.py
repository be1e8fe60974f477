"""The manner of an attempt: how fast, by which way and how steadily the hand moves.

People differ, and so do their demonstrations. `steady` is one careful expert; `human` draws a manner for every attempt.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from foreact.sim.expert_law import PLAIN, Style
from foreact.sim.experts import Expert
from foreact.sim.scenes import SceneSpec


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
    manner: Literal["steady", "human"] = "steady"
    gain: tuple[float, float] = (0.22, 0.38)
    travel_m: tuple[float, float] = (0.0, 0.05)
    off_centre: float = 0.8
    other_way: float = 0.25
    unsteady: tuple[float, float] = (0.25, 1.5)
    driver_share: float = 0.75
    driver_steps: tuple[int, int] = (20, 160)


STEADY = DemonstrationSettings(speed=(0.9, 0.9), jitter=0.0, slip_probability=0.0)
"""An expert at its best: no noise, one speed."""


@dataclass(frozen=True, kw_only=True)
class Manner:
    """The manner of one attempt."""

    speed: float
    """Largest action component."""
    gain: float = 0.3
    """Share of the remaining distance that one step commands."""
    style: Style = PLAIN
    unsteady: float = 1.0
    """Factor on jitter and on the chance of a slip."""

    def expert(self, task: str, scene: SceneSpec) -> Expert:
        """An expert of `task` that acts in this manner."""
        return Expert(task, scene, speed=self.speed, gain=self.gain, style=self.style)


def draw_manner(settings: DemonstrationSettings, rng: np.random.Generator) -> Manner:
    """Draw a manner; for `steady` only the speed is drawn, so that its episodes do not depend on the other ranges."""
    speed = float(rng.uniform(*settings.speed))
    if settings.manner == "steady":
        return Manner(speed=speed)
    return Manner(
        speed=speed,
        gain=float(rng.uniform(*settings.gain)),
        style=Style(
            travel_m=float(rng.uniform(*settings.travel_m)),
            off_centre=float(rng.uniform(-settings.off_centre, settings.off_centre)),
            other_way=bool(rng.random() < settings.other_way),
        ),
        unsteady=float(rng.uniform(*settings.unsteady)),
    )


class Disturbance:
    """Noise on executed actions: Gaussian jitter, and slips that push one way for a few steps."""

    def __init__(self, settings: DemonstrationSettings, rng: np.random.Generator, unsteady: float = 1.0) -> None:
        self._settings = replace(
            settings, jitter=settings.jitter * unsteady, slip_probability=settings.slip_probability * unsteady
        )
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

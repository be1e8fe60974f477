"""What a task wants to be different: the protocol, and the goals of door, drawer and lamps.

Thresholds: CALVIN, mees/calvin_env (MIT), configuration of its task oracle.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from foreact.sim.scene_info import SceneInfo
from foreact.sim.scene_state import BULB, SLIDE, SWITCH
from foreact.sim.scenes import DRAWER_TRAVEL, SWITCH_TRAVEL, SceneSpec

Array = NDArray[np.float64]

START_MARGIN_M = 0.02
"""A joint task is feasible if it leaves this much travel beyond its threshold (ours)."""


class Goal(Protocol):
    """What a task wants to be different."""

    def reached(self, start: SceneInfo, now: SceneInfo) -> bool:
        """Whether the change from `start` to `now` is the wanted one."""
        ...

    def feasible(self, scene_obs: Array, scene: SceneSpec) -> bool:
        """Whether the change is possible from the state `scene_obs` (24,)."""
        ...

    def prepare(self, scene_obs: Array, scene: SceneSpec, rng: np.random.Generator) -> None:
        """Change `scene_obs` (24,) in place, as little as needed, so that the change is possible.

        Where there is a choice (the place of a block) it is drawn from `rng`.
        """
        ...


@dataclass(frozen=True)
class JointMoved:
    """The sliding door or the drawer moved by more than `by_m`, in the direction of its sign."""

    dim: int
    """SLIDE or DRAWER, the dim of `scene_obs`."""
    by_m: float

    def reached(self, start: SceneInfo, now: SceneInfo) -> bool:
        before, after = (s.slide_m if self.dim == SLIDE else s.drawer_m for s in (start, now))
        moved = after - before
        return moved > self.by_m if self.by_m > 0 else moved < self.by_m

    def feasible(self, scene_obs: Array, scene: SceneSpec) -> bool:
        travel = self._travel(scene)
        left = travel - scene_obs[self.dim] if self.by_m > 0 else scene_obs[self.dim]
        return bool(left >= abs(self.by_m) + START_MARGIN_M)

    def prepare(self, scene_obs: Array, scene: SceneSpec, rng: np.random.Generator) -> None:
        if not self.feasible(scene_obs, scene):
            scene_obs[self.dim] = 0.0 if self.by_m > 0 else self._travel(scene)

    def _travel(self, scene: SceneSpec) -> float:
        return scene.door_travel if self.dim == SLIDE else DRAWER_TRAVEL


@dataclass(frozen=True)
class LampSwitched:
    """The LED or the bulb was not as wanted at the start and is now."""

    dim: int
    """BULB or LED, the dim of `scene_obs`."""
    on: bool

    def reached(self, start: SceneInfo, now: SceneInfo) -> bool:
        before, after = (s.bulb if self.dim == BULB else s.led for s in (start, now))
        return before != self.on and after == self.on

    def feasible(self, scene_obs: Array, scene: SceneSpec) -> bool:
        return bool(scene_obs[self.dim] > 0.5) != self.on

    def prepare(self, scene_obs: Array, scene: SceneSpec, rng: np.random.Generator) -> None:
        if self.feasible(scene_obs, scene):
            return
        scene_obs[self.dim] = float(not self.on)
        if self.dim == BULB:  # the bulb follows the lever
            scene_obs[SWITCH] = 0.0 if self.on else SWITCH_TRAVEL

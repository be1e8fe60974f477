"""The goals of the block tasks: rotate, push, lift, place, stack, unstack, push into the drawer.

Rules and thresholds: CALVIN, mees/calvin_env (MIT), its task oracle, version of December 2022. An oracle sees poses,
velocities and which bodies touch (`scene_info.SceneInfo`); the robot counts as one body. As there, a block that is
still gripped may count as rotated or pushed, and one in the hand as unstacked.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foreact.sim import block_places as places
from foreact.sim.rotations import matrix_to_euler_xyz
from foreact.sim.scene_info import SceneInfo
from foreact.sim.scene_state import ROBOT
from foreact.sim.scenes import BLOCKS, SceneSpec

Array = NDArray[np.float64]

ROTATED_RAD = math.radians(60.0)
TILT_LIMIT_RAD = math.radians(30.0)
DRIFT_LIMIT_M = 0.10
"""A rotated block may move this far and no further."""
PUSHED_M = 0.10
LIFTED_M = {"desk": 0.05, "plank": 0.03, "drawer": 0.05}
"""How far a block has to rise, by the body on which it stood."""
STILL = 1.0
"""Components of a still block's velocities are below it [m/s, rad/s]."""


@dataclass(frozen=True)
class Rotated:
    """One block turned by more than 60 degrees about the vertical, without tilting or moving far."""

    block: str
    sign: float
    """+1: counter-clockwise seen from above (left), -1: clockwise (right)."""

    def reached(self, start: SceneInfo, now: SceneInfo) -> bool:
        before, after = start.blocks[self.block], now.blocks[self.block]
        x, y, z = matrix_to_euler_xyz(after.R_world_block @ before.R_world_block.T)
        return bool(
            ROTATED_RAD < self.sign * z < math.pi
            and abs(x) < TILT_LIMIT_RAD
            and abs(y) < TILT_LIMIT_RAD
            and np.linalg.norm(after.pos_world - before.pos_world) <= DRIFT_LIMIT_M
            and now.contacts_of(self.block) - {ROBOT}
        )

    def feasible(self, scene_obs: Array, scene: SceneSpec) -> bool:
        return places.can_be_turned(scene_obs, scene, self.block)

    def prepare(self, scene_obs: Array, scene: SceneSpec, rng: np.random.Generator) -> None:
        for _ in range(places.MAX_TRIES):
            if self.feasible(scene_obs, scene):
                return
            places.put_on_desk(scene_obs, scene, self.block, rng)


@dataclass(frozen=True)
class Pushed:
    """One block moved by more than 10 cm along x and still stands on what it stood on."""

    block: str
    sign: float
    """+1: to the right (+x), -1: to the left."""

    def reached(self, start: SceneInfo, now: SceneInfo) -> bool:
        before, after = (s.contacts_of(self.block) - {ROBOT} for s in (start, now))
        moved = now.blocks[self.block].pos_world[0] - start.blocks[self.block].pos_world[0]
        return bool(self.sign * moved > PUSHED_M and before and after and before <= after)

    def feasible(self, scene_obs: Array, scene: SceneSpec) -> bool:
        return places.can_be_pushed(scene_obs, scene, self.block, self.sign)

    def prepare(self, scene_obs: Array, scene: SceneSpec, rng: np.random.Generator) -> None:
        for _ in range(places.MAX_TRIES):
            if self.feasible(scene_obs, scene):
                return
            places.put_on_desk(scene_obs, scene, self.block, rng)


@dataclass(frozen=True)
class Lifted:
    """One block off the part of the table on which it stood, touched by nothing but the robot."""

    block: str
    support: str
    """The body under the block at the start: desk, plank or drawer."""

    def reached(self, start: SceneInfo, now: SceneInfo) -> bool:
        rise = now.blocks[self.block].pos_world[2] - start.blocks[self.block].pos_world[2]
        return bool(
            rise > LIFTED_M[self.support]
            and self.support in start.contacts_of(self.block)
            and now.contacts_of(self.block) == {ROBOT}
        )

    def feasible(self, scene_obs: Array, scene: SceneSpec) -> bool:
        return places.can_be_lifted(scene_obs, scene, self.block, self.support)

    def prepare(self, scene_obs: Array, scene: SceneSpec, rng: np.random.Generator) -> None:
        if not self.feasible(scene_obs, scene):
            places.put_on(scene_obs, scene, self.block, self.support, rng)


@dataclass(frozen=True)
class Placed:
    """A block that was held in the air stands on `support` and is let go."""

    support: str
    """plank or drawer."""

    def reached(self, start: SceneInfo, now: SceneInfo) -> bool:
        block = held_block(start)
        if block is None:
            return False
        touched = now.contacts_of(block)
        return ROBOT not in touched and self.support in touched

    def feasible(self, scene_obs: Array, scene: SceneSpec) -> bool:
        return places.in_the_air(scene_obs, scene) is not None and places.has_room(scene_obs, scene, self.support)

    def prepare(self, scene_obs: Array, scene: SceneSpec, rng: np.random.Generator) -> None:
        places.make_room(scene_obs, scene, self.support, rng)


@dataclass(frozen=True)
class Stacked:
    """A block that touched no block stands on one, touches nothing else, and is still."""

    def reached(self, start: SceneInfo, now: SceneInfo) -> bool:
        return any(
            not start.contacts_of(block).intersection(BLOCKS) and only_on_blocks(now, block) and is_still(now, block)
            for block in BLOCKS
        )

    def feasible(self, scene_obs: Array, scene: SceneSpec) -> bool:
        return places.in_the_air(scene_obs, scene) is not None and places.has_stacking_base(scene_obs, scene)

    def prepare(self, scene_obs: Array, scene: SceneSpec, rng: np.random.Generator) -> None:
        places.make_stacking_base(scene_obs, scene, rng)


@dataclass(frozen=True)
class Unstacked:
    """A block that stood, still, on blocks alone touches no block any more."""

    def reached(self, start: SceneInfo, now: SceneInfo) -> bool:
        return any(
            only_on_blocks(start, block) and is_still(start, block) and not now.contacts_of(block).intersection(BLOCKS)
            for block in BLOCKS
        )

    def feasible(self, scene_obs: Array, scene: SceneSpec) -> bool:
        return places.stacked_pair(scene_obs, scene) is not None

    def prepare(self, scene_obs: Array, scene: SceneSpec, rng: np.random.Generator) -> None:
        if not self.feasible(scene_obs, scene):
            places.stack_two(scene_obs, scene, rng)


@dataclass(frozen=True)
class PushedInto:
    """Some block that touched only the desk lies in the drawer; the robot touches it at neither time."""

    def reached(self, start: SceneInfo, now: SceneInfo) -> bool:
        for block in BLOCKS:
            after = now.contacts_of(block)
            if start.contacts_of(block) == {"desk"} and "drawer" in after and ROBOT not in after:
                return True
        return False

    def feasible(self, scene_obs: Array, scene: SceneSpec) -> bool:
        return any(places.can_fall_into_drawer(scene_obs, scene, block) for block in BLOCKS)

    def prepare(self, scene_obs: Array, scene: SceneSpec, rng: np.random.Generator) -> None:
        for _ in range(places.MAX_TRIES):
            if self.feasible(scene_obs, scene):
                return
            places.put_before_drawer(scene_obs, scene, rng)


def held_block(info: SceneInfo) -> str | None:
    """The block that the robot holds in the air: the only thing it touches, and touched by nothing else."""
    touched = info.contacts_of(ROBOT)
    if len(touched) != 1:
        return None
    (name,) = touched
    return name if name in BLOCKS and info.contacts_of(name) == {ROBOT} else None


def only_on_blocks(info: SceneInfo, block: str) -> bool:
    """Whether `block` touches at least one block and nothing else."""
    touched = info.contacts_of(block)
    return bool(touched) and touched.issubset(BLOCKS)


def is_still(info: SceneInfo, block: str) -> bool:
    """Whether every component of the block's velocities is below 1 m/s or 1 rad/s."""
    state = info.blocks[block]
    return bool(np.all(np.abs(state.lin_vel_world) < STILL) and np.all(np.abs(state.ang_vel_block) < STILL))


def block_goals() -> Iterator[tuple[str, str, Rotated | Pushed | Lifted | Placed | Stacked | Unstacked | PushedInto]]:
    """Name, family and goal of the 26 block tasks."""
    for block in BLOCKS:
        for side, sign in (("right", -1.0), ("left", 1.0)):
            yield f"rotate_{block.removeprefix('block_')}_block_{side}", "rotate", Rotated(block, sign)
    for block in BLOCKS:
        for side, sign in (("right", 1.0), ("left", -1.0)):
            yield f"push_{block.removeprefix('block_')}_block_{side}", "push", Pushed(block, sign)
    for support, place in (("desk", "table"), ("plank", "slider"), ("drawer", "drawer")):
        for block in BLOCKS:
            yield f"lift_{block.removeprefix('block_')}_block_{place}", "lift", Lifted(block, support)
    yield "place_in_slider", "place", Placed("plank")
    yield "place_in_drawer", "place", Placed("drawer")
    yield "stack_block", "stack", Stacked()
    yield "unstack_block", "unstack", Unstacked()
    yield "push_into_drawer", "push_into", PushedInto()

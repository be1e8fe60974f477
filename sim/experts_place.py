"""The experts that begin with a block in the hand: place it in the niche or the drawer, stack it on another one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from foreact.sim.expert_law import (
    CLOSE,
    FREE_Z,
    FRONT_Y,
    OPEN,
    Law,
    MakeLaw,
    Measured,
    Stage,
    Style,
    Way,
    Waypoint,
    fingers,
    point,
    to,
    way_out,
)
from foreact.sim.experts_grasp import hand_euler, stance
from foreact.sim.experts_lift import Take, holds, holds_any, lies_free
from foreact.sim.experts_reach import Reach, reach_of
from foreact.sim.rotations import euler_xyz_to_matrix, matrix_to_euler_xyz
from foreact.sim.scenes import SceneSpec

Array = NDArray[np.float64]

RELEASE_M = 0.005
"""The lowest corner of a block is let go so far above its support."""
PLANK_Z, DRAWER_FLOOR_Z = 0.441, 0.34
RELEASED_WIDTH_M = 0.072
YAWS = tuple(np.arange(0.2, math.pi, 0.33))
TILTS = (0.0, 0.3, -0.3, 0.6)
LEVEL_TILTS = (0.0, 0.15, -0.15, 0.3, 0.45)
"""By how much a block may be tilted when it is let go [rad]; on another block it must not slide."""
GIVE_UP_STEPS = 25
"""Steps after a release that did not do it, before the block is taken again."""


@dataclass(frozen=True)
class Spot:
    """Where a block could be put."""

    xy: tuple[float, float]
    support_z: float
    cost: float = 0.0
    level: bool = False
    """Whether the block must be let go level."""


@dataclass(frozen=True)
class Held:
    """A block in the hand, in the frame of the TCP."""

    name: str
    offset: Array
    """(3,) [m]."""
    R_tcp_block: Array
    """(3, 3)."""
    size: tuple[float, float, float]

    @classmethod
    def of(cls, now: Measured, name: str) -> Held:
        """As it is held now."""
        R_world_tcp = euler_xyz_to_matrix(now.euler)
        block = now.blocks[name]
        turned = R_world_tcp.T @ euler_xyz_to_matrix(block.euler)
        return cls(name, R_world_tcp.T @ (block.pos - now.tcp), turned, block.size)

    def rotation(self, euler: Array) -> Array:
        """Rotation matrix (3, 3) of the block with the hand turned so."""
        return euler_xyz_to_matrix(euler) @ self.R_tcp_block

    def tcp_for(self, euler: Array, spot: Spot) -> Array:
        """TCP position (3,) that brings the block's middle over the spot, a little above the support."""
        half = 0.5 * float(np.abs(self.rotation(euler)[2]) @ np.array(self.size))
        centre = point(*spot.xy, spot.support_z + half + RELEASE_M)
        return centre - euler_xyz_to_matrix(euler) @ self.offset


def niche_spots(scene: SceneSpec, now: Measured) -> Iterator[Spot]:
    """Places on the plank, in the half that the door leaves open (the wider one)."""
    left, right = scene.niche_x
    door_left = scene.door_x - now.slide
    gaps = [(left, max(left, min(right, door_left))), (max(left, min(right, door_left + 0.28)), right)]
    low, high = max(gaps, key=lambda gap: gap[1] - gap[0])
    middle = 0.5 * (low + high)
    for x, y in product(np.arange(low + 0.04, high - 0.03, 0.03), (0.068, 0.088)):
        yield Spot((float(x), y), PLANK_Z, abs(float(x) - middle) + 2.0 * abs(y - 0.075))


def drawer_spots(scene: SceneSpec, now: Measured) -> Iterator[Spot]:
    """Places on the drawer's floor that the table leaves free."""
    low, high = -0.16 - now.drawer + 0.04, -0.18 - 0.03
    for x, y in product(np.arange(-0.12, 0.13, 0.04) + scene.drawer_x, np.arange(low, high + 1e-6, 0.02)):
        cost = 0.5 * abs(float(x) - float(now.tcp[0])) + abs(float(y) - 0.5 * (low + high))
        yield Spot((float(x), float(y)), DRAWER_FLOOR_Z, cost)


def stacking_spots(scene: SceneSpec, now: Measured, held: str) -> Iterator[Spot]:
    """Tops of the other blocks."""
    for name, block in now.blocks.items():
        if name != held and lies_free(now, name) and block.pos[2] > 0.3:
            top = float(block.pos[2]) + stance(block).height / 2
            on_desk = block.pos[1] < 0.03 and block.pos[2] > 0.42
            yield Spot((float(block.pos[0]), float(block.pos[1])), top, 0.0 if on_desk else 1.0, level=True)


def choose_release(
    reach: Reach, now: Measured, held: Held, spots: list[Spot], avoid: set[Spot]
) -> tuple[Spot, Array, Array] | None:
    """Spot, TCP position and Euler angles to let the block go, where neither hand nor block is in the way."""
    reach.look(now)
    tilt_now = -float(now.euler[1])
    rows = []
    for spot in spots:
        if spot in avoid:
            continue
        for yaw, off in product(YAWS, LEVEL_TILTS if spot.level else TILTS):
            tilt = tilt_now + off
            if -0.05 <= tilt <= 1.1:
                turn = abs(float(yaw) - float(now.euler[2]))
                rows.append(
                    (
                        spot.cost + (1.5 if spot.level else 0.5) * abs(off) + 0.05 * turn + 0.05 * abs(yaw - 1.5),
                        spot,
                        yaw,
                        tilt,
                    )
                )
    for _, spot, yaw, tilt in sorted(rows, key=lambda row: row[0]):
        euler = hand_euler(float(yaw), float(tilt))
        pos = held.tcp_for(euler, spot)
        outside = point(pos[0], min(float(pos[1]), FRONT_Y), FREE_Z)
        above = over_spot(pos)
        if all(
            _free(reach, now, held, at, euler)
            for at in (pos, above, *((0.5 * (above + outside), outside) if pos[1] > -0.04 else ()))
        ) and (reach.follows([(above, euler), (pos, euler)]) is not None):
            return spot, pos, euler
    return None


def over_spot(pos: Array) -> Array:
    """Where the TCP comes from: above, and a little in front in the niche."""
    return pos + point(0.0, -0.02 if pos[1] > 0.02 else 0.0, 0.03)


def _free(reach: Reach, now: Measured, held: Held, pos: Array, euler: Array) -> bool:
    joints = reach.joints(pos, euler)
    if joints is None:
        return False
    at = pos + euler_xyz_to_matrix(euler) @ held.offset
    reach.move_block(held.name, at, matrix_to_euler_xyz(held.rotation(euler)))
    return not reach.touched(joints, now.width, held.name)


Spots = Callable[[SceneSpec, Measured, str], Iterator[Spot]]


class Put:
    """Carries the held block to a spot and lets it go; takes it again when it is lost on the way."""

    def __init__(self, scene: SceneSpec, first: Measured, style: Style, spots: Spots) -> None:
        self._scene = scene
        self._style = style
        self._spots = spots
        held = holds_any(first)
        self._name = held or min(first.blocks, key=lambda name: math.dist(first.blocks[name].pos, first.tcp))
        self._take: Take | None = None
        self._way: Way | None = None
        self._release = 0
        self._avoid: set[Spot] = set()
        self._spot: Spot | None = None
        self._idle = 0

    def __call__(self, now: Measured) -> Waypoint:
        if self._take is not None:
            if not self._take.taken(now):
                return self._take(now)
            self._take = self._way = None
        if self._way is None:
            if not holds(now, self._name):
                return self._take_again(now)
            self._plan(now)
        assert self._way is not None
        if self._way.position < self._release and not holds(now, self._name):
            return self._take_again(now)
        if self._way.blocked:
            if self._spot is not None:
                self._avoid.add(self._spot)
            self._way = None
            return self(now) if holds(now, self._name) else self._take_again(now)
        goal = self._way.follow(now)
        if goal is not None:
            return goal
        self._idle += 1
        if self._idle > GIVE_UP_STEPS:
            return self._take_again(now)
        return Waypoint(now.tcp, now.euler, OPEN)

    def _take_again(self, now: Measured) -> Waypoint:
        self._way = None
        self._idle = 0
        self._take = Take(self._scene, self._name, self._style)
        return self._take(now)

    def _plan(self, now: Measured) -> None:
        held = Held.of(now, self._name)
        reach = reach_of(self._scene.name)
        spots = list(self._spots(self._scene, now, self._name))
        found = choose_release(reach, now, held, spots, self._avoid)
        if found is None:
            self._avoid.clear()
            self._spot = None
            self._way = Way([Stage(to(point(0.05, -0.2, 0.6), hand_euler(1.5, 0.0), CLOSE), near_m=0.0, patience=20)])
            self._release = 1
            return
        self._spot, pos, euler = found
        height = FREE_Z + self._style.travel_m
        above = over_spot(pos)
        inside = pos[1] > -0.04
        stages = way_out(now, CLOSE, height)
        if inside:
            stages.append(
                Stage(to(point(pos[0], FRONT_Y, height), euler, CLOSE), near_m=0.03, near_rad=0.1, patience=120)
            )
            stages.append(Stage(to(point(above[0], above[1], max(above[2], 0.5)), euler, CLOSE), near_m=0.015))
        else:
            stages.append(
                Stage(to(point(pos[0], pos[1], height), euler, CLOSE), near_m=0.025, near_rad=0.1, patience=120)
            )
        stages.append(Stage(to(above, euler, CLOSE), near_m=0.01, near_rad=0.04))
        stages.append(Stage(to(pos, euler, CLOSE), near_m=0.004, near_rad=0.04, patience=25))
        self._release = len(stages)
        stages.append(Stage(to(pos, euler, OPEN), until=lambda seen: seen.width > RELEASED_WIDTH_M, patience=20))
        back = pos - 0.08 * fingers(euler)
        stages.append(Stage(to(back, euler, OPEN), near_m=0.02, near_rad=0.3))
        if inside:
            stages.append(Stage(to(point(back[0], FRONT_Y, back[2]), euler, OPEN), near_m=0.03, near_rad=0.3))
        self._way = Way(stages)


def _put(spots: Spots) -> MakeLaw:
    def make(scene: SceneSpec, first: Measured, style: Style) -> Law:
        return Put(scene, first, style, spots)

    return make


PLACE_LAWS: Mapping[str, MakeLaw] = {
    "place_in_slider": _put(lambda scene, now, held: niche_spots(scene, now)),
    "place_in_drawer": _put(lambda scene, now, held: drawer_spots(scene, now)),
    "stack_block": _put(stacking_spots),
}
"""Task name -> law."""

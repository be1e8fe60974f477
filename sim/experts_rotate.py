"""The experts that turn a block on the desk: grasp it where it stands, turn the wrist, let go."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import product

import numpy as np

from foreact.sim.expert_law import (
    CLOSE,
    FREE_Z,
    FRONT_Y,
    OPEN,
    Block,
    Goal,
    Law,
    MakeLaw,
    Measured,
    Stage,
    Style,
    Way,
    Waypoint,
    fingers,
    point,
    way_out,
)
from foreact.sim.expert_tilt import turned_to, unwound, wrapped
from foreact.sim.experts_grasp import BACK_M, OPENING_M, SKEWS, WIDEST_M, Grasp, fits, grasp_pose, stance
from foreact.sim.experts_lift import holds
from foreact.sim.experts_push import drag_by_top
from foreact.sim.experts_reach import reach_of
from foreact.sim.rotations import euler_xyz_to_matrix, matrix_to_euler_xyz
from foreact.sim.scenes import BLOCKS, SceneSpec

TURN_RAD = math.radians(74.0)
DONE_RAD = math.radians(67.0)
DRAWS_M = ((0.0, 0.0), (0.0, -0.03), (0.0, -0.06), (-0.05, -0.03), (-0.07, 0.0), (0.0, -0.085), (-0.085, 0.0))
"""Where a block is drawn to (x, y) before it is turned, if the hand has no room to turn where it is [m]."""
FARTHEST_M = 0.09
"""A rotated block may be this far from where it was; the rule allows 0.10."""
FRONT_EDGE_Y = -0.155
RESTING_Z = 0.4601
YAW_RANGE = (-0.35, 4.45)
"""Yaws of the hand that the wrist can hold everywhere on the desk [rad]."""
TILTS = (0.0, 0.25, -0.25, 0.5, -0.5, 0.75)
CLOSING_STEPS = 6
PULL_STEP_M, PULLED_M, PULL_STEPS = 0.010, 0.018, 80
"""A block that cannot be taken where it is, is dragged by its top: step [m], distance [m] without what it slides on,
patience."""
DRAW_STEPS = 40
"""Steps after which a held block is turned even if it could not be drawn to its place."""


def turnable(block: Block, turn: float, style: Style) -> Iterator[tuple[float, Grasp]]:
    """(cost, grasp) of the ways to take a block that leave the wrist a turn by `turn` [rad], in no order."""
    at = stance(block)
    low, high = YAW_RANGE
    for across, quarter in product((False, True), range(4)):
        side, other = (at.length, at.width) if across else (at.width, at.length)
        if side > WIDEST_M or (quarter % 2 == 1) != across:
            continue
        for skew, tilt in product(SKEWS, TILTS):
            yaw = unwound(at.yaw + quarter * math.pi / 2 + skew)
            gap = OPENING_M - 0.01 - side * math.cos(skew) - other * math.sin(abs(skew))
            if gap < 0.0 or not (low < yaw < high and low < yaw + turn < high):
                continue
            ends = (0.0,) if across else (0.0, 0.3 * at.length, -0.3 * at.length)
            middle = abs(yaw + turn / 2 - math.pi / 2) + 0.3 * (style.other_way and yaw < math.pi / 2)
            for end in ends:
                along = end + 0.2 * at.length * style.off_centre * (not across)
                cost = 0.4 * middle + 0.5 * abs(tilt) + 1.5 * abs(skew) + 12.0 * abs(end)
                yield cost, Grasp(quarter * math.pi / 2 + skew, tilt, along)


def _away(block: Block) -> np.ndarray:
    """Unit vector (3,) along the block's longer edge, away from cabinet and far right: so it does not topple."""
    yaw = stance(block).yaw
    way = point(math.cos(yaw), math.sin(yaw), 0.0)
    return way if way @ point(-5.0 * (block.pos[0] - 0.1), -1.0, 0.0) > 0.0 else -way


class Turn:
    """Turns one block; begins again after slips."""

    def __init__(self, name: str, sign: float, scene: SceneSpec, first: Measured, style: Style) -> None:
        self._name, self._sign, self._scene, self._style = name, sign, scene, style
        self._start = first.blocks[name]
        self._failed: set[Grasp] = set()
        self._begin(first)

    def __call__(self, now: Measured) -> Waypoint:
        if self._turned(now) > DONE_RAD:
            return Waypoint(now.tcp, now.euler, OPEN)
        if self._grasp is None:
            self._steps += 1
            block = now.blocks[self._name]
            if np.linalg.norm(block.pos - self._seen.pos) < PULLED_M and self._steps < PULL_STEPS:
                return drag_by_top(now, block, PULL_STEP_M * _away(block))
            self._begin(now)
        taken = self._way.position > self._closing
        if taken and holds(now, self._name):
            return self._turning(now)
        shoved = self._shoved(now)
        if taken or self._way.blocked or shoved:
            if self._grasp is not None and not shoved:
                self._failed.add(self._grasp)
            self._begin(now)
        return self._way.follow(now) or self._turning(now)

    def _turned(self, now: Measured) -> float:
        """By how much the block has turned the wanted way [rad]."""
        moved = euler_xyz_to_matrix(now.blocks[self._name].euler) @ euler_xyz_to_matrix(self._start.euler).T
        turned = self._sign * float(matrix_to_euler_xyz(moved)[2])
        return turned if turned > -2.0 else turned + 2 * math.pi

    def _shoved(self, now: Measured) -> bool:
        """Whether the block is no longer where the way to it leads."""
        if self._way.position >= self._closing or self._grasp is None:
            return False
        block = now.blocks[self._name]
        return bool(np.linalg.norm(block.pos - self._seen.pos) > 0.02)

    def _turning(self, now: Measured) -> Waypoint:
        """Draw the held block to where there is room, then turn it; press it lightly on the desk."""
        block = now.blocks[self._name]
        left = max(TURN_RAD - self._turned(now), 0.0)
        off = self._place - block.pos[:2]
        yaw = unwound(now.euler[2])
        self._steps += 1
        if self._pivot is None and (math.hypot(*off) < 0.012 or self._steps > DRAW_STEPS):
            self._pivot = now.tcp[:2].copy()
        if self._pivot is not None:
            yaw += self._sign * min(left, 0.25)
            off = self._pivot - now.tcp[:2]
        goal = point(now.tcp[0] + off[0], now.tcp[1] + off[1], now.tcp[2] + RESTING_Z - block.pos[2])
        return Waypoint(goal, np.array([math.pi, now.euler[1], yaw]), CLOSE)

    def _begin(self, now: Measured) -> None:
        self._seen = now.blocks[self._name]
        self._grasp, self._place = self._choose(now)
        self._pivot: np.ndarray | None = None
        self._steps = 0
        if self._grasp is None:
            self._failed.clear()
            self._way, self._closing = Way([]), 0
            return
        grasp, name = self._grasp, self._name
        height = FREE_Z - 0.04 + self._style.travel_m

        def at_grasp(seen: Measured, back_m: float = 0.0) -> Waypoint:
            pos, euler = grasp_pose(seen.blocks[name], grasp)
            return Waypoint(pos - back_m * fingers(euler), turned_to(seen, euler), OPEN)

        def before(seen: Measured) -> Waypoint:
            return at_grasp(seen, BACK_M)

        def entry(seen: Measured) -> Waypoint:
            goal = before(seen)
            x, y, z = goal.pos
            return Waypoint(point(x, min(y, FRONT_Y), max(z, height)), goal.euler, OPEN)

        def close(seen: Measured) -> Waypoint:
            return Waypoint(seen.tcp, seen.euler, CLOSE)

        stages = [
            *way_out(now, OPEN, height),
            Stage(entry, near_m=0.04, near_rad=0.2, patience=120),
            Stage(before, until=_Steady(before), patience=90),
            Stage(at_grasp, near_m=0.005, near_rad=0.1, patience=45),
        ]
        self._closing = len(stages)
        self._way = Way([*stages, Stage(close, until=_Closed())])

    def _choose(self, now: Measured) -> tuple[Grasp | None, np.ndarray]:
        """A grasp after which the hand has room to turn, and where to turn the block (2,) [m]."""
        reach = reach_of(self._scene.name)
        reach.look(now)
        block = now.blocks[self._name]
        turn = self._sign * min(max(TURN_RAD - self._turned(now), 0.5), TURN_RAD)
        spare: Grasp | None = None
        for _, grasp in sorted(turnable(block, turn, self._style), key=lambda row: row[0]):
            reach.move_block(self._name, block.pos, block.euler)
            if grasp in self._failed or not fits(reach, block, self._name, grasp):
                continue
            for draw in DRAWS_M:
                place = block.pos[:2] + np.array(draw)
                off = math.hypot(*(place - self._start.pos[:2]))
                if off < FARTHEST_M and place[1] > FRONT_EDGE_Y and self._has_room(now, grasp, place, turn):
                    return grasp, place
            spare = spare or grasp
        place = block.pos[:2] + np.array([-0.05 if block.pos[0] > 0.25 else 0.0, -0.03])
        back = place - self._start.pos[:2]
        place -= back * max(0.0, 1.0 - 0.06 / max(math.hypot(*back), 1e-9))
        return spare, place

    def _has_room(self, now: Measured, grasp: Grasp, place: np.ndarray, turn: float) -> bool:
        """Whether the hand can turn the block at `place` (2,) without touching anything else."""
        reach, block = reach_of(self._scene.name), now.blocks[self._name]
        pos, euler = grasp_pose(block, grasp)
        offset = pos[:2] - block.pos[:2]
        for share in (0.0, 0.5, 1.0):
            c, s = math.cos(share * turn), math.sin(share * turn)
            spun = place + np.array([c * offset[0] - s * offset[1], s * offset[0] + c * offset[1]])
            reach.move_block(
                self._name, point(place[0], place[1], block.pos[2]), block.euler + point(0.0, 0.0, share * turn)
            )
            joints = reach.joints(point(spun[0], spun[1], pos[2]), euler + point(0.0, 0.0, share * turn))
            if joints is None or reach.touched(joints, 0.05) - {self._name}:
                return False
        return True


class _Steady:
    """Whether the hand has come to rest at a goal: the arm lags, a hasty descent would hit the block."""

    def __init__(self, goal: Goal) -> None:
        self._goal = goal
        self._last: np.ndarray | None = None

    def __call__(self, now: Measured) -> bool:
        last, self._last = self._last, now.tcp
        goal = self._goal(now)
        turn = max(abs(wrapped(float(a - b))) for a, b in zip(goal.euler, now.euler, strict=True))
        near = math.dist(now.tcp, goal.pos) < 0.012 and turn < 0.1
        return near and last is not None and math.dist(now.tcp, last) < 0.005


class _Closed:
    """Whether the gripper has had time to close."""

    def __init__(self) -> None:
        self._steps = 0

    def __call__(self, now: Measured) -> bool:
        self._steps += 1
        return self._steps > CLOSING_STEPS


def _rotate(name: str, sign: float, scene: SceneSpec, first: Measured, style: Style) -> Law:
    return Turn(name, sign, scene, first, style)


ROTATE_LAWS: Mapping[str, MakeLaw] = {
    f"rotate_{block.removeprefix('block_')}_block_{side}": partial(_rotate, block, sign)
    for block in BLOCKS
    for side, sign in (("right", -1.0), ("left", 1.0))
}
"""Task name -> law."""

"""The experts that push a block: left or right on the desk, and over the edge into the drawer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial

import numpy as np

from foreact.sim.expert_law import DOWN, PLAIN, Block, Law, MakeLaw, Measured, Style, Waypoint, fingers, point
from foreact.sim.expert_tilt import along, turned_to
from foreact.sim.experts_reach import CLEARANCE_M, Reach, reach_of
from foreact.sim.scenes import BLOCKS, SceneSpec

BLADE_SLANT = 0.24
"""The fingers taper towards their tips by this angle; leaning the hand by it makes the pushing side upright [rad]."""
FINGER_M = 0.014
"""Half of the closed fingers' width at the height of a block [m]."""
BACK_M = 0.07
"""Height from which the fingers come down beside a block [m]."""
ENOUGH_M = 0.125
"""Push on until the block has moved so far [m]."""


def extent(block: Block, direction: float) -> float:
    """Half of the block's width along a horizontal direction, given as an angle [m]."""
    angle = direction - block.euler[2]
    x, y, _ = block.size
    return abs(math.cos(angle)) * x / 2 + abs(math.sin(angle)) * y / 2


def leaning(x: float, y: float, sign: float) -> np.ndarray:
    """Euler angles (3,) of a hand that pushes at a place of the desk.

    Tilted towards the robot, it keeps clear of door, lever and cabinet, and the slanted fingers meet a block over a
    width of 4 cm, so that it hardly turns. Leaning against `sign`, the pushing side is upright. Close to the base the
    tilt folds the elbow too far, and at the far right only a hand that leans back is within reach.
    """
    pitch = -0.5
    if x < 0.0:
        pitch += 0.3 * np.interp(x, (-0.2, -0.05), (1.0, 0.0)) * np.interp(y, (-0.13, -0.06), (1.0, 0.0))
    roll = min(-sign * BLADE_SLANT, float(np.interp(x, (0.28, 0.38), (BLADE_SLANT, -BLADE_SLANT))))
    return DOWN + np.array([roll, float(pitch), 0.0])


def low_z(euler: np.ndarray) -> float:
    """TCP height at which the tilted tips of the closed fingers clear the desk by 3 mm [m]."""
    roll, pitch = euler[0] - math.pi, euler[1]
    tips = 0.0144 * math.cos(roll) * math.cos(pitch) + 0.0105 * abs(math.sin(pitch)) + 0.008 * abs(math.sin(roll))
    return 0.443 + tips


def has_room(reach: Reach, ready: np.ndarray, euler: np.ndarray, name: str) -> bool:
    """Whether the closed hand can come down to `ready` (3,) beside the block without touching anything else.

    `reach` keeps a clearance that the fingertips do not have over the desk: it looks at a slightly higher place.
    """
    joints = reach.joints(ready + point(0.0, 0.0, CLEARANCE_M), euler)
    if joints is None or reach.touched(joints, 0.0) - {name}:
        return False
    joints = reach.joints(ready - BACK_M * fingers(euler), euler)
    return joints is not None and not reach.touched(joints, 0.0)


STEP_M = 0.025
"""How far ahead of the hand the waypoint is while it pushes: 0.22 m/s."""
LAST_STEP_M, LAST_FROM_M = 0.05, 0.065
RECOIL_AT_M, RECOIL_STEPS, RECOIL_M = 0.086, 4, 0.07
"""Near the end the block gets a shove and slides on by itself, so that nothing touches it when the push is done: the
next task may be one, like pushing it into the drawer, that does not count if the hand was on the block."""


class PushAlongX:
    """Closed fingers beside the block, then along x, following its middle.

    Where they have no room beside it, other tilts, a smaller gap and places off its middle are tried; in the end the
    block is dragged by its top.
    """

    def __init__(self, name: str, sign: float, scene: SceneSpec, first: Measured, style: Style = PLAIN) -> None:
        self._name, self._sign, self._scene, self._style = name, sign, scene, style
        self._start_x = first.blocks[name].pos[0]
        self._recoil = RECOIL_STEPS
        self._look(first)

    def __call__(self, now: Measured) -> Waypoint:
        block, sign = now.blocks[self._name], self._sign
        if sign * (block.pos[0] - self._start_x) > ENOUGH_M:
            return Waypoint(now.tcp, now.euler)
        moved = sign * (block.pos[0] - self._start_x)
        if moved > RECOIL_AT_M and self._recoil and self._way is not None:
            self._recoil -= 1
            return Waypoint(now.tcp - point(sign * RECOIL_M, 0.0, 0.0), now.euler)
        if np.linalg.norm(block.pos - self._seen.pos) > 0.03 and now.tcp[2] > 0.5:
            self._look(now)
        if self._way is None:
            return drag_by_top(now, block, point(sign * 0.012, 0.0, 0.0))
        ready, euler = self._ready(now, *self._way)
        behind = sign * (block.pos[0] - now.tcp[0]) - extent(block, 0.0)
        aside = now.tcp[1] - ready[1]
        if now.tcp[2] < ready[2] + 0.02 and 0.002 < behind < 0.06 and abs(aside) < 0.018:
            step = LAST_STEP_M if self._recoil and moved > LAST_FROM_M else STEP_M
            return Waypoint(point(now.tcp[0] + sign * step, now.tcp[1] - 0.5 * aside, ready[2]), euler)
        goal = along(now.tcp, ready, fingers(euler), 0.01, BACK_M + self._style.travel_m)
        return Waypoint(goal, turned_to(now, euler))

    def _look(self, now: Measured) -> None:
        """Choose how to come beside the block: (gap, offset along y, change of the pitch), None if there is no way."""
        self._seen = now.blocks[self._name]
        self._way: tuple[float, float, float] | None = None
        reach = reach_of(self._scene.name)
        reach.look(now)
        for way in WAYS:
            ready, euler = self._ready(now, *way)
            if has_room(reach, ready, euler, self._name):
                self._way = way
                return

    def _ready(self, now: Measured, gap: float, offset: float, pitch: float) -> tuple[np.ndarray, np.ndarray]:
        """TCP position (3,) and Euler angles (3,) beside the block."""
        block = now.blocks[self._name]
        x, y, _ = block.pos
        y = float(np.clip(y + offset + 0.006 * self._style.off_centre, -0.17, -0.005))
        x -= self._sign * (extent(block, 0.0) + FINGER_M + gap)
        euler = leaning(x, y, self._sign) + point(0.0, pitch, 0.0)
        return point(x, y, low_z(euler)), euler


WAYS = tuple(
    (gap, offset, pitch) for gap in (0.018, 0.008) for offset in (0.0, -0.012, 0.012) for pitch in (0.0, 0.25, -0.2)
)
"""(gap, offset along y, change of the pitch) in the order of preference [m, m, rad]."""
PULL_TILT_RAD, PRESS_M = 0.5, 0.003
TOP_Z = 0.48


def drag_by_top(now: Measured, block: Block, step: np.ndarray) -> Waypoint:
    """Press tilted fingertips on the block's top and draw it along `step` (3,) [m]: a waypoint for now."""
    euler = DOWN + point(0.0, -PULL_TILT_RAD, 0.0)
    lowest = 0.0144 * math.cos(PULL_TILT_RAD) + 0.0093 * math.sin(PULL_TILT_RAD)
    # Behind the middle, or the block would topple over its front edge; and no higher if it begins to.
    back = -0.006 * step / np.linalg.norm(step)
    pos = point(block.pos[0], block.pos[1] - 0.0144 * math.sin(PULL_TILT_RAD), TOP_Z - PRESS_M + lowest) + back
    rel = now.tcp - pos
    if abs(rel[0]) < 0.014 and abs(rel[1]) < 0.014 and rel[2] < 0.0065:
        return Waypoint(point(now.tcp[0] + step[0], now.tcp[1] + step[1], pos[2]), euler)
    return Waypoint(along(now.tcp, pos, fingers(euler), 0.006, BACK_M), turned_to(now, euler))


def _push(name: str, sign: float, scene: SceneSpec, first: Measured, style: Style) -> Law:
    return PushAlongX(name, sign, scene, first, style)


PUSH_LAWS: Mapping[str, MakeLaw] = {
    f"push_{block.removeprefix('block_')}_block_{side}": partial(_push, block, sign)
    for block in BLOCKS
    for side, sign in (("right", 1.0), ("left", -1.0))
}
"""Task name -> law."""

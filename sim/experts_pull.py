"""Pulling a block by its top with closed fingertips, to where it can be taken.

A long block across the niche leaves no room for the hand behind it. Pressed from above it follows the fingertips: they
hold it with twice the friction of the table (0.70 to 0.35).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from foreact.sim.expert_law import (
    CLOSE,
    FREE_Z,
    FRONT_Y,
    Block,
    Measured,
    Stage,
    Waypoint,
    fingers,
    point,
    way_out,
)
from foreact.sim.experts_grasp import TILTS, hand_euler, stance
from foreact.sim.experts_reach import Reach

Array = NDArray[np.float64]

TIP_M = 0.0144
"""The fingertips are so far beyond the TCP."""
PRESS_M = 0.008
"""How far below the block's top the tips are sent; the arm's persistent target makes the force grow."""
BACK_Y = 0.135
"""Further back the niche's rear wall is in the way of the tips."""
PRESS_STEPS = 8
"""Steps for which the force grows before the pull: pressed with less than about 50 N a block tips over its edge."""
BEHIND_M = 0.012
"""The tips press so far behind the middle: in front of it the block would tip over."""
YAWS = tuple(math.radians(deg) for deg in (90, 70, 110, 50, 130, 30, 150))


def pull_goal(block: Block) -> Array:
    """Where a block that cannot be taken should go, (2,) [m]: out of the niche, off the edges, within reach."""
    x, y, z = block.pos
    if z < 0.42:  # in the drawer: away from the table
        return np.array([x, y - 0.045])
    if y > 0.02:
        return np.array([x, max(y - 0.06, -0.05)])
    return np.array([x - 0.06 if x > 0.0 else x + 0.06, y - 0.03 if y > -0.06 else y])


def top_pose(block: Block, yaw: float, tilt: float, above_m: float) -> tuple[Array, Array]:
    """TCP pose with the fingertips `above_m` over the middle of the block's top."""
    euler = hand_euler(yaw, tilt)
    top = block.pos + point(0.0, 0.0, stance(block).height / 2 + above_m)
    # The lowest part of a tilted tip is the near edge of a blade 0.0185 thick.
    lowest = TIP_M * math.cos(tilt) + 0.0093 * math.sin(tilt)
    ahead = TIP_M * math.sin(tilt) - (0.0093 * math.cos(tilt) if tilt > 0.1 else 0.0)
    behind = BEHIND_M if top[1] < 0.0 else min(BEHIND_M, max(0.0, BACK_Y - top[1]))
    return point(top[0], top[1] + behind - ahead * math.sin(yaw), top[2] + lowest), euler


def choose_pull(reach: Reach, now: Measured, name: str) -> tuple[float, float] | None:
    """Yaw and tilt of a closed hand that can reach the block's top, or None. `reach` has looked at `now`."""
    block = now.blocks[name]
    rows = sorted((abs(tilt - 0.5) + 0.4 * abs(yaw - math.pi / 2), yaw, tilt) for yaw in YAWS for tilt in TILTS)
    for _, yaw, tilt in rows:
        pos, euler = top_pose(block, yaw, tilt, 0.006)
        joints = reach.joints(pos, euler)
        if joints is None or reach.touched(joints, 0.0) - {name}:
            continue
        back = pos - 0.06 * fingers(euler)
        before = reach.joints(back, euler)
        if before is None or reach.touched(before, 0.0):
            continue
        if reach.follows([(back, euler), (pos, euler)]) is not None:
            return yaw, tilt
    return None


def pull_stages(now: Measured, name: str, yaw: float, tilt: float) -> list[Stage]:
    """Reach the block's top, press, pull, let go."""
    first = now.blocks[name]
    goal = pull_goal(first)

    def before(seen: Measured) -> Waypoint:
        pos, euler = top_pose(seen.blocks[name], yaw, tilt, 0.006)
        return Waypoint(pos - 0.06 * fingers(euler), euler, CLOSE)

    def entry(seen: Measured) -> Waypoint:
        at = before(seen)
        x, y, z = at.pos
        return Waypoint(point(x, min(y, FRONT_Y), max(z, FREE_Z)), at.euler, CLOSE)

    def drag(seen: Measured) -> Waypoint:
        way = goal - seen.blocks[name].pos[:2]
        way *= min(1.0, 0.02 / max(float(np.linalg.norm(way)), 1e-6))
        # Neither up nor down: the arm's target stays as far below as the press has brought it, and so does the force.
        return Waypoint(point(seen.tcp[0] + way[0], seen.tcp[1] + way[1], seen.tcp[2]), hand_euler(yaw, tilt), CLOSE)

    def dragged(seen: Measured) -> bool:
        off = seen.blocks[name].pos[:2] - goal
        lost = math.dist(seen.blocks[name].pos, seen.tcp) > 0.06
        return float(np.linalg.norm(off)) < 0.012 or lost

    pressed = _Pressed()
    return [
        *way_out(now, CLOSE),
        Stage(entry, near_m=0.03, near_rad=0.2, patience=120),
        Stage(before, near_m=0.012, near_rad=0.08),
        Stage(_Press(name, yaw, tilt), until=pressed, patience=40),
        Stage(drag, until=dragged, patience=60),
        Stage(_Up(), near_m=0.02, near_rad=math.pi, patience=30),
    ]


class _Press:
    """Down onto where the block's top was at first: aimed at the block itself, the tips would push it before them."""

    def __init__(self, name: str, yaw: float, tilt: float) -> None:
        self._name, self._yaw, self._tilt = name, yaw, tilt
        self._goal: Waypoint | None = None

    def __call__(self, now: Measured) -> Waypoint:
        if self._goal is None:
            pos, euler = top_pose(now.blocks[self._name], self._yaw, self._tilt, -PRESS_M)
            self._goal = Waypoint(pos, euler, CLOSE)
        return self._goal


class _Pressed:
    """Whether the tips have come to rest on something."""

    def __init__(self) -> None:
        self._z = math.inf
        self._still = 0

    def __call__(self, now: Measured) -> bool:
        self._still = self._still + 1 if abs(now.tcp[2] - self._z) < 0.0008 else 0
        self._z = float(now.tcp[2])
        return self._still >= PRESS_STEPS


class _Up:
    def __init__(self) -> None:
        self._goal: Array | None = None

    def __call__(self, now: Measured) -> Waypoint:
        if self._goal is None:
            self._goal = now.tcp - 0.05 * fingers(now.euler)
        return Waypoint(self._goal, now.euler, CLOSE)

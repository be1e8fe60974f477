"""How to take a block: which faces, which turn and tilt of the hand, where along it.

The fingers close along a horizontal line. With the hand tilted by t the fingers point t away from straight down,
towards the yaw of the hand; that is how the arm reaches under the cabinet's ceiling and far to the right.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foreact.sim.expert_law import FREE_Z, FRONT_Y, PLAIN, Block, Measured, Style
from foreact.sim.experts_reach import Reach
from foreact.sim.rotations import euler_xyz_to_matrix

Array = NDArray[np.float64]

GRASP_HEIGHT_M = 0.004
"""The TCP goes so far above the middle of a block: pads at mid height, fingertips off the table."""
OPENING_M = 0.08
WIDEST_M = 0.062
"""Widest side that is taken; the opening less what the aim may be off."""
TILTS = (0.0, 0.25, 0.5, 0.75, 1.0)
SKEWS = (0.0, 0.2, -0.2, 0.4, -0.4)
"""Turns of the hand off a block's faces [rad]; closing turns the block."""
BACK_M = 0.075
"""From here the hand goes straight to the grasp, along its fingers."""

RISE_INSIDE = np.array([0.0, -0.035, 0.045])
"""The first move with a block from the niche [m]: up and out, for the ceiling is low."""


@dataclass(frozen=True)
class Stance:
    """How a block lies."""

    yaw: float
    """Direction of its longer horizontal edge [rad]."""
    length: float
    width: float
    height: float
    """Edges [m]: the longer and shorter horizontal one, and the upright one."""


@dataclass(frozen=True)
class Grasp:
    """A pose of the hand, relative to the block."""

    turn: float
    """Yaw of the hand less yaw of the block [rad]."""
    tilt: float
    """[rad]."""
    along: float
    """Offset of the TCP along the block's longer edge [m]."""


def stance(block: Block) -> Stance:
    """How a block lies, whichever face is up."""
    matrix = euler_xyz_to_matrix(block.euler)
    up = int(np.abs(matrix[2]).argmax())
    first, second = sorted((axis for axis in range(3) if axis != up), key=lambda axis: -block.size[axis])
    yaw = math.atan2(matrix[1, first], matrix[0, first])
    return Stance(yaw, block.size[first], block.size[second], block.size[up])


def approach(euler: Array) -> Array:
    """Unit vector (3,) along the fingers."""
    return euler_xyz_to_matrix(euler)[:, 2]


def hand_euler(yaw: float, tilt: float) -> Array:
    """TCP Euler angles (3,) of a hand with that yaw whose fingers are tilted away from straight down."""
    return np.array([math.pi, -tilt, yaw])


def grasp_pose(block: Block, grasp: Grasp) -> tuple[Array, Array]:
    """TCP position (3,) [m] and Euler angles (3,) of a grasp of the block where it is now."""
    at = stance(block)
    pos = block.pos + np.array([math.cos(at.yaw) * grasp.along, math.sin(at.yaw) * grasp.along, GRASP_HEIGHT_M])
    yaw = (at.yaw + grasp.turn + math.pi) % (2 * math.pi) - math.pi
    return pos, hand_euler(yaw, grasp.tilt)


def candidates(block: Block, style: Style = PLAIN) -> Iterator[tuple[float, Grasp]]:
    """(cost, grasp) of every way that fits the opening, in no order."""
    at = stance(block)
    shift = 0.3 * at.length * style.off_centre
    for across in (False, True):
        open_side, other = (at.length, at.width) if across else (at.width, at.length)
        if open_side > WIDEST_M:
            continue
        for half in (0.0, math.pi):
            turn = half + (math.pi / 2 if across else 0.0)
            yaw = (at.yaw + turn + math.pi) % (2 * math.pi) - math.pi
            for skew in SKEWS:
                if open_side * math.cos(skew) + other * math.sin(abs(skew)) > OPENING_M - 0.01:
                    continue
                side = (yaw + skew - math.pi / 2 + math.pi) % (2 * math.pi) - math.pi
                off = abs(side)
                if off > 1.75:
                    continue
                for tilt in TILTS:
                    if tilt and off > 1.45:
                        continue
                    ends = (0.0,) if across else (shift, 0.0, 0.35 * at.length, -0.35 * at.length)
                    for along in dict.fromkeys(ends):
                        cost = (
                            0.4 * abs(side - 0.8 * style.other_way)
                            + 0.5 * tilt
                            + 1.5 * abs(skew)
                            + (12.0 * abs(along - shift))
                        )
                        yield cost, Grasp(turn + skew, tilt, along)


def choose_grasp(
    reach: Reach, now: Measured, name: str, style: Style = PLAIN, avoid: frozenset[Grasp] = frozenset()
) -> Grasp | None:
    """The cheapest way to take block `name` that the arm can take without touching anything else."""
    reach.look(now)
    block = now.blocks[name]
    for _, grasp in sorted(candidates(block, style), key=lambda row: row[0]):
        if grasp not in avoid and fits(reach, block, name, grasp):
            return grasp
    return None


def fits(reach: Reach, block: Block, name: str, grasp: Grasp) -> bool:
    """Whether the open hand can be at the grasp, and a little before it, without touching more than the block."""
    pos, euler = grasp_pose(block, grasp)
    joints = reach.joints(pos, euler)
    if joints is None or reach.touched(joints, OPENING_M) - {name}:
        return False
    before = pos - BACK_M * approach(euler)
    others = [before]
    if pos[1] > 0.02:
        others.append(pos + RISE_INSIDE)
    if not all(_is_free(reach, at, euler, name) for at in others):
        return False
    outside = np.array([before[0], min(before[1], FRONT_Y), max(before[2], FREE_Z)])
    joints = reach.follows([(outside, euler), (before, euler), (pos, euler)])
    return joints is not None and not reach.touched(joints, OPENING_M) - {name, "desk", "plank"}


def _is_free(reach: Reach, pos: Array, euler: Array, name: str) -> bool:
    joints = reach.joints(pos, euler)
    return joints is not None and not reach.touched(joints, OPENING_M) - {name}

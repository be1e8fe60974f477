"""What a hand does between tasks: wait, withdraw, put down what it holds."""

from __future__ import annotations

import math

import numpy as np

from foreact.sim.expert_law import DOWN, OPEN, Measured, Waypoint, point
from foreact.sim.experts import POSITION_UNIT_M, ROTATION_UNIT_RAD
from foreact.sim.manner import Manner

CLEAR_Y = -0.14
"""In front of the cabinet, the door's handle and the lever [m]."""
CLEAR_Z = 0.57
"""Above everything that stands on the desk, with a block in the hand [m]."""
DESK_X = 0.22
"""Blocks are put down no further to the side [m]."""
LOW_Z = 0.475
"""TCP height at which a held block is about to stand on the desk [m]."""
RELEASE_STEPS = 8


class Idle:
    """Stay where the hand was when asked first."""

    def __init__(self) -> None:
        self._goal: Waypoint | None = None

    def __call__(self, now: Measured) -> Waypoint:
        if self._goal is None:
            self._goal = Waypoint(now.tcp, now.euler, now.command)
        return self._goal


class Retreat:
    """Out of what the hand may be in, towards the robot and then up; ends (None) in free space."""

    def __init__(self) -> None:
        self._from: np.ndarray | None = None

    def __call__(self, now: Measured) -> Waypoint | None:
        if self._from is None:
            self._from = now.tcp
        x, y, z = now.tcp
        if y > CLEAR_Y + 0.02 and z < CLEAR_Z - 0.02:
            # Straight out first: above the hand there may be a ceiling, a bar or a handle.
            return Waypoint(point(self._from[0], CLEAR_Y, self._from[2]), now.euler, now.command)
        if z < CLEAR_Z - 0.02 or y > CLEAR_Y + 0.02:
            return Waypoint(point(x, min(y, CLEAR_Y), CLEAR_Z), now.euler, now.command)
        return None


class PutDown:
    """Lower the hand over the free front of the desk and open it; ends (None) when the block is let go."""

    def __init__(self) -> None:
        self._at: np.ndarray | None = None
        self._open_steps = 0
        self._lowest, self._stuck = math.inf, 0

    def __call__(self, now: Measured) -> Waypoint | None:
        if self._at is None:
            self._at = np.array([np.clip(now.tcp[0], -DESK_X, DESK_X), CLEAR_Y + 0.01])
        x, y = self._at
        over = math.hypot(now.tcp[0] - x, now.tcp[1] - y) < 0.02
        if self._open_steps == 0 and over:
            self._stuck = self._stuck + 1 if now.tcp[2] > self._lowest - 0.001 else 0
            self._lowest = min(self._lowest, float(now.tcp[2]))
        landed = now.tcp[2] < LOW_Z or self._stuck > 8  # on the desk, or on something that stands there
        if self._open_steps or (over and landed):
            self._open_steps += 1
            return Waypoint(now.tcp, now.euler, OPEN) if self._open_steps <= RELEASE_STEPS else None
        if over:
            return Waypoint(point(x, y, LOW_Z - 0.01), DOWN, now.command)
        return Waypoint(point(x, y, max(CLEAR_Z, float(now.tcp[2]))), DOWN, now.command)


def act_towards(now: Measured, goal: Waypoint, manner: Manner) -> np.ndarray:
    """The relative Cartesian action (7,) towards a waypoint, by the same rule as an `Expert`'s."""
    turn = (goal.euler - now.euler + math.pi) % (2 * math.pi) - math.pi
    move = manner.gain * (goal.pos - now.tcp) / POSITION_UNIT_M
    spin = manner.gain * turn / ROTATION_UNIT_RAD
    move = move * min(1.0, manner.speed / max(float(np.abs(move).max()), 1e-9))
    spin = spin * min(1.0, manner.speed / max(float(np.abs(spin).max()), 1e-9))
    return np.concatenate([move, spin, [goal.gripper]])

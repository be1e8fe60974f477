"""Moving a hand that does not point straight down, and turning the wrist without winding it up."""

from __future__ import annotations

import math

import numpy as np

from foreact.sim.expert_law import Measured

MIDDLE_YAW = 2.05
"""Middle of the wrist's range: with the fingers down, joint 7 reaches about 2.9 rad to either side of it [rad]."""
YAW_STEP_RAD = 1.0


def wrapped(angle: float) -> float:
    """The same angle within half a turn of zero [rad]."""
    return (angle + math.pi) % (2 * math.pi) - math.pi


def unwound(yaw: float) -> float:
    """The yaw as the wrist counts it: within half a turn of the middle of its range [rad]."""
    return MIDDLE_YAW + wrapped(yaw - MIDDLE_YAW)


def turned_to(now: Measured, euler: np.ndarray) -> np.ndarray:
    """Euler angles (3,) on the way to `euler` (3,), whose yaw may be given with any number of whole turns.

    An angle difference alone would send the wrist the shorter way round, which may lead into its stop.
    """
    yaw = unwound(now.euler[2])
    step = float(np.clip(unwound(euler[2]) - yaw, -YAW_STEP_RAD, YAW_STEP_RAD))
    return np.array([euler[0], euler[1], yaw + step])


def along(tcp: np.ndarray, goal: np.ndarray, axis: np.ndarray, radius: float, back: float) -> np.ndarray:
    """Go to `goal` along `axis` (3,): rise, cross over to `back` [m] higher on the axis, and go down on it.

    Args:
        tcp: TCP position (3,) [m].
        goal: Where to arrive (3,) [m].
        axis: The direction of arrival, unit length, downwards.
        radius: How close to the axis to be before going down [m].
        back: Height above the goal at which to cross [m].
    """
    depth = (tcp[2] - goal[2]) / axis[2]
    aside = tcp - goal - depth * axis
    away = math.hypot(aside[0], aside[1])
    if away < radius or (tcp[2] - goal[2] < 0.02 and away < 1.5 * radius):
        return goal
    above = goal + axis * (back / axis[2])
    if tcp[2] < above[2] - 0.03 and away > 2 * radius:
        return np.array([tcp[0], min(tcp[1], -0.06), above[2] + 0.02])
    return above

"""Between two points of a joint trajectory: line, cubic or quintic, by what both points give.

The rule, and with it the motion, is that of ros2_controllers' JointTrajectoryController (`trajectory.cpp`, Apache-2.0):
positions alone give a line, positions and velocities a cubic, accelerations as well a quintic. Accelerations without
velocities give zeros in all three, position included: the source has no branch for them.

Shape legend: N joints.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Knot:
    """A point that the trajectory passes."""

    time_s: float
    position: Array
    """(N,) [rad]."""
    velocity: Array | None = None
    """(N,) [rad/s]."""
    acceleration: Array | None = None
    """(N,) [rad/s2]."""


@dataclass(frozen=True, slots=True)
class Setpoint:
    """What the joints are told at one moment, each (N,) [rad, rad/s, rad/s2]."""

    position: Array
    velocity: Array
    acceleration: Array


def interpolate(a: Knot, b: Knot, time_s: float) -> Setpoint:
    """The setpoint at `time_s` on the way from `a` to `b`; before `a` and after `b` as a line, held at its ends."""
    duration_s = b.time_s - a.time_s
    since_s = time_s - a.time_s
    velocities = a.velocity is not None and b.velocity is not None
    accelerations = a.acceleration is not None and b.acceleration is not None
    if since_s < 0.0 or since_s > duration_s:
        since_s = min(max(since_s, 0.0), duration_s)
        velocities = accelerations = False
    if duration_s <= 0.0:
        return _at_once(a, velocities, accelerations)
    if accelerations and not velocities:
        zeros = np.zeros_like(a.position)
        return Setpoint(zeros, zeros, zeros)
    # in s = t / T, so that every coefficient is an angle
    s, way = since_s / duration_s, b.position - a.position
    if not velocities:
        rows = [a.position, way]
    else:
        assert a.velocity is not None and b.velocity is not None
        v0, v1 = a.velocity * duration_s, b.velocity * duration_s
        if not accelerations:
            rows = [a.position, v0, 3.0 * way - 2.0 * v0 - v1, v0 + v1 - 2.0 * way]
        else:
            assert a.acceleration is not None and b.acceleration is not None
            half0, half1 = a.acceleration * (duration_s**2 / 2.0), b.acceleration * (duration_s**2 / 2.0)
            # what a parabola from `a` leaves to be done in position, velocity and half the acceleration
            d, e, f = way - v0 - half0, v1 - v0 - 2.0 * half0, half1 - half0
            rows = [a.position, v0, half0, 10.0 * d - 4.0 * e + f, -15.0 * d + 7.0 * e - 2.0 * f, 6.0 * d - 3.0 * e + f]
    return _polynomial(rows, s, duration_s)


def _polynomial(rows: list[Array], s: float, duration_s: float) -> Setpoint:
    """Value and derivatives, by time, of sum rows[i] s**i."""
    position = np.zeros_like(rows[0])
    velocity, half_acceleration = position, position
    for row in reversed(rows):  # Horner's scheme, for the value and two derivatives at once
        half_acceleration = half_acceleration * s + velocity
        velocity = velocity * s + position
        position = position * s + row
    return Setpoint(position, velocity / duration_s, 2.0 * half_acceleration / duration_s**2)


def _at_once(a: Knot, velocities: bool, accelerations: bool) -> Setpoint:
    """A segment without duration: it stays at its beginning."""
    zeros = np.zeros_like(a.position)
    velocity = a.velocity if velocities and a.velocity is not None else zeros
    acceleration = a.acceleration if velocities and accelerations and a.acceleration is not None else zeros
    return Setpoint(a.position, velocity, acceleration)

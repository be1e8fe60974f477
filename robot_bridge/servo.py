"""Another way out: velocities of the tool for MoveIt Servo, instead of joint trajectories.

Servo takes a TwistStamped per period, in the base frame of the arm, and turns it into joint motion by itself: with its
own inverse kinematics, singularity scaling, collision check and a smooth halt when twists stop coming. What is sent
here is the way from the last target to the next, as a velocity, plus a share of what the tool lags behind.

Frame: the base of the limits file. Shape legend: N joints.
Source: moveit/moveit2 `moveit_servo` (BSD-3-Clause): speed units, `incoming_command_timeout` 0.1 s.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foreact.robot_bridge.kinematics import Kinematics
from foreact.robot_bridge.limits import RobotLimits
from foreact.vla.errors import ConfigError

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Twist:
    """The numbers of a geometry_msgs/msg/TwistStamped."""

    linear: Array
    """(3,) [m/s], base frame: velocity of the tool centre point."""
    angular: Array
    """(3,) [rad/s], base frame."""
    scaled: float
    """What part of the wanted velocity this is: 1.0, or less where a limit was in the way."""


@dataclass(frozen=True, kw_only=True)
class ServoSettings:
    """How targets become velocities.

    Raises:
        ConfigError: If a number is out of its range; it is named.
    """

    tick_s: float = 0.01
    """Time between two twists, [0.001, 0.1]."""
    gain_per_s: float = 1.0
    """How much of the lag is made up per second, [0, 20]."""
    max_acceleration_m_s2: float = 2.0
    """(0, 20]"""
    max_acceleration_rad_s2: float = 8.0
    """(0, 100]"""

    def __post_init__(self) -> None:
        bounds = {
            "tick_s": (0.001, 0.1),
            "gain_per_s": (0.0, 20.0),
            "max_acceleration_m_s2": (1e-3, 20.0),
            "max_acceleration_rad_s2": (1e-3, 100.0),
        }
        for name, (low, high) in bounds.items():
            if not low <= getattr(self, name) <= high:
                raise ConfigError(f"servo.{name} must be in [{low:g}, {high:g}], found {getattr(self, name)!r}")


class TwistOutput:
    """Turns joint targets, one per tick, into twists.

    Both parts of a twist are scaled by one factor, so the tool stays on its way and only takes longer; then the change
    from the last twist is bounded. A standstill is reached within the same bound.

    Args:
        limits: Chain, `tcp_speed_m_s` and `tcp_turn_rad_s`.
        settings: See there.
    """

    def __init__(self, limits: RobotLimits, settings: ServoSettings | None = None):
        self.limits, self.settings = limits, settings or ServoSettings()
        self._kinematics = Kinematics(limits)
        self._linear, self._angular = np.zeros(3), np.zeros(3)
        self._last: Array | None = None

    def reset(self) -> None:
        """The arm stands."""
        self._linear, self._angular = np.zeros(3), np.zeros(3)
        self._last = None

    @property
    def moving(self) -> bool:
        """Whether the last twist was not zero."""
        return bool(self._linear.any() or self._angular.any())

    def twist(self, target: ArrayLike | None, measured: ArrayLike) -> Twist:
        """The velocity for the next tick.

        Args:
            target: Commanded joints (N,) [rad] at the end of the tick; None: come to a stop.
            measured: Joints (N,) [rad] now.

        Raises:
            ValueError: If joints are not (N,) finite numbers; nothing has changed then.
        """
        settings = self.settings
        here = self._joints(measured, "measured joints")
        if target is None:
            self._last = None
            return self._towards(np.zeros(3), np.zeros(3))
        goal = self._joints(target, "a target")
        last, self._last = here if self._last is None else self._last, goal
        linear, angular = self._way(last, goal)
        behind, turned = self._way(here, last)
        linear, angular = linear / settings.tick_s, angular / settings.tick_s
        return self._towards(linear + settings.gain_per_s * behind, angular + settings.gain_per_s * turned)

    def _towards(self, linear: Array, angular: Array) -> Twist:
        limits, settings = self.limits, self.settings
        speed, turn = float(np.linalg.norm(linear)), float(np.linalg.norm(angular))
        scale = min(
            1.0,
            limits.tcp_speed_m_s / speed if speed > 0.0 else 1.0,
            limits.tcp_turn_rad_s / turn if turn > 0.0 else 1.0,
        )
        self._linear = _closer(self._linear, scale * linear, settings.max_acceleration_m_s2 * settings.tick_s)
        self._angular = _closer(self._angular, scale * angular, settings.max_acceleration_rad_s2 * settings.tick_s)
        return Twist(self._linear.copy(), self._angular.copy(), scale)

    def _way(self, start: Array, end: Array) -> tuple[Array, Array]:
        """Way of the tool [m], and rotation vector [rad], both in the base frame, from one configuration to another."""
        (p0, r0), (p1, r1) = self._kinematics.forward(start), self._kinematics.forward(end)
        return p1 - p0, rotation_vector(r1 @ r0.T)

    def _joints(self, values: ArrayLike, what: str) -> Array:
        out = np.asarray(values, np.float64)
        if out.shape != (self._kinematics.n,) or not np.isfinite(out).all():
            raise ValueError(f"{what} must be {self._kinematics.n} finite numbers, found {out!r:.80}")
        return out


def rotation_vector(matrix: Array) -> Array:
    """Axis times angle (3,) [rad] of a rotation matrix (3, 3); for angles below half a turn."""
    skew = 0.5 * np.array([matrix[2, 1] - matrix[1, 2], matrix[0, 2] - matrix[2, 0], matrix[1, 0] - matrix[0, 1]])
    sine = float(np.linalg.norm(skew))
    angle = math.atan2(sine, 0.5 * (float(np.trace(matrix)) - 1.0))
    return skew if sine < 1e-9 else skew * (angle / sine)


def _closer(now: Array, wanted: Array, step: float) -> Array:
    """From one vector towards another, by at most `step`."""
    way = wanted - now
    length = float(np.linalg.norm(way))
    return wanted.copy() if length <= step else now + way * (step / length)

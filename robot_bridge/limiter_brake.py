"""The way from any state to rest: velocity is the cubic from (v, a) to (0, 0) in a fixed time.

With s = t / T:  v(s) = v (2 s^3 - 3 s^2 + 1) + a T (s^3 - 2 s^2 + s), the Hermite cubic. It is linear in (v, a), so all
points are one product with a matrix made once, and every limit on it is a linear condition:

    stops at         q + v T / 2 + a T^2 / 12
    velocity below   v + 4/27 a T          (the second cubic is at most 4/27)
    deceleration     at most 3/2 v / T + a / 3

Shape legend: N joints, M ticks.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from foreact.vla.errors import ConfigError

Array = NDArray[np.float64]

OVERSHOOT = 4.0 / 27.0
_FEWEST = 4


class Brake:
    """Comes to rest in `duration_s`, a whole number of ticks.

    Raises:
        ConfigError: If that leaves too few ticks.
    """

    def __init__(self, tick_s: float, duration_s: float):
        self.ticks = int(duration_s / tick_s + 1e-6)
        if self.ticks < _FEWEST:
            raise ConfigError(
                f"there are {max(self.ticks, 0)} ticks of {tick_s} s to stop in, at least {_FEWEST} are needed; "
                "raise stop_s or lower lead_ticks"
            )
        self.duration_s = self.ticks * tick_s
        t, m = self.duration_s, self.ticks
        s = np.arange(1, m + 1) / m
        of_v = [t * (s**4 / 2 - s**3 + s), 2 * s**3 - 3 * s**2 + 1, (6 * s**2 - 6 * s) / t]
        of_a = [t * t * (s**4 / 4 - 2 * s**3 / 3 + s**2 / 2), t * (s**3 - 2 * s**2 + s), 3 * s**2 - 4 * s + 1]
        of_q = np.concatenate([np.ones(m), np.zeros(2 * m)])
        self._basis = np.stack([of_q, np.concatenate(of_v), np.concatenate(of_a)], axis=1)
        self._basis[[2 * m - 1, 3 * m - 1]] = 0.0  # at rest, exactly
        self._first = (float(of_v[2][0]), float(of_a[2][0]))

    def points(self, q: list[float], v: list[float], a: list[float]) -> Array:
        """(3 M, N): positions, then velocities, then accelerations after 1 to M ticks."""
        return self.points_of(np.array([q, v, a]))

    def points_of(self, state: Array) -> Array:
        """As `points`, of (3, N): position, velocity, acceleration."""
        return self._basis @ state

    def first_acceleration(self, v: list[float], a: list[float]) -> list[float]:
        """(N,) after one tick."""
        of_v, of_a = self._first
        return [of_v * x + of_a * y for x, y in zip(v, a, strict=True)]

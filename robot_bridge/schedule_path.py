"""A path through the rows of a chunk: joint targets at any moment between two policy steps.

Rows are joined by cubic Hermite pieces with the slopes of Fritsch and Butland (1984), known as PCHIP: the path has no
corner, and between two rows it never leaves the range that they span, so what keeps a limit at the rows keeps it
everywhere. (Straight lines have a corner at every row: a jump in speed that the gate's limiter would have to round off,
row after row. Splines with two continuous derivatives overshoot, and each row moves the whole path.)

Time is counted in policy steps. Shape legend: M knots, N arm joints.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Path:
    """Knots one step apart, the first at `origin`.

    Args:
        origin: Time of the first knot [steps].
        knots: Shape (M, N) [rad], M >= 2.
    """

    __slots__ = ("_knots", "_piece", "_slopes", "end", "origin")

    def __init__(self, origin: float, knots: Array):
        self.origin = origin
        self.end = origin + len(knots) - 1
        """Time of the last knot [steps]."""
        self._knots, self._slopes = knots, slopes(knots)
        self._piece: tuple[int, list[tuple[float, ...]]] = (-1, [])
        """The piece that was asked for last, and its coefficients, joint by joint."""

    def at(self, time: float) -> tuple[Array, Array]:
        """Joints (N,) [rad] and their speed (N,) [rad/step]; outside the path, those of the nearer end, at rest."""
        place = time - self.origin
        last = len(self._knots) - 1
        if place <= 0.0:
            return self._knots[0], np.zeros_like(self._knots[0]) if place < 0.0 else self._slopes[0]
        if place >= last:
            return self._knots[last], np.zeros_like(self._knots[0]) if place > last else self._slopes[last]
        i = int(place)
        s = place - i
        q0, q1, m0, m1 = self._knots[i], self._knots[i + 1], self._slopes[i], self._slopes[i + 1]
        way = q1 - q0
        # Horner form of the Hermite cubic: q0 + m0 s + (3 way - 2 m0 - m1) s^2 + (m0 + m1 - 2 way) s^3
        b, c = 3.0 * way - 2.0 * m0 - m1, m0 + m1 - 2.0 * way
        return q0 + s * (m0 + s * (b + s * c)), m0 + s * (2.0 * b + 3.0 * s * c)

    def position(self, time: float) -> list[float]:
        """The joints of `at` (N,) [rad] in plain floats, number by number the same: asked for in every tick."""
        place = time - self.origin
        last = len(self._knots) - 1
        if place <= 0.0 or place >= last:
            return self._knots[0 if place <= 0.0 else last].tolist()
        i = int(place)
        s = place - i
        known, piece = self._piece
        if known != i:
            q0, q1, m0, m1 = self._knots[i], self._knots[i + 1], self._slopes[i], self._slopes[i + 1]
            way = q1 - q0
            b, c = 3.0 * way - 2.0 * m0 - m1, m0 + m1 - 2.0 * way
            piece = list(zip(q0.tolist(), m0.tolist(), b.tolist(), c.tolist(), strict=True))
            self._piece = (i, piece)
        return [q + s * (m + s * (b + s * c)) for q, m, b, c in piece]

    def positions(self, times: Array) -> Array:
        """(T, N) [rad] at times (T,), as `at` one by one."""
        place = np.clip(times - self.origin, 0.0, len(self._knots) - 1)
        i = np.minimum(place.astype(np.intp), len(self._knots) - 2)
        s = (place - i)[:, None]
        q0, q1, m0, m1 = self._knots[i], self._knots[i + 1], self._slopes[i], self._slopes[i + 1]
        way = q1 - q0
        return q0 + s * (m0 + s * (3.0 * way - 2.0 * m0 - m1 + s * (m0 + m1 - 2.0 * way)))


def slopes(knots: Array) -> Array:
    """Slopes (M, N) [rad/step] at knots (M, N) one step apart: the harmonic mean of the ways to both sides, zero where
    they differ in sign; at the ends the way to the only neighbour.

    The slope at a knot depends on its two neighbours alone.
    """
    ways = np.diff(knots, axis=0)
    out = np.empty_like(knots)
    out[0], out[-1] = ways[0], ways[-1]
    before, after = ways[:-1], ways[1:]
    product = before * after
    same = product > 0.0
    out[1:-1] = np.where(same, 2.0 * product / np.where(same, before + after, 1.0), 0.0)
    return out


class Fade:
    """What is added to a new path so that it leaves the old one with the same position and speed: a cubic from the gap
    at `begin` to nothing at `begin + length`.

    Args:
        begin: When [steps].
        gap: Old minus new position there, (N,) [rad].
        gap_speed: Old minus new speed there, (N,) [rad/step].
        length: Steps.
    """

    __slots__ = ("_gap", "_pairs", "_speed", "begin", "length")

    def __init__(self, begin: float, gap: Array, gap_speed: Array, length: float):
        self.begin, self.length = begin, length
        self._gap, self._speed = gap, gap_speed
        self._pairs = list(zip(gap.tolist(), gap_speed.tolist(), strict=True))

    def at(self, time: float) -> tuple[Array, Array] | None:
        """Offset (N,) [rad] and its speed (N,) [rad/step]; None when it has ended. Before `begin` it is constant."""
        u = (time - self.begin) / self.length
        if u >= 1.0:
            return None
        u = max(u, 0.0)
        offset = (1.0 - u) ** 2 * ((1.0 + 2.0 * u) * self._gap + u * self.length * self._speed)
        speed = 6.0 * u * (u - 1.0) / self.length * self._gap + (1.0 - u) * (1.0 - 3.0 * u) * self._speed
        return offset, speed

    def offset(self, time: float) -> list[float] | None:
        """The offset of `at` (N,) [rad] in plain floats."""
        u = (time - self.begin) / self.length
        if u >= 1.0:
            return None
        u = max(u, 0.0)
        square, of_gap, of_speed = (1.0 - u) ** 2, 1.0 + 2.0 * u, u * self.length
        return [square * (of_gap * gap + of_speed * speed) for gap, speed in self._pairs]

    def positions(self, times: Array) -> Array:
        """(T, N) offsets [rad] at times (T,), as `at` one by one."""
        u = np.clip((times - self.begin) / self.length, 0.0, 1.0)[:, None]
        return (1.0 - u) ** 2 * ((1.0 + 2.0 * u) * self._gap + u * self.length * self._speed)


def fade_length(gap: Array, gap_speed: Array, acceleration: Array) -> float:
    """Steps that a `Fade` needs so that it never accelerates more than `acceleration` (N,) [rad/step2].

    The cubic's acceleration is largest at an end, at most 6 |gap| / T^2 + 4 |speed| / T: this solves for T.
    """
    speed = 4.0 * np.abs(gap_speed)
    lengths = (speed + np.sqrt(speed * speed + 24.0 * acceleration * np.abs(gap))) / (2.0 * acceleration)
    return float(lengths.max(initial=0.0))

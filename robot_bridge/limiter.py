"""Turns joint targets into a motion that keeps every limit and can end at any moment.

The motion is planned on a grid of ticks. At any time the plan is: a few ticks that are settled, up to the *frontier*,
and from there a brake to rest. In each tick the frontier is moved on by one tick, if the motion with its new brake
keeps every limit; otherwise it stays, and time runs into the brake that was checked before. So a stop needs no
decision and no message: it is what happens when nothing is added, whether the gate wants it, is late, or is dead.

Between two ticks the acceleration changes linearly; over the brake of length T the velocity is the cubic from
(v, a) to (0, 0). Position, velocity and acceleration at the points determine both, so a controller that interpolates
with quintic splines (ros2_control's JointTrajectoryController) follows exactly this motion at any rate of its own.

Shape legend: N joints, M ticks of a brake, P points.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foreact.robot_bridge.kinematics import Kinematics
from foreact.robot_bridge.limiter_brake import OVERSHOOT, Brake
from foreact.robot_bridge.limits import RobotLimits
from foreact.robot_bridge.types import Trajectory
from foreact.vla.errors import ConfigError

Array = NDArray[np.float64]
Floats = list[float]
Six = tuple[float, float, float, float, float, float]

_V_MARGIN, _A_MARGIN, _J_MARGIN = 0.97, 0.94, 0.8
"""Of the limits, used when a motion is chosen; the whole of them when it is checked. What lies between is for the curve
between two ticks, and for a controller that joins a message between two of its points."""
_TCP_MARGIN = 0.95
_STIFFNESS = 18.0
"""1/s: how fast the motion closes in on its target; critically damped."""


class Limiter:
    """One arm's commanded motion.

    Args:
        limits: The arm.
        tick_s: Grid of the plan [s].
        lead_ticks: Settled ticks ahead; a message that comes later than that finds the arm braking already.
        slack_ticks: Of these, how many a message may be under way: nothing that is nearer is changed any more.
        speed_fraction: Part of the joint velocity limits that is used.
        soft_margin_rad: The command stays so far inside the position limits.

    Raises:
        ConfigError: If the numbers leave no time or no room to move.
    """

    def __init__(
        self,
        limits: RobotLimits,
        *,
        tick_s: float = 0.01,
        lead_ticks: int = 4,
        slack_ticks: int = 2,
        speed_fraction: float = 0.25,
        soft_margin_rad: float = 0.1,
        kinematics: Kinematics | None = None,
    ):
        self.limits, self.tick_s, self.lead_ticks = limits, tick_s, lead_ticks
        self._slack_ticks = min(max(slack_ticks, 1), lead_ticks)
        self.kinematics = kinematics or Kinematics(limits)
        self.brake = Brake(tick_s, limits.stop_s - lead_ticks * tick_s)
        low = [x + soft_margin_rad for x in limits.position_low]
        high = [x - soft_margin_rad for x in limits.position_high]
        if any(a >= b for a, b in zip(low, high, strict=True)):
            raise ConfigError(f"soft_margin_rad {soft_margin_rad} leaves no room inside the limits of {limits.robot}")
        self.position_low, self.position_high = low, high
        # A joint that is faster than this could not be stopped in the time there is.
        stoppable = [a * self.brake.duration_s / 1.5 for a in limits.acceleration]
        self.velocity = [min(speed_fraction * v, s) for v, s in zip(limits.velocity, stoppable, strict=True)]
        n = len(low)
        joints = [
            (_V_MARGIN * v, _A_MARGIN * a, _J_MARGIN * j * tick_s, lo, hi)
            for v, a, j, lo, hi in zip(self.velocity, limits.acceleration, limits.jerk, low, high, strict=True)
        ]
        self._joints = joints
        self._tcp_caps = ((_TCP_MARGIN * limits.tcp_speed_m_s) ** 2, (_TCP_MARGIN * limits.tcp_turn_rad_s) ** 2)
        slack = 1e-9
        ones = np.ones((self.brake.ticks, 1))
        v, a = np.array(self.velocity), np.array(limits.acceleration)
        self._upper = np.vstack([ones * (np.array(high) + slack), ones * v, ones * a])
        self._lower = np.vstack([ones * (np.array(low) - slack), ones * -v, ones * -a])
        self._n = n
        self._rest: Floats = [0.0] * n
        self._layouts: dict[tuple[int, int], tuple[int, NDArray[np.int64], Array]] = {}
        t, big_t = tick_s, self.brake.duration_s
        self._peak = OVERSHOOT * big_t
        self._c_peak, self._c_stop = 0.5 * t + self._peak, 0.75 * t / big_t + 1.0 / 3.0
        self._c_end = t * t / 6.0 + t * big_t / 4.0 + big_t * big_t / 12.0
        self.clipped = ""
        """What kept the last `extend` from its target: "", "joint limit", "workspace", "speed"."""
        self.reset([0.0] * n, 0.0)

    # ---- where the plan is -------------------------------------------------------------------------------------------

    def reset(self, q: ArrayLike, now_s: float) -> None:
        """At rest at joints (N,) [rad], now."""
        self._t0 = now_s
        self._frontier = 0
        self._q: Floats = [float(x) for x in np.asarray(q, np.float64)]
        self._v, self._a = list(self._rest), list(self._rest)
        self._settled: deque[tuple[int, Floats, Floats, Floats, Array | None]] = deque(maxlen=4 * self.lead_ticks + 4)
        """Tick, position, velocity, acceleration, and if it was made the three as (3, N)."""
        self._settled.append((0, self._q, self._v, self._a, None))
        self._tail = self.brake.points(self._q, self._v, self._a)
        self.clipped = ""

    def tick_at(self, now_s: float) -> int:
        """The last tick of the grid that is not after `now_s`."""
        return math.floor((now_s - self._t0) / self.tick_s + 1e-6)

    def time_of(self, tick: int) -> float:
        """Steady clock [s] of a tick."""
        return self._t0 + tick * self.tick_s

    @property
    def frontier(self) -> int:
        """The last settled tick."""
        return self._frontier

    def state(self, tick: int) -> tuple[Floats, Floats, Floats]:
        """Position, velocity, acceleration, each (N,), at a tick: settled, or of the brake behind it."""
        if tick > self._frontier:
            after = min(tick - self._frontier, self.brake.ticks) - 1
            m = self.brake.ticks
            return self._tail[after].tolist(), self._tail[m + after].tolist(), self._tail[2 * m + after].tolist()
        found = self._entry(tick)
        return found[1], found[2], found[3]

    def _entry(self, tick: int) -> tuple[int, Floats, Floats, Floats, Array | None]:
        """The last settled tick that is not after this one; else the first that is remembered."""
        settled = self._settled
        back = self._frontier - tick + 1
        if 0 < back <= len(settled) and settled[-back][0] == tick:  # as good as always: none was left out
            return settled[-back]
        for entry in reversed(settled):
            if entry[0] <= tick:
                return entry
        return settled[0]

    def command(self, now_s: float) -> Floats:
        """Where the arm should be now (N,) [rad]: on the line between two ticks."""
        tick = self.tick_at(now_s)
        q0, q1 = self.state(tick)[0], self.state(tick + 1)[0]
        part = (now_s - self.time_of(tick)) / self.tick_s
        return [a + part * (b - a) for a, b in zip(q0, q1, strict=True)]

    @property
    def end(self) -> Floats:
        """Where the arm comes to rest if nothing is added (N,) [rad]."""
        return self._tail[self.brake.ticks - 1].tolist()

    def resting(self, now_s: float) -> bool:
        """Whether the plan has come to its end."""
        return self.tick_at(now_s) >= self._frontier + self.brake.ticks or not (any(self._v) or any(self._a))

    # ---- how it grows ------------------------------------------------------------------------------------------------

    def missing(self, now_s: float) -> int:
        """How many ticks must be settled for the plan to reach as far ahead as it should."""
        return max(0, self.tick_at(now_s) + self.lead_ticks - self._frontier)

    def catch_up(self, now_s: float) -> None:
        """What the arm does before a message could reach it cannot be chosen any more: settle it."""
        first = self.tick_at(now_s) + self._slack_ticks
        while self._frontier < first:
            stopped = self._frontier + self.brake.ticks
            if first > stopped + 1:  # at rest for long
                self._settle_at(stopped, self.end, list(self._rest), list(self._rest))
                self._settle_at(first - 1, self._q, self._v, self._a)
                continue
            q, v, a = self.state(self._frontier + 1)
            rest = self._tail
            self._advance_into_brake(q, v, a, rest)

    def _advance_into_brake(self, q: Floats, v: Floats, a: Floats, tail: Array) -> None:
        """The next tick of the brake becomes settled; behind it the same brake goes on."""
        m = self.brake.ticks
        shifted = np.empty_like(tail)
        for part in range(3):
            block = tail[part * m : (part + 1) * m]
            shifted[part * m : (part + 1) * m - 1] = block[1:]
            shifted[(part + 1) * m - 1] = block[-1]
        self._settle_at(self._frontier + 1, q, v, a, shifted)

    def _settle_at(
        self, tick: int, q: Floats, v: Floats, a: Floats, tail: Array | None = None, block: Array | None = None
    ) -> None:
        self._frontier, self._q, self._v, self._a = tick, q, v, a
        self._settled.append((tick, q, v, a, block))
        self._tail = self.brake.points(q, v, a) if tail is None else tail

    def extend(self, target: Sequence[float], rate: Sequence[float]) -> bool:
        """Settle one more tick, towards `target` (N,) [rad] that moves with `rate` (N,) [rad/s] at that tick.

        Returns:
            Whether the motion went as wanted; if not, `clipped` says what was in the way. Either way the plan reaches
            one tick further: where the target cannot be followed safely, it follows the brake.
        """
        self.clipped = ""
        t, big_t = self.tick_s, self.brake.duration_s
        k, kk = _STIFFNESS * _STIFFNESS, 2.0 * _STIFFNESS
        c_peak, c_stop, c_end = self._c_peak, self._c_stop, self._c_end
        wanted: Floats = []
        ahead_q: Floats = []
        joints, half_t = self._joints, 0.5 * t
        empty = False
        for q, v, a, r, dr, (v_max, a_max, da_max, low, high) in zip(
            self._q, self._v, self._a, target, rate, joints, strict=True
        ):
            if r < low or r > high:
                r, dr = (low if r < low else high), 0.0
                self.clipped = "joint limit"
            dr = -v_max if dr < -v_max else v_max if dr > v_max else dr
            drift = v + a * half_t  # velocity at the new tick, but for the new acceleration's half
            new = k * (r - q - v * t) + kk * (dr - v)
            end = q + v * t + a * t * t / 3.0 + drift * 0.5 * big_t  # where it would stop, likewise
            # the smallest of what limits it from above, the largest from below; `min` and `max` take twice the time
            top, bottom = a + da_max, a - da_max
            top = a_max if a_max < top else top
            bottom = -a_max if -a_max > bottom else bottom
            above, below, slowing = v_max - drift, -v_max - drift, 1.5 * drift / big_t
            top = x if (x := above / c_peak) < top else top
            bottom = x if (x := below / c_peak) > bottom else bottom
            top = x if (x := above / half_t) < top else top
            bottom = x if (x := below / half_t) > bottom else bottom
            top = x if (x := (a_max - slowing) / c_stop) < top else top
            bottom = x if (x := (-a_max - slowing) / c_stop) > bottom else bottom
            top = x if (x := (high - end) / c_end) < top else top
            bottom = x if (x := (low - end) / c_end) > bottom else bottom
            if bottom > top:
                empty = True
            wanted.append(top if new > top else bottom if new < bottom else new)
            ahead_q.append(q + v * t + 0.5 * a * t * t)
        if not empty and self._try(wanted, ahead_q):
            return not self.clipped
        self.clipped = self.clipped or "speed"
        q, v, a = self.state(self._frontier + 1)
        self._advance_into_brake(q, v, a, self._tail)
        return False

    def _try(self, wanted: Floats, ahead_q: Floats) -> bool:
        """Settle the tick that these accelerations (N,) lead to, slowed for the tool, if its brake keeps all limits."""
        t = self.tick_s
        tcp, columns = self.kinematics.columns(ahead_q)
        slowed = self._slowed(wanted, columns)
        if slowed is None:
            return False
        q1: Floats = []
        v1: Floats = []
        for q, v, a, new in zip(self._q, self._v, self._a, slowed, strict=True):
            q1.append(q + v * t + (2.0 * a + new) * t * t / 6.0)
            v1.append(v + 0.5 * (a + new) * t)
        block = np.array((q1, v1, slowed))
        tail = self.brake.points_of(block)
        if not ((tail <= self._upper).all() and (tail >= self._lower).all()):
            return False
        if not self._stays_in_box(tail, ahead_q, tcp, columns):
            self.clipped = "workspace"
            return False
        self._settle_at(self._frontier + 1, q1, v1, slowed, tail, block)
        return True

    def _slowed(self, wanted: Floats, columns: list[tuple[float, float, float, float, float, float]]) -> Floats | None:
        """The accelerations, mixed with those of the brake until the tool's speed stays below its caps; None if even
        the brake would begin above them.

        On the way to rest the joint velocity is a mixture of 0, v1, peak * a1 and their sum, so all are kept below.
        """
        caps = self._tcp_caps
        fast = self._tool_rates(wanted, columns)
        of_v, of_a, of_both = fast
        if _within(of_v, caps) and _within(of_a, caps) and _within(of_both, caps):
            return wanted
        braking = self.brake.first_acceleration(self._v, self._a)
        slow = self._tool_rates(braking, columns)
        self.clipped = self.clipped or "speed"
        if not all(_within(rates, caps) for rates in slow):
            return None
        part = min(_largest_part(a, b, caps) for a, b in zip(slow, fast, strict=True))
        return [b + part * (w - b) for b, w in zip(braking, wanted, strict=True)]

    def _tool_rates(self, wanted: Floats, columns: list[tuple[float, ...]]) -> tuple[Six, Six, Six]:
        """Tool velocity, then angular velocity, for v1, for peak * a1 and for both."""
        half_t, peak = 0.5 * self.tick_s, self._peak
        ax = ay = az = ai = aj = ak = bx = by = bz = bi = bj = bk = 0.0
        for v, a, new, (x, y, z, i, j, k) in zip(self._v, self._a, wanted, columns, strict=True):
            u = v + (a + new) * half_t
            ax, ay, az, ai, aj, ak = ax + x * u, ay + y * u, az + z * u, ai + i * u, aj + j * u, ak + k * u
            u = peak * new
            bx, by, bz, bi, bj, bk = bx + x * u, by + y * u, bz + z * u, bi + i * u, bj + j * u, bk + k * u
        of_a = (bx, by, bz, bi, bj, bk)
        return (ax, ay, az, ai, aj, ak), of_a, (ax + bx, ay + by, az + bz, ai + bi, aj + bj, ak + bk)

    def _stays_in_box(self, tail: Array, q: Floats, tcp: Sequence[float], columns: list) -> bool:
        """Whether the tool comes to rest inside the workspace, or at least on its way back into it."""
        low, high = self.limits.workspace_low_base, self.limits.workspace_high_base
        end = tail[self.brake.ticks - 1].tolist()
        turn = sway = 0.0
        x, y, z = tcp
        for a, b, reach, (i, j, k, _, _, _) in zip(end, q, self.kinematics.reach_m, columns, strict=True):
            d = a - b
            x, y, z = x + i * d, y + j * d, z + k * d
            d = abs(d)
            turn, sway = turn + d, sway + d * reach
        error = 0.5 * turn * sway  # of the linear estimate
        if (
            low[0] + error <= x <= high[0] - error
            and low[1] + error <= y <= high[1] - error
            and low[2] + error <= z <= high[2] - error
        ):
            return True
        found = self.kinematics.position(end)
        return all(
            lo <= p <= hi or (p > hi and p < now) or (p < lo and p > now)
            for p, now, lo, hi in zip(found, tcp, low, high, strict=True)
        )

    # ---- what is sent ------------------------------------------------------------------------------------------------

    def trajectory(self, now_s: float, observed_s: float | None = None, stride: int = 2) -> Trajectory:
        """What is settled after now and the brake behind it, as a message that starts now.

        Args:
            now_s: Steady clock [s].
            observed_s: Stamped on it.
            stride: Every so-many-th tick of the brake becomes a point, and its last one.
        """
        first = self.tick_at(now_s) + 1
        if self.time_of(first) - now_s < 0.2 * self.tick_s:
            first += 1  # a point that is all but past would be reached with a jerk
        m, frontier = self.brake.ticks, self._frontier
        n_settled, rows, ticks = self._layout(min(first - frontier, m + 1), stride)
        ticks = ticks + max(frontier, first - m)  # if the end is past, it is said once more
        parts = np.empty((3, len(ticks), self._n))
        parts[:, n_settled:] = self._tail.reshape(3, m, self._n)[:, rows]
        parts[1:, -1] = 0.0
        for i in range(n_settled):
            _, q, v, a, block = self._entry(first + i)
            parts[:, i] = (q, v, a) if block is None else block
        times = self._t0 + self.tick_s * ticks - now_s
        return Trajectory(
            start_s=now_s,
            time_from_start_s=times,
            position=parts[0],
            velocity=parts[1],
            acceleration=parts[2],
            observed_s=observed_s,
        )

    def _layout(self, ahead: int, stride: int) -> tuple[int, NDArray[np.int64], Array]:
        """Of a message whose first point is so many ticks after the frontier: how many settled ticks it begins with,
        which rows of the brake follow, and all its ticks (P,), counted from the frontier.
        """
        found = self._layouts.get((ahead, stride))
        if found is None:
            m, n_settled = self.brake.ticks, max(1 - ahead, 0)
            begin = min(max(ahead, 1), m)
            rows = np.arange(m - (m - begin) // stride * stride, m + 1, stride)
            found = n_settled, rows - 1, np.concatenate([np.arange(ahead, ahead + n_settled), rows]).astype(np.float64)
            self._layouts[ahead, stride] = found
        return found


def _within(rates: Six, caps: tuple[float, float]) -> bool:
    x, y, z, i, j, k = rates
    return x * x + y * y + z * z <= caps[0] and i * i + j * j + k * k <= caps[1]


def _largest_part(low: Six, high: Six, caps: tuple[float, float]) -> float:
    """The largest s in [0, 1] at which low + s (high - low) is within both caps; 0 if there is none."""
    part = 1.0
    for begin, cap_sq in ((0, caps[0]), (3, caps[1])):
        base = low[begin : begin + 3]
        more = [y - x for x, y in zip(base, high[begin : begin + 3], strict=True)]
        a = sum(x * x for x in more)
        b = sum(x * y for x, y in zip(base, more, strict=True))
        c = sum(x * x for x in base) - cap_sq
        if a + 2.0 * b + c <= 0.0:
            continue
        root = b * b - a * c
        if c > 0.0 or a <= 0.0 or root < 0.0:
            return 0.0
        part = min(part, max(0.0, (math.sqrt(root) - b) / a))
    return part

"""What a robot's native controller does with JointTrajectory messages, without ROS and without a clock of its own.

Follows ros2_controllers' JointTrajectoryController (Apache-2.0; `joint_trajectory_controller.cpp`, `trajectory.cpp`),
position interface: what it accepts, how it interpolates, how a message replaces the one before, what it holds.

- A message replaces the running trajectory whole. Up to its first point the way leads from the setpoint of the moment
  at which it came (`interpolate_from_desired_state: true`, which a stream of short messages needs) or from the measured
  state (the default there).
- Stamp 0 begins when it comes. With a stamp, points in the past are skipped: one that comes late joins its trajectory
  where that is by now, at once.
- At the end the last point is held. `cmd_timeout` (off by default, as there) then holds the *measured* position.
- It does NOT check that numbers are finite, that the way is continuous, or any limit: NaN passes through to the drives.
  Here as well; but it is counted (`non_finite_received`) and reported, because no gate may ever send one.

Different from the source on purpose: a joint named twice is refused (there: whatever an earlier message left behind),
and the setpoint that a new trajectory begins from is dated at its own time (there: one control period earlier).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from foreact.robot_bridge.robot_side import ReceivedTrajectory
from foreact.robot_bridge.trajectory_spline import Array, Knot, Setpoint, interpolate

_AT_REST = float(np.finfo(np.float32).eps)
"""The largest last velocity that counts as zero [rad/s], as there."""


class TrajectoryController:
    """Follows JointTrajectory messages; see the module.

    Call `update` once per control period, and `receive` in between; both from one thread.
    """

    def __init__(
        self,
        joints: Sequence[str],
        position: ArrayLike,
        *,
        period_s: float = 0.0,
        cmd_timeout_s: float = 0.0,
        interpolate_from_desired_state: bool = True,
        allow_nonzero_velocity_at_trajectory_end: bool = False,
        alarm: Callable[[str], None] | None = None,
    ) -> None:
        """Holds `position` (N,) [rad] until the first message.

        Args:
            joints: Names, in the order of every (N,) here.
            position: Where the arm stands.
            period_s: Control period; the setpoint returned by `update(now_s)` is the one for the end of it.
            cmd_timeout_s: Hold the measured position so long after the end of a trajectory; 0: never.
            interpolate_from_desired_state: Begin at the setpoint instead of at the measured state.
            allow_nonzero_velocity_at_trajectory_end: As there.
            alarm: Told of what must never happen, a sentence each time.
        """
        self.joints = tuple(joints)
        self.counts: Counter[str] = Counter()
        """accepted, rejected, non_finite_received, command_timeouts: messages or events since the start."""
        self._period_s, self._cmd_timeout_s = period_s, cmd_timeout_s
        self._from_desired = interpolate_from_desired_state
        self._moving_end_ok = allow_nonzero_velocity_at_trajectory_end
        self._alarm = alarm
        self._message: ReceivedTrajectory | None = None
        self._times: Array = np.zeros(0)
        self._knots: list[Knot] = []
        self._before = Knot(0.0, np.zeros(0))
        self._holding = True
        self.hold(position)

    @property
    def setpoint(self) -> Setpoint:
        """The last one that `update` returned."""
        return self._setpoint

    def hold(self, position: ArrayLike) -> None:
        """Forget the trajectory and stay at `position` (N,) [rad]."""
        q = np.array(position, dtype=np.float64)
        zeros = np.zeros_like(q)
        self._setpoint, self._setpoint_s = Setpoint(q, zeros, zeros), None
        self._message, self._knots, self._holding = None, [], True

    def receive(self, message: ReceivedTrajectory, now_s: float) -> str:
        """Take a message; it begins at the next `update`.

        Args:
            message: As it came.
            now_s: The controller's time, on the clock of the message's stamp.

        Returns:
            "" if it is accepted, else why it is not; then the running trajectory goes on.
        """
        why = self._reason_to_reject(message, now_s)
        if why:
            self.counts["rejected"] += 1
            return why
        arrays = (message.position, message.velocity, message.acceleration, message.time_from_start_s)
        if not all(a is None or np.isfinite(a).all() for a in arrays):
            self.counts["non_finite_received"] += 1
            self._raise_alarm("a trajectory with numbers that are not finite was received, and is obeyed")
        self.counts["accepted"] += 1
        self._message, self._holding = message, False
        return ""

    def update(self, now_s: float, measured: Knot | None = None) -> Setpoint:
        """The setpoint for the coming control period.

        Args:
            now_s: The controller's time; never runs backwards.
            measured: State of the arm, which is where a trajectory begins without `interpolate_from_desired_state`, and
                what `cmd_timeout_s` holds. The setpoint stands in for it if it is not given.
        """
        if self._message is not None:
            self._begin(self._message, now_s, measured)
            self._message = None
        if self._knots:
            at_s = now_s + self._period_s
            self._setpoint, self._setpoint_s = self._sample(at_s), at_s
            late_s = now_s - self._knots[-1].time_s
            if not self._holding and 0.0 < self._cmd_timeout_s < late_s:
                self.counts["command_timeouts"] += 1
                self.hold(self._setpoint.position if measured is None else measured.position)
        return self._setpoint

    def _begin(self, message: ReceivedTrajectory, now_s: float, measured: Knot | None) -> None:
        order = [message.joints.index(name) for name in self.joints]
        start_s = message.stamp_s if message.stamp_s != 0.0 else now_s
        self._times = start_s + np.asarray(message.time_from_start_s, dtype=np.float64)
        velocity, acceleration = (a if a is None else a[:, order] for a in (message.velocity, message.acceleration))
        self._knots = [
            Knot(
                float(time_s),
                message.position[i, order],
                None if velocity is None else velocity[i],
                None if acceleration is None else acceleration[i],
            )
            for i, time_s in enumerate(self._times)
        ]
        s = self._setpoint
        if self._from_desired or measured is None:
            self._before = Knot(now_s if self._setpoint_s is None else self._setpoint_s, *_three(s))
        else:
            # what is not measured counts as zero where the message gives it, so that the spline has one degree
            zeros, first = np.zeros_like(s.position), self._knots[0]
            self._before = Knot(
                now_s,
                measured.position,
                zeros if measured.velocity is None and first.velocity is not None else measured.velocity,
                zeros if measured.acceleration is None and first.acceleration is not None else measured.acceleration,
            )

    def _sample(self, at_s: float) -> Setpoint:
        reached = int(np.searchsorted(self._times, at_s, side="right"))
        if reached == 0:
            return interpolate(self._before, self._knots[0], at_s)
        if reached < len(self._knots):
            return interpolate(self._knots[reached - 1], self._knots[reached], at_s)
        last = self._knots[-1]
        zeros = np.zeros_like(last.position)
        velocity = zeros if last.velocity is None else last.velocity
        return Setpoint(last.position, velocity, zeros if last.acceleration is None else last.acceleration)

    def _reason_to_reject(self, message: ReceivedTrajectory, now_s: float) -> str:
        names, times = message.joints, np.asarray(message.time_from_start_s)
        if len(names) != len(self.joints) or len(set(names)) != len(names):
            return f"expected {len(self.joints)} joints, each once, found {len(names)} names: {list(names)!r:.200}"
        if unknown := [name for name in names if name not in self.joints]:
            return f"joint {unknown[0]!r} is not one of {', '.join(self.joints)}"
        if times.ndim != 1 or len(times) == 0:
            return "the trajectory is empty"
        for what in ("position", "velocity", "acceleration"):
            found = np.shape(getattr(message, what))
            if found != (len(times), len(names)) and not (getattr(message, what) is None and what != "position"):
                return f"{what} must have {len(times)} points of {len(names)} joints, found shape {found}"
        if message.velocity is not None and not self._moving_end_ok:
            fast = np.abs(message.velocity[-1]) > _AT_REST  # False for NaN, as there
            if fast.any():
                return f"it ends with a velocity: {names[int(np.argmax(fast))]} is still moving at its last point"
        if message.stamp_s != 0.0 and message.stamp_s + times[-1] < now_s:
            return f"it ends {now_s - message.stamp_s - times[-1]:.3f} s in the past"
        if (np.diff(times) <= 0.0).any():
            return f"time_from_start must rise from point to point, found {times.tolist()!r:.200}"
        return ""

    def _raise_alarm(self, sentence: str) -> None:
        if self._alarm is not None:
            self._alarm(sentence)


def _three(s: Setpoint) -> tuple[Array, Array, Array]:
    return s.position, s.velocity, s.acceleration

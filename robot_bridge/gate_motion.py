"""The arm's motion under the gate: policy steps, the scheduler's targets, the limiter's plan, and the leash.

Shape legend: N joints.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from foreact.robot_bridge.causes import Cause, Finding
from foreact.robot_bridge.gate_settings import GateSettings
from foreact.robot_bridge.kinematics import Kinematics
from foreact.robot_bridge.limiter import Limiter
from foreact.robot_bridge.limits import RobotLimits
from foreact.robot_bridge.types import ActionChunk, Trajectory

Array = NDArray[np.float64]

_RELAX_RAD_S = 0.2
_RELAXED_RAD = 0.002
_SLACK, _TAUT = 0.2, 0.9
"""Parts of the leash: an arm that follows well is nearer to its command than the one. If it is not, its plan may end as
far away as the other; what is left of the leash is for the tick that goes further."""


class TargetSource(Protocol):
    """What the gate needs of `foreact.robot_bridge.scheduler.Scheduler`; steps are policy steps, real numbers."""

    def add(self, chunk: ActionChunk, step_now: float, position: Array | None = None) -> Any:
        """Take a chunk; None, or why not: an enum with a name that `gate_schedule.REFUSALS` knows."""
        ...

    def target(self, step: float) -> tuple[Array, float] | None:
        """Joints (N,) [rad] and gripper command; None where there is no plan."""
        ...

    def aim(self, step: float) -> tuple[list[float], float] | None:
        """`target` in plain floats; asked for in every tick."""
        ...

    def flush(self, step_now: float | None = None, instruction_id: int | None = None) -> None:
        """Drop everything."""
        ...

    def reset(self) -> None:
        """As new."""
        ...


class Motion:
    """Knows which policy step it is and moves the plan on."""

    def __init__(self, limits: RobotLimits, settings: GateSettings, scheduler: TargetSource):
        self.settings, self.scheduler, self._limits = settings, scheduler, limits
        self.kinematics = Kinematics(limits)
        self.limiter = Limiter(
            limits,
            tick_s=settings.tick_s,
            lead_ticks=settings.lead_ticks,
            slack_ticks=settings.lead_ticks - settings.send_every,
            speed_fraction=settings.speed_fraction,
            soft_margin_rad=settings.soft_margin_rad,
            kinematics=self.kinematics,
        )
        self.gripper_command = 1.0
        self.observed_s: float | None = None
        """Of the newest chunk that was taken."""
        self.running = False
        self._period_s, self._tick_s = settings.period_s, settings.tick_s
        self._step0, self._step0_s = 0, 0.0
        window = max(1, round(settings.clip_window_s / settings.tick_s))
        self._clips: deque[bool] = deque([False] * window, maxlen=window)
        self._clipped = 0
        self.clipped: dict[str, int] = {}
        """Ticks that were kept from their target, by what kept them."""
        self._leash_since_s: float | None = None
        self.taut = False
        """Whether the plan is not moved on, because the arm does not follow."""
        self._held_at: list[float] | None = None
        self._asked: tuple[int, list[float]] | None = None
        """The last target, and the tick that it was for."""

    # ---- steps -------------------------------------------------------------------------------------------------------

    def step_at(self, now_s: float) -> float:
        """Policy steps, a real number; stands still while the arm is not led."""
        if not self.running:
            return float(self._step0)
        return self._step0 + max(0.0, now_s - self._step0_s) / self._period_s

    def planned_step(self) -> float:
        """The policy step of the plan's frontier: what comes before can no longer be changed."""
        return self.step_at(self.limiter.time_of(self.limiter.frontier))

    def target(self, step: float) -> Array:
        """Where the policy has led, or leads, the arm at a step (N,) [rad]; where it rests if nothing leads."""
        found = self.scheduler.target(step) if self.running else None
        return np.array(self.limiter.end) if found is None else found[0]

    @property
    def began_s(self) -> float:
        """When the step count began to rise, of the present motion [s]."""
        return self._step0_s

    # ---- beginning and ending ----------------------------------------------------------------------------------------

    def anchor(self, q: Sequence[float], now_s: float) -> None:
        """The arm rests at joints (N,) [rad]: everything begins anew from there, at step 0."""
        self.limiter.reset(np.asarray(q, np.float64), now_s)
        self.running, self.observed_s = False, None
        self._step0 = 0
        self._leash_since_s = self._held_at = None
        self.taut = False
        self.scheduler.reset()
        self.scheduler.flush(0.0)
        self._forget_clips()

    def begin(self, now_s: float) -> None:
        """From now on the arm is led; the plan's frontier is at the step that was waited for."""
        self.limiter.catch_up(now_s)
        self.running, self._asked = True, None
        self._leash_since_s = self._held_at = None
        self.taut = False
        self._step0_s = self.limiter.time_of(self.limiter.frontier)
        self._forget_clips()

    def end(self, instruction_id: int | None = None) -> None:
        """Nothing leads the arm any more: the plan runs into its brake, the step count waits at the next whole step."""
        if self.running:
            self._step0 = math.ceil(self.planned_step() - 1e-9)
            self.running = False
        self.observed_s = None
        self.scheduler.flush(float(self._step0), instruction_id)

    def _forget_clips(self) -> None:
        self._clips.extend([False] * len(self._clips))
        self._clipped = 0

    # ---- each tick ---------------------------------------------------------------------------------------------------

    def advance(self, now_s: float) -> Finding | None:
        """Move the plan on as far as it should reach; what is wrong with where it is led, if anything is."""
        limiter = self.limiter
        limiter.catch_up(now_s)
        if self.taut:  # into the brake, which ends within the leash
            return None
        for _ in range(limiter.missing(now_s)):
            step = self.step_at(limiter.time_of(limiter.frontier + 1))
            found = self.scheduler.aim(step)
            if found is None:
                return Finding(Cause.EXHAUSTED, "nothing is left of the last chunk")
            wanted, gripper = found
            here = limiter.state(limiter.frontier)[0]
            problem = self._jump(wanted, here)
            if problem:
                return Finding(Cause.DISCONTINUITY, problem)
            limiter.extend(wanted, self._rate(limiter.frontier + 1, wanted))
            self.gripper_command = gripper
            self._count_clip()
        if self._clipped > self.settings.clip_fraction * len(self._clips):
            part = self._clipped / len(self._clips)
            why = f"{100 * part:.0f} % of the last ticks were kept from targets beyond the limits"
            return Finding(Cause.OUT_OF_RANGE, why)
        return None

    def idle(self, now_s: float) -> None:
        """Nothing leads: what the arm does by now is settled."""
        self.limiter.catch_up(now_s)

    def relax(self, measured: Sequence[float], now_s: float) -> bool:
        """Lead the command slowly to where the arm was held when it came to rest; whether there is still way to go."""
        limiter = self.limiter
        if self._held_at is None:
            bounds = zip(measured, limiter.position_low, limiter.position_high, strict=True)
            self._held_at = [min(max(x, low), high) for x, low, high in bounds]
            limiter.clipped = ""  # of the way there, not of the way back
        limiter.catch_up(now_s)
        for _ in range(limiter.missing(now_s)):
            here = limiter.state(limiter.frontier)[0]
            # where the way is not free, it stays as near as it can
            done = all(abs(x - y) < _RELAXED_RAD for x, y in zip(self._held_at, here, strict=True))
            if done or limiter.clipped == "workspace":
                self._held_at = None
                return False
            ahead = _RELAX_RAD_S / 10.0  # a target so far ahead pulls at about this rate
            wanted = [y + min(max(x - y, -ahead), ahead) for x, y in zip(self._held_at, here, strict=True)]
            limiter.extend(wanted, [0.0] * len(wanted))
        return True

    def _rate(self, tick: int, target: list[float]) -> list[float]:
        """How fast the target moves (N,) [rad/s], by the one that was asked for at the tick before."""
        before, self._asked = self._asked, (tick, target)
        if before is None or before[0] != tick - 1:
            return [0.0] * len(target)
        tick_s = self._tick_s
        return [(x - y) / tick_s for x, y in zip(target, before[1], strict=True)]

    def _count_clip(self) -> None:
        why = self.limiter.clipped
        if why:
            self.clipped[why] = self.clipped.get(why, 0) + 1
        clipped = why in ("joint limit", "workspace")
        self._clipped += clipped - self._clips[0]
        self._clips.append(clipped)

    def leap(self, chunk: ActionChunk, step: float) -> str:
        """Whether a chunk leads elsewhere than the arm is, before anything smooths it; "" if it does not."""
        row = min(max(math.ceil(step - chunk.step - 1e-9) - 1, 0), len(chunk.joint_position) - 1)
        here = self.limiter.state(self.limiter.frontier)[0]
        return self._jump(chunk.joint_position[row].tolist(), here)

    def _jump(self, target: Sequence[float], here: Sequence[float]) -> str:
        """Whether the target is too far from the command to be approached."""
        far_rad, far_m = self._distance(target, here, self.settings.jump_rad, self.settings.jump_m)
        if far_rad > self.settings.jump_rad or far_m > self.settings.jump_m:
            return f"a target {far_rad:.3f} rad and {1000 * far_m:.0f} mm from the command"
        return ""

    def moved(self, measured: Sequence[float]) -> tuple[str, bool]:
        """Whether the arm is elsewhere than where its command rests, by more than what hangs or gives ("" if not), and
        whether that is further than the leash."""
        limits = self._limits
        far_rad, far_m = self._distance(measured, self.limiter.end, 0.0, 0.0)
        part = max(far_rad / limits.leash_rad, far_m / limits.leash_m)
        if part <= _SLACK:
            return "", False
        said = f"the arm was moved while it stood: {far_rad:.3f} rad and {1000 * far_m:.0f} mm from its command"
        return said, part > 1.0

    def _distance(self, a: Sequence[float], b: Sequence[float], least_rad: float, least_m: float):
        """Largest joint distance [rad] and TCP distance [m]; the latter is 0 where it is surely below `least_m`."""
        far_rad = bound = 0.0
        for x, y, reach in zip(a, b, self.kinematics.reach_m, strict=True):
            d = abs(x - y)
            far_rad = d if d > far_rad else far_rad
            bound += d * reach
        if bound <= least_m:
            return far_rad, 0.0
        return far_rad, math.dist(self.kinematics.position(a), self.kinematics.position(b))

    def leash(self, measured: Sequence[float], now_s: float) -> Finding | None:
        """Whether the arm has not followed its command for too long: it is beyond the leash, or would be if the command
        went on. (`taut` then keeps the command from going on at once.)
        """
        limits = self._limits
        command = self.limiter.command(now_s)
        far_rad, far_m = self._distance(measured, command, limits.leash_rad, limits.leash_m)
        beyond = far_rad > limits.leash_rad or far_m > limits.leash_m
        self.taut = beyond or self._is_taut(measured, command, far_rad)
        if not self.taut:
            self._leash_since_s = None
            return None
        if self._leash_since_s is None:
            self._leash_since_s = now_s
        if now_s - self._leash_since_s < self.settings.leash_s - 1e-9:
            return None
        far_m = self._distance(measured, command, 0.0, 0.0)[1]
        return Finding(
            Cause.LEASH, f"the arm is {far_rad:.3f} rad and {1000 * far_m:.0f} mm from where it is commanded to be"
        )

    def _is_taut(self, measured: Sequence[float], command: Sequence[float], far_rad: float) -> bool:
        """Whether the arm lags, and what is planned already leads almost to the end of the leash.

        At a quarter of the joint speeds the way from the command to the end of the plan is up to 0.08 rad, which is no
        lag: so both count. A lag of the tool is judged by its upper bound, which costs less than the tool's position.
        """
        limits = self._limits
        if far_rad <= _SLACK * limits.leash_rad:
            reach = self.kinematics.reach_m
            sway = sum([abs(x - y) * r for x, y, r in zip(measured, command, reach, strict=True)])
            if sway <= _SLACK * limits.leash_m:
                return False
        least_rad, least_m = _TAUT * limits.leash_rad, _TAUT * limits.leash_m
        end_rad, end_m = self._distance(measured, self.limiter.end, least_rad, least_m)
        return end_rad > least_rad or end_m > least_m

    def trajectory(self, now_s: float, observed_s: float | None) -> Trajectory:
        """The plan as a message."""
        return self.limiter.trajectory(now_s, observed_s)

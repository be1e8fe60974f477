"""The same replay through the whole gate: arm and sensors work, and only the policy's answers go astray.

What is published is followed as a trajectory controller follows it, with `trajectory_spline`, and measured there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreact.robot_bridge.event_log import EventLog
from foreact.robot_bridge.gate import Gate, default_scheduler
from foreact.robot_bridge.gate_settings import GateSettings
from foreact.robot_bridge.limits import RobotLimits
from foreact.robot_bridge.replay import Post, ReplaySettings
from foreact.robot_bridge.replay_wishes import Wishes
from foreact.robot_bridge.trajectory_spline import Knot, interpolate
from foreact.robot_bridge.types import ActionChunk, JointSample, RobotMode, State, Trajectory
from foreact.vla.errors import ForeActError

Array = NDArray[np.float64]


@dataclass(kw_only=True)
class GateReplayReport:
    """What came of it. Shares are of the limits file; 1.0 is the limit."""

    asked: int = 0
    arrived: int = 0
    simulated_s: float = 0.0
    running_s: float = 0.0
    holds: int = 0
    faults: int = 0
    """Each is followed by disarming and arming again."""
    causes: dict[str, int] = field(default_factory=dict)
    """Of the HOLDs and FAULTs."""
    refused: int = 0
    """Chunks that the gate refused."""
    step_rad: float = 0.0
    """Largest way of a joint in one tick."""
    velocity_share: float = 0.0
    acceleration_share: float = 0.0
    """Of the arm's motion, by differences over the ticks."""
    at_rest_s: float = 0.0
    """Longest time from leaving RUNNING to a standstill."""

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


class _Arm:
    """Follows the last trajectory exactly."""

    def __init__(self, position: Array):
        self.position = position
        self._message: Trajectory | None = None
        self._start: Knot | None = None

    def obey(self, message: Trajectory) -> None:
        start = self._knot(message.start_s)
        self._message, self._start = message, start

    def move(self, now_s: float) -> None:
        self.position = np.asarray(self._knot(now_s).position)

    def _knot(self, now_s: float) -> Knot:
        message, zero = self._message, np.zeros_like(self.position)
        if message is None or self._start is None:
            return Knot(now_s, self.position, zero, zero)
        times = message.start_s + message.time_from_start_s
        if now_s >= times[-1]:
            return Knot(now_s, message.position[-1], zero, zero)
        i = int(np.searchsorted(times, now_s, side="right"))
        after = Knot(times[i], message.position[i], message.velocity[i], message.acceleration[i])
        before = self._start
        if i > 0:
            before = Knot(times[i - 1], message.position[i - 1], message.velocity[i - 1], message.acceleration[i - 1])
        found = interpolate(before, after, max(now_s, before.time_s))
        return Knot(now_s, found.position, found.velocity, found.acceleration)


class _GateReplay:
    """The run, and what is measured."""

    def __init__(self, wishes: Wishes, limits: RobotLimits, settings: ReplaySettings, gate: Gate):
        self.wishes, self.settings, self.gate, self.bounds = wishes, settings, gate, gate.settings
        self.report, self.post, self.arm = GateReplayReport(), Post(settings), _Arm(wishes.start())
        self.random = np.random.default_rng([settings.seed, 2])
        self.way = np.zeros_like(self.arm.position)
        tick_s = self.bounds.tick_s
        self.velocity = np.array(limits.velocity) * tick_s
        self.acceleration = np.array(limits.acceleration) * tick_s**2
        self.sequence, self.asked, self.instruction = 0, -1, 1
        self.state, self.left_s = State.DISARMED, -1.0
        self.causes: Counter[str] = Counter()

    def run(self) -> GateReplayReport:
        bounds, report = self.bounds, self.report
        for tick in range(int(self.settings.steps * bounds.period_s / bounds.tick_s)):
            now = 1.0 + tick * bounds.tick_s
            self.move(now)
            self.operate(now, tick)
            self.ask(now, tick)
            for chunk in self.post.due(now):
                report.arrived += 1
                self.gate.on_chunk(chunk, now)
            message = self.gate.tick(now)
            if message is not None:
                self.arm.obey(message)
            self.note(now)
        report.simulated_s = self.settings.steps * bounds.period_s
        report.causes = dict(self.causes)
        report.refused = self.gate.log.kinds["refused"]
        return report

    def move(self, now: float) -> None:
        """The arm, and what it says of itself."""
        report, before = self.report, self.arm.position
        self.arm.move(now)
        way = self.arm.position - before
        report.step_rad = max(report.step_rad, float(np.abs(way).max()))
        report.velocity_share = max(report.velocity_share, float((np.abs(way) / self.velocity).max()))
        bend = float((np.abs(way - self.way) / self.acceleration).max())
        report.acceleration_share = max(report.acceleration_share, bend)
        self.way = way
        velocity = way / self.bounds.tick_s
        sample = JointSample(
            position=self.arm.position, velocity=velocity, gripper_width_m=None, stamp_s=now, received_s=now
        )
        self.gate.on_joints(sample)
        self.gate.on_mode(RobotMode.OK, now)
        self.gate.on_policy_alive(now)

    def operate(self, now: float, tick: int) -> None:
        """An operator who arms again whenever the gate has given up, and sometimes says something else."""
        gate, bounds = self.gate, self.bounds
        per_tick = bounds.tick_s / bounds.period_s
        if self.settings.change_every and self.random.random() < per_tick / self.settings.change_every:
            self.instruction += 1
            gate.on_instruction(self.instruction, now)
        if gate.state is State.FAULT:
            gate.disarm(now)
        if gate.state is State.DISARMED and not self.way.any() and tick > 0:
            gate.on_warmup([0.01] * bounds.warmup_least)
            problems = gate.arm(now)
            if problems:
                raise ForeActError("the gate does not arm in a replay: " + "; ".join(problems))
            self.asked = -1
        if gate.state is State.READY:
            gate.start(now, self.instruction)

    def ask(self, now: float, tick: int) -> None:
        """Once per step while the arm is led; now and then while it waits."""
        gate = self.gate
        again = gate.step != self.asked if gate.state is State.RUNNING else tick % 10 == 0
        if not gate.waits_for_chunk or not again:
            return
        self.asked = gate.step
        time = int(tick * self.bounds.tick_s / self.bounds.period_s)  # steps of the gate begin anew when it is armed
        rows, gripper = self.wishes.chunk(time, gate.target(gate.step), self.instruction)
        chunk = ActionChunk(
            sequence=self.sequence, instruction_id=self.instruction, observed_s=now, step=gate.step,
            joint_position=rows, gripper=gripper,
        )  # fmt: skip
        self.sequence += 1
        self.report.asked += 1
        self.post.send(chunk, now)

    def note(self, now: float) -> None:
        report, state = self.report, self.gate.state
        if state is not self.state:
            if state in (State.HOLD, State.FAULT):
                self.causes[str(self.gate.cause)] += 1
                report.holds += state is State.HOLD
                report.faults += state is State.FAULT
            if self.state is State.RUNNING:
                self.left_s = now
            self.state = state
        if state is State.RUNNING:
            report.running_s += self.bounds.tick_s
        elif self.left_s >= 0.0:
            if np.abs(self.way).max() > self.bounds.rest_rad_s * self.bounds.tick_s:
                report.at_rest_s = max(report.at_rest_s, now - self.left_s)
            else:
                self.left_s = -1.0


def replay_gate(
    wishes: Wishes,
    limits: RobotLimits,
    settings: ReplaySettings,
    gate_settings: GateSettings | None = None,
    scheduler: Mapping[str, Any] | None = None,
) -> GateReplayReport:
    """Run chunks through a gate.

    Args:
        wishes: What the policy wants.
        limits: The arm.
        settings: What goes wrong; its `tick_s` and `period_s` are the gate's instead.
        gate_settings: Bounds; None: the defaults, without cameras, graph, clock and gripper, which a replay has not.
        scheduler: The `scheduler:` part of a robot file.

    Raises:
        ForeActError: If the gate does not arm.
    """
    bounds = gate_settings or GateSettings(require_graph=False, require_clock=False, gripper_required=False)
    gate = Gate(limits, bounds, EventLog(), scheduler=default_scheduler(limits, bounds, scheduler))
    return _GateReplay(wishes, limits, settings, gate).run()

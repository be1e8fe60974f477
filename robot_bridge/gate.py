"""The gate between a policy and an arm: a pure state machine that lets motion through while everything is well.

DISARMED -> READY -> RUNNING -> HOLD -> FAULT. Nothing moves but in RUNNING. A HOLD is a smooth stop; the arm goes on by
itself only if the cause is gone within two seconds, and then from rest, with a chunk that was observed at rest. A FAULT
is final until an operator disarms and arms again. Every start is DISARMED.

The gate is no safety function: it is a program like any other, beside the robot's own limits and a hard-wired stop.

No clock, no threads, no ROS: whoever owns it says what came and what time it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from foreact.robot_bridge.causes import Cause, Finding
from foreact.robot_bridge.event_log import EventLog
from foreact.robot_bridge.gate_chunks import ChunkJudge, TooOften
from foreact.robot_bridge.gate_lease import ArmLease
from foreact.robot_bridge.gate_motion import Motion, TargetSource
from foreact.robot_bridge.gate_pose import moved_since, pose_findings
from foreact.robot_bridge.gate_schedule import REFUSALS, default_scheduler
from foreact.robot_bridge.gate_settings import GateSettings
from foreact.robot_bridge.gate_watches import Watches
from foreact.robot_bridge.limits import RobotLimits
from foreact.robot_bridge.types import (
    ActionChunk,
    CameraFrame,
    Event,
    JointSample,
    RobotMode,
    State,
    TopicReport,
    Trajectory,
)


class Gate:
    """One arm's gate.

    Args:
        limits: The arm.
        settings: Every bound.
        log: Gets every event.
        scheduler: Turns chunks into targets; None: one with settings that follow from `settings`.
        lease: The right to arm this robot; None: nobody else could.
    """

    def __init__(
        self,
        limits: RobotLimits,
        settings: GateSettings,
        log: EventLog,
        *,
        scheduler: TargetSource | None = None,
        lease: ArmLease | None = None,
    ):
        self.limits, self.settings, self.log, self.lease = limits, settings, log, lease
        self.watches = Watches(limits, settings)
        self.motion = Motion(limits, settings, scheduler or default_scheduler(limits, settings))
        self.chunks = ChunkJudge(limits, settings)
        self.state = State.DISARMED
        self.late_ticks = 0
        self._cause: Cause | None = None
        self._tick_s = -math.inf
        self._n_ticks = 0
        self._instruction_id: int | None = None
        self._instruction_s = -math.inf
        self._wanted = False
        """Whether motion was asked for."""
        self._hold_s = 0.0
        self._rest_s = math.inf
        """When the arm came to rest and all was well: no chunk of an older observation is taken."""
        self._clear_s: float | None = None
        self._relaxing = self._yielding = False
        self._finding: Finding | None = None
        """What an event of this tick demands."""
        self._held = TooOften(settings.leash_limit, settings.leash_window_s)
        self._give_up = False
        """Whether the HOLD that is under way is the last one: the arm was held too often."""

    # ---- the operator ------------------------------------------------------------------------------------------------

    def arm(self, now_s: float) -> list[str]:
        """To READY, if everything is well; else all the reasons why not, in sentences."""
        reasons = self._reasons(now_s)
        if not reasons and self.lease is not None:
            held = self.lease.acquire()
            reasons = [Finding(Cause.SECOND_BRIDGE, held)] if held else []
        if reasons:
            for reason in reasons:
                self._log(now_s, "refused", reason.cause, f"not armed: {reason.message}")
            return [reason.message for reason in reasons]
        self.motion.anchor(self.watches.joints.position, now_s)
        newest = self.watches.joints.newest
        width_m = None if newest is None else newest.gripper_width_m
        if width_m is not None and math.isfinite(width_m):
            # what is held stays held: only a gripper that stands open is said to be open
            tool = self.limits.gripper
            nearly_open_m = tool.open_m - 0.1 * (tool.open_m - tool.closed_m)
            self.motion.gripper_command = 1.0 if width_m >= nearly_open_m else -1.0
        self.chunks.reset()
        self._held.reset()
        self._give_up = False
        self.watches.reset()
        self._wanted, self._finding, self._relaxing, self._yielding = False, None, False, False
        self._tick_s, self._rest_s = now_s, now_s
        self._enter(now_s, State.READY, Cause.OPERATOR, "armed")
        return []

    def _reasons(self, now_s: float) -> list[Finding]:
        if self.state is not State.DISARMED:
            return [Finding(Cause.NOT_ALLOWED, f"the gate is {self.state.value}; disarm it first")]
        self.watches.robot.judge()
        pose = pose_findings(self.motion.limiter, self.watches.joints.position)
        return [*self.watches.findings(now_s), *self.watches.missing(now_s), *pose]

    def disarm(self, now_s: float) -> None:
        """To DISARMED, from anywhere: nothing is sent any more; what was sent ends at rest."""
        self.motion.end()
        self._wanted = False
        if self.lease is not None:
            self.lease.release()
        if self.state is not State.DISARMED:
            self._enter(now_s, State.DISARMED, Cause.OPERATOR, "disarmed")

    def start(self, now_s: float, instruction_id: int) -> list[str]:
        """Motion may begin with the next chunk for this instruction; or why not, in sentences. Only from READY."""
        cause, reason = Cause.NOT_ALLOWED, f"the gate is {self.state.value}, not ready"
        if self.state is State.READY:
            cause, reason = Cause.START_POSE, moved_since(self.motion.limiter, self.watches.joints.position)
        if reason:
            self._log(now_s, "refused", cause, reason)
            return [reason]
        self.on_instruction(instruction_id, now_s)
        self._wanted = True
        return []

    def stop(self, now_s: float, why: str) -> None:
        """A smooth stop, then READY: motion needs another `start`."""
        self._wanted = False
        if self.state in (State.RUNNING, State.HOLD):
            self._hold(now_s, Finding(Cause.OPERATOR, why))

    # ---- what came ---------------------------------------------------------------------------------------------------

    def on_joints(self, sample: JointSample) -> None:
        """Measured joints."""
        self.watches.joints.on_joints(sample)

    def on_frame(self, frame: CameraFrame) -> None:
        """A picture."""
        self.watches.on_frame(frame)

    def on_mode(self, mode: RobotMode, now_s: float) -> None:
        """What the robot says of itself. A stop is answered here and now; that it was released changes nothing."""
        self.watches.robot.on_mode(mode)
        if self.state not in (State.DISARMED, State.FAULT):
            for finding in self.watches.robot.findings(now_s):
                if finding.fault:
                    self._fault(now_s, finding)

    def on_description(self, urdf: str) -> None:
        """The robot's URDF. Another one than before, while armed, ends in FAULT."""
        self.watches.robot.on_description(urdf)

    def on_packet_success(self, part: float, now_s: float) -> None:
        """Part of the control packets that reach the robot in time."""
        self.watches.robot.on_packet_success(part, now_s)

    def on_clock(self, source_s: float, now_s: float) -> None:
        """A reading of the clock that stamps are from; to be given in every tick."""
        self.watches.clock.on_clock(source_s, now_s)

    def on_slept(self, slept_s: float, now_s: float) -> None:
        """The computer was suspended for so long, which the steady clock does not show."""
        self._demand(Finding(Cause.TICK_LATE, f"the computer slept for {slept_s:.1f} s", fault=True))

    def on_policy_alive(self, now_s: float) -> None:
        """A sign of life of the policy process."""
        self.watches.policy.on_alive(now_s)

    def on_policy_lost(self, now_s: float, why: str) -> None:
        """It is gone. Warm-up and identity must be shown again before the next arming."""
        self.watches.policy.on_lost(now_s, why)

    def on_warmup(self, latencies_s: Sequence[float]) -> None:
        """How long inferences of real shapes took [s], in order; the cold ones first."""
        if self.state is State.DISARMED:
            self.watches.policy.reset()
        self.watches.policy.on_warmup(latencies_s)

    def on_identity(self, identity: Mapping[str, str]) -> None:
        """Name -> hash, as the policy states them; compared with `GateSettings.identity`."""
        self.watches.policy.on_identity(identity)

    def on_graph(self, reports: Sequence[TopicReport], now_s: float) -> None:
        """Who is on the topics; to be given once a second."""
        self.watches.graph.on_graph(reports, now_s)

    def on_bad_message(self, role: str, text: str, now_s: float) -> None:
        """A message that is not what its topic promises."""
        if role == "joints":
            self.watches.joints.on_bad(text)
        elif role.split()[:1] == ["camera"]:
            self.watches.on_bad_frame(role.partition(" ")[2], text)
        elif role in ("policy", "chunk"):
            self._reject(text, now_s)
        else:
            self._log(now_s, "refused", "", f"{role}: {text}")

    def on_instruction(self, instruction_id: int, now_s: float) -> None:
        """Other words: chunks for the old ones are worth nothing from now on."""
        if instruction_id == self._instruction_id:
            return
        first = self._instruction_id is None
        self._instruction_id, self._instruction_s = instruction_id, now_s
        if self.state is State.RUNNING and not first:
            self._hold(now_s, Finding(Cause.INSTRUCTION_CHANGED, "new words: the arm stops before it obeys them"))
        self.motion.scheduler.flush(None, instruction_id)

    def on_chunk(self, found: object, now_s: float) -> None:
        """Whatever the policy sent."""
        problem = self.chunks.problem(found, now_s)
        if problem:
            self._reject(problem, now_s)
            return
        assert isinstance(found, ActionChunk)
        if found.instruction_id != self._instruction_id or found.observed_s < self._instruction_s:
            self._log(now_s, "refused", "", "a chunk for other words", step=found.step)
            return
        awaited = self.state is State.RUNNING or (self.state in (State.READY, State.HOLD) and self._wanted)
        if not awaited or found.observed_s < self._rest_s:
            self._log(now_s, "refused", "", "a chunk that was not waited for", step=found.step)
            return
        age = now_s - found.observed_s
        if age > self.settings.late_s:
            self._refuse(Cause.LATE_INFERENCE, f"a chunk came {1000 * age:.0f} ms after its observation", now_s)
            return
        if problem := self.chunks.out_of_range(found):
            self._refuse(Cause.OUT_OF_RANGE, problem, now_s)
            return
        self._take(found, now_s)

    def _take(self, chunk: ActionChunk, now_s: float) -> None:
        motion = self.motion
        resting = self.state is not State.RUNNING
        if resting:
            if self._relaxing or not self.watches.well(now_s):
                return
            moved, beyond = motion.moved(self.watches.joints.position)
            if moved and (beyond or self.state is State.READY):
                self._demand(Finding(Cause.START_POSE, moved))
                return
            if moved:  # the command goes to where the arm is, then the policy is asked anew
                self._relaxing, self._clear_s, self._rest_s = True, None, math.inf
                return
            motion.limiter.catch_up(now_s)
        step = motion.planned_step()
        problem = motion.leap(chunk, step)
        here = np.array(motion.limiter.state(motion.limiter.frontier)[0])
        refusal = motion.scheduler.add(chunk, step, here)
        if refusal is not None:
            name = getattr(refusal, "name", str(refusal))
            sentence = f"a chunk was refused: {getattr(refusal, 'value', refusal)}"
            if name in REFUSALS:
                self._refuse(REFUSALS[name], sentence, now_s)
            else:
                self._log(now_s, "refused", "", sentence, step=chunk.step)
            return
        if problem:
            motion.scheduler.flush()
            self._refuse(Cause.DISCONTINUITY, f"a chunk leads to {problem}", now_s)
            return
        motion.observed_s = chunk.observed_s
        if resting:
            motion.begin(now_s)
            self._enter(now_s, State.RUNNING, self._cause, "obeys the policy")

    def _reject(self, problem: str, now_s: float) -> None:
        """It was no chunk."""
        too_many = self.chunks.reject(now_s)
        self._refuse(Cause.CHUNK_BAD, f"the policy sent {problem}", now_s, fault=too_many)

    def _refuse(self, cause: Cause, message: str, now_s: float, fault: bool = False) -> None:
        self._log(now_s, "refused", cause, message)
        self._demand(Finding(cause, message, fault))

    def _demand(self, finding: Finding) -> None:
        """The next tick answers it; the worse of two counts."""
        if self._finding is None or (finding.fault and not self._finding.fault):
            self._finding = finding

    @property
    def step(self) -> int:
        """The policy step that is under way, or waited for."""
        return math.floor(self.motion.step_at(self._tick_s) + 1e-9)

    def target(self, step: float) -> np.ndarray:
        """Where the policy has led the arm when a step begins (N,) [rad]: what its relative actions start from."""
        return self.motion.target(step)

    def look(self, now_s: float) -> dict[str, CameraFrame] | None:
        """Camera -> the newest picture, if all of them are fresh and belong together; None: no inference now."""
        found, problem = self.watches.look(now_s)
        if problem:
            self._log(now_s, "refused", Cause.CAMERAS_OUT_OF_SYNC, f"an observation was dropped: {problem}")
        return found

    @property
    def gripper_command(self) -> float:
        """+1 open, -1 close."""
        return self.motion.gripper_command

    @property
    def cause(self) -> Cause | None:
        """Of the present state."""
        return self._cause

    @property
    def waits_for_chunk(self) -> bool:
        """Whether it is of use to ask the policy now: RUNNING, or at rest with words to obey."""
        return self.state is State.RUNNING or (self.state in (State.READY, State.HOLD) and self._rest_s < math.inf)

    # ---- time --------------------------------------------------------------------------------------------------------

    def tick(self, now_s: float) -> Trajectory | None:
        """Look at everything, once per `tick_s`; what is to be sent now."""
        late = now_s - self._tick_s - self.settings.tick_s
        forward = now_s >= self._tick_s
        self._tick_s = now_s if forward else self._tick_s
        self._n_ticks += 1
        if late > self.settings.late_tick_s and self._n_ticks > 1:
            self._late(late, now_s)
        if self.state in (State.DISARMED, State.FAULT):
            self._finding = None
            return None
        if not forward:
            self._fault(self._tick_s, Finding(Cause.CLOCK_JUMP, "the steady clock ran backwards", fault=True))
            return None
        worst = self._worst(now_s)
        self._finding = None
        if worst is not None and worst.fault:
            self._fault(now_s, worst)
            return None
        if self.state is State.HOLD:
            self._holding(now_s, worst)
        elif worst is not None:
            self._hold(now_s, worst)
        elif self.state is State.RUNNING:
            problem = self.motion.advance(now_s)
            if problem is not None:
                self._hold(now_s, problem)
        return self._message(now_s)

    def _late(self, late_s: float, now_s: float) -> None:
        self.late_ticks += 1
        message = f"the gate was {1000 * late_s:.0f} ms late"
        if self.state not in (State.READY, State.RUNNING):  # in these it is the cause of the HOLD that follows
            self._log(now_s, "warning", Cause.TICK_LATE, message)
        # Stopped or suspended for so long: nobody knows what happened meanwhile.
        self._demand(Finding(Cause.TICK_LATE, message, fault=late_s > self.settings.late_fault_s))

    def _worst(self, now_s: float) -> Finding | None:
        """The first FAULT there is, else the first HOLD."""
        worst = self._finding
        for finding in self.watches.findings(now_s):
            if worst is None or (finding.fault and not worst.fault):
                worst = finding
        if worst is not None and worst.fault:
            return worst
        if self.state is State.RUNNING and worst is None:
            worst = self.motion.leash(self.watches.joints.position, now_s)
            overdue = self.settings.between_chunks_s + self.settings.late_s
            seen = self.motion.observed_s
            # The first plan of a motion may have been long on its way; steps are only counted since it came.
            if worst is None and seen is not None and now_s - max(seen, self.motion.began_s) > overdue:
                worst = Finding(Cause.LATE_INFERENCE, f"no chunk was observed in the last {1000 * overdue:.0f} ms")
        return worst

    def _hold(self, now_s: float, finding: Finding) -> None:
        self.motion.end()
        if self.state is not State.HOLD:
            self._hold_s = now_s
        self._rest_s, self._clear_s = math.inf, None
        held, self.motion.taut = self.motion.taut, False
        if self.state is State.RUNNING and (held or finding.cause is Cause.LEASH):
            self._give_up = self._held.note(now_s)
        if held and finding.cause is Cause.DISCONTINUITY:  # the command waited for the arm, and the policy did not
            finding = Finding(Cause.LEASH, f"the arm does not follow: {finding.message}")
        self._relaxing = self._relaxing or held or finding.cause is Cause.LEASH
        self._enter(now_s, State.HOLD, finding.cause, finding.message)

    def _holding(self, now_s: float, finding: Finding | None) -> None:
        """Comes to rest; then waits for the cause to go, then for a chunk."""
        motion = self.motion
        if finding is not None and self._clear_s is not None and finding.cause not in (self._cause, Cause.TICK_LATE):
            self._log(now_s, "warning", finding.cause, finding.message)
        if finding is not None:
            self._clear_s, self._rest_s = None, math.inf
        if self._relaxing and finding is None and (self._yielding or motion.limiter.resting(now_s)):
            # The command goes to where the arm is held, so that nothing leaps when it is let go.
            self._relaxing = self._yielding = motion.relax(self.watches.joints.position, now_s)
        at_rest = motion.limiter.resting(now_s) and not self._relaxing
        if finding is None and at_rest and self._clear_s is None:
            if self._give_up and self._wanted:  # not before the command was led back to where the arm is held
                often = f"{self.settings.leash_limit} times within {self.settings.leash_window_s:g} s"
                message = f"something held the arm {often}; clear its way, then disarm and arm"
                self._fault(now_s, Finding(Cause.LEASH, message, fault=True))
                return
            self._clear_s, self._rest_s = now_s, now_s
        if self._clear_s is not None and not self._wanted:
            self._enter(now_s, State.READY, Cause.OPERATOR, "stopped; motion needs another start")
        elif now_s - (self._hold_s if self._clear_s is None else self._clear_s) > self.settings.hold_limit_s:
            what = "lasted" if self._clear_s is None else "was over, but no chunk came,"
            message = f"the HOLD {what} for more than {self.settings.hold_limit_s:g} s"
            self._fault(now_s, Finding(self._cause or Cause.OPERATOR, message, fault=True))

    def _message(self, now_s: float) -> Trajectory | None:
        if self.state is State.FAULT or self._n_ticks % self.settings.send_every:
            return None
        if self.state is State.RUNNING:
            return self.motion.trajectory(now_s, self.motion.observed_s)
        if self.state is State.HOLD and not self.motion.limiter.resting(now_s):
            return self.motion.trajectory(now_s, None)  # the same brake again, in case the last message was lost
        return None

    def _fault(self, now_s: float, finding: Finding) -> None:
        self.motion.end()
        self._wanted = False
        self._enter(now_s, State.FAULT, finding.cause, finding.message)

    def _enter(self, now_s: float, state: State, cause: Cause | None, message: str) -> None:
        self.state, self._cause = state, cause
        self._log(now_s, "state", cause or "", message)

    def _log(self, now_s: float, kind: str, cause: str, message: str, **data: float | int | str) -> None:
        self.log.append(Event(at_s=now_s, kind=kind, cause=str(cause), message=message, state=self.state, data=data))

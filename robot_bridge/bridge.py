"""The main loop of the gate process: messages in, questions to the policy, one command per tick out.

It owns no rule of safety: those are the gate's, a library of its own. It only carries things between the transport, the
conversation with the policy and the gate, on one clock that can be replaced, and never waits for anybody.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from foreact.robot_bridge.bridge_report import Report
from foreact.robot_bridge.comeback import WarmUp
from foreact.robot_bridge.config import Robot
from foreact.robot_bridge.conversation import Conversation
from foreact.robot_bridge.gate import Gate
from foreact.robot_bridge.mailbox import Mail, Mailbox
from foreact.robot_bridge.observe import Observer
from foreact.robot_bridge.policy_thread import PolicyThread
from foreact.robot_bridge.real_time import no_long_pauses, suspended_s
from foreact.robot_bridge.transport import Transport
from foreact.robot_bridge.types import CameraFrame, JointSample, RobotMode, State
from foreact.vla.errors import ForeActError

if TYPE_CHECKING:
    from foreact.robot_bridge.record_bridge import BridgeRecorder

TICK_S = 0.01
_ASK_AGAIN_S = 0.2
_PLANS_KEPT = 16
_CLOCK_PAIR_S = 0.005
_SLEPT_S, _AWAKE_S = 0.5, 2.0
"""A process that did not run for so long has slept; what it hears so soon afterwards may be old."""


class Bridge:
    """One arm, one policy, one gate.

    Args:
        robot: What stands here.
        gate: DISARMED.
        transport: Not started yet.
        policy: Connected (see `PolicyThread.connect`).
        observer: Makes what the policy is shown.
        metadata: What the policy's server said of itself.
        recorder: Gets every observation and command; None records nothing.
        dry_run: Shows commands and sends none.
        refusals: Reasons known beforehand why it may not be armed here.
        clock: Steady clock [s].
        stamps: The clock that headers are stamped with [s].
        asleep: How long this computer has been suspended since it was started [s].
    """

    def __init__(
        self,
        robot: Robot,
        gate: Gate,
        transport: Transport,
        policy: PolicyThread,
        observer: Observer,
        metadata: Mapping[str, Any],
        *,
        recorder: BridgeRecorder | None = None,
        dry_run: bool = False,
        refusals: tuple[str, ...] = (),
        clock: Callable[[], float] = time.monotonic,
        stamps: Callable[[], float] = time.time,
        asleep: Callable[[], float] = suspended_s,
    ):
        self.robot, self.gate, self.transport, self.policy = robot, gate, transport, policy
        self.mailbox = Mailbox()
        self.report = Report(robot, metadata)
        self.conversation = Conversation(robot, gate, transport, policy, observer, metadata, self.report, clock)
        self.taken_over = False
        """Whether a person leads the arm at present."""
        self.dry_run, self._refusals = dry_run, refusals
        self._observer, self._recorder, self._clock, self._stamps = observer, recorder, clock, stamps
        self._metadata = metadata
        self._gripper: float | None = None
        self._second = -1e9
        self._slept_s = asleep()
        self._asleep = asleep
        self._ticked_s: float | None = None
        self._woke_s = -1e9
        self._said: State | None = None

    # --- from outside -------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to listen.

        Raises:
            TransportError: If the transport cannot.
        """
        self._ticked_s = None
        self.transport.start(self.mailbox)

    def run(self, until: Callable[[], bool]) -> None:
        """Tick at 100 Hz until `until()`; the arm is stopped and disarmed at the end, whatever happens."""
        try:
            self.loop(until)
        finally:
            self.close()

    def loop(self, until: Callable[[], bool]) -> None:
        """Tick at 100 Hz until `until()`; what comes at the end is the caller's."""
        with no_long_pauses():
            self._loop(until)

    def _loop(self, until: Callable[[], bool]) -> None:
        due = self._clock()
        while not until():
            now = self._clock()
            if now < due:
                time.sleep(due - now)
                continue
            self.report.tick(now - due)
            self.tick(now)
            # After a pause the missed ticks are not made up for: the gate sees the gap itself.
            due = due + TICK_S if now - due < TICK_S else now + TICK_S

    def stand_down(self) -> None:
        """Disarm and leave the topics; the policy stays connected, `start` begins to listen again."""
        self._disarm(self._clock())
        self.gate.on_mode(RobotMode.UNKNOWN, self._clock())  # what it said is not known to be so any more
        self._say_state(force=True)
        self.transport.close()

    def _disarm(self, now_s: float) -> None:
        self.gate.disarm(now_s)
        self.conversation.forget_words()

    def close(self) -> None:
        """Disarm and hang up."""
        self.gate.disarm(self._clock())
        self._say_state(force=True)
        self.transport.close()
        self.policy.close()
        if self._recorder is not None:
            self._recorder.close()
        self.gate.log.close()

    def tick(self, now_s: float) -> None:
        """One turn of the loop."""
        self._look_for_sleep(now_s)
        self._read_clock()
        self._deliver(self.mailbox.take(), now_s)
        self.conversation.answered(now_s)
        self.conversation.ask(now_s)
        trajectory = self.gate.tick(now_s)
        if trajectory is not None:
            self.report.sent(trajectory, now_s)
            if not self.dry_run:
                self.transport.send_trajectory(trajectory)
        self._send_gripper()
        if self._recorder is not None:
            self._recorder.tick(now_s, self)
        self._say_state()
        if now_s - self._second >= 1.0:
            self._second = now_s
            self._every_second(now_s)

    def _look_for_sleep(self, now_s: float) -> None:
        """A suspended computer's steady clock stands still; a process that was stopped sees its own gap."""
        slept_s = self._asleep()
        if slept_s - self._slept_s > _SLEPT_S:
            self.gate.on_slept(slept_s - self._slept_s, now_s)
            self._woke_s = now_s
        if self._ticked_s is not None and now_s - self._ticked_s > _SLEPT_S:
            self._woke_s = now_s
        self._slept_s, self._ticked_s = slept_s, now_s

    def _read_clock(self) -> None:
        """Both clocks at one moment: a pause between the two readings would look like a jump."""
        before = self._clock()
        stamp = self._stamps()
        after = self._clock()
        if after - before < _CLOCK_PAIR_S:
            self.gate.on_clock(stamp, 0.5 * (before + after))

    # --- what came ----------------------------------------------------------------------------------------------------

    def _deliver(self, mail: Mail, now_s: float) -> None:
        gate = self.gate
        for urdf in mail.descriptions:
            gate.on_description(urdf)
        for mode, received_s in mail.modes:
            gate.on_mode(mode, received_s)
        for sample in mail.joints:
            self.conversation.joints = sample
            gate.on_joints(sample)
            if self._recorder is not None:
                self._recorder.joints(sample)
            self.report.heard("joints", sample.received_s)
        for frame in mail.frames:
            self.conversation.frames[frame.camera] = frame
            gate.on_frame(frame)
            if self._recorder is not None:
                self._recorder.frame(frame)
            self.report.heard(f"camera {frame.camera}", frame.received_s)
        for role, message, received_s in mail.bad:
            gate.on_bad_message(role, message, received_s)
        for text, received_s in mail.instructions:
            self.conversation.obey(text, received_s)
        for call in mail.calls:
            if call.given_up and call.name == "arm" and call.value:
                continue  # nothing begins to move long after somebody asked for it
            try:
                call.answer(*self.command(call.name, call.value, now_s))
            except ForeActError as problem:
                call.answer(False, str(problem))
            except Exception as problem:  # a bug here must not end the loop that keeps the arm
                call.answer(False, f"{call.name} failed: {problem!r:.200}")

    def command(self, name: str, value: bool, now_s: float) -> tuple[bool, str]:
        """What an operator asks for; whether it was done, and a sentence."""
        if name == "arm" and value and now_s - self._woke_s < _AWAKE_S:
            return False, "not armed: this process has just slept, and who knows how old your command is; ask again"
        if name == "arm" and value:
            reasons = list(self._refusals) or self.gate.arm(now_s)
            return (False, "not armed: " + "; ".join(reasons)) if reasons else (True, "armed")
        if name in ("disarm", "arm"):
            self._disarm(now_s)
            return True, "disarmed"
        if name == "stop":
            self.conversation.forget_words()
            self.gate.stop(now_s, "the operator asked for it")
            return True, "stopping"
        if name == "takeover":
            self.taken_over = value
            return True, "a person leads the arm" if value else "the policy leads the arm"
        return False, f"no command {name!r}; known are arm, disarm, stop, takeover"

    # --- the policy ---------------------------------------------------------------------------------------------------

    def warm_up(
        self,
        count: int = 20,
        timeout_s: float = 60.0,
        shown: tuple[Mapping[str, CameraFrame], JointSample] | None = None,
        until: Callable[[], bool] = lambda: False,
    ) -> list[float]:
        """Ask for so many plans before anything moves; how long each took [s].

        Needs joints and a frame of every camera, so the transport must have been started, or they are `shown` here:
        they go to the policy alone, and are forgotten afterwards. When `until()` says so it gives up.

        Raises:
            ForeActError: If nothing is seen in time, the policy fails, or it was told to give up.
        """
        if shown is not None:
            self.conversation.shown(*shown)
            try:
                return self.warm_up(count, timeout_s, until=until)
            finally:
                self.conversation.shown({}, None)
        talk, end = self.conversation, self._clock() + timeout_s
        while unseen := talk.unseen():
            if until():
                raise ForeActError("told to end before the policy was warm")
            if self._clock() > end:
                raise ForeActError(f"nothing to show the policy after {timeout_s:g} s: {', '.join(unseen)}")
            self._deliver(self.mailbox.take(), self._clock())
            time.sleep(TICK_S)
        warm = WarmUp(self.policy, talk.warm_up_question, count)
        while not warm.tick():
            self._deliver(self.mailbox.take(), self._clock())
            if until():
                raise ForeActError("told to end before the policy was warm")
            if self._clock() > end:
                made = f"{len(warm.took)} of {count} plans"
                raise ForeActError(f"the policy gave {made} in {timeout_s:g} s; it is too slow")
            time.sleep(0.001)
        talk.warmed_up(warm.took, self._clock())
        while self.policy.busy and self._clock() < end:
            time.sleep(0.001)
        self.policy.answers()
        return warm.took

    # --- what goes out ------------------------------------------------------------------------------------------------

    def _send_gripper(self) -> None:
        if self.gate.state is State.DISARMED:
            self._gripper = None  # who knows what others do with it meanwhile
        if self.gate.state is not State.RUNNING or self.dry_run or self.robot.contract.gripper == "none":
            return
        command = self.gate.gripper_command
        if command != self._gripper:
            self._gripper = command
            self.transport.send_gripper(command)

    def _say_state(self, force: bool = False) -> None:
        if force or self.gate.state is not self._said:
            self._said = self.gate.state
            last = self.gate.log.last(1)
            self.transport.send_state(self.gate.state, last[0] if last else None)

    def _every_second(self, now_s: float) -> None:
        graph = self.transport.graph()
        self.gate.on_graph(graph, now_s)
        self.transport.send_diagnostics(self.report.lines(self, graph, now_s))
        self._say_state(force=True)

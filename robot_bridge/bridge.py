"""The main loop of the gate process: messages in, questions to the policy, one command per tick out.

It owns no rule of safety: those are the gate's, a library of its own. It only carries things between the transport, the
policy's thread and the gate, on one clock that can be replaced, and never waits for anybody.

When the policy is asked: at READY (there are words to obey), while RUNNING every `execute_steps` policy steps, and in
HOLD to go on from where the arm stands. Between plans it is shown the steps that its history needs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from foreact.robot_bridge.bridge_report import Report
from foreact.robot_bridge.causes import Cause
from foreact.robot_bridge.comeback import Comeback, WarmUp
from foreact.robot_bridge.config import Robot
from foreact.robot_bridge.foresight_watch import ForesightWatch, expected_frames
from foreact.robot_bridge.gate import Gate
from foreact.robot_bridge.mailbox import Mail, Mailbox
from foreact.robot_bridge.observe import Observer
from foreact.robot_bridge.policy_thread import Answer, PolicyThread, Question
from foreact.robot_bridge.transport import Transport
from foreact.robot_bridge.types import ActionChunk, CameraFrame, Event, JointSample, State
from foreact.vla.errors import ForeActError

if TYPE_CHECKING:
    from foreact.robot_bridge.record_bridge import BridgeRecorder

TICK_S = 0.01
_ASK_AGAIN_S = 0.2
_PLANS_KEPT = 16
_CLOCK_PAIR_S = 0.005


@dataclass
class _Words:
    """The instruction in force."""

    text: str = ""
    id: int = 0
    since_s: float = 0.0


@dataclass
class _Asking:
    """What is known of the policy's side."""

    sequence: int = 0
    plans: int = 0
    asked_step: int | None = None
    """Policy step of the last plan."""
    seen_step: int | None = None
    """Last policy step that the policy was shown."""
    asked_s: float = -1e9
    dropped_s: float = -1e9
    foresight_steps: int = 0
    execute_steps: int = 1
    started: int = 0
    """Instruction for which the gate was asked to let motion begin."""


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
    ):
        self.robot, self.gate, self.transport, self.policy = robot, gate, transport, policy
        self.mailbox = Mailbox()
        self.report = Report(robot, metadata)
        self.watch = ForesightWatch()
        self.comeback = Comeback(policy, metadata, self._warm_up_question)
        self.taken_over = False
        """Whether a person leads the arm at present."""
        self.dry_run, self._refusals = dry_run, refusals
        self._observer, self._recorder, self._clock, self._stamps = observer, recorder, clock, stamps
        self._metadata = metadata
        self._frames: dict[str, CameraFrame] = {}
        self._actions: dict[int, np.ndarray] = {}
        self._joints: JointSample | None = None
        self._words = _Words()
        self._gripper: float | None = None
        self._second = -1e9
        self._said: State | None = None
        self._asking = _Asking(
            foresight_steps=int(metadata.get("foresight_steps", 0)),
            execute_steps=robot.policy.execute_steps or int(metadata.get("execute_steps", 1)),
        )

    # --- from outside -------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to listen.

        Raises:
            TransportError: If the transport cannot.
        """
        self.transport.start(self.mailbox)

    def run(self, until: Callable[[], bool]) -> None:
        """Tick at 100 Hz until `until()`; the arm is stopped and disarmed at the end, whatever happens."""
        try:
            self.loop(until)
        finally:
            self.close()

    def loop(self, until: Callable[[], bool]) -> None:
        """Tick at 100 Hz until `until()`; what comes at the end is the caller's."""
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
        self.gate.disarm(self._clock())
        self._say_state(force=True)
        self.transport.close()

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
        self._read_clock()
        self._deliver(self.mailbox.take(), now_s)
        self._answered(now_s)
        self._ask(now_s)
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
        for mode, received_s in mail.modes:
            gate.on_mode(mode, received_s)
        for sample in mail.joints:
            self._joints = sample
            gate.on_joints(sample)
            if self._recorder is not None:
                self._recorder.joints(sample)
            self.report.heard("joints", sample.received_s)
        for frame in mail.frames:
            self._frames[frame.camera] = frame
            gate.on_frame(frame)
            if self._recorder is not None:
                self._recorder.frame(frame)
            self.report.heard(f"camera {frame.camera}", frame.received_s)
        for role, message, received_s in mail.bad:
            gate.on_bad_message(role, message, received_s)
        for text, received_s in mail.instructions:
            self._obey(text, received_s)
        for call in mail.calls:
            if call.given_up and call.name == "arm" and call.value:
                continue  # nothing begins to move long after somebody asked for it
            try:
                call.answer(*self.command(call.name, call.value, now_s))
            except ForeActError as problem:
                call.answer(False, str(problem))

    def _obey(self, text: str, now_s: float) -> None:
        """New words; the same words again begin anew."""
        self._words = _Words(text, self._words.id + 1, now_s)
        self._asking.asked_step = self._asking.seen_step = None
        self.watch.reset()
        self.gate.on_instruction(self._words.id, now_s)
        self.policy.ask(self._question("reset", {}, now_s, observed_s=now_s))

    def command(self, name: str, value: bool, now_s: float) -> tuple[bool, str]:
        """What an operator asks for; whether it was done, and a sentence."""
        if name == "arm" and value:
            reasons = list(self._refusals) or self.gate.arm(now_s)
            return (False, "not armed: " + "; ".join(reasons)) if reasons else (True, "armed")
        if name in ("disarm", "arm"):
            self.gate.disarm(now_s)
            return True, "disarmed"
        if name == "stop":
            self.gate.stop(now_s, "the operator asked for it")
            return True, "stopping"
        if name == "takeover":
            self.taken_over = value
            return True, "a person leads the arm" if value else "the policy leads the arm"
        return False, f"no command {name!r}; known are arm, disarm, stop, takeover"

    @property
    def words(self) -> str:
        """The instruction in force."""
        return self._words.text

    @property
    def words_id(self) -> int:
        """One more with every instruction."""
        return self._words.id

    def executed_action(self) -> np.ndarray | None:
        """(A,) of the robot's contract: what is executed in the present step, by the newest chunk in it."""
        find = getattr(self.gate.motion.scheduler, "source", None)
        source = None if find is None else find(self.gate.step)
        actions = None if source is None else self._actions.get(source.sequence)
        return None if source is None or actions is None else actions[min(source.row, len(actions) - 1)]

    # --- the policy ---------------------------------------------------------------------------------------------------

    def warm_up(
        self,
        count: int = 20,
        timeout_s: float = 60.0,
        shown: tuple[Mapping[str, CameraFrame], JointSample] | None = None,
    ) -> list[float]:
        """Ask for so many plans before anything moves; how long each took [s].

        Needs joints and a frame of every camera, so the transport must have been started, or they are `shown` here:
        they go to the policy alone, and are forgotten afterwards.

        Raises:
            ForeActError: If nothing is seen in time, or the policy fails.
        """
        if shown is not None:
            self._frames, self._joints = dict(shown[0]), shown[1]
            try:
                return self.warm_up(count, timeout_s)
            finally:
                self._frames, self._joints = {}, None
        end = self._clock() + timeout_s
        while not self._sees():
            if self._clock() > end:
                raise ForeActError(f"nothing to show the policy after {timeout_s:g} s: {', '.join(self._unseen())}")
            self._deliver(self.mailbox.take(), self._clock())
            time.sleep(TICK_S)
        warm = WarmUp(self.policy, self._warm_up_question, count)
        while not warm.tick():
            self._deliver(self.mailbox.take(), self._clock())
            if self._clock() > end:
                made = f"{len(warm.took)} of {count} plans"
                raise ForeActError(f"the policy gave {made} in {timeout_s:g} s; it is too slow")
            time.sleep(0.001)
        self.policy.ask(self._question("reset", {}, self._clock(), observed_s=self._clock()))
        while self.policy.busy and self._clock() < end:
            time.sleep(0.001)
        self.policy.answers()
        self._warmed_up(warm.took)
        return warm.took

    def _warm_up_question(self) -> Question:
        return self._question("plan", self._seen_now("warm up", foresight=True), self._clock())

    def _warmed_up(self, took: list[float]) -> None:
        self.gate.on_warmup(took)
        self.gate.on_identity({name: str(self._metadata.get(name, "")) for name in ("checkpoint", "contract_hash")})

    def _sees(self) -> bool:
        return not self._unseen()

    def _unseen(self) -> list[str]:
        missing = [f"no picture of camera {name}" for name in self._observer.cameras if name not in self._frames]
        return missing + (["no joint states"] if self._joints is None else [])

    def _ask(self, now_s: float) -> None:
        """Show the policy what it has to see by now."""
        gate, asking = self.gate, self._asking
        alive = self.policy.alive
        if alive:
            gate.on_policy_alive(min(now_s, self.policy.heard_s))
        else:
            gate.on_policy_lost(now_s, "the connection to the policy is closed")
        if gate.watches.policy.lost and gate.state is State.DISARMED:
            self._come_back(now_s)
            return
        if not alive:
            return
        if not self._words.text or not self._sees():
            return
        if gate.state is State.RUNNING:
            self._ask_running(gate.step, now_s)
            return
        if gate.state is State.HOLD and gate.cause is Cause.CAMERAS_OUT_OF_SYNC:
            self._look(now_s)  # nothing is asked before they agree again, and only looking tells
        if gate.state is State.READY and asking.started != self._words.id:
            asking.started = self._words.id
            gate.start(now_s, self._words.id)
        newest = max(frame.received_s for frame in self._frames.values())
        if newest < self._words.since_s:
            return  # only what is seen after the words counts
        if gate.waits_for_chunk and not self.policy.busy and now_s - asking.asked_s >= _ASK_AGAIN_S:
            if not self._look(now_s):
                return
            # From rest the past is of no use: what happened meanwhile was not the policy's doing.
            self.policy.ask(self._question("reset", {}, now_s, observed_s=now_s))
            self._send("plan", gate.step, now_s)

    def _come_back(self, now_s: float) -> None:
        """Get a lost policy ready to be armed once more."""
        if not self._sees():
            return
        before = self.comeback.problem
        took = self.comeback.tick(now_s)
        said = ""
        if took:
            self.policy.ask(self._question("reset", {}, now_s, observed_s=now_s))
            self._warmed_up(took)
            said = f"the policy is back: {len(took)} plans, median {1e3 * sorted(took)[len(took) // 2]:.0f} ms"
        elif self.comeback.problem != before:
            said = f"the policy is not back: {self.comeback.problem}"
        if said:
            event = Event(at_s=now_s, kind="policy", cause="", message=said, state=self.gate.state)
            self.gate.log.append(event)

    def _ask_running(self, step: int, now_s: float) -> None:
        asking = self._asking
        if step == asking.seen_step:
            return
        plan = asking.asked_step is None or step - asking.asked_step >= asking.execute_steps
        if plan and self.policy.busy:
            return  # asked at the first step at which it is free
        if not self._look(now_s):
            return
        self._see(step)
        self._send("plan" if plan else "observe", step, now_s)

    def _look(self, now_s: float) -> bool:
        """Take the pictures of one observation, if all are fresh and belong together. After some that do not, the next
        are waited for."""
        if now_s - self._asking.dropped_s < 1.0 / self.robot.contract.rate_hz:
            return False
        found = self.gate.look(now_s)
        if found is None:
            self._asking.dropped_s = now_s
            return False
        self._frames.update(found)
        return True

    def _send(self, kind: Any, step: int, now_s: float) -> None:
        asking = self._asking
        asking.seen_step = step
        if kind == "plan":
            asking.plans += 1
            asking.asked_step, asking.asked_s = step, now_s
        every = self.robot.policy.foresight_every
        foresight = kind == "plan" and asking.foresight_steps > 0 and every > 0 and asking.plans % every == 0
        self.policy.ask(self._question(kind, self._seen_now(self._words.text, foresight=foresight), now_s, step=step))

    def _question(
        self, kind: Any, request: Mapping[str, Any], now_s: float, *, step: int | None = None,
        observed_s: float | None = None,
    ) -> Question:  # fmt: skip
        asking = self._asking
        asking.sequence += 1
        step = self.gate.step if step is None else step
        if observed_s is None:
            observed_s = max(frame.received_s for frame in self._frames.values())
        extra = {"kind": kind, "sequence": asking.sequence, "instruction_id": self._words.id, "step": step}
        return Question(
            kind=kind, request={**request, **extra}, step=step, observed_s=observed_s, instruction_id=self._words.id,
            asked_s=now_s, stamp_s=max((frame.stamp_s for frame in self._frames.values()), default=0.0),
        )  # fmt: skip

    def _seen_now(self, text: str, *, foresight: bool) -> dict[str, Any]:
        assert self._joints is not None
        images = self._observer.images(self._frames)
        gripper = self.gate.gripper_command
        return {
            **{f"image/{name}": image for name, image in images.items()},
            "state": self._observer.state(self._joints, gripper),
            "prompt": text,
            "anchor": np.asarray(self.gate.target(self.gate.step), np.float64),
            "gripper_command": gripper,
            "foresight": foresight,
        }

    def _see(self, step: int) -> None:
        """Compare what is seen with what was expected of this step."""
        self.report.foresight = self.watch.see(step, self._observer.images(self._frames))

    def _answered(self, now_s: float) -> None:
        if self.comeback.warms_up:
            return  # its own
        for answer in self.policy.answers():
            if answer.error:
                self.gate.on_policy_lost(now_s, answer.error)
            elif answer.question.kind == "plan" and answer.question.instruction_id == self._words.id:
                self._planned(answer, now_s)

    def _planned(self, answer: Answer, now_s: float) -> None:
        question, reply = answer.question, answer.reply or {}
        self.report.planned(answer)
        if reply.get("refused"):
            self.gate.on_bad_message("policy", str(reply["refused"]), now_s)
            return
        chunk = ActionChunk(
            sequence=int(question.request["sequence"]),
            instruction_id=question.instruction_id,
            observed_s=question.observed_s,
            step=question.step,
            joint_position=reply.get("joint_position"),  # type: ignore[arg-type]  # the gate judges what it is
            gripper=reply.get("gripper"),  # type: ignore[arg-type]
            inference_s=answer.took_s,
        )
        self.gate.on_chunk(chunk, now_s)
        actions = reply.get("actions")
        order = list(self._observer.adapter.action_index)
        if isinstance(actions, np.ndarray) and actions.shape[1:] == (len(order),) and len(actions):
            # kept as the robot's own contract has them, which is what is recorded
            self._actions[chunk.sequence] = actions[:, np.argsort(order)]
            while len(self._actions) > _PLANS_KEPT:
                self._actions.pop(min(self._actions))
        now = {name: question.request[f"image/{name}"] for name in self._observer.cameras}
        predicted = expected_frames(reply, now)
        if predicted:
            self.watch.expect(question.step + self._asking.foresight_steps, predicted, now)
            self.transport.send_foresight(predicted, question.stamp_s)

    # --- what goes out ------------------------------------------------------------------------------------------------

    def _send_gripper(self) -> None:
        if self.gate.state is State.DISARMED:
            self._gripper = None  # who knows what others do with it meanwhile
        if self.gate.state is not State.RUNNING or self.dry_run:
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

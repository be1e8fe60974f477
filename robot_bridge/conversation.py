"""What the policy is told and asked, and what becomes of its answers; never waits.

When it is asked: at READY (there are words to obey), while RUNNING every `execute_steps` policy steps, and in HOLD to
go on from where the arm stands. Between plans it is shown the steps that its history needs. One that was lost is
brought back while the gate is disarmed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from foreact.robot_bridge.bridge_report import Report
from foreact.robot_bridge.causes import Cause
from foreact.robot_bridge.comeback import Comeback
from foreact.robot_bridge.config import Robot
from foreact.robot_bridge.foresight_watch import ForesightWatch, expected_frames
from foreact.robot_bridge.gate import Gate
from foreact.robot_bridge.observe import Observer
from foreact.robot_bridge.policy_thread import Answer, PolicyThread, Question
from foreact.robot_bridge.transport import Transport
from foreact.robot_bridge.types import ActionChunk, CameraFrame, Event, JointSample, State

STATED = ("checkpoint", "contract_hash")
"""What the gate is told of the policy's identity."""
_ASK_AGAIN_S = 0.2
_PLANS_KEPT = 16


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


class Conversation:
    """Of a bridge with its policy.

    Args:
        robot: What stands here.
        gate: Gets the plans.
        transport: Publishes what is foreseen.
        policy: Connected.
        observer: Makes what the policy is shown.
        metadata: What the policy's server said of itself.
        report: Counts.
        clock: Steady clock [s].
    """

    def __init__(
        self, robot: Robot, gate: Gate, transport: Transport, policy: PolicyThread, observer: Observer,
        metadata: Mapping[str, Any], report: Report, clock: Callable[[], float],
    ):  # fmt: skip
        self.robot, self.gate, self.transport, self.policy, self.report = robot, gate, transport, policy, report
        self.watch = ForesightWatch()
        self.comeback = Comeback(policy, metadata, self.warm_up_question)
        self.frames: dict[str, CameraFrame] = {}
        """Newest picture of each camera."""
        self.joints: JointSample | None = None
        """Newest joints."""
        self._observer, self._metadata, self._clock = observer, metadata, clock
        self._actions: dict[int, np.ndarray] = {}
        self._words = _Words()
        self._asking = _Asking(
            foresight_steps=int(metadata.get("foresight_steps", 0)),
            execute_steps=robot.policy.execute_steps or int(metadata.get("execute_steps", 1)),
        )

    def obey(self, text: str, now_s: float) -> None:
        """New words; the same words again begin anew."""
        self._words = _Words(text, self._words.id + 1, now_s)
        self._asking.asked_step = self._asking.seen_step = None
        self.watch.reset()
        self.gate.on_instruction(self._words.id, now_s)
        self._reset(now_s)

    def forget_words(self) -> None:
        """What was said until now does not start the arm any more; only new words do."""
        self._asking.started = self._words.id

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

    def warm_up_question(self) -> Question:
        """A plan that nobody executes."""
        return self._question("plan", self._seen_now("warm up", foresight=True), self._clock())

    def warmed_up(self, took: list[float], now_s: float) -> None:
        """It made its plans, which took so long [s], and forgets them."""
        self._reset(now_s)
        self.gate.on_warmup(took)
        self.gate.on_identity({name: str(self._metadata.get(name, "")) for name in STATED})

    def shown(self, frames: Mapping[str, CameraFrame], joints: JointSample | None) -> None:
        """What is there to be seen from now on."""
        self.frames, self.joints = dict(frames), joints

    def unseen(self) -> list[str]:
        """What has to be seen before anything can be asked, and was not, in words."""
        missing = [f"no picture of camera {name}" for name in self._observer.cameras if name not in self.frames]
        return missing + (["no joint states"] if self.joints is None else [])

    def ask(self, now_s: float) -> None:
        """Show the policy what it has to see by now."""
        gate, asking = self.gate, self._asking
        if gate.state in (State.RUNNING, State.FAULT):
            self.forget_words()  # they are obeyed, or were said to an arm that is not armed
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
        if not self._words.text or self.unseen():
            return
        if gate.state is State.RUNNING:
            self._ask_running(gate.step, now_s)
            return
        if gate.state is State.HOLD and gate.cause is Cause.CAMERAS_OUT_OF_SYNC:
            self._look(now_s)  # nothing is asked before they agree again, and only looking tells
        if gate.state is State.READY and asking.started != self._words.id:
            asking.started = self._words.id
            gate.start(now_s, self._words.id)
        newest = max(frame.received_s for frame in self.frames.values())
        if newest < self._words.since_s:
            return  # only what is seen after the words counts
        if gate.waits_for_chunk and not self.policy.busy and now_s - asking.asked_s >= _ASK_AGAIN_S:
            if not self._look(now_s):
                return
            # From rest the past is of no use: what happened meanwhile was not the policy's doing.
            self._reset(now_s)
            self._send("plan", gate.step, now_s)

    def _come_back(self, now_s: float) -> None:
        """Get a lost policy ready to be armed once more."""
        if self.unseen():
            return
        before = self.comeback.problem
        took = self.comeback.tick(now_s)
        said = ""
        if took:
            self.warmed_up(took, now_s)
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
        self.frames.update(found)
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

    def _reset(self, now_s: float) -> None:
        self.policy.ask(self._question("reset", {}, now_s, observed_s=now_s))

    def _question(
        self, kind: Any, request: Mapping[str, Any], now_s: float, *, step: int | None = None,
        observed_s: float | None = None,
    ) -> Question:  # fmt: skip
        asking = self._asking
        asking.sequence += 1
        step = self.gate.step if step is None else step
        if observed_s is None:
            observed_s = max(frame.received_s for frame in self.frames.values())
        extra = {"kind": kind, "sequence": asking.sequence, "instruction_id": self._words.id, "step": step}
        return Question(
            kind=kind, request={**request, **extra}, step=step, observed_s=observed_s, instruction_id=self._words.id,
            asked_s=now_s, stamp_s=max((frame.stamp_s for frame in self.frames.values()), default=0.0),
        )  # fmt: skip

    def _seen_now(self, text: str, *, foresight: bool) -> dict[str, Any]:
        assert self.joints is not None
        images = self._observer.images(self.frames)
        gripper = self.gate.gripper_command
        return {
            **{f"image/{name}": image for name, image in images.items()},
            "state": self._observer.state(self.joints, gripper),
            "prompt": text,
            "anchor": np.asarray(self.gate.target(self.gate.step), np.float64),
            "gripper_command": gripper,
            "foresight": foresight,
        }

    def _see(self, step: int) -> None:
        """Compare what is seen with what was expected of this step."""
        self.report.foresight = self.watch.see(step, self._observer.images(self.frames))

    def answered(self, now_s: float) -> None:
        """Hand what it answered to the gate."""
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

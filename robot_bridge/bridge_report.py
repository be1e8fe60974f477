"""What the bridge says of itself once a second, as statuses of diagnostic_msgs/msg/DiagnosticArray."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from foreact.robot_bridge.config import Robot
from foreact.robot_bridge.policy_thread import Answer
from foreact.robot_bridge.types import DiagnosticLine, State, TopicReport, Trajectory

if TYPE_CHECKING:
    from foreact.robot_bridge.bridge import Bridge

OK, WARN, ERROR, STALE = 0, 1, 2, 3
LATE_S = 0.05
"""A tick that begins so much after its time is counted."""

_LEVELS = {State.DISARMED: OK, State.READY: OK, State.RUNNING: OK, State.HOLD: WARN, State.FAULT: ERROR}


class Report:
    """Counts and times, kept over the last few hundred of each."""

    def __init__(self, robot: Robot, metadata: Mapping[str, Any]):
        self._robot, self._metadata = robot, metadata
        self._lateness: deque[float] = deque(maxlen=1000)
        self._inference: deque[float] = deque(maxlen=100)
        self._camera_to_command: deque[float] = deque(maxlen=100)
        self._heard: dict[str, deque[float]] = {}
        self.late_ticks = 0
        self.ticks = 0
        self.sent_count = 0
        self.foresight: float | None = None
        """Ratio of the last comparison of foresight and truth."""
        self._observed: float | None = None

    def tick(self, late_s: float) -> None:
        """A turn of the loop began so late."""
        self.ticks += 1
        self.late_ticks += late_s > LATE_S
        self._lateness.append(late_s)

    def heard(self, source: str, received_s: float) -> None:
        """A message came."""
        self._heard.setdefault(source, deque(maxlen=60)).append(received_s)

    def planned(self, answer: Answer) -> None:
        """A plan came."""
        self._inference.append(answer.took_s)

    def sent(self, trajectory: Trajectory, now_s: float) -> None:
        """A command was made; the first one of each observation tells how long the way from camera to command is."""
        self.sent_count += 1
        if trajectory.observed_s is not None and trajectory.observed_s != self._observed:
            self._observed = trajectory.observed_s
            self._camera_to_command.append(now_s - trajectory.observed_s)

    def latency_s(self) -> dict[str, dict[str, float]]:
        """p50, p90 and p99 [s] of inference, of the way from camera to command, and of the loop's lateness."""
        kinds = {
            "inference": self._inference, "camera to command": self._camera_to_command, "lateness": self._lateness,
        }  # fmt: skip
        return {
            name: {f"p{q}": float(np.percentile(values, q)) for q in (50, 90, 99)}
            for name, values in kinds.items()
            if values
        }

    def lines(self, bridge: Bridge, graph: Sequence[TopicReport], now_s: float) -> list[DiagnosticLine]:
        """All statuses."""
        return [
            self._gate(bridge),
            self._policy(bridge),
            self._loop(bridge),
            *self._topics(graph, now_s),
            self._watch(bridge),
        ]

    def _name(self, what: str) -> str:
        return f"foreact {self._robot.name}: {what}"

    def _gate(self, bridge: Bridge) -> DiagnosticLine:
        last = bridge.gate.log.last(1)
        counts = {f"count {cause}": str(n) for cause, n in sorted(bridge.gate.log.counts.items())}
        return DiagnosticLine(
            name=self._name("gate"),
            level=_LEVELS[bridge.gate.state],
            message=f"{bridge.gate.state}" + (f": {last[0].message}" if last else ""),
            values={"speed_scale": f"{self._robot.speed_scale:g}", "step": str(bridge.gate.step), **counts},
        )

    def _policy(self, bridge: Bridge) -> DiagnosticLine:
        alive, problem = bridge.policy.alive, bridge.conversation.comeback.problem
        times = {
            f"{name} {q} ms": f"{1e3 * value:.1f}"
            for name, found in self.latency_s().items()
            for q, value in found.items()
        }
        return DiagnosticLine(
            name=self._name("policy"),
            level=OK if alive else ERROR,
            message="answers" if alive else "not connected" + (f": {problem}" if problem else ""),
            values={"url": self._robot.policy.url, "checkpoint": str(self._metadata.get("checkpoint", "")), **times},
        )

    def _loop(self, bridge: Bridge) -> DiagnosticLine:
        dropped, lost = bridge.mailbox.dropped, bridge.gate.log.lost
        said = f"{self.late_ticks} of {self.ticks} ticks began more than {1e3 * LATE_S:.0f} ms late"
        said += f"; {dropped} messages were dropped unread" if dropped else ""
        said += f"; {lost} lines of the event log were lost" if lost else ""
        return DiagnosticLine(
            name=self._name("loop"),
            level=WARN if self.late_ticks or dropped or lost else OK,
            message=said,
            values={
                "ticks": str(self.ticks), "late": str(self.late_ticks), "sent": str(self.sent_count),
                "dropped": str(dropped), "lost": str(lost),
            },
        )  # fmt: skip

    def _topics(self, graph: Sequence[TopicReport], now_s: float) -> list[DiagnosticLine]:
        out: list[DiagnosticLine] = []
        for topic in graph:
            times = self._heard.get(topic.role, ())
            age = now_s - times[-1] if times else None
            rate = (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 and times[-1] > times[0] else None
            problem = topic.qos_problem
            if not problem and topic.direction == "in" and topic.publishers > 1:
                problem = f"{topic.publishers} publishers, expected one"
            level = ERROR if problem else STALE if topic.direction == "in" and not topic.publishers else OK
            values = {
                "topic": topic.topic,
                "type": topic.expected_type,
                "publishers": str(topic.publishers),
                "subscribers": str(topic.subscribers),
            }
            values |= {} if age is None else {"age ms": f"{1e3 * age:.0f}"}
            values |= {} if rate is None else {"rate Hz": f"{rate:.1f}"}
            out.append(DiagnosticLine(name=self._name(topic.role), level=level, message=problem or "ok", values=values))
        return out

    def _watch(self, bridge: Bridge) -> DiagnosticLine:
        watch = bridge.conversation.watch
        ratio = watch.ratio
        message = "not enough seen yet" if ratio is None else f"error {ratio:.2f} times that of 'nothing changes'"
        return DiagnosticLine(
            name=self._name("foresight"),
            level=WARN if watch.warns else OK,
            message=("what happens is not what the policy expects: " if watch.warns else "") + message,
            values={} if ratio is None else {"ratio": f"{ratio:.3f}"},
        )

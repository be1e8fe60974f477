"""A gate with a whole world round it on a clock that is set by hand: robot, cameras, policy, graph, all well until told
otherwise. For the benchmark and the tests; what the robot does is decided by `TrajectoryController`, not by the gate.

Shape legend: K rows of a chunk, N joints.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreact.robot_bridge.event_log import EventLog
from foreact.robot_bridge.gate import Gate
from foreact.robot_bridge.gate_settings import GateSettings
from foreact.robot_bridge.limits import RobotLimits
from foreact.robot_bridge.robot_side import ReceivedTrajectory
from foreact.robot_bridge.trajectory_controller import TrajectoryController
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

Array = NDArray[np.float64]

START_Q = {
    7: (0.0, -0.785398, 0.0, -2.356194, 0.0, 1.570796, 0.785398),
    6: (0.0, -1.570796, 1.570796, -1.570796, -1.570796, 0.0),
}
"""Franka's "ready" pose, and a bent UR, by the number of joints [rad]."""
EPOCH_S = 1.7e9
"""What the clock of the stamps is ahead of the steady one."""
CAMERAS = ({"name": "rgb_static", "height": 12, "width": 16}, {"name": "rgb_gripper", "height": 8, "width": 8})


class World:
    """Everything round one gate.

    Args:
        limits: The arm.
        rows: Rows K of the chunks that the policy sends.
        answer_s: How long it takes.
        settings: Other than `GateSettings`' own.
    """

    def __init__(
        self,
        limits: RobotLimits,
        *,
        rows: int = 10,
        answer_s: float = 0.05,
        seed: int = 0,
        log: EventLog | None = None,
        gate: dict[str, Any] | None = None,
        **settings: Any,
    ):
        self.limits, self.rows, self.answer_s = limits, rows, answer_s
        self.settings = GateSettings.from_mapping({"cameras": CAMERAS, **settings})
        self.gate = Gate(limits, self.settings, log or EventLog(), **(gate or {}))
        self.rng = np.random.default_rng(seed)
        self.now_s = 1000.0
        self.tick_s = self.settings.tick_s
        self.ticks = 0
        q = np.array(START_Q[len(limits.joints)])
        self.controller = TrajectoryController(limits.joints, q)
        self.measured: Array = q.copy()
        self.sent: list[Trajectory] = []
        """Everything that was published."""
        self.obeyed: list[int] = []
        """Instruction that led the arm, tick by tick while it was led."""
        # What can be broken:
        self.epoch_s = EPOCH_S
        self.silent: set[str] = set()
        """Of "joints", "policy", "clock", "graph", "gripper", the names of cameras, and "chunks"."""
        self.frozen: set[str] = set()
        self.blocked = False
        """Whether something holds the arm."""
        self.deliver = True
        """Whether the controller hears what is published."""
        self.reports: list[TopicReport] = self.healthy_graph()
        self.instruction_id = 1
        self.plan: Callable[[int, Array], Array] = self.wander
        """(first step, joints at that step (N,)) -> joint targets (K, N)."""
        self.on_sent: Callable[[Trajectory], None] | None = None
        self._sequence = 0
        self._answers: list[tuple[float, ActionChunk]] = []
        self._asked = -1
        self._phase = self.rng.uniform(0.0, 2.0 * np.pi, len(q))
        self._pictures = 0
        self._frame_due_s = self.now_s

    # ---- healthy parts -----------------------------------------------------------------------------------------------

    def healthy_graph(self) -> list[TopicReport]:
        """One publisher everywhere, one listener."""
        inputs = [f"camera {camera.name}" for camera in self.settings.cameras] + ["joints", "mode", "instruction"]
        outputs = ["trajectory", "gripper"]
        return [
            TopicReport(
                topic=f"/{role.replace(' ', '/')}", role=role, direction=direction, expected_type="a/msg/B",
                found_types=("a/msg/B",), publishers=1, subscribers=1,
            )
            for direction, roles in (("in", inputs), ("out", outputs))
            for role in roles
        ]  # fmt: skip

    def wander(self, step: int, anchor: Array) -> Array:
        """A slow way round the start pose, (K, N) [rad]."""
        steps = step + 1 + np.arange(self.rows)[:, None]
        centre = np.array(START_Q[len(self._phase)])
        way = 0.15 * (np.sin(0.1 * steps + self._phase) - np.sin(self._phase))
        ease = np.minimum(1.0, steps / 30.0)
        path = centre + ease * way
        return path + (anchor - path[0]) * np.exp(-0.3 * np.arange(self.rows))[:, None]

    def picture(self, camera: str, sequence: int) -> CameraFrame:
        """A new picture of that camera."""
        rule = next(rule for rule in self.settings.cameras if rule.name == camera)
        image = np.full((rule.height, rule.width, 3), sequence % 251, np.uint8)
        stamp = self.epoch_s + self.now_s
        return CameraFrame(
            camera=camera, image=image, stamp_s=stamp, received_s=self.now_s, sequence=sequence, encoding="rgb8"
        )

    def chunk(self, **changes: Any) -> ActionChunk:
        """What the policy would answer now."""
        self._sequence += 1
        step = self.gate.step
        rows = np.asarray(self.plan(step, self.gate.target(step)), np.float64)
        fields: dict[str, Any] = {
            "sequence": self._sequence,
            "instruction_id": self.instruction_id,
            "observed_s": self.now_s,
            "step": step,
            "joint_position": rows,
            "gripper": np.ones(len(rows)),
            "inference_s": self.answer_s,
        }
        return ActionChunk(**{**fields, **changes})

    # ---- time --------------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """All that is needed before arming: half a second in which everything reports, and a warmed-up policy."""
        self.gate.on_warmup([0.5, *[0.03] * 40])
        self.gate.on_mode(RobotMode.OK, self.now_s)
        self.gate.on_instruction(self.instruction_id, self.now_s)
        self.run(0.5)

    def armed(self) -> World:
        """READY, or an error that says why not."""
        self.prepare()
        reasons = self.gate.arm(self.now_s)
        if reasons:
            raise RuntimeError(f"the gate would not arm: {reasons}")
        return self

    def running(self, for_s: float = 0.6) -> World:
        """RUNNING for a while."""
        self.armed()
        self.gate.start(self.now_s, self.instruction_id)
        self.run(for_s)
        if self.gate.state is not State.RUNNING:
            raise RuntimeError(f"the gate is {self.gate.state}: {self.gate.log.last(3)}")
        return self

    def run(self, duration_s: float) -> list[Trajectory]:
        """So much time, tick by tick; what was published in it."""
        before = len(self.sent)
        for _ in range(round(duration_s / self.tick_s)):
            self.tick()
        return self.sent[before:]

    def run_until(self, *states: State, within_s: float = 5.0) -> float:
        """Until the gate is in one of the states; how long it took [s].

        Raises:
            RuntimeError: If it never is.
        """
        began = self.now_s
        while self.gate.state not in states:
            if self.now_s - began > within_s:
                raise RuntimeError(f"still {self.gate.state} after {within_s} s: {self.gate.log.last(3)}")
            self.tick()
        return self.now_s - began

    def tick(self) -> Trajectory | None:
        """One tick: the world, then the gate, then the robot."""
        self.now_s += self.tick_s
        self.ticks += 1
        self._report()
        self._policy()
        out = self.gate.tick(self.now_s)
        if out is not None:
            self.publish(out)
        self._robot()
        return out

    def _report(self) -> None:
        gate, now, silent = self.gate, self.now_s, self.silent
        if "clock" not in silent:
            gate.on_clock(self.epoch_s + now, now)
        if "joints" not in silent:
            gate.on_joints(self.joints())
        if now >= self._frame_due_s - 1e-9:
            self._frame_due_s += 1.0 / 30.0
            self._pictures += 1
            for rule in self.settings.cameras:
                if rule.name not in silent:
                    gate.on_frame(self.picture(rule.name, 7 if rule.name in self.frozen else self._pictures))
        if "graph" not in silent and self.ticks % 100 == 1:
            gate.on_graph(self.reports, now)

    def joints(self, **changes: Any) -> JointSample:
        """What the robot measures now."""
        setpoint = self.controller.setpoint
        fields: dict[str, Any] = {
            "position": self.measured.copy(),
            "velocity": setpoint.velocity * (not self.blocked),
            "gripper_width_m": None if "gripper" in self.silent else 0.04,
            "stamp_s": self.epoch_s + self.now_s,
            "received_s": self.now_s,
        }
        return JointSample(**{**fields, **changes})

    def _policy(self) -> None:
        gate, now = self.gate, self.now_s
        if "policy" in self.silent:
            return
        gate.on_policy_alive(now)
        while self._answers and self._answers[0][0] <= now + 1e-9:
            chunk = self._answers.pop(0)[1]
            if "chunks" not in self.silent:
                gate.on_chunk(chunk, now)
        waiting = gate.state in (State.READY, State.HOLD) and not self._answers
        if (gate.state is State.RUNNING and gate.step != self._asked) or waiting:
            self._asked = gate.step
            self._answers.append((now + self.answer_s, self.chunk()))

    def publish(self, trajectory: Trajectory) -> None:
        """What the gate sends, as a message to the controller."""
        self.sent.append(trajectory)
        if self.on_sent is not None:
            self.on_sent(trajectory)
        if self.deliver:
            problem = self.controller.receive(as_message(self.limits, trajectory), self.now_s)
            if problem:
                raise RuntimeError(f"the controller refused a trajectory: {problem}")

    def _robot(self) -> None:
        setpoint = self.controller.update(self.now_s)
        if not self.blocked:
            self.measured = setpoint.position.copy()

    def causes(self, state: State) -> list[str]:
        """Causes of all changes to a state, in order."""
        return [e.cause for e in self.events("state") if e.state is state]

    def events(self, kind: str) -> list[Event]:
        """All events of a kind."""
        return [e for e in self.gate.log.last(1000) if e.kind == kind]


def as_message(limits: RobotLimits, trajectory: Trajectory, stamped: bool = True) -> ReceivedTrajectory:
    """The trajectory as the controller gets it, stamps on the steady clock."""
    return ReceivedTrajectory(
        joints=limits.joints,
        stamp_s=trajectory.start_s if stamped else 0.0,
        time_from_start_s=trajectory.time_from_start_s,
        position=trajectory.position,
        velocity=trajectory.velocity,
        acceleration=trajectory.acceleration,
        received_s=trajectory.start_s,
    )

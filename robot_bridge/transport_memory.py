"""Bridge and robot in one process: what one side sends, the other gets by a direct call, at a time from an injected
clock. Nothing is encoded, so a test of the gate is exact and repeats; sizes and words are judged as on a network.

Threads: calls arrive in the sender's thread. Shape legend: N arm joints, P points, H x W pixels.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from foreact.robot_bridge.messages_in import check_instruction, check_size
from foreact.robot_bridge.robot_side import ReceivedTrajectory
from foreact.robot_bridge.topic_names import TopicNames
from foreact.robot_bridge.transport import Inbox
from foreact.robot_bridge.transport_errors import BadMessage, TransportError
from foreact.robot_bridge.types import (
    CameraFrame,
    DiagnosticLine,
    Event,
    JointSample,
    RobotMode,
    State,
    TopicReport,
    Trajectory,
)


class MemoryLink:
    """Both ends of one connection, `transport` and `robot`, and the operator's hand.

    Args:
        names: Cameras, joints and their sizes.
        clock: The steady clock [s].
        epoch_s: Added to the steady clock for the stamps of trajectories.
    """

    def __init__(self, names: TopicNames, clock: Callable[[], float] = time.monotonic, epoch_s: float = 0.0):
        self.names, self.clock, self.epoch_s = names, clock, epoch_s
        self.inbox: Inbox | None = None
        self.on_trajectory: Callable[[ReceivedTrajectory], None] | None = None
        self.on_gripper: Callable[[float], None] | None = None
        self.description = ""
        """The robot's URDF, for a bridge that comes late."""
        self.counts: Counter[str] = Counter()
        self.sent: dict[str, deque[Any]] = {
            role: deque(maxlen=100) for role in ("trajectory", "gripper", "state", "diagnostics", "foresight")
        }
        """Role -> the last hundred things that the bridge sent."""
        self.transport = MemoryTransport(self)
        self.robot = MemoryRobotSide(self)

    def say(self, text: object) -> None:
        """New words, as from the instruction's topic."""
        if self.inbox is not None:
            try:
                self.inbox.instruction(check_instruction(text), self.clock())
            except BadMessage as error:
                self.inbox.bad_message("instruction", str(error), self.clock())

    def command(self, name: str, value: bool = True) -> tuple[bool, str]:
        """As an operator's service call: "arm", "disarm", "stop" or "takeover"."""
        if self.inbox is None:
            return False, "the bridge does not listen"
        return self.inbox.command(name, value)


class MemoryTransport:
    """The bridge's end; a `foreact.robot_bridge.transport.Transport`."""

    def __init__(self, link: MemoryLink):
        self._link = link
        self._closed = False
        self._last: tuple[float, Counter[str]] = (link.clock(), Counter())
        self._rates: dict[str, float] = {}

    def start(self, inbox: Inbox) -> None:
        """As `Transport.start`."""
        if self._link.inbox is not None or self._closed:
            raise TransportError("this link has a bridge already, or had one; make a new MemoryLink")
        self._link.inbox = inbox
        if self._link.description:
            inbox.description(self._link.description)

    def send_trajectory(self, trajectory: Trajectory) -> None:
        """As `Transport.send_trajectory`."""
        link = self._link
        if self._closed:
            return
        link.sent["trajectory"].append(trajectory)
        if link.on_trajectory:
            link.on_trajectory(
                ReceivedTrajectory(
                    joints=link.names.arm_joints,
                    stamp_s=link.epoch_s + trajectory.start_s if link.names.stamped else 0.0,
                    time_from_start_s=np.array(trajectory.time_from_start_s, np.float64),
                    position=np.array(trajectory.position, np.float64),
                    velocity=np.array(trajectory.velocity, np.float64),
                    acceleration=np.array(trajectory.acceleration, np.float64),
                    received_s=link.clock(),
                )
            )

    def send_gripper(self, command: float) -> None:
        """As `Transport.send_gripper`."""
        if not self._closed:
            self._link.sent["gripper"].append(command)
            if self._link.on_gripper:
                self._link.on_gripper(1.0 if command > 0 else -1.0)

    def send_diagnostics(self, lines: Sequence[DiagnosticLine]) -> None:
        """As `Transport.send_diagnostics`."""
        if not self._closed:
            self._link.sent["diagnostics"].append(tuple(lines))

    def send_state(self, state: State, event: Event | None) -> None:
        """As `Transport.send_state`."""
        if not self._closed:
            self._link.sent["state"].append((state, event))

    def send_foresight(self, images: Mapping[str, np.ndarray], stamp_s: float) -> None:
        """As `Transport.send_foresight`."""
        if not self._closed:
            self._link.sent["foresight"].append((dict(images), stamp_s))

    def graph(self) -> Sequence[TopicReport]:
        """As `Transport.graph`: one publisher and one subscriber on each topic of the robot, once it has started."""
        link, now = self._link, self._link.clock()
        since, before = self._last
        if now - since >= 0.5:
            self._rates = {role: (n - before[role]) / (now - since) for role, n in link.counts.items()}
            self._last = (now, Counter(link.counts))
        there = int(link.on_trajectory is not None)
        robot = {spec.role for spec in link.names.robot_specs()}
        return [
            TopicReport(
                topic=spec.topic,
                role=spec.role,
                direction=spec.direction,
                expected_type=spec.type,
                found_types=(spec.type,),
                publishers=1 if spec.direction == "out" or spec.role not in robot else there,
                subscribers=1 if spec.direction == "in" else there if spec.role in robot else 0,
                rate_hz=self._rates.get(spec.role) if spec.direction == "in" else None,
            )
            for spec in link.names.specs()
        ]

    def close(self) -> None:
        """As `Transport.close`."""
        self._closed = True
        self._link.inbox = None


class MemoryRobotSide:
    """The robot's end; a `foreact.robot_bridge.robot_side.RobotSide`."""

    def __init__(self, link: MemoryLink):
        self._link = link
        self._mode: RobotMode | None = None

    def start(
        self,
        on_trajectory: Callable[[ReceivedTrajectory], None],
        on_gripper: Callable[[float], None],
        on_bad_message: Callable[[str, str], None] | None = None,
    ) -> None:
        """As `RobotSide.start`."""
        self._link.on_gripper = on_gripper
        self._link.on_trajectory = on_trajectory

    def publish_frame(self, camera: str, image: np.ndarray, stamp_s: float) -> None:
        """As `RobotSide.publish_frame`."""
        link, role = self._link, f"camera {camera}"
        if (inbox := link.inbox) is None:
            return
        expected = link.names.cameras[camera]
        number = link.counts[role]
        link.counts[role] += 1
        try:
            check_size((image.shape[0], image.shape[1]), (expected.height, expected.width), role)
        except BadMessage as error:
            inbox.bad_message(role, str(error), link.clock())
            return
        inbox.frame(
            CameraFrame(
                camera=camera, image=np.array(image, np.uint8), stamp_s=stamp_s, received_s=link.clock(),
                sequence=number,
            )
        )  # fmt: skip

    def publish_joints(
        self,
        positions: Sequence[float] | np.ndarray,
        velocities: Sequence[float] | np.ndarray,
        gripper_width_m: float,
        stamp_s: float,
    ) -> None:
        """As `RobotSide.publish_joints`."""
        link = self._link
        if (inbox := link.inbox) is None:
            return
        link.counts["joints"] += 1
        position, velocity = np.array(positions, np.float64), np.array(velocities, np.float64)
        wanted = (len(link.names.arm_joints),)
        if position.shape != wanted or velocity.shape != wanted:
            message = f"the joint states have {position.size} positions and {velocity.size} velocities, not {wanted[0]}"
            inbox.bad_message("joints", message, link.clock())
        elif not (np.isfinite(position).all() and np.isfinite(velocity).all()):
            inbox.bad_message("joints", "the joint states hold numbers that are not finite", link.clock())
        else:
            inbox.joints(
                JointSample(
                    position=position, velocity=velocity, gripper_width_m=gripper_width_m, stamp_s=stamp_s,
                    received_s=link.clock(),
                )
            )  # fmt: skip

    def publish_mode(self, mode: RobotMode) -> None:
        """As `RobotSide.publish_mode`."""
        self._link.counts["mode"] += 1
        if (inbox := self._link.inbox) is not None:
            inbox.mode(mode, self._link.clock())

    def publish_description(self, urdf: str) -> None:
        """As `RobotSide.publish_description`."""
        self._link.description = urdf
        if (inbox := self._link.inbox) is not None:
            inbox.description(urdf)

    def close(self) -> None:
        """As `RobotSide.close`."""
        self._link.on_trajectory = self._link.on_gripper = None

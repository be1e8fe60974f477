"""What every way to the robot offers: pip's cyclonedds, rclpy, Zenoh, or the inside of one process.

A transport brings messages to an `Inbox` from threads of its own, and sends what it is given. It decides nothing: it
checks that a message is what its topic promises, stamps its arrival on the steady clock, and passes it on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

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


class Inbox(Protocol):
    """What the bridge gives a transport to put things in; every method may be called from any thread, at once returns
    and never raises."""

    def frame(self, frame: CameraFrame) -> None:
        """A picture."""
        ...

    def joints(self, sample: JointSample) -> None:
        """Measured joints."""
        ...

    def mode(self, mode: RobotMode, received_s: float) -> None:
        """What the robot says of itself."""
        ...

    def description(self, urdf: str) -> None:
        """The robot's URDF, as it came."""
        ...

    def instruction(self, text: str, received_s: float) -> None:
        """New words."""
        ...

    def bad_message(self, role: str, message: str, received_s: float) -> None:
        """A message that is not what its topic promises: `role` as in `TopicReport`, and what is wrong with it."""
        ...

    def command(self, name: str, value: bool) -> tuple[bool, str]:
        """A service call: "arm", "disarm", "stop" (value is unused), "takeover" (True or False), ... Returns whether
        it was done, and a sentence. May wait for the gate's next ticks, at most a second."""
        ...


class Transport(Protocol):
    """A way to the robot."""

    def start(self, inbox: Inbox) -> None:
        """Begin to deliver.

        Raises:
            TransportError: If it cannot.
        """
        ...

    def send_trajectory(self, trajectory: Trajectory) -> None:
        """To the arm's controller; returns at once."""
        ...

    def send_gripper(self, command: float) -> None:
        """+1 open, -1 close; sent when it changes."""
        ...

    def send_diagnostics(self, lines: Sequence[DiagnosticLine]) -> None:
        """To /diagnostics."""
        ...

    def send_state(self, state: State, event: Event | None) -> None:
        """The gate's state, when it changes and once a second."""
        ...

    def send_foresight(self, images: Mapping[str, np.ndarray], stamp_s: float) -> None:
        """Camera -> (H, W, 3) uint8 RGB that the policy expects; `stamp_s` is the header time of what it looked at."""
        ...

    def graph(self) -> Sequence[TopicReport]:
        """Who else is on the topics in use; asked once a second and by preflight."""
        ...

    def close(self) -> None:
        """Stop all threads; nothing is sent afterwards."""
        ...

"""What the transport's threads leave for the gate's thread: the newest joints, the last pictures, and every event.

Nothing here blocks a transport, and nothing grows without end: pictures and messages that nobody fetches in time are
dropped, oldest first, and counted.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field

from foreact.robot_bridge.types import CameraFrame, JointSample, RobotMode

_FRAMES, _EVENTS = 32, 256
_PATIENCE_S = 1.0


@dataclass
class Call:
    """A service call that waits for the gate's thread."""

    name: str
    value: bool
    done: threading.Event = field(default_factory=threading.Event)
    given_up: bool = False
    """Nobody waits for the answer any more: the caller was told that it was not done."""
    result: tuple[bool, str] = (False, "the bridge did not answer in time")

    def answer(self, ok: bool, message: str) -> None:
        """What the caller is told."""
        self.result = (ok, message)
        self.done.set()


@dataclass
class Mail:
    """Everything that came since the last look, each kind in order of arrival."""

    frames: list[CameraFrame] = field(default_factory=list)
    joints: list[JointSample] = field(default_factory=list)
    modes: list[tuple[RobotMode, float]] = field(default_factory=list)
    descriptions: list[str] = field(default_factory=list)
    instructions: list[tuple[str, float]] = field(default_factory=list)
    bad: list[tuple[str, str, float]] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)


class Mailbox:
    """Implements `foreact.robot_bridge.transport.Inbox`.

    Args:
        frames: Pictures, and joint samples, that are kept between two looks.
    """

    def __init__(self, frames: int = _FRAMES) -> None:
        self._lock = threading.Lock()
        self._frames: deque[CameraFrame] = deque(maxlen=frames)
        self._joints: deque[JointSample] = deque(maxlen=frames)
        self._modes: deque[tuple[RobotMode, float]] = deque(maxlen=_EVENTS)
        self._descriptions: deque[str] = deque(maxlen=1)
        self._instructions: deque[tuple[str, float]] = deque(maxlen=_EVENTS)
        self._bad: deque[tuple[str, str, float]] = deque(maxlen=_EVENTS)
        self._calls: deque[Call] = deque(maxlen=_EVENTS)
        self.dropped = 0
        """Messages that were never looked at."""

    def _put(self, box: deque, item: object) -> None:
        with self._lock:
            self.dropped += len(box) == box.maxlen
            box.append(item)

    def frame(self, frame: CameraFrame) -> None:
        """See `Inbox`."""
        self._put(self._frames, frame)

    def joints(self, sample: JointSample) -> None:
        """See `Inbox`."""
        self._put(self._joints, sample)

    def mode(self, mode: RobotMode, received_s: float) -> None:
        """See `Inbox`."""
        self._put(self._modes, (mode, received_s))

    def description(self, urdf: str) -> None:
        """See `Inbox`; the newest counts."""
        with self._lock:
            self._descriptions.append(urdf)

    def instruction(self, text: str, received_s: float) -> None:
        """See `Inbox`."""
        self._put(self._instructions, (text, received_s))

    def bad_message(self, role: str, message: str, received_s: float) -> None:
        """See `Inbox`."""
        self._put(self._bad, (role, message, received_s))

    def command(self, name: str, value: bool) -> tuple[bool, str]:
        """See `Inbox`."""
        call = Call(name, value)
        self._put(self._calls, call)
        if not call.done.wait(_PATIENCE_S):
            call.given_up = True
        return call.result

    def take(self) -> Mail:
        """Everything that came since the last call."""
        with self._lock:
            mail = Mail(*(list(box) for box in self._boxes()))
            for box in self._boxes():
                box.clear()
        return mail

    def _boxes(self) -> tuple[deque, ...]:
        return (
            self._frames, self._joints, self._modes, self._descriptions, self._instructions, self._bad, self._calls
        )  # fmt: skip

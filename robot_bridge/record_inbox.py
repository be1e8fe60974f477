"""Between a transport and a `RobotRecorder`, where nobody commands: everything that comes is recorded."""

from __future__ import annotations

from collections.abc import Callable

from foreact.robot_bridge.record_session import RobotRecorder
from foreact.robot_bridge.types import CameraFrame, JointSample, RobotMode


class RecordInbox:
    """Implements `foreact.robot_bridge.transport.Inbox`.

    Args:
        recorder: Gets it.
        notice: Told, once for each kind, what a topic sends that is not what it promises.
    """

    def __init__(self, recorder: RobotRecorder, notice: Callable[[str], None] = lambda text: None) -> None:
        self._recorder, self._notice = recorder, notice
        self._told: set[tuple[str, str]] = set()

    def frame(self, frame: CameraFrame) -> None:
        """A picture."""
        self._recorder.frame(frame)

    def joints(self, sample: JointSample) -> None:
        """Measured joints."""
        self._recorder.joints(sample)

    def mode(self, mode: RobotMode, received_s: float) -> None:
        """Not recorded."""

    def description(self, urdf: str) -> None:
        """Not recorded."""

    def instruction(self, text: str, received_s: float) -> None:
        """New words."""
        self._recorder.instruction(text, received_s)

    def bad_message(self, role: str, message: str, received_s: float) -> None:
        """Said, not recorded."""
        if len(self._told) < 100 and (role, message) not in self._told:
            self._told.add((role, message))
            self._notice(f"{role}: {message}")

    def command(self, name: str, value: bool) -> tuple[bool, str]:
        """There is no gate here."""
        return False, "this process only records"

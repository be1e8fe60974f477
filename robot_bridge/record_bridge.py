"""Records what the bridge does: an episode from the moment an instruction is obeyed until it no longer is.

Nothing here waits: the end of an episode, which waits for the disk, has a thread of its own.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

from foreact.robot_bridge.config import Robot
from foreact.robot_bridge.give_back import give_back
from foreact.robot_bridge.observe import Observer
from foreact.robot_bridge.record_session import RobotRecorder
from foreact.robot_bridge.record_worker import RecordSettings
from foreact.robot_bridge.types import CameraFrame, Event, JointSample, State
from foreact.vla.errors import ForeActError

if TYPE_CHECKING:
    from foreact.robot_bridge.bridge import Bridge

_GOING_ON = (State.RUNNING, State.HOLD)


class BridgeRecorder:
    """Between a bridge and a `RobotRecorder`.

    Args:
        robot: Its contract is what is recorded, at its rate times `speed_scale`: one frame per policy step.
        store: Folder of the trajectory store.
        bags: Folder for MCAP bags; None: none are written.

    Raises:
        ForeActError: If the store is of another contract, or cannot be made.
    """

    def __init__(self, robot: Robot, store: Path, bags: Path | None = None):
        self._observer = Observer.of_robot(robot)
        settings = RecordSettings(speed_scale=robot.speed_scale, joints=robot.arm().joints)
        self._recorder = RobotRecorder(
            store, robot.contract, bags=bags, settings=settings, state_of=self._observer.robot_state
        )
        self._ending: threading.Thread | None = None
        self._words: int | None = None
        self._step: int | None = None
        self.problems: list[str] = []
        """What could not be recorded, in sentences; each is an event of the gate's log too."""
        self._told = 0

    def frame(self, frame: CameraFrame) -> None:
        """A picture."""
        self._recorder.frame(frame)

    def joints(self, sample: JointSample) -> None:
        """Measured joints."""
        self._recorder.joints(sample)

    def tick(self, now_s: float, bridge: Bridge) -> None:
        """Begin, go on or end, as the gate's state says."""
        while self._told < len(self.problems):
            said = f"recording: {self.problems[self._told]}"
            bridge.gate.log.append(
                Event(at_s=now_s, kind="recording", cause="", message=said, state=bridge.gate.state)
            )
            self._told += 1
        going_on = bridge.gate.state in _GOING_ON and bridge.conversation.words_id == self._words
        if self._words is not None and not going_on:
            self._end(bridge)
        if self._words is None and bridge.gate.state is State.RUNNING and not self.ending:
            self._begin(bridge)
        if self._words is not None and bridge.gate.state is State.RUNNING and bridge.gate.step != self._step:
            self._step = bridge.gate.step
            action = bridge.conversation.executed_action()
            if action is not None:
                self._recorder.gripper(bridge.gate.gripper_command)
                self._recorder.action(action, now_s, bridge.taken_over)

    def close(self) -> None:
        """End what is going on and wait for the disk."""
        if self._ending is not None:
            self._ending.join()
        self._recorder.close()

    def _begin(self, bridge: Bridge) -> None:
        self._words, self._step = bridge.conversation.words_id, None
        try:
            self._recorder.begin(bridge.conversation.words)
        except ForeActError as error:
            self.problems.append(str(error))

    def _end(self, bridge: Bridge) -> None:
        self._words = None
        meta = {"ended_in": str(bridge.gate.state), "cause": str(bridge.gate.cause or "")}
        if self._recorder.recording:
            self._ending = threading.Thread(target=self._finish, args=(meta,), name="end of episode", daemon=True)
            self._ending.start()

    @property
    def ending(self) -> bool:
        """Whether the last episode is still on its way to the disk; the next one begins after that."""
        return self._ending is not None and self._ending.is_alive()

    def _finish(self, meta: dict[str, str]) -> None:
        try:
            self.problems += self._recorder.end(how=meta["ended_in"], meta=meta).notices
        except ForeActError as error:
            self.problems.append(str(error))
        give_back()  # the pictures of an episode are more than all else here

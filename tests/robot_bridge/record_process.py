"""Records from a transport that makes up a robot, as `foreact robot record` does; to be told to end.

python record_process.py FOLDER
"""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from foreact.commands.robot_record import record_until, summary
from foreact.robot_bridge.record_session import RobotRecorder
from foreact.robot_bridge.record_worker import RecordSettings
from foreact.robot_bridge.transport import Inbox
from foreact.robot_bridge.types import CameraFrame, JointSample
from foreact.vla.contract import Camera, Contract, Field

CONTRACT = Contract(
    embodiment="arm",
    rate_hz=30,
    cameras=(Camera(name="front", height=48, width=64),),
    state=(Field(name="joint_position", size=2, unit="rad"),),
)


class MadeUp:
    """The listening half of a transport: 40 pictures and 100 joint samples a second."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, inbox: Inbox) -> None:
        self._thread = threading.Thread(target=self._run, args=(inbox,))
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self, inbox: Inbox) -> None:
        number = 0
        while not self._stop.wait(0.005):
            now_s = time.monotonic()
            if number % 5 == 0:
                image = np.full((48, 64, 3), number % 256, np.uint8)
                frame = CameraFrame(
                    camera="front", image=image, stamp_s=now_s, received_s=now_s, sequence=number // 5
                )  # fmt: skip
                inbox.frame(frame)
            if number % 2 == 0:
                q = np.array([number, 0.0])
                inbox.joints(
                    JointSample(position=q, velocity=None, gripper_width_m=None, stamp_s=now_s, received_s=now_s)
                )
            if number == 100:
                inbox.bad_message("camera front", "12 bytes are not a picture", now_s)
                inbox.instruction("wave", now_s)
            number += 1


def main(folder: Path) -> None:
    settings = RecordSettings(codec="zstd", joints=("a", "b"), max_age_s=10.0)
    recorder = RobotRecorder(
        folder / "store", CONTRACT, bags=folder / "bags", settings=settings, state_of=lambda joints, _: joints.position
    )
    transport: Any = MadeUp()
    print("\n".join(summary(record_until(lambda: transport, recorder, instruction="wait"))))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""Records a made-up robot in real time until it is killed; for the test that kills it at random instants.

    python -m foreact.robot_bridge.record_crash FOLDER PREFIX

Each episode that is safe is acknowledged by a line with its name, each flush of a bag by one with bag and messages.
What a frame holds follows from its number, so that a test can tell whether the store gives it back.
"""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

import numpy as np

from foreact.robot_bridge.record_session import RobotRecorder
from foreact.robot_bridge.record_worker import RecordSettings
from foreact.robot_bridge.types import CameraFrame
from foreact.vla.contract import Camera, Contract, Field

RATE_HZ = 60.0
FRAMES = 20
"""Of each episode."""
LEAD_S = 0.005
"""So long before an action its picture and its state are there."""
CONTRACT = Contract(
    embodiment="selftest",
    rate_hz=RATE_HZ,
    cameras=(Camera(name="front", height=24, width=32),),
    state=(Field(name="joints", size=2, unit="rad"),),
    action=(Field(name="joints", size=2, unit="rad"),),
)


def picture(number: int) -> np.ndarray:
    """(24, 32, 3) uint8 of a frame."""
    return np.random.default_rng(number).integers(0, 256, (24, 32, 3), np.uint8)


def row(number: int) -> np.ndarray:
    """(2,) state and action of a frame."""
    return np.array([number, -number], np.float64)


def main(folder: Path, prefix: str) -> None:
    """Record for ever."""
    lock = threading.Lock()

    def say(line: str) -> None:
        with lock:
            print(line, flush=True)

    settings = RecordSettings(codec="zstd", shortest=5, settle_s=0.1, flush_s=0.05, max_age_s=5.0)
    with RobotRecorder(folder / "store", CONTRACT, bags=folder / "bags", settings=settings, on_saved=say) as robot:
        say("recording")
        for episode in range(10**6):
            robot.begin("do it", name=f"{prefix}-{episode:04d}")
            start_s = time.monotonic() + LEAD_S
            for number in range(FRAMES):
                at_s = start_s + number / RATE_HZ
                time.sleep(max(0.0, at_s - time.monotonic()))
                seen_s = at_s - LEAD_S
                robot.frame(
                    CameraFrame(
                        camera="front", image=picture(number), stamp_s=seen_s, received_s=seen_s, sequence=number
                    )
                )
                robot.state(row(number), seen_s)
                robot.action(row(number), at_s)
            robot.end(success=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])

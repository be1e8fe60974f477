"""What a policy can be timed with before a robot is there."""

from __future__ import annotations

import time

import numpy as np

from foreact.robot_bridge.config import Robot
from foreact.robot_bridge.types import CameraFrame, JointSample


def made_up(robot: Robot) -> tuple[dict[str, CameraFrame], JointSample]:
    """Pictures and joints of the right shapes to time a policy with: grey noise, and joints in the middle of their
    ranges."""
    noise, now = np.random.default_rng(0), time.monotonic()
    frames = {
        camera.name: CameraFrame(
            camera=camera.name, image=noise.integers(0, 256, (camera.height, camera.width, 3), np.uint8), stamp_s=0.0,
            received_s=now, sequence=0,
        )
        for camera in robot.contract.cameras
    }  # fmt: skip
    arm = robot.arm()
    middle = (np.array(arm.position_low) + np.array(arm.position_high)) / 2
    joints = JointSample(
        position=middle, velocity=np.zeros_like(middle), gripper_width_m=arm.gripper.open_m, stamp_s=0.0, received_s=now
    )
    return frames, joints

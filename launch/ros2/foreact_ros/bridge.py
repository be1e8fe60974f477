"""`ros2 run foreact_ros bridge`."""

from __future__ import annotations

import sys


def main() -> None:
    """The node of `foreact.robot_bridge.ros_node`, or a sentence about what is missing."""
    try:
        from foreact.robot_bridge.ros_node import main as run
    except ImportError as error:
        sys.exit(
            f"error: {sys.executable} cannot import foreact ({error}). Install it for that Python "
            "(pip install '.[robot]' 'numpy<2'), or activate the environment that has it; see docs/ros2.md"
        )
    sys.exit(run())

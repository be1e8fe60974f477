"""A ROS domain of this run's own, a policy server in a process of its own, and a robot as a ROS 2 node.

The policy server needs torch and MuJoCo: FOREACT_POLICY_PYTHON names a Python that has them, if this one has not.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
DOMAIN = 20 + os.getpid() % 70
LOOPBACK = (
    '<CycloneDDS><Domain><General><Interfaces><NetworkInterface name="lo"/></Interfaces></General></Domain></CycloneDDS>'
)
HAVE_ROS = importlib.util.find_spec("rclpy") is not None
if not HAVE_ROS:
    collect_ignore_glob = ["test_*.py"]  # they import rclpy; test_ros_missing.py says what the others would need
os.environ["ROS_DOMAIN_ID"] = str(DOMAIN)
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"

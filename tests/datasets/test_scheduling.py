"""An encoder that makes itself a real-time program does not leave the process one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from foreact.datasets.scheduling import scheduled_as_before

WATCH = """
import os
import numpy as np
{imports}
frames = np.random.default_rng(0).integers(0, 255, (4, 64, 64, 3), np.uint8)
{encode}
tasks = [int(task) for task in os.listdir("/proc/self/task")]
print(sorted({{os.sched_getscheduler(task) for task in tasks}}))
"""
STORE = (
    "from foreact.datasets.codecs import codec_from_spec",
    "one = codec_from_spec('av1').encoder(64, 64)\nfor frame in frames: one.add(frame)",
)
LEROBOT = (
    "from foreact.datasets.codecs import codec_from_spec\n"
    "from foreact.datasets.formats.lerobot_video import encode_mp4",
    "encode_mp4(frames, 30, codec_from_spec('av1'))",
)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs Linux")
@pytest.mark.parametrize("way", [STORE, LEROBOT], ids=["store", "lerobot"])
def test_av1_leaves_the_process_as_it_was(way: tuple[str, str]) -> None:
    """Root alone may be made a real-time program: elsewhere this holds by itself."""
    source = WATCH.format(imports=way[0], encode=way[1])
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, env=environ, check=False)
    assert done.stdout.strip() == f"[{os.SCHED_OTHER}]", done.stderr


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may schedule itself anew")
def test_what_was_changed_within_is_taken_back() -> None:
    before = os.sched_getscheduler(0)
    with scheduled_as_before():
        try:
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        except PermissionError:
            pytest.skip("this root may not either")
        assert os.sched_getscheduler(0) == os.SCHED_FIFO
    assert os.sched_getscheduler(0) == before

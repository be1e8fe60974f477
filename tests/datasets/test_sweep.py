"""What dead writers left behind is swept; what living ones are writing stays."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from foreact.datasets.durable import stage_name, sweep


def _leftover(staging: Path, pid: int) -> Path:
    name, host, _, random = stage_name("episode").split("~")
    path = staging / "~".join([name, host, str(pid), random])
    path.mkdir(parents=True)
    return path


def test_only_what_the_dead_left_goes(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    living = _leftover(tmp_path, child.pid)
    assert sweep(tmp_path) == 0 and living.is_dir()
    child.communicate(b"\n")
    assert sweep(tmp_path) == 1 and not living.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_process_that_ended_is_dead_before_its_parent_notices(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    left = _leftover(tmp_path, child.pid)
    limit = time.monotonic() + 20
    while sweep(tmp_path) == 0:
        assert time.monotonic() < limit
        time.sleep(0.05)
    assert not left.exists()
    assert child.wait() == 0

"""A process with a deadline keeps its memory, and Python's own pauses are short."""

from __future__ import annotations

import gc
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from foreact.robot_bridge import real_time
from foreact.robot_bridge.real_time import no_long_pauses


def locked_kib() -> int:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmLck:"))


def test_all_is_as_before_afterwards_even_after_an_error() -> None:
    interval, frozen = sys.getswitchinterval(), gc.get_freeze_count()
    with pytest.raises(ZeroDivisionError), no_long_pauses():
        assert sys.getswitchinterval() <= 0.001
        assert gc.get_freeze_count() > 10_000
        raise ZeroDivisionError
    assert sys.getswitchinterval() == interval
    assert gc.get_freeze_count() == frozen


PROGRAM = """
from test_real_time import locked_kib
from foreact.robot_bridge.real_time import no_long_pauses

with no_long_pauses() as locked:
    before = locked_kib()
    later = bytearray(b"1") * (64 << 20)
    print(locked, before, locked_kib() - before)
del later
print(locked_kib())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="mlockall is Linux's")
def test_memory_stays_and_is_set_free_again() -> None:
    """In a process of its own: in this one, later memory may be memory that was there before."""
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
    )  # fmt: skip
    first, last = found.stdout.splitlines()
    locked, before, more = first.split()
    if locked == "False":
        pytest.skip("this user may not lock memory (ulimit -l, CAP_IPC_LOCK)")
    assert int(before) > 0 and int(more) > 60 * 1024
    assert int(last) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="mlockall is Linux's")
def test_without_the_right_it_works_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(real_time.os, "geteuid", lambda: 1000)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (8 << 20, 8 << 20))
    with no_long_pauses() as locked:
        assert not locked
        assert locked_kib() == 0

"""A process with a deadline keeps its memory, and Python's own pauses are short."""

from __future__ import annotations

import gc
import resource
import sys

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


@pytest.mark.skipif(sys.platform != "linux", reason="mlockall is Linux's")
def test_memory_stays_and_is_set_free_again() -> None:
    with no_long_pauses() as locked:
        if not locked:
            pytest.skip("this user may not lock memory (ulimit -l, CAP_IPC_LOCK)")
        before = locked_kib()
        assert before > 0
        later = bytearray(b"\1") * (64 << 20)
        assert locked_kib() - before > 60 * 1024
        del later
    assert locked_kib() == 0


@pytest.mark.skipif(sys.platform != "linux", reason="mlockall is Linux's")
def test_without_the_right_it_works_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(real_time.os, "geteuid", lambda: 1000)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (8 << 20, 8 << 20))
    with no_long_pauses() as locked:
        assert not locked
        assert locked_kib() == 0

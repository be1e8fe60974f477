"""SVT-AV1 makes the thread that opens it, and its own threads, real-time ones of the highest priority (SCHED_FIFO, 99)
where it may, that is for root, as seen with the encoder that PyAV brings. They then keep everything else from the
processor, and what the thread starts later inherits that."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_TASKS = Path("/proc/self/task")


@contextmanager
def scheduled_as_before() -> Iterator[None]:
    """Open an encoder within this: afterwards every thread is scheduled as before, and new ones as this one is."""
    if not hasattr(os, "sched_setscheduler") or not _TASKS.is_dir():
        yield
        return
    before = _threads()
    own = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        for thread, now in _threads().items():
            policy, parameters = before.get(thread, own)
            if (policy, parameters.sched_priority) != (now[0], now[1].sched_priority):
                with suppress(OSError):  # it has ended
                    os.sched_setscheduler(thread, policy, parameters)


def _threads() -> dict[int, tuple[int, os.sched_param]]:
    found = {}
    for task in _TASKS.iterdir():
        with suppress(OSError):
            thread = int(task.name)
            found[thread] = os.sched_getscheduler(thread), os.sched_getparam(thread)
    return found

"""What a process with a deadline asks of Python and of the system: no long pauses of their own making.

Sources: Python's `gc.freeze` and `sys.setswitchinterval`; mlockall(2); "Real-time programming in ROS 2", docs.ros.org,
for locked memory: a page that was taken away comes back from the disk, in the middle of a tick.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

_SWITCH_S = 0.0005
"""Another thread of this process yields after so long (Python's usual: 5 ms)."""
_held: list[bool] = []
"""One for each `no_long_pauses` that holds this process's memory."""
_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4


def suspended_s() -> float:
    """How long this computer has been suspended since it was started [s], as far as the system tells (clock_gettime(2):
    the boot clock goes on in suspend, the steady one does not)."""
    if not hasattr(time, "CLOCK_BOOTTIME"):
        return 0.0
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)


@contextmanager
def no_long_pauses() -> Iterator[bool]:
    """For the time of a `with` block; gives whether memory could be locked.

    What exists at its beginning is not looked through by the garbage collector any more, threads take turns more often,
    and every page stays where it is once it was used. The last takes the right to lock memory (`ulimit -l unlimited`,
    or CAP_IPC_LOCK); without it the process works, but may wait for its disk when memory is short.
    """
    gc.collect()
    gc.freeze()
    usual_s = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_S)
    locked = _lock()
    if locked:
        _held.append(locked)
    try:
        yield locked
    finally:
        if locked:
            _held.pop()
            ctypes.CDLL(None).munlockall()
        sys.setswitchinterval(usual_s)
        gc.unfreeze()


@contextmanager
def pages_may_go() -> Iterator[None]:
    """For the time of a `with` block nothing is locked: the system takes no pages back from a process that locks them,
    not even those it wants to give (madvise(2))."""
    if _held:
        ctypes.CDLL(None).munlockall()
    try:
        yield
    finally:
        if _held:
            _lock()


def _lock() -> bool:
    if not sys.platform.startswith("linux") or not _unlimited():
        return False  # with a limit, the first allocation beyond it would fail: worse than a late tick
    try:
        return ctypes.CDLL(None).mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT) == 0
    except (AttributeError, OSError):
        return False


def _unlimited() -> bool:
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    return soft == resource.RLIM_INFINITY or os.geteuid() == 0

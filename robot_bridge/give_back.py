"""Memory that was freed goes back to the system, so that a process that runs for days does not look larger every hour.

glibc keeps what was freed, in an arena for each thread that ever asked for memory; between pieces that are still in use
it stays, until somebody asks for it by name (malloc_trim(3)). With few arenas one thread's holes are filled by another.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

from foreact.robot_bridge.real_time import pages_may_go


def _find() -> Callable[[int], int] | None:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # another C library, which has its own ways
        return None


_TRIM = _find()
_M_ARENA_MAX, _ARENAS = -8, 2


def give_back() -> bool:
    """Hand it back; whether there was any. Takes a millisecond or a few, in which other threads go on."""
    if _TRIM is None:
        return False
    with pages_may_go():
        return bool(_TRIM(0))


def few_arenas() -> bool:
    """Let all threads of this process share two arenas (mallopt(3)): before it starts any. Whether it could be said.

    The usual eight for each core, of up to 64 MiB each, fill one after the other for an hour or longer, which nobody
    can tell from a leak; here the interpreter's lock lets one thread allocate at a time anyway.
    """
    try:
        return ctypes.CDLL(None).mallopt(_M_ARENA_MAX, _ARENAS) == 1
    except (AttributeError, OSError, TypeError):
        return False

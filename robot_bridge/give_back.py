"""Memory that was freed goes back to the system, so that a process that runs for days does not look larger every hour.

glibc keeps what was freed, in an arena for each thread that ever asked for memory; between pieces that are still in use
it stays, until somebody asks for it by name (malloc_trim(3)).
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


def give_back() -> bool:
    """Hand it back; whether there was any. Takes a millisecond or a few, in which other threads go on."""
    if _TRIM is None:
        return False
    with pages_may_go():
        return bool(_TRIM(0))

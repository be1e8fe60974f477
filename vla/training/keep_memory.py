"""Memory that a step frees stays with the process, for the next step to use.

glibc hands large blocks back to the system at once and asks for them again, page by page, in the next step; on a CPU
that was a fifth of a training step's time. Its own limits for that are raised (mallopt(3)).
"""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_LARGEST_HEAP_BLOCK = 32 << 20
"""The most that glibc accepts for M_MMAP_THRESHOLD on 64 bits; larger blocks come from the system as before."""


def keep_freed_memory() -> bool:
    """Whether this C library could be told so."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, which has its own ways
        return False
    wanted = ((_M_MMAP_THRESHOLD, _LARGEST_HEAP_BLOCK), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 64 << 20))
    told = [mallopt(what, value) == 1 for what, value in wanted]
    return all(told)

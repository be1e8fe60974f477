"""Looks at episodes in several processes; what comes out is the same as from one.

Processes, not threads: most of the work is numpy on small pictures, and two threads were no faster than one.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING

from foreact.datasets.layout import StoreError
from foreact.datasets.lint_base import Limits
from foreact.datasets.store import Store
from foreact.vla.processes import end_with_parent, one_thread_each

if TYPE_CHECKING:
    from foreact.datasets.lint import Seen

FEWEST_EPISODES = 50
"""Per process; for fewer, starting it costs more than it saves."""
_CHUNK = 4

_open: dict[str, tuple[Store, Limits]] = {}


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def look_at_all(store: Store, numbers: range, limits: Limits, workers: int) -> Iterator[Seen]:
    """What `lint.look_at` finds in each episode, in the order of `numbers`.

    Raises:
        NewerFormat: If a later ForeAct wrote one of them.
        StoreError: If a process dies.
    """
    from foreact.datasets.lint import look_at

    workers = min(workers, len(numbers) // FEWEST_EPISODES)
    if workers <= 1:
        for number in numbers:
            yield look_at(store, number, limits)
        return
    context = multiprocessing.get_context("spawn")  # a fork would share open files and the threads of codecs
    with one_thread_each(), ProcessPoolExecutor(workers, context, _begin, (store, limits)) as pool:
        try:
            yield from pool.map(_look, numbers, chunksize=_CHUNK)
        except BrokenProcessPool as error:
            raise StoreError(
                "a process of the check died (was it killed, for memory perhaps?); nothing was changed: run it again, "
                "with --workers 1"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _begin(store: Store, limits: Limits) -> None:
    end_with_parent()
    _open["store"] = store, limits


def _look(number: int) -> Seen:
    from foreact.datasets.lint import look_at

    store, limits = _open["store"]
    return look_at(store, number, limits)

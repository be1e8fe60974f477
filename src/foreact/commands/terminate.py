"""Ctrl-C, and SIGTERM as batch systems send it: tidy up, say what is kept, end with status 130 or 143."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_waiting: list[list[int]] = []
"""One list for each block of `signals_wait` that is open: the signals that came in it."""


@contextmanager
def orderly_end(message: str) -> Iterator[None]:
    """Inside the block, SIGTERM and Ctrl-C end the program so that every `with` and `finally` has its turn.

    Args:
        message: Printed on standard error, such as what is kept.

    Raises:
        SystemExit: With 128 and the number of the signal, inside the block, when the signal comes.
    """
    if threading.current_thread() is not threading.main_thread():  # only that one may have handlers
        yield
        return

    def end(number: int, _: FrameType | None) -> None:
        if _waiting:
            _waiting[-1].append(number)
            return
        for each in before:  # one is enough; a second would break into the tidying up
            signal.signal(each, signal.SIG_IGN)
        print(f"stopped by {signal.Signals(number).name}: {message}", file=sys.stderr, flush=True)
        raise SystemExit(128 + number)

    # One that is ignored (as Ctrl-C is by a shell's background jobs) stays ignored.
    before = {number: old for number in _SIGNALS if (old := signal.getsignal(number)) is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old if old is not None else signal.SIG_DFL)


@contextmanager
def signals_wait() -> Iterator[None]:
    """Inside the block, both signals wait until its end. Processes that are started in it never get them."""
    _waiting.append([])
    # The mask is for those processes: this one may have other threads, which the signal would reach.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        came = _waiting.pop()
        if came and callable(handler := signal.getsignal(came[0])):
            handler(came[0], None)

"""Lines of text into a file or a terminal, by a thread of its own: whoever hands them over never waits."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Generic, TextIO, TypeVar

T = TypeVar("T")

_WAITING = 4096


class LineWriter(Generic[T]):
    """A disk that hangs or is full, a terminal that somebody paused or a reader that left costs lines, which are
    counted, and nothing else.

    Args:
        file: Closed by the thread.
        line: Makes the text of an item, without its end of line; called in the thread.
        name: Of the thread.
        max_bytes: No more than so much is written.
    """

    def __init__(self, file: TextIO, line: Callable[[T], str], name: str, max_bytes: float = float("inf")):
        self.lost = 0
        """Lines that did not get into the file."""
        self._line, self._max_bytes = line, max_bytes
        self._queue: queue.Queue[T | None] = queue.Queue(_WAITING)
        self._closed = False
        self._thread = threading.Thread(target=self._write, args=(file,), name=name, daemon=True)
        self._thread.start()

    def put(self, item: T) -> None:
        """Take an item; returns at once. After `close`, it is dropped."""
        if self._closed:
            return
        try:
            self._queue.put_nowait(item)
        except queue.Full:
            self.lost += 1

    def close(self, timeout_s: float = 2.0) -> None:
        """Write what waits, for at most so long, and close the file."""
        if self._closed:
            return
        self._closed = True
        try:
            self._queue.put(None, timeout=timeout_s)
        except queue.Full:
            return
        self._thread.join(timeout_s)

    def _write(self, file: TextIO) -> None:
        written = 0
        with contextlib.suppress(OSError), file:  # closing writes what is still buffered
            while (item := self._queue.get()) is not None:
                text = self._line(item) + "\n"
                written += len(text)
                if written > self._max_bytes:  # somebody floods us
                    self.lost += 1
                    continue
                try:
                    file.write(text)
                    if self._queue.empty():
                        file.flush()
                except (OSError, ValueError):
                    self.lost += 1

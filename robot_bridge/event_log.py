"""What happened, and why: kept in memory, counted by cause, and written as JSON lines by a thread of its own."""

from __future__ import annotations

import contextlib
import json
import queue
import threading
from collections import Counter, deque
from dataclasses import asdict
from pathlib import Path

from foreact.robot_bridge.types import Event
from foreact.vla.errors import ForeActError

_KEPT = 1000
_WAITING = 4096
_MAX_BYTES = 256 << 20


class EventLogError(ForeActError):
    """The file cannot be written."""


class EventLog:
    """Appending never blocks and never fails: a disk that hangs or is full costs lines of the file, which are counted,
    not ticks.

    Args:
        path: JSON lines are appended to it; None: memory only.

    Raises:
        EventLogError: If the file cannot be opened.
    """

    def __init__(self, path: Path | None = None):
        self.counts: Counter[str] = Counter()
        """Cause -> events, since the start."""
        self.kinds: Counter[str] = Counter()
        self.lost = 0
        """Lines that did not get into the file."""
        self._kept: deque[Event] = deque(maxlen=_KEPT)
        self._queue: queue.Queue[Event | None] | None = None
        if path is not None:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                file = path.open("a", encoding="utf-8")
            except OSError as error:
                raise EventLogError(f"the event log {path} cannot be written: {error}") from error
            self._queue = queue.Queue(_WAITING)
            self._thread = threading.Thread(target=self._write, args=(file, self._queue), name="event-log", daemon=True)
            self._thread.start()

    def append(self, event: Event) -> None:
        """Take an event; returns at once."""
        self._kept.append(event)
        self.kinds[event.kind] += 1
        if event.cause:
            self.counts[event.cause] += 1
        if self._queue is not None:
            try:
                self._queue.put_nowait(event)
            except queue.Full:
                self.lost += 1

    def last(self, n: int = 1) -> list[Event]:
        """The newest events, oldest of them first; at most 1000 are kept."""
        return list(self._kept)[-n:] if n > 0 else []

    def close(self, timeout_s: float = 2.0) -> None:
        """Write what waits, for at most so long, and close the file."""
        if self._queue is None:
            return
        waiting, self._queue = self._queue, None
        try:
            waiting.put(None, timeout=timeout_s)
        except queue.Full:
            return
        self._thread.join(timeout_s)

    def _write(self, file, waiting: queue.Queue[Event | None]) -> None:
        written = 0
        with contextlib.suppress(OSError), file:  # closing writes what is still buffered
            while (event := waiting.get()) is not None:
                line = json.dumps(asdict(event), default=str) + "\n"
                written += len(line)
                if written > _MAX_BYTES:  # somebody floods us; memory still has the newest
                    self.lost += 1
                    continue
                try:
                    file.write(line)
                    if waiting.empty():
                        file.flush()
                except (OSError, ValueError):
                    self.lost += 1

"""What happened, and why: kept in memory, counted by cause, and written as JSON lines by a thread of its own."""

from __future__ import annotations

import json
from collections import Counter, deque
from dataclasses import asdict
from pathlib import Path

from foreact.robot_bridge.line_writer import LineWriter
from foreact.robot_bridge.types import Event
from foreact.vla.errors import ForeActError

_KEPT = 1000
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
        self._kept: deque[Event] = deque(maxlen=_KEPT)
        self._writer: LineWriter[Event] | None = None
        if path is not None:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                file = path.open("a", encoding="utf-8")
            except OSError as error:
                raise EventLogError(f"the event log {path} cannot be written: {error}") from error
            self._writer = LineWriter(file, _as_json, "event-log", _MAX_BYTES)

    @property
    def lost(self) -> int:
        """Lines that did not get into the file."""
        return 0 if self._writer is None else self._writer.lost

    def append(self, event: Event) -> None:
        """Take an event; returns at once."""
        self._kept.append(event)
        self.kinds[event.kind] += 1
        if event.cause:
            self.counts[event.cause] += 1
        if self._writer is not None:
            self._writer.put(event)

    def last(self, n: int = 1) -> list[Event]:
        """The newest events, oldest of them first; at most 1000 are kept."""
        return list(self._kept)[-n:] if n > 0 else []

    def close(self, timeout_s: float = 2.0) -> None:
        """Write what waits, for at most so long, and close the file."""
        if self._writer is not None:
            self._writer.close(timeout_s)


def _as_json(event: Event) -> str:
    return json.dumps(asdict(event), default=str)

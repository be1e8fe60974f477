"""Live messages, in the order in which they arrive, to the ticks of a contract: the rule of the bag importer.

The rule itself is `foreact.datasets.formats.resample.Resampler`; here are the values that go with the times, and the
order. Messages come from several threads and may overtake each other by a little: they wait in line for `settle_ns`,
and what comes later still gets the time at which the line is. So one order of times exists, in which a recorder may
also write them, and whatever is made of that recording later falls on the same ticks.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from foreact.datasets.formats.resample import NS, Resampler

V = TypeVar("V")

_LOOK_EVERY = 256
"""Before the first tick, old values are forgotten after so many messages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard(Generic[V]):
    """The latest message of a topic at a tick."""

    value: V
    time_ns: int
    number: int
    """Counts the topic's messages, from 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick(Generic[V]):
    """One tick."""

    time_ns: int
    good: bool
    """Every needed topic has a value that is fresh; else a stretch of frames ends here."""
    heard: dict[str, Heard[V]]
    """topic -> its latest message; without those kept topics that have sent nothing yet."""


class LiveResampler(Generic[V]):
    """Values in, ticks out; arguments as those of `Resampler`. Not for several threads at once."""

    def __init__(self, needed: Collection[str], rate_hz: float, max_age_s: float, kept: Collection[str] = ()) -> None:
        self._resampler = Resampler(needed, rate_hz, int(max_age_s * NS), kept)
        self._values: dict[str, deque[tuple[int, V]]] = {topic: deque() for topic in (*needed, *kept)}
        self._first = dict.fromkeys(self._values, 0)
        """Number of the first message that is still held of each topic."""
        self._unseen = 0

    @property
    def started(self) -> bool:
        """Whether every needed topic has sent something."""
        return self._resampler.started

    def add(self, topic: str, time_ns: int, value: V) -> Iterator[Tick[V]]:
        """Take a message, not older than any before it; gives the ticks before it, which it settles."""
        yield from self.until(time_ns - 1)
        self._resampler.extend(topic, [time_ns])
        self._values[topic].append((time_ns, value))

    def until(self, time_ns: int) -> Iterator[Tick[V]]:
        """Give the ticks up to a time at and before which no further message will come."""
        self._unseen += 1
        if self._resampler.due(time_ns) or self._unseen >= _LOOK_EVERY:
            self._unseen = 0
            yield from self._settle(time_ns)

    def finish(self) -> Iterator[Tick[V]]:
        """Give the last ticks: nothing more will come."""
        yield from self._settle(None)

    def _settle(self, until_ns: int | None) -> Iterator[Tick[V]]:
        ticks = self._resampler.finish() if until_ns is None else self._resampler.settled(until_ns)
        for i, time_ns in enumerate(ticks.times.tolist()):
            heard = {}
            for topic, index in ticks.index.items():
                if (number := int(index[i])) >= 0:
                    self._forget(topic, number)
                    arrived_ns, value = self._values[topic][0]
                    heard[topic] = Heard(value=value, time_ns=arrived_ns, number=number)
            yield Tick(time_ns=time_ns, good=bool(ticks.good[i]), heard=heard)
        if not len(ticks) and until_ns is not None and not self._resampler.started:
            for topic, number in self._resampler.forgotten.items():
                self._forget(topic, number)

    def _forget(self, topic: str, number: int) -> None:
        """Hold no message of a topic before that number."""
        while self._first[topic] < number:
            self._values[topic].popleft()
            self._first[topic] += 1


class InLine(Generic[V]):
    """Puts messages in the order of their times; for one thread."""

    def __init__(self, settle_ns: int) -> None:
        self._settle_ns = settle_ns
        self._waiting: list[tuple[int, int, V]] = []
        self._came = 0
        self._released_ns = -(2**63)
        self.late = 0
        """Messages that came after their time had passed."""
        self.latest_by_ns = 0
        """By how much, at most."""

    def put(self, time_ns: int, value: V) -> None:
        """Take a message; one that is too late goes to the front of the line, with the time that it is."""
        if time_ns <= self._released_ns:
            self.late += 1
            self.latest_by_ns = max(self.latest_by_ns, self._released_ns + 1 - time_ns)
            time_ns = self._released_ns + 1
        heapq.heappush(self._waiting, (time_ns, self._came, value))
        self._came += 1

    def take(self, now_ns: int | None) -> Iterator[tuple[int, V]]:
        """Give time and value of what has waited long enough at `now_ns`; of everything, if that is None."""
        until = now_ns - self._settle_ns if now_ns is not None else None
        while self._waiting and (until is None or self._waiting[0][0] <= until):
            time_ns, _, value = heapq.heappop(self._waiting)
            self._released_ns = max(self._released_ns, time_ns)
            yield time_ns, value
        if until is not None:
            self._released_ns = max(self._released_ns, until)

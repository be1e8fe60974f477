"""Messages that come when they come, at the ticks of a contract: the latest one before each tick, if it is fresh.

One rule for whole recordings and for what is just arriving: `Resampler` takes messages as they come and gives the
ticks that no later message can change; `resample` is the same, fed with everything at once.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from foreact.datasets.episode import Segment

NS = 1_000_000_000


@dataclass(frozen=True, kw_only=True)
class Ticks:
    """n ticks one after another, and what was heard at each."""

    times: np.ndarray
    """(n,) int64 [ns]."""
    good: np.ndarray
    """(n,) bool: every needed topic has a value that is not too old."""
    index: dict[str, np.ndarray]
    """topic -> (n,) int64: number of its latest message at or before the tick, from 0; -1 where there is none."""

    def __len__(self) -> int:
        return len(self.times)


class Resampler:
    """Ticks from when every needed topic has sent something until the last message of any of them.

    Args:
        needed: Topics without which there is no tick.
        rate_hz: Ticks per second.
        max_age_ns: An older value makes a tick bad [ns].
        kept: Topics that are looked up as well, but are neither waited for nor too old.
    """

    def __init__(self, needed: Collection[str], rate_hz: float, max_age_ns: int, kept: Collection[str] = ()) -> None:
        if not needed:
            raise ValueError("a resampler needs at least one topic")
        self._needed = tuple(dict.fromkeys(needed))
        self._rate_hz, self._max_age_ns = rate_hz, max_age_ns
        self._times: dict[str, list[int]] = {topic: [] for topic in (*self._needed, *kept)}
        self._dropped = dict.fromkeys(self._times, 0)
        """How many messages of each topic lie too far back to be the latest at any further tick."""
        self._first: dict[str, int] = {}
        self._start: int | None = None
        """The first tick, once every needed topic has sent."""
        self._newest = 0
        self._count = 0
        """Ticks given so far."""

    def extend(self, topic: str, times: Iterable[int]) -> None:
        """Take the times of arrival [ns] of further messages of a topic.

        Raises:
            ValueError: If they are not in order.
        """
        known = self._times[topic]
        start = len(known)
        known.extend(map(int, times))
        if any(known[i] < known[i - 1] for i in range(max(start, 1), len(known))):
            raise ValueError(f"the messages of {topic} are not in order of their times")
        if start == len(known) or topic not in self._needed:
            return
        self._newest = max(self._newest, known[-1])
        if self._start is None:
            self._first.setdefault(topic, known[start])
            if len(self._first) == len(self._needed):
                self._start = max(self._first.values())

    @property
    def started(self) -> bool:
        """Whether every needed topic has sent something."""
        return self._start is not None

    @property
    def forgotten(self) -> Mapping[str, int]:
        """topic -> how many of its first messages can be the latest at no further tick."""
        return self._dropped

    def due(self, until_ns: int) -> bool:
        """Whether `settled` would give a tick; much cheaper than asking it."""
        return self._start is not None and (
            self._start + _offset(self._count, self._rate_hz) <= min(until_ns, self._newest)
        )

    def settled(self, until_ns: int) -> Ticks:
        """The next ticks up to `until_ns`; no message of that time or before may come afterwards."""
        if self._start is None:
            self._forget_before(until_ns)
            return Ticks(
                times=np.zeros(0, np.int64),
                good=np.zeros(0, bool),
                index={t: np.zeros(0, np.int64) for t in self._times},
            )
        count = max(self._count, _count_ticks(min(until_ns, self._newest) - self._start, self._rate_hz))
        ticks = self._start + _offsets(self._count, count, self._rate_hz)
        self._count = count
        index, good = {}, np.ones(len(ticks), bool)
        for topic, known in self._times.items():
            times = np.asarray(known, np.int64)
            found = latest(times, ticks)
            index[topic] = np.where(found >= 0, found + self._dropped[topic], -1)
            if topic in self._needed:
                good &= fresh(times, ticks, self._max_age_ns)
        if len(ticks):
            self._forget_before(int(ticks[-1]))
        return Ticks(times=ticks, good=good, index=index)

    def finish(self) -> Ticks:
        """The last ticks: nothing more will come."""
        return self.settled(self._newest)

    def _forget_before(self, time_ns: int) -> None:
        """Keep of each topic the latest message at that time, and those after it."""
        for topic, known in self._times.items():
            if (past := bisect_right(known, time_ns) - 1) > 0:
                del known[:past]
                self._dropped[topic] += past


def resample(times: Mapping[str, np.ndarray], rate_hz: float, max_age_ns: int, kept: Collection[str] = ()) -> Ticks:
    """All ticks of a recording.

    Args:
        times: topic -> (N,) sorted times of arrival [ns].
        rate_hz: Ticks per second.
        max_age_ns: An older value makes a tick bad [ns].
        kept: Those of the topics that are neither waited for nor too old.
    """
    resampler = Resampler([topic for topic in times if topic not in kept], rate_hz, max_age_ns, kept)
    for topic, stamps in times.items():
        resampler.extend(topic, stamps.tolist())
    return resampler.finish()


def latest(times: np.ndarray, ticks: np.ndarray) -> np.ndarray:
    """Number of the last message at or before each tick; -1 where there is none."""
    return np.searchsorted(times, ticks, side="right") - 1


def fresh(times: np.ndarray, ticks: np.ndarray, max_age_ns: int) -> np.ndarray:
    """Whether the last message before each tick is not older than that."""
    index = latest(times, ticks)
    return (index >= 0) & (ticks - times[np.maximum(index, 0)] <= max_age_ns)


def runs(good: np.ndarray, shortest: int) -> list[tuple[int, int]]:
    """[start, end) of each stretch of ticks that are good, of at least `shortest` ticks."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], good.astype(np.int8), [0]])))
    pairs = zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)
    return [(a, b) for a, b in pairs if b - a >= shortest]


def spans(sentences: Sequence[str]) -> tuple[str, list[Segment]]:
    """The instruction of an episode and its segments, from the sentence in force at each tick ("" before the first)."""
    edges = [0, *(i for i in range(1, len(sentences)) if sentences[i] != sentences[i - 1]), len(sentences)]
    found = [Segment(start=a, end=b, instruction=sentences[a]) for a, b in pairwise(edges) if a < b and sentences[a]]
    return next((text for text in sentences if text), ""), found if len(found) > 1 else []


def _offset(number: int, rate_hz: float) -> int:
    """Time of a tick after the first one [ns]."""
    return round(number * (NS / rate_hz))


def _offsets(first: int, end: int, rate_hz: float) -> np.ndarray:
    """`_offset` of the ticks [first, end), in the same arithmetic."""
    return np.round(np.arange(first, end) * (NS / rate_hz)).astype(np.int64)


def _count_ticks(span_ns: int, rate_hz: float) -> int:
    """How many ticks lie in [0, span_ns]; the ticks' own rounding decides, not the quotient's."""
    if span_ns < 0:
        return 0
    count = max(0, int(span_ns * rate_hz / NS) - 1)
    while _offset(count, rate_hz) <= span_ns:
        count += 1
    return count

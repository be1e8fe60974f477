"""Messages that come when they come, at the ticks of a contract: the latest one before each tick, if it is fresh."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

NS = 1_000_000_000


def tick_times(times: Mapping[str, np.ndarray], rate_hz: float) -> np.ndarray:
    """Ticks [ns] from when every topic has sent something until the last message of any.

    Args:
        times: topic -> (N,) sorted times of arrival [ns], at least one each.
        rate_hz: Ticks per second.
    """
    start = max(int(stamps[0]) for stamps in times.values())
    end = max(int(stamps[-1]) for stamps in times.values())
    count = int((end - start) * rate_hz / NS) + 1
    return start + np.round(np.arange(count) * (NS / rate_hz)).astype(np.int64)


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

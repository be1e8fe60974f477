"""Mean, spread and range of state and action, with the hash of what they were computed from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from foreact.datasets.layout import StoreError
from foreact.datasets.store import Store


@dataclass(frozen=True)
class Moments:
    """Statistics of N vectors, per component."""

    count: int
    mean: np.ndarray
    """(D,) float64."""
    std: np.ndarray
    """(D,) float64, the population's."""
    low: np.ndarray
    """(D,) float64 smallest value."""
    high: np.ndarray
    """(D,) float64 largest value."""

    def to_json(self) -> dict[str, Any]:
        """As JSON values; numbers survive exactly."""
        return {key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in asdict(self).items()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Moments:
        """Take what `to_json` gave."""
        return cls(values["count"], *(np.array(values[key], np.float64) for key in ("mean", "std", "low", "high")))


@dataclass(frozen=True)
class Statistics:
    """Statistics of the episodes of a store, or of some of them."""

    state: Moments | None
    """None if no episode has states."""
    action: Moments | None
    source: str
    """16 hex digits that name the contract and the contents of the episodes, in any order, packed or not."""

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "state": self.state and self.state.to_json(),
            "action": self.action and self.action.to_json(),
            "source": self.source,
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Statistics:
        """Take what `to_json` gave."""
        parts = (Moments.from_json(values[key]) if values[key] else None for key in ("state", "action"))
        return cls(*parts, source=values["source"])


class Running:
    """Statistics of a stream, numerically stable however long it is.

    Source: T. F. Chan, G. H. Golub, R. J. LeVeque, "Updating formulae and a pairwise algorithm for computing sample
    variances", 1979.
    """

    def __init__(self, size: int):
        self.count = 0
        self._mean = np.zeros(size)
        self._squares = np.zeros(size)
        self._low = np.full(size, np.inf)
        self._high = np.full(size, -np.inf)

    def add(self, rows: np.ndarray) -> None:
        """Take (N, D) more vectors."""
        if not len(rows):
            return
        rows = rows.astype(np.float64)
        mean = rows.mean(axis=0)
        delta, total = mean - self._mean, self.count + len(rows)
        self._squares += ((rows - mean) ** 2).sum(axis=0) + delta**2 * (self.count * len(rows) / total)
        self._mean += delta * (len(rows) / total)
        self._low, self._high = np.minimum(self._low, rows.min(axis=0)), np.maximum(self._high, rows.max(axis=0))
        self.count = total

    def result(self) -> Moments | None:
        """What was found; None if nothing was added."""
        if not self.count:
            return None
        return Moments(self.count, self._mean.copy(), np.sqrt(self._squares / self.count), self._low, self._high)


def compute_statistics(
    store: Store, episodes: Iterable[int] | None = None, progress: Callable[[int, int], None] | None = None
) -> Statistics:
    """Statistics over all frames of these episodes (numbers in the store; None for all). No image is decoded.

    Raises:
        StoreError: If there is no episode.
        DamagedEpisode: If a checksum is wrong.
    """
    numbers = list(range(len(store)) if episodes is None else episodes)
    if not numbers:
        raise StoreError(f"no statistics of no episodes: the store {store.path} has {len(store)}")
    state, action = Running(store.contract.state_size), Running(store.contract.action_size)
    for done, number in enumerate(numbers, 1):
        reader = store.reader(number)
        if reader.header.has_state:
            state.add(reader.array("state"))
        if reader.header.has_action:
            action.add(reader.array("action"))
        if progress is not None:
            progress(done, len(numbers))
    return Statistics(state.result(), action.result(), source_hash(store, numbers))


def source_hash(store: Store, episodes: Iterable[int]) -> str:
    """16 hex digits that name the contract and the contents of these episodes."""
    digests = store.index.sha256s
    contents = sorted(digests[number] for number in episodes)
    return hashlib.sha256(json.dumps([store.contract.hash, contents]).encode()).hexdigest()[:16]

"""Which window comes when: pure functions of seed and position, so that any step can be made without those before."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

_SLOTS = 1000


class EpochOrder:
    """An endless sequence of window numbers: every epoch is another permutation of all `count` windows."""

    def __init__(self, count: int, seed: Sequence[int]):
        self.count = count
        self._seed = seed
        self._permutation = lru_cache(maxsize=2)(self._make)

    def at(self, positions: np.ndarray) -> np.ndarray:
        """(N,) int64 positions in the endless sequence -> (N,) int64 window numbers in [0, count)."""
        epochs, within = np.divmod(positions, self.count)
        numbers = np.empty(len(positions), np.int64)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            numbers[chosen] = self._permutation(int(epoch))[within[chosen]]
        return numbers

    def _make(self, epoch: int) -> np.ndarray:
        dtype = np.uint32 if self.count < 2**32 else np.int64
        return np.random.default_rng([*self._seed, epoch]).permutation(np.arange(self.count, dtype=dtype))


class Mixture:
    """An endless sequence of part numbers in given proportions (rounded to a thousandth), evenly spread.

    Each part is drawn from in its own order: the n-th draw of a part takes position n of that part's sequence.

    Args:
        weights: One positive number per part.
    """

    def __init__(self, weights: Sequence[float]):
        shares = np.asarray(weights, np.float64) / np.sum(weights)
        ideal = np.arange(1, _SLOTS + 1)[:, None] * shares
        counts = np.zeros(len(shares))
        self._schedule = np.empty(_SLOTS, np.int64)
        for slot in range(_SLOTS):  # always the part that is furthest behind its share
            self._schedule[slot] = part = int(np.argmax(ideal[slot] - counts))
            counts[part] += 1
        one_hot = self._schedule[:, None] == np.arange(len(shares))
        self._before = np.concatenate([np.zeros((1, len(shares)), np.int64), np.cumsum(one_hot, axis=0)])

    def at(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(N,) positions -> (N,) part numbers, and (N,) positions in the sequences of those parts."""
        rounds, slots = np.divmod(positions, _SLOTS)
        parts = self._schedule[slots]
        return parts, rounds * self._before[-1][parts] + self._before[slots, parts]

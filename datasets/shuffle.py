"""Which window comes when: pure functions of seed and position, so that any step can be made without those before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np

_SLOTS = 1000
_TABLE_WINDOWS = 2**24
"""Up to so many windows a permutation is a table: 64 MB, made in a second. Beyond, it is computed."""
_ROUNDS = 6


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
            numbers[chosen] = self._permutation(int(epoch))(within[chosen])
        return numbers

    def _make(self, epoch: int) -> Callable[[np.ndarray], np.ndarray]:
        random = np.random.default_rng([*self._seed, epoch])
        if self.count > _TABLE_WINDOWS:
            return Scrambled(self.count, random)
        return random.permutation(np.arange(self.count, dtype=np.uint32)).__getitem__


class Scrambled:
    """A permutation of [0, count) that is computed: no memory, and the same short time for every number.

    A Feistel network over the next even number of bits; what leaves the range goes through it again ("cycle walking":
    J. Black, P. Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002).
    """

    def __init__(self, count: int, random: np.random.Generator):
        self._count = np.uint64(count)
        self._half = np.uint64(max(1, -(-(count - 1).bit_length() // 2)))
        self._keys = random.integers(0, 2**64, _ROUNDS, np.uint64)

    def __call__(self, numbers: np.ndarray) -> np.ndarray:
        """(N,) numbers in [0, count) -> (N,) int64, each number once."""
        out = self._once(numbers.astype(np.uint64))
        while (outside := out >= self._count).any():
            out[outside] = self._once(out[outside])
        return out.astype(np.int64)

    def _once(self, numbers: np.ndarray) -> np.ndarray:
        mask = (np.uint64(1) << self._half) - np.uint64(1)
        left, right = numbers >> self._half, numbers & mask
        for key in self._keys:
            left, right = right, left ^ (_mix(right ^ key) & mask)
        return (left << self._half) | right


def _mix(x: np.ndarray) -> np.ndarray:
    """(N,) uint64 -> (N,) uint64 in which every bit depends on all (the finaliser of SplitMix64, S. Vigna, CC0)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


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

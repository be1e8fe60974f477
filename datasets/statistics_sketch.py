"""Quantiles of a stream in bounded memory: counts per value, and when there are too many, per range of nearby values.

A float32's bits, read as an integer (with the sign turned around), are ordered like the values. The sketch counts them
exactly until more than `limit` different ones were seen; then it drops their lowest bits, one at a time, until they
fit. So ranges are narrow around zero and everywhere equally wide relative to the value, as in HdrHistogram (G. Tene)
and DDSketch (C. Masson, J. E. Rim, H. K. Lee, VLDB 2019), and the result depends neither on the order of the values nor
on how they were split and merged (up to the rounding of sums).
"""

from __future__ import annotations

import base64
import zlib
from typing import Any

import numpy as np

LIMIT = 8192
"""Ranges per sketch: at 20 bytes each, 160 kB."""
_SIGN = np.uint32(0x80000000)


class Sketch:
    """Counts of float32 values.

    Args:
        limit: The largest number of ranges.
    """

    def __init__(self, limit: int = LIMIT):
        self.limit = limit
        self.shift = 0
        """Low bits that are dropped; 0: every different value is counted by itself."""
        self._keys = np.zeros(0, np.uint32)
        self._counts = np.zeros(0)
        self._sums = np.zeros(0)

    @property
    def resolution(self) -> float:
        """Largest relative error of a quantile; 0.0 while all different values are counted by themselves."""
        return 2.0 ** (self.shift - 23) if self.shift else 0.0

    @property
    def total(self) -> float:
        """How many values were added (their weights, after a weighted merge)."""
        return float(self._counts.sum())

    def add(self, values: np.ndarray) -> None:
        """Take (N,) more values; they are rounded to float32."""
        plain = np.ascontiguousarray(values, np.float32) + np.float32(0.0)  # turns -0.0 to 0.0
        keys, at = np.unique(_ordered(plain) >> np.uint32(self.shift), return_inverse=True)
        counts = np.bincount(at, minlength=len(keys)).astype(np.float64)
        self._take(keys, counts, np.bincount(at, weights=plain.astype(np.float64), minlength=len(keys)))

    def merge(self, other: Sketch, weight: float = 1.0) -> None:
        """Take everything that `other` counted, each value `weight` times."""
        self.shift, old = max(self.shift, other.shift), self.shift
        self._regroup(self.shift - old)
        keys, counts, sums = _grouped(
            other._keys >> np.uint32(self.shift - other.shift), other._counts * weight, other._sums * weight
        )
        self._take(keys, counts, sums)

    def quantile(self, q: float) -> float:
        """The smallest value that a share of at least `q` does not exceed (NumPy's method "inverted_cdf").

        A range of several values is represented by their mean.
        """
        if not len(self._keys):
            raise ValueError("no quantile of no values")
        reached = np.cumsum(self._counts)
        place = int(np.searchsorted(reached, q * reached[-1] * (1.0 - 1e-12), side="left"))
        return float(self._sums[place] / self._counts[place])

    def mapped(self, scale: float, offset: float) -> Sketch:
        """The sketch of scale * value + offset for every value; a range moves with its mean."""
        made = Sketch(self.limit)
        if not len(self._keys):
            return made
        values = (self._sums / self._counts * scale + offset).astype(np.float32) + np.float32(0.0)
        made.shift = self.shift
        keys = _ordered(values) >> np.uint32(self.shift)
        made._take(*_grouped(keys, self._counts, values.astype(np.float64) * self._counts))
        return made

    def to_json(self) -> dict[str, Any]:
        """As JSON values; everything survives exactly."""
        arrays = (self._keys.astype("<u4"), self._counts.astype("<f8"), self._sums.astype("<f8"))
        packed = zlib.compress(b"".join(array.tobytes() for array in arrays), 6)
        return {"limit": self.limit, "shift": self.shift, "ranges": len(self._keys), "data": _text(packed)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Sketch:
        """Take what `to_json` gave.

        Raises:
            ValueError: If its parts do not fit each other.
        """
        sketch = cls(int(values["limit"]))
        sketch.shift, count = int(values["shift"]), int(values["ranges"])
        if not 0 <= sketch.shift <= 31 or not 0 <= count <= sketch.limit:
            raise ValueError(f"a sketch cannot have shift {sketch.shift} and {count} ranges")
        data = zlib.decompressobj().decompress(base64.b85decode(values["data"]), 20 * count + 1)
        if len(data) != 20 * count:
            raise ValueError(f"a sketch of {count} ranges needs {20 * count} bytes, found {len(data)}")
        sketch._keys = np.frombuffer(data, "<u4", count).astype(np.uint32)
        sketch._counts = np.frombuffer(data, "<f8", count, 4 * count).astype(np.float64)
        sketch._sums = np.frombuffer(data, "<f8", count, 12 * count).astype(np.float64)
        return sketch

    def _take(self, keys: np.ndarray, counts: np.ndarray, sums: np.ndarray) -> None:
        both = (np.concatenate(pair) for pair in ((self._keys, keys), (self._counts, counts), (self._sums, sums)))
        self._keys, self._counts, self._sums = _grouped(*both)
        while len(self._keys) > self.limit:
            self._regroup(1)
            self.shift += 1

    def _regroup(self, bits: int) -> None:
        if bits:
            self._keys, self._counts, self._sums = _grouped(self._keys >> np.uint32(bits), self._counts, self._sums)


def _ordered(values: np.ndarray) -> np.ndarray:
    """(N,) float32 -> (N,) uint32 that are ordered like the values."""
    bits = values.view(np.uint32)
    return np.where(bits & _SIGN, ~bits, bits | _SIGN)


def _grouped(keys: np.ndarray, counts: np.ndarray, sums: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same with every key once, in order."""
    unique, at = np.unique(keys, return_inverse=True)
    size = len(unique)
    return unique, np.bincount(at, counts, size), np.bincount(at, sums, size)


def _text(data: bytes) -> str:
    return base64.b85encode(data).decode("ascii")

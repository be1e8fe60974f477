"""Mean, spread, range and quantiles of state and action, with the hash of what they were computed from.

They are computed in one pass over any number of frames in bounded memory, and those of several stores can be pooled.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from foreact.datasets.layout import StoreError
from foreact.datasets.statistics_sketch import Sketch
from foreact.datasets.store import Store

QUANTILES = (0.01, 0.02, 0.1, 0.5, 0.9, 0.98, 0.99)
"""Written to files and shown in tables; `Moments.quantile` gives any other."""
_BUFFERED_ROWS = 65_536


@dataclass(frozen=True)
class Moments:
    """Statistics of N vectors, per component."""

    count: float
    """N; the sum of their weights, if they were pooled with weights."""
    mean: np.ndarray
    """(D,) float64."""
    std: np.ndarray
    """(D,) float64, the population's."""
    low: np.ndarray
    """(D,) float64 smallest value."""
    high: np.ndarray
    """(D,) float64 largest value."""
    sketches: tuple[Sketch, ...]
    """D counts of values, for quantiles."""

    def quantile(self, q: float) -> np.ndarray:
        """(D,) float64: the smallest values that a share of at least `q` does not exceed.

        Exact for components with at most 8192 different values, else within a relative error of `resolution`.
        """
        return np.clip([sketch.quantile(q) for sketch in self.sketches], self.low, self.high)

    @property
    def resolution(self) -> float:
        """Largest relative error of a quantile of any component."""
        return max((sketch.resolution for sketch in self.sketches), default=0.0)

    def pick(self, index: Sequence[int]) -> Moments:
        """Those of these components, in that order."""
        at = list(index)
        sketches = tuple(self.sketches[i] for i in at)
        return Moments(self.count, self.mean[at], self.std[at], self.low[at], self.high[at], sketches)

    def mapped(self, scale: np.ndarray, offset: np.ndarray) -> Moments:
        """Those of scale * value + offset, with scale (D,) > 0 and offset (D,)."""
        return Moments(
            self.count,
            self.mean * scale + offset,
            self.std * scale,
            self.low * scale + offset,
            self.high * scale + offset,
            tuple(s.mapped(float(a), float(b)) for s, a, b in zip(self.sketches, scale, offset, strict=True)),
        )

    def to_json(self) -> dict[str, Any]:
        """As JSON values; numbers survive exactly."""
        return {
            "count": self.count,
            **{key: getattr(self, key).tolist() for key in ("mean", "std", "low", "high")},
            "quantiles": {str(q): self.quantile(q).tolist() for q in QUANTILES},
            "sketches": [sketch.to_json() for sketch in self.sketches],
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Moments:
        """Take what `to_json` gave.

        Raises:
            KeyError, ValueError, TypeError: If it is something else.
        """
        parts = {key: np.array(values[key], np.float64) for key in ("mean", "std", "low", "high")}
        sketches = tuple(Sketch.from_json(sketch) for sketch in values["sketches"])
        if any(part.shape != (len(sketches),) for part in parts.values()):
            shapes = [part.shape for part in parts.values()]
            raise ValueError(f"statistics of {len(sketches)} components with arrays of {shapes}")
        return cls(count=values["count"], **parts, sketches=sketches)


@dataclass(frozen=True)
class Statistics:
    """Statistics of the episodes of a store, or of some of them."""

    state: Moments | None
    """None if no episode has states."""
    action: Moments | None
    source: str
    """16 hex digits that name the contract and the contents of the episodes, in any order, packed or not."""
    episodes: int
    frames: int
    """Of all episodes, those without state or action too."""

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "state": self.state and self.state.to_json(),
            "action": self.action and self.action.to_json(),
            **{key: getattr(self, key) for key in ("source", "episodes", "frames")},
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Statistics:
        """Take what `to_json` gave.

        Raises:
            KeyError, ValueError, TypeError: If it is something else.
        """
        parts = (Moments.from_json(values[key]) if values[key] else None for key in ("state", "action"))
        return cls(*parts, source=values["source"], episodes=values["episodes"], frames=values["frames"])


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
        self._sketches = [Sketch() for _ in range(size)]
        self._waiting: list[np.ndarray] = []

    def add(self, rows: np.ndarray) -> None:
        """Take (N, D) more vectors."""
        if not len(rows):
            return
        self._waiting.append(rows)
        if sum(map(len, self._waiting)) >= _BUFFERED_ROWS:
            self._sketch()
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
        self._sketch()
        std = np.sqrt(self._squares / self.count)
        return Moments(self.count, self._mean.copy(), std, self._low, self._high, tuple(self._sketches))

    def _sketch(self) -> None:
        if self._waiting:
            columns = np.concatenate(self._waiting).T
            self._waiting = []
            for sketch, column in zip(self._sketches, columns, strict=True):
                sketch.add(column)


def pool(parts: Sequence[Moments], weights: Sequence[float] | None = None) -> Moments:
    """The statistics of all vectors together (Chan et al., see `Running`).

    Args:
        parts: Statistics of the same D components, at least one.
        weights: What all vectors of a part weigh together; by default their number.
    """
    weight = np.array([part.count for part in parts] if weights is None else weights, np.float64)
    share = weight / weight.sum()
    mean = np.sum([s * part.mean for s, part in zip(share, parts, strict=True)], axis=0)
    variance = np.sum([s * (part.std**2 + (part.mean - mean) ** 2) for s, part in zip(share, parts, strict=True)], 0)
    sketches = []
    for column in range(len(mean)):
        sketches.append(Sketch())
        for part, total in zip(parts, weight, strict=True):
            sketches[-1].merge(part.sketches[column], float(total / part.count))
    return Moments(
        float(weight.sum()) if weights is not None else int(weight.sum()),
        mean,
        np.sqrt(variance),
        np.min([part.low for part in parts], axis=0),
        np.max([part.high for part in parts], axis=0),
        tuple(sketches),
    )


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
    frames = int(store.index.lengths[numbers].sum())
    return Statistics(state.result(), action.result(), source_hash(store, numbers), len(numbers), frames)


def compute_pixels(
    store: Store, frames: int, episodes: Iterable[int] | None = None
) -> dict[str, dict[str, list[float] | int]]:
    """Mean and standard deviation per colour channel (red, green, blue; pixels in [0, 1]) of a sample of frames.

    Args:
        store: Where they are read from.
        frames: Decode about so many per camera, evenly spread over the episodes; all, if there are fewer.
        episodes: Their numbers; None for all.

    Returns:
        camera -> {"frames": how many, "mean": [3], "std": [3]}.
    """
    numbers = np.array(list(range(len(store)) if episodes is None else episodes), np.int64)
    ends = np.cumsum(store.index.lengths[numbers])
    total = int(ends[-1]) if len(ends) else 0
    chosen = np.unique(np.linspace(0, max(total - 1, 0), min(frames, total)).astype(np.int64))
    sums = {camera.name: [0, np.zeros(3), np.zeros(3)] for camera in store.contract.cameras}
    at = np.searchsorted(ends, chosen, side="right")
    for row in np.unique(at):
        reader = store.reader(int(numbers[row]))
        within = chosen[at == row] - (ends[row] - store.index.lengths[numbers[row]])
        for camera in reader.header.cameras:
            pixels = reader.images(camera, within).reshape(-1, 3) / 255.0
            sums[camera][0] += len(pixels)
            sums[camera][1] += pixels.sum(axis=0)
            sums[camera][2] += (pixels**2).sum(axis=0)
    found: dict[str, dict[str, list[float] | int]] = {}
    for camera in store.contract.cameras:
        count, total_1, total_2 = sums[camera.name]
        if count:
            mean = total_1 / count
            std = np.sqrt(np.maximum(total_2 / count - mean**2, 0.0))
            seen = count // (camera.height * camera.width)
            found[camera.name] = {"frames": int(seen), "mean": mean.tolist(), "std": std.tolist()}
    return found


def source_hash(store: Store, episodes: Iterable[int]) -> str:
    """16 hex digits that name the contract and the contents of these episodes."""
    digests = store.index.sha256s
    contents = sorted(digests[number] for number in episodes)
    return hashlib.sha256(json.dumps([store.contract.hash, contents]).encode()).hexdigest()[:16]

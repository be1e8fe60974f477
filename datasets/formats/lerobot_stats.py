"""Statistics as LeRobot keeps them: min, max, mean, std, count and five quantiles, per episode and for the whole.

Pictures are sampled (about T ** 0.75 of T frames, every k-th pixel of large ones) and scaled to 0..1, one value per
colour. A quantile of an episode is the smallest value that so many values do not exceed; LeRobot takes it from a
histogram of 5000 bins, which differs by at most one bin. A quantile of the whole is the mean of those of the episodes,
weighted by their counts, as in LeRobot 0.6.1: it is not the quantile of all frames together.

Source of the definitions: LeRobot (huggingface/lerobot, Apache-2.0), `src/lerobot/datasets/compute_stats.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}

Stats = dict[str, np.ndarray]


def vector_stats(values: np.ndarray) -> Stats:
    """Statistics of (T, ...) numbers, over T; one number per frame gives arrays of shape (1,)."""
    rows = np.sort(values.reshape(len(values), -1).astype(np.float64), axis=0)
    return {
        "min": rows[0],
        "max": rows[-1],
        "mean": rows.mean(axis=0),
        "std": rows.std(axis=0),
        "count": np.array([len(rows)]),
        **{key: rows[_rank(q, len(rows))] for key, q in QUANTILES.items()},
    }


def picture_stats(frames: np.ndarray) -> Stats:
    """Statistics of (T, H, W, 3) uint8 frames, each of shape (3, 1, 1)."""
    chosen = _sampled(len(frames))
    step = _stride(*frames.shape[1:3])
    counts = np.zeros((3, 256), np.int64)
    for t in chosen:
        small = frames[t, ::step, ::step]
        counts += np.stack([np.bincount(small[..., c].ravel(), minlength=256) for c in range(3)])
    levels = np.arange(256) / 255.0
    total = counts.sum(axis=1)
    mean = counts @ levels / total
    upto = counts.cumsum(axis=1)
    quantiles = {key: levels[(upto > _rank(q, int(total[0]))).argmax(axis=1)] for key, q in QUANTILES.items()}
    found = {
        "min": levels[(counts > 0).argmax(axis=1)],
        "max": levels[255 - (counts[:, ::-1] > 0).argmax(axis=1)],
        "mean": mean,
        "std": np.sqrt(np.einsum("cl,cl->c", counts, (levels - mean[:, None]) ** 2) / total),
        **quantiles,
    }
    return {key: value.reshape(3, 1, 1) for key, value in found.items()} | {"count": np.array([len(chosen)])}


def merge_stats(episodes: Iterable[dict[str, Stats]]) -> dict[str, Stats]:
    """Statistics of a dataset from those of its episodes; every one has the same features."""
    total: dict[str, Stats] = {}
    for episode in episodes:
        for key, new in episode.items():
            total[key] = _merged(total[key], new) if key in total else new
    return total


def _merged(a: Stats, b: Stats) -> Stats:
    n_a, n_b = float(a["count"][0]), float(b["count"][0])
    n = n_a + n_b
    mean = (a["mean"] * n_a + b["mean"] * n_b) / n
    variance = ((a["std"] ** 2 + (a["mean"] - mean) ** 2) * n_a + (b["std"] ** 2 + (b["mean"] - mean) ** 2) * n_b) / n
    return {
        "min": np.minimum(a["min"], b["min"]),
        "max": np.maximum(a["max"], b["max"]),
        "mean": mean,
        "std": np.sqrt(variance),
        "count": a["count"] + b["count"],
        **{key: (a[key] * n_a + b[key] * n_b) / n for key in QUANTILES},
    }


def to_lists(stats: dict[str, Stats]) -> dict[str, Any]:
    """As JSON values."""
    return {key: {name: value.tolist() for name, value in part.items()} for key, part in stats.items()}


def from_lists(stats: dict[str, Any]) -> dict[str, Stats]:
    """Take what `to_lists` gave."""
    return {key: {name: np.array(value) for name, value in part.items()} for key, part in stats.items()}


def _rank(quantile: float, count: int) -> int:
    """Position in ascending order of the smallest value that a share of `quantile` does not exceed."""
    return max(0, int(np.ceil(quantile * count - 1e-9)) - 1)


def _sampled(length: int) -> np.ndarray:
    samples = max(min(100, length), min(int(length**0.75), 10_000))
    return np.round(np.linspace(0, length - 1, samples)).astype(int)


def _stride(height: int, width: int) -> int:
    if max(height, width) < 300:
        return 1
    return int(width / 150) if width > height else int(height / 150)

"""Statistics against numpy on all values at once, and against those that LeRobot stored for the same pictures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from foreact.datasets.formats.lerobot_stats import QUANTILES, merge_stats, picture_stats, vector_stats
from foreact.datasets.formats.lerobot_v3 import LeRobotV3Source


@pytest.mark.parametrize("shape", [(1,), (1, 3), (2, 1), (57, 4)])
def test_vectors_agree_with_numpy(shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    stats = vector_stats(values)
    rows = values.reshape(len(values), -1).astype(np.float64)
    np.testing.assert_array_equal(stats["min"], rows.min(0))
    np.testing.assert_array_equal(stats["max"], rows.max(0))
    np.testing.assert_allclose(stats["mean"], rows.mean(0), atol=1e-12)
    np.testing.assert_allclose(stats["std"], rows.std(0), atol=1e-12)
    assert stats["count"].tolist() == [len(values)]
    for key, q in QUANTILES.items():
        np.testing.assert_array_equal(stats[key], np.quantile(rows, q, axis=0, method="inverted_cdf"))


@pytest.mark.parametrize("size, step", [((20, 30), 1), ((300, 200), 2), ((240, 640), 4)])
def test_pictures_agree_with_numpy(size: tuple[int, int], step: int) -> None:
    frames = np.random.default_rng(1).integers(0, 256, (3, *size, 3), dtype=np.uint8)
    stats = picture_stats(frames)
    pixels = frames[:, ::step, ::step].reshape(-1, 3) / 255.0
    for key, value in (
        ("min", pixels.min(0)),
        ("max", pixels.max(0)),
        ("mean", pixels.mean(0)),
        ("std", pixels.std(0)),
    ):
        np.testing.assert_allclose(stats[key], value.reshape(3, 1, 1), atol=1e-12)
    for key, q in QUANTILES.items():
        expected = np.quantile(pixels, q, axis=0, method="inverted_cdf")
        np.testing.assert_allclose(stats[key], expected.reshape(3, 1, 1), atol=1e-12)


def test_long_episodes_are_sampled() -> None:
    frames = np.zeros((1000, 2, 2, 3), np.uint8)
    assert picture_stats(frames)["count"].tolist() == [177]  # as LeRobot's documentation says of 1000 frames


def test_merging_gives_the_moments_of_all_values() -> None:
    parts = [np.random.default_rng(n).normal(n, 1 + n, (5 + 7 * n, 3)) for n in range(4)]
    total = merge_stats({"x": vector_stats(part)} for part in parts)["x"]
    whole = np.concatenate(parts)
    np.testing.assert_allclose(total["mean"], whole.mean(0), atol=1e-12)
    np.testing.assert_allclose(total["std"], whole.std(0), atol=1e-12)
    np.testing.assert_array_equal(total["min"], whole.min(0))
    assert total["count"].tolist() == [len(whole)]


def test_agrees_with_what_lerobot_stored() -> None:
    root = Path(__file__).parent / "fixtures/lerobot/v30_image"
    source = LeRobotV3Source(root)
    stored = json.loads((root / "meta/stats.json").read_text())
    episodes = [source.read(name) for name in source.names()]
    ours = merge_stats(
        {
            "observation.images.front": picture_stats(e.images["front"]),
            "observation.state": vector_stats(e.state),  # pyright: ignore[reportArgumentType]
            "next.reward": vector_stats(e.extras["next.reward"]),
        }
        for e in episodes
    )
    for key, stats in ours.items():
        span = np.array(stored[key]["max"]) - np.array(stored[key]["min"])
        for name, value in stats.items():
            theirs = np.array(stored[key][name])
            assert theirs.shape == value.shape
            # LeRobot adds up all pixels in float32; its quantiles are off by up to a bin of 1/5000 of each episode's
            # range, or by a level where only whole levels occur.
            slack = 1e-3 if name in ("min", "max", "mean", "std", "count") else 1 / 255 if "images" in key else 5e-4
            assert (np.abs(theirs - value) <= slack * span + 1e-6).all(), (key, name)

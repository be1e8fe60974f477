"""Statistics against NumPy over everything at once."""

from __future__ import annotations

import json

import numpy as np
import pytest

from foreact.datasets.layout import StoreError
from foreact.datasets.packing import pack_store
from foreact.datasets.statistics import Running, Statistics, compute_statistics
from foreact.datasets.store import Store


def test_they_are_those_of_all_rows(store: Store) -> None:
    found = compute_statistics(store)
    states = np.concatenate([s for i in range(5) if (s := store.read(i).state) is not None]).astype(np.float64)
    assert found.state is not None and found.state.count == len(states) == 25
    np.testing.assert_allclose(found.state.mean, states.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.state.std, states.std(0), rtol=1e-12)
    np.testing.assert_array_equal(found.state.low, states.min(0))
    np.testing.assert_array_equal(found.state.high, states.max(0))
    again = Statistics.from_json(json.loads(json.dumps(found.to_json())))
    assert again.to_json() == found.to_json() and again.action is not None
    np.testing.assert_array_equal(again.action.mean, found.action.mean)  # pyright: ignore


def test_a_far_away_mean_does_not_swallow_the_spread() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(1e6, 1e-3, (100_000, 2))
    running = Running(2)
    for part in np.array_split(rows, 317):
        running.add(part)
    running.add(rows[:0])
    result = running.result()
    assert result is not None and result.count == 100_000
    np.testing.assert_allclose(result.std, rows.std(0), rtol=1e-6)


def test_the_source_names_the_contents_and_not_the_place(store: Store) -> None:
    whole, part = compute_statistics(store), compute_statistics(store, [0, 1])
    assert whole.source != part.source
    assert compute_statistics(store, [1, 0]).source == part.source
    pack_store(store.path)
    assert compute_statistics(Store.open(store.path)).source == whole.source


def test_video_has_none_and_nothing_has_no_statistics(store: Store) -> None:
    video = compute_statistics(store, [2])
    assert video.state is None and video.action is None
    assert Statistics.from_json(video.to_json()) == video
    with pytest.raises(StoreError, match="no statistics of no episodes"):
        compute_statistics(store, [])

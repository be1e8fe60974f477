"""Quantiles in bounded memory against NumPy, and that order, splits and merges do not matter."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foreact.datasets.statistics_sketch import LIMIT, Sketch

QS = (0.0, 0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999, 1.0)


def sketch_of(values: np.ndarray, pieces: int = 7) -> Sketch:
    sketch = Sketch()
    for part in np.array_split(values, pieces):
        sketch.add(part)
    return sketch


def exact(values: np.ndarray, q: float) -> float:
    return float(np.quantile(values.astype(np.float32), q, method="inverted_cdf"))


MILLION = np.random.default_rng(0).normal(size=1_000_000)


@pytest.mark.parametrize(
    ("values", "error"),
    [
        (MILLION, 2.0**-8),
        (np.exp(3 * MILLION), 2.0**-8),
        (2.0 + 0.001 * MILLION, 2.0**-19),
        (np.round(MILLION * 100), 0.0),
        (np.sign(MILLION), 0.0),
    ],
    ids=["normal", "lognormal", "far from zero", "integers", "two values"],
)
def test_a_million_values_within_the_error_it_names(values: np.ndarray, error: float) -> None:
    sketch = sketch_of(values)
    assert sketch.total == 1_000_000 and sketch.resolution <= error
    for q in QS:
        truth = exact(values, q)
        assert abs(sketch.quantile(q) - truth) <= sketch.resolution * abs(truth) + 1e-30
    assert len(json.dumps(sketch.to_json())) < 30 * LIMIT


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=300), st.integers(1, 9), st.floats(0, 1))
def test_few_values_are_exact(values: list[float], pieces: int, q: float) -> None:
    numbers = np.array(values, np.float32)
    expected = np.sort(numbers)[max(0, int(np.ceil(q * len(numbers) * (1 - 1e-12))) - 1)]
    assert sketch_of(numbers, pieces).quantile(q) == pytest.approx(float(expected), rel=1e-12)


def test_order_and_splits_do_not_matter() -> None:
    values = MILLION[:100_000]
    one, other = sketch_of(values, 3), Sketch()
    parts = [sketch_of(part, 2) for part in np.array_split(np.random.default_rng(1).permutation(values), 5)]
    for part in parts:
        other.merge(part)
    assert one.shift == other.shift > 0
    for q in QS:
        assert one.quantile(q) == pytest.approx(other.quantile(q), rel=1e-12)


def test_weights_count_values_several_times() -> None:
    a, b = np.array([1.0, 2.0]), np.array([10.0])
    sketch = sketch_of(a, 1)
    sketch.merge(sketch_of(b, 1), weight=6.0)
    assert [sketch.quantile(q) for q in (0.1, 0.2, 0.3)] == [1.0, 2.0, 10.0]


def test_a_map_moves_every_quantile() -> None:
    found = sketch_of(MILLION[:50_000]).mapped(0.5, 3.0)
    for q in (0.01, 0.5, 0.99):
        assert found.quantile(q) == pytest.approx(exact(0.5 * MILLION[:50_000] + 3.0, q), rel=2.0**-7)


def test_it_survives_a_file_exactly_and_refuses_what_it_did_not_write() -> None:
    sketch = sketch_of(MILLION[:30_000])
    values = json.loads(json.dumps(sketch.to_json()))
    again = Sketch.from_json(values)
    assert [again.quantile(q) for q in QS] == [sketch.quantile(q) for q in QS]
    assert again.to_json() == sketch.to_json()
    for wrong in ({"ranges": 10**9}, {"shift": 40}, {"ranges": 3}):
        with pytest.raises(ValueError, match="sketch"):
            Sketch.from_json({**values, **wrong})
    with pytest.raises(ValueError, match="no quantile of no values"):
        Sketch().quantile(0.5)

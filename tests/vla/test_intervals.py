"""Intervals against published values, exact enumeration and simulated coverage."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from foreact.vla.intervals import bootstrap_mean, bootstrap_ratio, clustered_wilson, wilson


# Newcombe, "Two-sided confidence intervals for the single proportion", Statistics in Medicine 17, 1998, table I.
@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_gives_published_values(successes: int, n: int, low: float, high: float) -> None:
    assert wilson(successes, n) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_solves_the_score_equation_and_mirrors(pair: tuple[int, int]) -> None:
    k, n = pair
    low, high = wilson(k, n)
    assert 0 <= low <= k / n <= high <= 1
    assert wilson(n - k, n) == pytest.approx((1 - high, 1 - low), abs=1e-12)
    for bound in (low, high):  # |observed - bound| is exactly z standard errors, taken at the bound
        if 0 < bound < 1:
            assert abs(k / n - bound) == pytest.approx(1.959964 * (bound * (1 - bound) / n) ** 0.5, rel=1e-5)


def test_wilson_covers_the_true_rate_about_as_often_as_it_says() -> None:
    n = 50
    for rate in (0.1, 0.3, 0.5, 0.8):
        covered = sum(binom.pmf(k, n, rate) for k in range(n + 1) if wilson(k, n)[0] <= rate <= wilson(k, n)[1])
        assert 0.92 < covered < 0.985


def test_wilson_without_trials_knows_nothing_and_bad_counts_are_refused() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    with pytest.raises(ValueError, match="5 of 4"):
        wilson(5, 4)
    with pytest.raises(ValueError, match="confidence"):
        wilson(1, 4, confidence=95)


def test_repeating_every_trial_does_not_narrow_the_clustered_interval() -> None:
    rng = np.random.default_rng(1)
    outcomes = (rng.random(60) < 0.4).tolist()
    alone = clustered_wilson([[o] for o in outcomes])
    doubled = clustered_wilson([[o, o] for o in outcomes])
    # The exact design effect of doubling is 2; the estimate differs from it by 60/59.
    assert doubled == pytest.approx(alone, abs=2e-3)
    assert alone == pytest.approx(wilson(sum(outcomes), 60), abs=2e-3)
    naive = wilson(2 * sum(outcomes), 120)
    assert doubled[1] - doubled[0] > 1.3 * (naive[1] - naive[0])


def test_clusters_that_balance_inside_are_not_credited_with_more_trials_than_they_have() -> None:
    assert clustered_wilson([[True, False]] * 10) == wilson(10, 20)
    assert clustered_wilson([[], [False, False]]) == wilson(0, 1)


def test_bootstrap_mean_matches_the_enumeration_of_all_resamples() -> None:
    values = np.array([0.0, 1.0, 1.0, 2.0, 5.0])
    means = [np.mean(pick) for pick in itertools.product(values, repeat=len(values))]
    low, high = bootstrap_mean(values, seed=3, draws=40_000)
    assert (low, high) == pytest.approx(tuple(np.quantile(means, (0.025, 0.975))), abs=0.11)  # means step by 0.2


def test_bootstrap_of_many_values_agrees_with_the_normal_interval() -> None:
    values = np.random.default_rng(0).integers(0, 6, size=1000)
    low, high = bootstrap_mean(values)
    half = 1.96 * values.std() / 1000**0.5
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.01)
    assert bootstrap_mean(values) == (low, high)  # same seed, same interval


def test_bootstrap_ratio_of_proportional_units_is_exact_and_empty_input_is_refused() -> None:
    weights = np.array([1.0, 10.0, 100.0])
    assert bootstrap_ratio(0.25 * weights, weights) == pytest.approx((0.25, 0.25))
    with pytest.raises(ValueError, match="at least one"):
        bootstrap_mean([])
    with pytest.raises(ValueError, match="sum to zero"):
        bootstrap_ratio([1.0], [0.0])

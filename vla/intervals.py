"""Intervals on every number: how sure a benchmark can be of a rate, a mean or a ratio.

All functions are deterministic; the bootstraps take a seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

Interval = tuple[float, float]

_DRAWS = 10_000
_DRAWS_AT_ONCE = 4_000_000
"""Bootstrap indices held in memory at a time."""


def _z(confidence: float) -> float:
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must lie in (0, 1), found {confidence}")
    return NormalDist().inv_cdf(0.5 + confidence / 2)


def wilson(successes: float, n: float, confidence: float = 0.95) -> Interval:
    """Wilson score interval of a rate; valid also at 0 of n and n of n. With n = 0 it is (0, 1).

    Args:
        successes: Number of successes, 0 to n; fractions are allowed for effective sample sizes.
        n: Number of independent trials.
        confidence: Coverage, such as 0.95.

    Raises:
        ValueError: If successes are not within 0..n.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22, 1927.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"successes must lie in 0..n, found {successes} of {n}")
    z = _z(confidence)
    if n == 0:
        return 0.0, 1.0
    rate = successes / n
    shrink = 1.0 + z * z / n
    centre = (rate + z * z / (2 * n)) / shrink
    half = z / shrink * (rate * (1 - rate) / n + z * z / (4 * n * n)) ** 0.5
    return (0.0 if successes == 0 else max(0.0, centre - half)), (1.0 if successes == n else min(1.0, centre + half))


def clustered_wilson(clusters: Sequence[Sequence[bool]], confidence: float = 0.95) -> Interval:
    """Wilson interval of the pooled rate when trials come in clusters that share something.

    Rollouts from one start share that start, so they tell less than as many independent ones. The number of
    trials is divided by the design effect (variance of the ratio estimator over clusters, divided by that of
    independent trials), never by less than 1, and the Wilson interval is taken with what remains. At 0 of n and n of
    n that variance is 0 and says nothing; each cluster then counts as one trial.

    Args:
        clusters: Outcomes, grouped; empty groups are ignored.
        confidence: Coverage, such as 0.95.

    Source: E. L. Korn and B. I. Graubard, "Confidence intervals for proportions with small expected number of
    positive counts estimated from survey data", Survey Methodology 24, 1998.
    """
    groups = [group for group in clusters if len(group)]
    n = sum(len(group) for group in groups)
    successes = sum(sum(map(bool, group)) for group in groups)
    # Where all went alike nothing is seen of what a group shares: then each group counts once.
    effect = n / len(groups) if groups else 1.0
    if len(groups) > 1 and 0 < successes < n:
        rate = successes / n
        residuals = [sum(map(bool, group)) - rate * len(group) for group in groups]
        variance = len(groups) / (len(groups) - 1) * sum(r * r for r in residuals) / n**2
        effect = max(1.0, variance / (rate * (1 - rate) / n))
    return wilson(successes / effect, n / effect, confidence)


def bootstrap_mean(values: ArrayLike, *, seed: int = 0, confidence: float = 0.95, draws: int = _DRAWS) -> Interval:
    """Percentile bootstrap interval of the mean of independent values (such as tasks solved per chain), shape (N,).

    Raises:
        ValueError: If there are no values.

    Source: B. Efron, "Bootstrap methods: another look at the jackknife", Annals of Statistics 7, 1979.
    """
    values = np.asarray(values, dtype=np.float64)
    return bootstrap_ratio(values, np.ones_like(values), seed=seed, confidence=confidence, draws=draws)


def bootstrap_ratio(
    numerators: ArrayLike,
    denominators: ArrayLike,
    *,
    seed: int = 0,
    confidence: float = 0.95,
    draws: int = _DRAWS,
) -> Interval:
    """Percentile bootstrap interval of sum(numerators) / sum(denominators) over independent units, shapes (N,).

    Raises:
        ValueError: If there are no units, the shapes differ, or the denominators sum to zero.
    """
    above, below = np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)
    if above.ndim != 1 or above.shape != below.shape or not len(above):
        raise ValueError(f"expected two equally long lists of at least one number, found {above.shape}, {below.shape}")
    if below.sum() <= 0:
        raise ValueError("the denominators sum to zero")
    tail = (1 - confidence) / 2
    _z(confidence)
    rng = np.random.default_rng(seed)
    ratios = []
    left = draws
    while left > 0:
        rows = max(1, min(left, _DRAWS_AT_ONCE // len(above)))
        picks = rng.integers(len(above), size=(rows, len(above)))
        total = below[picks].sum(axis=1)
        usable = total > 0
        ratios.append(above[picks].sum(axis=1)[usable] / total[usable])
        left -= rows
    low, high = np.quantile(np.concatenate(ratios), (tail, 1 - tail))
    return float(low), float(high)

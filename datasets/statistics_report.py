"""Statistics as rows of a table, one per component, and what in them looks wrong."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from foreact.datasets.statistics import QUANTILES, Moments
from foreact.vla.contract import Field

FAR = 20.0
"""Extremes so many times further from the median than the quantiles 0.01 and 0.99 are suspicious."""
BEYOND = 0.1
"""Values may leave the contract's bounds by this share of their range: contacts and controllers overshoot a little."""
SMALL_STD = 1e-3
"""Policies that divide by the standard deviation use at least this (`foreact.policies.gr1.state`)."""


@dataclass(frozen=True)
class Row:
    """One component."""

    key: str
    """"state" or "action"."""
    field: Field
    component: int
    """Its place in the field."""
    mean: float
    std: float
    low: float
    high: float
    quantiles: dict[str, float]
    """Such as {"0.01": -0.9, ...}."""
    warnings: list[str]

    @property
    def name(self) -> str:
        """Such as "tcp_position[2]"."""
        return f"{self.field.name}[{self.component}]" if self.field.size > 1 else self.field.name


def rows(key: str, fields: Sequence[Field], moments: Moments | None) -> list[Row]:
    """One row per component of these fields; none without statistics."""
    if moments is None:
        return []
    at = [(field, component) for field in fields for component in range(field.size)]
    quantiles = {str(q): moments.quantile(q) for q in QUANTILES}
    found = []
    for i, (field, component) in enumerate(at):
        mean, std, low, high = (float(part[i]) for part in (moments.mean, moments.std, moments.low, moments.high))
        of_row = {q: float(values[i]) for q, values in quantiles.items()}
        said = _warnings(field, std, low, high, of_row)
        found.append(Row(key, field, component, mean, std, low, high, of_row, said))
    return found


def _warnings(field: Field, std: float, low: float, high: float, quantiles: dict[str, float]) -> list[str]:
    if low == high:
        return [f"constant: always {low:g}"]
    found = []
    first, median, last = quantiles["0.01"], quantiles["0.5"], quantiles["0.99"]
    for what, end, usual in (("smallest", low, median - first), ("largest", high, last - median)):
        reach = max(usual, 0.05 * (last - first))
        if reach > 0 and abs(end - median) > FAR * reach:
            found.append(f"the {what} value {end:g} is {abs(end - median) / reach:.0f} times as far out as 98% are")
    if first == last:
        found.append(f"98% of the values are {median:g}, yet some reach {low:g} to {high:g}")
    if std < SMALL_STD and field.unit != "1":
        found.append(f"spread of {std:.2g} {field.unit} only; is it really in {field.unit}?")
    slack = BEYOND * (high - low)
    if field.low is not None and low < field.low - slack or field.high is not None and high > field.high + slack:
        found.append(f"values from {low:g} to {high:g} leave the contract's bounds, {field.low} to {field.high}")
    if field.rotation == "euler_xyz" and high - low > 1.9 * math.pi:
        found.append("an angle that wraps around: its mean and spread say little (policies take sine and cosine)")
    if field.unit == "rad" and max(abs(low), abs(high)) > 4.0 * math.pi:
        found.append(f"angles up to {max(abs(low), abs(high)):.0f} rad; are they in degrees?")
    return found

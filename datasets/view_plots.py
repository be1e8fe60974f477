"""Curves of state and action as points of small SVG pictures; the page's template draws them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from foreact.datasets.lint_base import parts
from foreact.vla.contract import Contract, Field

WIDTH, HEIGHT = 400.0, 70.0
_MOST_POINTS = 300


@dataclass(frozen=True)
class Plot:
    """The curves of one field."""

    kind: str
    """"state" or "action"."""
    name: str
    unit: str
    low: float
    high: float
    curves: list[str]
    """Per component the points of a polyline in a picture of WIDTH x HEIGHT."""


def plots(contract: Contract, state: np.ndarray | None, action: np.ndarray | None) -> Iterator[Plot]:
    """A plot per field, of (T, S) states and (T, A) actions."""
    for kind, fields, values in (("state", contract.state, state), ("action", contract.action, action)):
        if values is not None:
            for part, at in parts(fields):
                yield _plot(kind, part, values[:, at].astype(np.float64))


def _plot(kind: str, part: Field, values: np.ndarray) -> Plot:
    low, high = float(values.min()), float(values.max())
    span = high - low or 1.0
    curves = []
    for column in values.T:
        frames = _frames(column)
        x = frames * (WIDTH / max(1, len(column) - 1))
        y = HEIGHT - 3 - (column[frames] - low) / span * (HEIGHT - 6)
        curves.append(" ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True)))
    frame = f", {part.frame}" if part.frame else ""
    return Plot(kind, part.name, part.unit + frame, low, high, curves)


def _frames(column: np.ndarray) -> np.ndarray:
    """Which frames to draw: all, or of each of many stretches the lowest and the highest, so that no peak is lost."""
    if len(column) <= _MOST_POINTS:
        return np.arange(len(column))
    edges = np.linspace(0, len(column), _MOST_POINTS // 2 + 1).astype(int)
    found = {0, len(column) - 1}
    for a, b in zip(edges[:-1], edges[1:], strict=True):
        found |= {a + int(column[a:b].argmin()), a + int(column[a:b].argmax())}
    return np.array(sorted(found))

"""The numbers of a mixture: one set of statistics over its stores, and stores brought to the spread of another.

`normalise: own` maps a store's numbers affinely, component by component, to the spread of the reference (the first
store with actions), so that one set of statistics serves all:

    state:   x' = (x - mean) * std_ref / std + mean_ref
    action:  x' = (x - q01) * (q99_ref - q01_ref) / (q99 - q01) + q01_ref       (the 1% and 99% quantiles)

Left as they are: rotations of the state, grippers, and fields that the contract bounds to [-1, 1]. Where either side
spreads by less than 1e-6, only the centre moves. For a store at another rate, increments are counted as they will be
read: times the frames that a tick lasts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from foreact.datasets.mixture_fit import MISSING, Affine, Fit
from foreact.datasets.statistics import Moments, Statistics, pool
from foreact.vla.contract import Contract, Field
from foreact.vla.errors import ConfigError

_LEAST = 1e-6


@dataclass(frozen=True)
class Numbers:
    """What a mixture knows of its state and actions, in the policy's order."""

    fits: list[Fit]
    """The given ones, with their maps and fillings."""
    state: Moments | None
    """Of all stores, each with its weight; None if the policy takes no state."""
    action: Moments | None

    def for_policy(self) -> dict[str, dict[str, list[float]]]:
        """What goes into a checkpoint: mean, std and the quantiles 0.01 and 0.99 of "state" and "action"."""
        return {
            key: {
                "mean": found.mean.tolist(),
                "std": found.std.tolist(),
                "q01": found.quantile(0.01).tolist(),
                "q99": found.quantile(0.99).tolist(),
            }  # fmt: skip
            for key, found in (("state", self.state), ("action", self.action))
            if found is not None
        }


def mix_numbers(
    contract: Contract, fits: Sequence[Fit], statistics: Sequence[Statistics], shares: Sequence[float], reference: int
) -> Numbers:
    """Combine the statistics of the stores of a mixture.

    Args:
        contract: What the policy requires.
        fits: How each store fits it.
        statistics: Of the training episodes of each store, as stored.
        shares: Proportion of each store's windows in the mixture.
        reference: Number of the store whose spread `normalise: own` maps to.

    Raises:
        ConfigError: If no store has a field that the policy requires.
    """
    made = [list(_as_read(fit, found)) for fit, found in zip(fits, statistics, strict=True)]
    maps: list[list[Affine | None]] = [[None, None] for _ in fits]
    for number, fit in enumerate(fits):
        if fit.part.normalise == "own" and number != reference:
            for side, (kind, fields) in enumerate((("state", contract.state), ("action", contract.action))):
                own, other = made[number][side], made[reference][side]
                if own is not None and other is not None:
                    index = fits[reference].state_index if kind == "state" else fits[reference].action_index
                    affine = _map(kind, fields, own, other, np.array(index) == MISSING)
                    maps[number][side] = affine
                    made[number][side] = own.mapped(affine.scale, affine.offset)
    # What a store adds to the mixture's statistics: its share of windows, of which only some may have a state.
    pooled = []
    for side, (kind, fields) in enumerate((("state", contract.state), ("action", contract.action))):
        weights = [
            share * own.count / stats.frames if (own := found[side]) is not None else 0.0
            for share, found, stats in zip(shares, made, statistics, strict=True)
        ]
        indices = [fit.state_index if kind == "state" else fit.action_index for fit in fits]
        pooled.append(_pool(kind, fields, [found[side] for found in made], indices, weights))
    state, action = pooled
    fill = state.mean.astype(np.float32) if state is not None else None
    filled = [replace(fit, state_map=a, action_map=b, state_fill=fill) for fit, (a, b) in zip(fits, maps, strict=True)]
    return Numbers(filled, state, action)


def _as_read(fit: Fit, found: Statistics) -> tuple[Moments | None, Moments | None]:
    """Statistics in the policy's order (a MISSING component is any other, not to be looked at), at the read rate."""
    state = found.state and _pick(found.state, fit.state_index)
    action = found.action and _pick(found.action, fit.action_index)
    if action is not None and not fit.pace.same:
        frames = fit.pace.frames / fit.pace.ticks
        scale = np.array([frames if how == "sum" else 1.0 for how in fit.action_how])
        action = action.mapped(scale, np.zeros(len(scale)))
    return state, action


def _pick(moments: Moments, index: Sequence[int]) -> Moments | None:
    return moments.pick([max(i, 0) for i in index]) if any(i != MISSING for i in index) else None


def _map(kind: str, fields: Sequence[Field], own: Moments, other: Moments, unknown: np.ndarray) -> Affine:
    if kind == "state":
        own_center, own_spread, center, spread = own.mean, own.std, other.mean, other.std
    else:
        own_center, center = own.quantile(0.01), other.quantile(0.01)
        own_spread, spread = own.quantile(0.99) - own_center, other.quantile(0.99) - center
    fixed = np.array([_stays(kind, field) for field in fields for _ in range(field.size)]) | unknown
    narrow = (own_spread < _LEAST) | (spread < _LEAST)
    scale = np.where(narrow, 1.0, spread / np.where(narrow, 1.0, own_spread))
    return Affine(scale=np.where(fixed, 1.0, scale), offset=np.where(fixed, 0.0, center - own_center * scale))


def _stays(kind: str, field: Field) -> bool:
    bounded = field.low is not None and field.high is not None and field.low >= -1.0 and field.high <= 1.0
    command = "gripper" in field.name and field.unit == "1"
    return (
        bounded or command or field.is_gripper and kind == "action" or kind == "state" and field.rotation is not None
    )


def _pool(
    kind: str,
    fields: Sequence[Field],
    parts: Sequence[Moments | None],
    indices: Sequence[Sequence[int]],
    weights: Sequence[float],
) -> Moments | None:
    """Component by component: over the stores that have it."""
    names = [field.name for field in fields for _ in range(field.size)]
    columns = []
    for column, name in enumerate(names):
        having = [
            (part.pick([column]), weight)
            for part, index, weight in zip(parts, indices, weights, strict=True)
            if part is not None and index[column] != MISSING and weight > 0
        ]
        if not having:
            if not any(part is not None for part in parts):
                return _none(kind)
            raise ConfigError(
                f"no store of the mixture has the {kind} field {name!r}; name it in an entry's `{kind}` map, or "
                + ("leave it out of policy.state" if kind == "state" else "in the `use_action` of at least one")
            )
        found, used = zip(*having, strict=True)
        columns.append(pool(found) if len(found) == 1 else pool(found, used))
    if not columns:
        return None
    joined = {key: np.concatenate([getattr(c, key) for c in columns]) for key in ("mean", "std", "low", "high")}
    return Moments(max(c.count for c in columns), **joined, sketches=tuple(c.sketches[0] for c in columns))


def _none(kind: str) -> None:
    if kind == "state":
        raise ConfigError(
            "policy.state names fields, but no training episode has a state; use policy.state=[] for action-free video"
        )
    raise ConfigError(
        "no training episode has an action; use policy.actions=false to learn from action-free video alone"
    )

"""The numbers of an explanation, for tables and for programs."""

from __future__ import annotations

from typing import Any

import numpy as np

from foreact.vla.explain import Explanation
from foreact.vla.explain_pictures import share_of
from foreact.vla.foresight import CHANGE_THRESHOLD
from foreact.vla.results import ForesightSums


def numbers(found: Explanation) -> dict[str, Any]:
    """Plain values for JSON. Means are over plans; distances are in action units (see the contract)."""
    values: dict[str, Any] = {
        "instruction": found.episode.instruction,
        "frames": list(found.frames),
        "part": found.part,
        "plan": {"size": _mean(found.plan_size_B), "error_to_recorded": _mean(found.error_B)},
        "listening": listening(found),
        "changes": [
            {
                "kind": change.kind,
                "name": change.name,
                "detail": change.detail,
                "distance": _mean(change.distance_B),
                "gripper_changed": _mean(change.gripper_B),
                "error_to_recorded": _mean(change.error_B),
            }
            for change in found.changes
        ],
        "foresight": foresight(found),
    }
    if found.attention is not None:
        values["attention"] = attention(found)
        values["saliency"] = saliency(found)
        values["agreement"] = agreement(found)
    return values


def attention(found: Explanation) -> dict[str, Any]:
    """Shares of the roll-out. What comes from the context sums to 1; `even` is what the masks alone bring about."""
    assert found.attention is not None and found.tokens is not None
    look, tokens = found.attention, found.tokens
    shares: dict[str, Any] = {}
    for name in _sources(found):
        shares[name] = {"share": _mean(share_of(found, name)), "even": _mean(share_of(found, name, even=True))}
        if name in look.patches:
            shape = look.patches[name].shape[0]
            patches = look.patches[name].reshape(shape, -1).sum(dim=1).numpy()
            shares[name]["of_which_patches"] = _mean(patches / (patches + look.constants[name].sum(dim=1).numpy()))
    steps: dict[str, dict[str, float | None]] = {}
    T = found.mask_BT.shape[1]
    step_C = np.array([token.step for token in tokens.context])
    last_B = found.mask_BT.sum(axis=1) - 1
    full = last_B == T - 1  # plans from a shorter history would say less about the older steps
    for back in range(T if full.any() else 0):
        steps[str(-back * found.stride)] = {
            name: _mean(rows[:, step_C == T - 1 - back].sum(axis=1) / rows.sum(axis=1))
            for name, shares_BC in (("share", look.context_BC), ("even", look.even_BC))
            for rows in [shares_BC.numpy()[full]]
        }
    return {"shares": shares, "steps": steps, "queries_own": _mean(look.own_B.numpy())}


def saliency(found: Explanation) -> dict[str, Any]:
    """Share of each camera in the sum of all patches, present and past."""
    return {
        kind: {camera: float(maps[camera].sum() / max(total, 1e-30)) for camera in maps}
        for kind, maps in (("gradient", found.gradients), ("integrated_gradients", found.integrated))
        for total in [sum(float(values.sum()) for values in maps.values())]
        if maps
    }


def agreement(found: Explanation) -> dict[str, Any]:
    """Rank correlation (Spearman) of the present frame's patches, mean over plans: do the maps show the same places?"""
    pairs = {
        "attention_gradient": (found.attended, found.gradients),
        "attention_integrated_gradients": (found.attended, found.integrated),
        "gradient_integrated_gradients": (found.gradients, found.integrated),
    }
    return {
        name: {camera: _mean(_rank_correlation(found, first[camera], second[camera])) for camera in first}
        for name, (first, second) in pairs.items()
        if first and second
    }


def foresight(found: Explanation) -> dict[str, Any]:
    """Squared error on the pixels that changed, divided by that of predicting no change; 1 is no better than that."""
    cameras = {}
    for camera, sums in found.foresight.items():
        total = ForesightSums()
        for one in sums:
            total = total + one
        ratio = total.predicted / total.copied if total.copied else None
        cameras[camera] = {"error_ratio": ratio, "frames": len(sums), "changed_pixels": total.pixels}
    return {"steps_ahead": found.ahead, "change_threshold": CHANGE_THRESHOLD, "cameras": cameras}


def listening(found: Explanation) -> dict[str, Any]:
    """How much the plan depends on the sentence: mean distances by kind of sentence, and how often the episode's own
    sentence gives the plan that is nearer to what was recorded."""
    values: dict[str, Any] = {"plan_size": _mean(found.plan_size_B)}
    for kind in ("paraphrase", "other task", "empty"):
        same = [change.distance_B for change in found.changes if change.kind == kind]
        values[kind.replace(" ", "_")] = _mean(np.concatenate(same)) if same else None
    others = [change.error_B for change in found.changes if change.kind == "other task"]
    if others and np.isfinite(found.error_B).all():
        values["own_sentence_nearer_to_recorded"] = float(np.mean([found.error_B < error for error in others]))
    else:
        values["own_sentence_nearer_to_recorded"] = None
    return values


def _sources(found: Explanation) -> list[str]:
    assert found.tokens is not None
    kinds = [kind for kind in ("language", "state") if any(token.kind == kind for token in found.tokens.context)]
    return [*kinds, *found.cameras]


def _rank_correlation(found: Explanation, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    now = found.mask_BT.sum(axis=1) - 1
    rows = np.arange(len(now))
    a, b = (_ranks(maps[rows, now]) for maps in (first, second))
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    spread = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    return (a * b).sum(axis=1) / np.maximum(spread, 1e-12)


def _ranks(values_BP: np.ndarray) -> np.ndarray:
    """Ranks along the last axis; equal numbers share the mean of theirs."""
    ranked = np.empty(values_BP.shape)
    for row, values in enumerate(values_BP):
        _, place, count = np.unique(values, return_inverse=True, return_counts=True)
        last = np.cumsum(count)
        ranked[row] = (last - (count - 1) / 2.0)[place]
    return ranked


def _mean(values: np.ndarray) -> float | None:
    mean = float(np.mean(values))
    return mean if np.isfinite(mean) else None

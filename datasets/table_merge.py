"""A table with some rows taken out and some put in, without making rows of those that stay."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from foreact.datasets.episode_info import EpisodeInfo
from foreact.datasets.strings import Strings
from foreact.datasets.table import EpisodeTable

_PLAIN = ("length", "bytes", "offset", "span", "sha256")


def merge_table(old: EpisodeTable, keep: np.ndarray, infos: Iterable[EpisodeInfo]) -> EpisodeTable:
    """The rows of `old` where `keep` (N,) is true, and `infos`, whose names are none of theirs."""
    new = EpisodeTable(infos)
    if not keep.any():
        return new
    if keep.all() and not len(new):
        return old
    # Where the new rows go among those that stay.
    stay = np.concatenate([[0], np.cumsum(keep)])
    at = stay[[old.place(name) for name in new.names]].astype(np.int64)
    a, b = old.arrays, new.arrays
    arrays = {key: np.insert(a[key][keep], at, b[key], axis=0) for key in _PLAIN}
    names = np.array(old.names, dtype=object)[keep]
    texts = {"name": Strings.of(np.insert(names, at, np.array(new.names, dtype=object)).tolist())}

    kinds, kind_of = _joined(list(map(json.dumps, old.shared["kinds"])), list(map(json.dumps, new.shared["kinds"])))
    packs, pack_of = _joined(old.shared["packs"], new.shared["packs"])
    instructions, text_of = _joined(old.texts("instruction"), new.texts("instruction"))
    texts["instruction"] = Strings.of(instructions)
    for key, renumber in (("kind", kind_of), ("pack", pack_of), ("instruction", text_of)):
        arrays[key] = np.insert(a[key][keep], at, renumber[b[key]])

    counts_a, counts_b = np.diff(a["segment.at"]), np.diff(b["segment.at"])
    kept_at = np.concatenate([[0], np.cumsum(counts_a[keep])])
    flat_keep, flat_at = np.repeat(keep, counts_a), np.repeat(kept_at[at], counts_b)
    b_texts = {"segment.instruction": text_of[b["segment.instruction"]]}
    for key in ("segment.start", "segment.end", "segment.instruction"):
        arrays[key] = np.insert(a[key][flat_keep], flat_at, b_texts.get(key, b[key]))
    arrays["segment.at"] = np.concatenate([[0], np.cumsum(np.insert(counts_a[keep], at, counts_b))])

    meta, _ = _joined(old.shared["meta"], new.shared["meta"])
    for number, key in enumerate(meta):
        values, value_of = _joined(old.texts(f"meta:{key}"), new.texts(f"meta:{key}"))
        texts[f"meta.{number}"] = Strings.of(values)
        arrays[f"meta.{number}"] = np.insert(old.codes(key)[keep], at, value_of[new.codes(key)])
    for key, strings in texts.items():
        arrays |= {f"{key}.at": strings.at, f"{key}.heap": strings.heap}
    shared: dict[str, Any] = {"kinds": [json.loads(kind) for kind in kinds], "packs": packs, "meta": meta}
    return EpisodeTable.from_columns(shared, arrays)


def _joined(old: Sequence[str], new: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Old and new texts, each once; and the number of each new one, with -1 (none) for -1."""
    numbers = {text: number for number, text in enumerate(old)}
    of_new = [numbers.setdefault(text, len(numbers)) for text in new]
    return list(numbers), np.array([*of_new, -1], np.int32)

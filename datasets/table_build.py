"""The columns of an `EpisodeTable`: how they are made of rows, and what must hold between them.

N rows, in the order of their names:

- `length`, `bytes`, `offset`, `span`: (N,) int64; `sha256`: (N, 32) uint8; `name.at`, `name.heap`: texts;
- `kind`, `pack` (-1: none), `instruction`: (N,) int32, positions in the shared lists and in the texts `instruction.*`;
- `segment.at`: (N + 1,) int64, which of the M entries of `segment.start`, `.end` and `.instruction` are whose;
- `meta.<i>`: (N,) int32 (-1: none), positions in the texts `meta.<i>.*`, JSON values of the i-th meta key.

Texts are two arrays, see `foreact.datasets.strings`. Shared are `kinds` (codec, cameras, has_state, has_action and the
names of meta entries, in order), `packs` and `meta` (all meta keys).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from foreact.datasets.episode_info import EpisodeInfo
from foreact.datasets.layout import StoreError
from foreact.datasets.strings import Strings

_NUMBERS = ("length", "bytes", "offset", "span")


class _Codes:
    """Numbers things in the order in which they come."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def __call__(self, text: str) -> int:
        return self.numbers.setdefault(text, len(self.numbers))


def build_columns(infos: Sequence[EpisodeInfo]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What is shared, and the columns, of rows that are sorted by name.

    Raises:
        StoreError: If a digest is not one.
    """
    kinds, packs, instructions = _Codes(), _Codes(), _Codes()
    meta_codes: dict[str, _Codes] = {}
    meta: dict[str, np.ndarray] = {}
    column: dict[str, list[int]] = {"kind": [], "pack": [], "instruction": []}
    segments: list[tuple[int, int, int]] = []
    segment_at = np.zeros(len(infos) + 1, np.int64)
    for row, info in enumerate(infos):
        kind = {
            "codec": info.codec,
            "cameras": {c: list(size) for c, size in info.cameras.items()},
            "has_state": info.has_state,
            "has_action": info.has_action,
            "meta": list(info.meta),
        }
        column["kind"].append(kinds(json.dumps(kind)))
        column["pack"].append(-1 if info.pack is None else packs(info.pack))
        column["instruction"].append(instructions(info.instruction))
        for key, value in info.meta.items():
            if key not in meta:
                meta_codes[key], meta[key] = _Codes(), np.full(len(infos), -1, np.int32)
            meta[key][row] = meta_codes[key](json.dumps(value))
        segments += [(s.start, s.end, instructions(s.instruction)) for s in info.segments]
        segment_at[row + 1] = len(segments)
    parts = np.array(segments, np.int64).reshape(-1, 3)
    arrays = {key: np.array([getattr(info, key) for info in infos], np.int64) for key in _NUMBERS}
    arrays |= {key: np.array(values, np.int32) for key, values in column.items()}
    arrays |= {"segment.at": segment_at, "segment.start": parts[:, 0].copy(), "segment.end": parts[:, 1].copy()}
    arrays |= {"segment.instruction": parts[:, 2].astype(np.int32), "sha256": _digests(infos)}
    texts = {"name": Strings.of([info.name for info in infos]), "instruction": Strings.of(list(instructions.numbers))}
    for number, key in enumerate(meta):
        arrays[f"meta.{number}"] = meta[key]
        texts[f"meta.{number}"] = Strings.of(list(meta_codes[key].numbers))
    for key, strings in texts.items():
        arrays |= {f"{key}.at": strings.at, f"{key}.heap": strings.heap}
    shared = {"kinds": [json.loads(kind) for kind in kinds.numbers], "packs": list(packs.numbers), "meta": list(meta)}
    return shared, arrays


def check_columns(shared: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """Check that every position points at something, so that no look at a row fails later.

    Raises:
        ValueError, KeyError, TypeError: If one does not.
    """
    rows, parts = len(arrays["name.at"]) - 1, len(arrays["segment.start"])
    texts = len(arrays["instruction.at"]) - 1
    for key in _NUMBERS:
        _check(key, arrays[key], rows, 0, 2**62)
    _check("kind", arrays["kind"], rows, 0, len(shared["kinds"]))
    _check("pack", arrays["pack"], rows, -1, len(shared["packs"]))
    _check("instruction", arrays["instruction"], rows, 0, texts)
    _check("segment.at", arrays["segment.at"], rows + 1, 0, parts + 1)
    if (np.diff(arrays["segment.at"]) < 0).any():
        raise ValueError("the column segment.at goes backwards")
    for key in ("segment.start", "segment.end"):
        _check(key, arrays[key], parts, 0, 2**62)
    _check("segment.instruction", arrays["segment.instruction"], parts, 0, texts)
    for number, _ in enumerate(shared["meta"]):
        _check(f"meta.{number}", arrays[f"meta.{number}"], rows, -1, len(arrays[f"meta.{number}.at"]) - 1)
    for number, kind in enumerate(shared["kinds"]):
        for key in kind["meta"]:
            column = arrays[f"meta.{shared['meta'].index(key)}"]
            if (column[arrays["kind"] == number] < 0).any():
                raise ValueError(f"a value of the meta entry {key!r} is missing")
    if arrays["sha256"].shape != (rows, 32):
        raise ValueError(f"the column sha256 has shape {arrays['sha256'].shape}, expected {(rows, 32)}")


def _check(name: str, column: np.ndarray, rows: int, least: int, end: int) -> None:
    if column.shape != (rows,) or rows and not least <= column.min() <= column.max() < end:
        raise ValueError(f"the column {name} does not fit the table")


def _digests(infos: Sequence[EpisodeInfo]) -> np.ndarray:
    out = np.zeros((len(infos), 32), np.uint8)
    for row, info in enumerate(infos):
        try:
            out[row] = np.frombuffer(bytes.fromhex(info.sha256), np.uint8)
        except ValueError as error:
            raise StoreError(f"episode {info.name}: {info.sha256!r:.80} is not a SHA-256") from error
    return out

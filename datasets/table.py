"""The table of a store's episodes: columns, so that a million rows open in a fraction of a second and stay small."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any, overload

import numpy as np

from foreact.datasets.episode import Segment
from foreact.datasets.episode_info import EpisodeInfo
from foreact.datasets.strings import Strings
from foreact.datasets.table_build import build_columns, check_columns

__all__ = ["EpisodeInfo", "EpisodeTable"]


class EpisodeTable(Sequence[EpisodeInfo]):
    """Episodes sorted by name; a row is made when it is looked at, in the same time however many there are.

    What many episodes share (instruction, codec and cameras, values of meta entries) is stored once and referred to by
    number; see `foreact.datasets.table_build` for the columns.
    """

    def __init__(self, infos: Iterable[EpisodeInfo] = ()):
        self._set(*build_columns(sorted(infos, key=lambda info: info.name)))

    @classmethod
    def from_columns(cls, shared: dict[str, Any], arrays: dict[str, np.ndarray]) -> EpisodeTable:
        """Take the `shared` and `arrays` of another table.

        Raises:
            ValueError, KeyError, TypeError: If they do not fit each other.
        """
        check_columns(shared, arrays)
        table = cls.__new__(cls)
        table._set(shared, arrays)
        return table

    def _set(self, shared: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        self.shared = shared
        """JSON values: what several rows have in common."""
        self.arrays = arrays
        """Columns by name."""
        self._names = Strings(arrays["name.at"], arrays["name.heap"])
        self._instructions = Strings(arrays["instruction.at"], arrays["instruction.heap"])
        keys = shared["meta"]
        self._meta = {k: Strings(arrays[f"meta.{i}.at"], arrays[f"meta.{i}.heap"]) for i, k in enumerate(keys)}
        self._meta_codes = {key: arrays[f"meta.{i}"] for i, key in enumerate(keys)}

    @cached_property
    def names(self) -> list[str]:
        """All names, in order."""
        return list(self._names)

    @property
    def lengths(self) -> np.ndarray:
        """(N,) int64 numbers of frames."""
        return self.arrays["length"]

    @cached_property
    def sha256s(self) -> list[str]:
        """The content of each episode, in order."""
        digits = self.arrays["sha256"].tobytes().hex()
        return [digits[at : at + 64] for at in range(0, len(digits), 64)]

    @property
    def has_state(self) -> np.ndarray:
        """(N,) bool."""
        return self._of_kind([bool(kind["has_state"]) for kind in self.shared["kinds"]])

    @property
    def has_action(self) -> np.ndarray:
        """(N,) bool."""
        return self._of_kind([bool(kind["has_action"]) for kind in self.shared["kinds"]])

    def has_cameras(self, cameras: Iterable[str]) -> np.ndarray:
        """(N,) bool: whether an episode has all of them."""
        wanted = set(cameras)
        return self._of_kind([wanted <= kind["cameras"].keys() for kind in self.shared["kinds"]])

    def meta_values(self, key: str) -> tuple[np.ndarray, list[Any]]:
        """(N,) int32 positions in the list of a meta entry's different values, -1 where it has none; and that list."""
        if key not in self._meta:
            return np.full(len(self), -1, np.int32), []
        return self._meta_codes[key], [json.loads(text) for text in self._meta[key]]

    def codes(self, key: str) -> np.ndarray:
        """(N,) int32 positions of a meta entry's values in `texts`, -1 where there is none."""
        return self._meta_codes.get(key, np.full(len(self), -1, np.int32))

    def texts(self, column: str) -> list[str]:
        """The different texts of "instruction", or of "meta:<key>" as JSON."""
        key = column.removeprefix("meta:")
        return list(self._instructions if key == column else self._meta.get(key, ()))

    def name(self, row: int) -> str:
        """The name of a row, without the rest."""
        return self._names[row]

    def place(self, name: str) -> int:
        """Row of that name, or the row it would push down."""
        return self._names.place(name)

    def spans(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
        """The segments of these episodes; one without segments counts as one segment.

        Returns:
            (C,) int64 episode numbers, (C,) int64 starts, (C,) int64 ends, C instructions.
        """
        at = self.arrays["segment.at"]
        count = at[numbers + 1] - at[numbers]
        rows = np.maximum(count, 1)
        episode = np.repeat(numbers, rows)
        nth = np.arange(len(episode)) - np.repeat(np.cumsum(rows) - rows, rows)
        start, end = np.zeros(len(episode), np.int64), self.lengths[episode]
        code = self.arrays["instruction"][episode]
        has = np.repeat(count > 0, rows)
        place = (at[episode] + nth)[has]
        start[has], end[has] = self.arrays["segment.start"][place], self.arrays["segment.end"][place]
        code[has] = self.arrays["segment.instruction"][place]
        texts = list(self._instructions)
        return episode, start, end, [texts[c] for c in code.tolist()]

    def number(self, name: str) -> int | None:
        """Row of the episode of that name, or None."""
        place = self._names.place(name)
        return place if place < len(self) and self._names[place] == name else None

    def near(self, name: str, count: int = 200) -> list[str]:
        """Names that would stand next to this one."""
        place = self._names.place(name)
        return self._names[max(0, place - count // 2) : place + count // 2]

    def __len__(self) -> int:
        return len(self._names)

    @overload
    def __getitem__(self, index: int) -> EpisodeInfo: ...
    @overload
    def __getitem__(self, index: slice) -> list[EpisodeInfo]: ...
    def __getitem__(self, index: int | slice) -> EpisodeInfo | list[EpisodeInfo]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        row = range(len(self))[index]
        arrays, texts = self.arrays, self._instructions
        kind = self.shared["kinds"][arrays["kind"][row]]
        pack = int(arrays["pack"][row])
        first, last = arrays["segment.at"][row : row + 2].tolist()
        columns = (arrays[f"segment.{key}"][first:last].tolist() for key in ("start", "end", "instruction"))
        return EpisodeInfo(
            **{key: int(arrays[key][row]) for key in ("length", "bytes", "offset", "span")},
            name=self._names[row],
            sha256=arrays["sha256"][row].tobytes().hex(),
            pack=None if pack < 0 else self.shared["packs"][pack],
            codec=kind["codec"],
            cameras={c: (h, w) for c, (h, w) in kind["cameras"].items()},
            has_state=kind["has_state"],
            has_action=kind["has_action"],
            meta={key: json.loads(self._meta[key][int(self._meta_codes[key][row])]) for key in kind["meta"]},
            instruction=texts[int(arrays["instruction"][row])],
            segments=[Segment(start=a, end=b, instruction=texts[t]) for a, b, t in zip(*columns, strict=True)],
        )

    def __iter__(self) -> Iterator[EpisodeInfo]:
        return (self[i] for i in range(len(self)))

    def __eq__(self, other: object) -> bool:
        """Whether the rows are equal; what is shared may be numbered otherwise."""
        if not isinstance(other, EpisodeTable):
            return NotImplemented
        a, b = self.arrays, other.arrays
        plain = ("length", "bytes", "offset", "span", "sha256", "name.at", "name.heap", "segment.at")
        if not all(np.array_equal(a[key], b[key]) for key in (*plain, "segment.start", "segment.end")):
            return False
        kinds, others = (list(map(json.dumps, table.shared["kinds"])) for table in (self, other))
        texts = self.texts("instruction"), other.texts("instruction")
        return (
            _same(a["kind"], kinds, b["kind"], others)
            and _same(a["pack"], self.shared["packs"], b["pack"], other.shared["packs"])
            and all(_same(a[k], texts[0], b[k], texts[1]) for k in ("instruction", "segment.instruction"))
            and all(
                _same(self.codes(k), self.texts(f"meta:{k}"), other.codes(k), other.texts(f"meta:{k}"))
                for k in {*self._meta, *other._meta}
            )
        )

    __hash__ = None  # pyright: ignore[reportAssignmentType]

    def _of_kind(self, values: list[bool]) -> np.ndarray:
        return np.array(values, bool)[self.arrays["kind"]]


def _same(codes: np.ndarray, texts: list[str], other_codes: np.ndarray, other_texts: list[str]) -> bool:
    """Whether two columns of positions mean the same texts."""
    numbers = {text: number for number, text in enumerate(other_texts)}
    renumber = np.array([*(numbers.get(text, -2) for text in texts), -1], np.int32)
    return np.array_equal(renumber[codes], other_codes)

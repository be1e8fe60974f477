"""The table of a store's episodes: columns, so that a million rows load in seconds and stay small."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np

from foreact.datasets.arrays import EpisodeHeader
from foreact.datasets.episode import Segment


@dataclass(frozen=True, kw_only=True)
class EpisodeInfo(EpisodeHeader):
    """One row: what is known of an episode without opening it."""

    name: str
    bytes: int
    """Size of its files."""
    sha256: str
    """Names its whole contents: the digest of its manifest."""
    pack: str | None = None
    """The pack it lies in; None if it has a folder of its own."""
    offset: int = 0
    """Where its run of ZIP entries begins in the pack [bytes]."""
    span: int = 0
    """Length of that run [bytes]."""


class EpisodeTable(Sequence[EpisodeInfo]):
    """Episodes sorted by name; rows are made when looked at.

    The columns are plain lists of JSON values; what many episodes share (instruction, codec and cameras, names of meta
    entries) is stored once and referred to by number.
    """

    _PLAIN = ("name", "length", "bytes", "sha256", "pack", "offset", "span")

    def __init__(self, infos: Iterable[EpisodeInfo] = ()):
        self._columns: dict[str, list[Any]] = {key: [] for key in (*self._PLAIN, "kind", "instruction", "meta")}
        self._segments: dict[str, list[Any]] = {}
        kinds: dict[str, int] = {}
        self._kinds: list[dict[str, Any]] = []
        instructions: dict[str, int] = {}
        for row, info in enumerate(sorted(infos, key=lambda i: i.name)):
            for key in self._PLAIN:
                self._columns[key].append(getattr(info, key))
            kind = {
                "codec": info.codec,
                "cameras": {c: list(size) for c, size in info.cameras.items()},
                "has_state": info.has_state,
                "has_action": info.has_action,
                "meta": list(info.meta),
            }
            number = kinds.setdefault(repr(kind), len(kinds))
            if number == len(self._kinds):
                self._kinds.append(kind)
            self._columns["kind"].append(number)
            self._columns["instruction"].append(instructions.setdefault(info.instruction, len(instructions)))
            self._columns["meta"].append(list(info.meta.values()))
            if info.segments:
                self._segments[str(row)] = [[s.start, s.end, s.instruction] for s in info.segments]
        self._instructions = list(instructions)
        self._rows: dict[str, int] | None = None

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        shared = {"kinds": self._kinds, "instructions": self._instructions, "segments": self._segments}
        return {"columns": self._columns, **shared}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> EpisodeTable:
        """Take what `to_json` gave."""
        table = cls()
        table._columns = values["columns"]
        table._kinds = values["kinds"]
        table._instructions = values["instructions"]
        table._segments = values["segments"]
        return table

    @property
    def names(self) -> list[str]:
        """All names, in order."""
        return self._columns["name"]

    @property
    def lengths(self) -> np.ndarray:
        """(N,) int64 numbers of frames."""
        return np.array(self._columns["length"], np.int64)

    @property
    def sha256s(self) -> list[str]:
        """The content of each episode, in order."""
        return self._columns["sha256"]

    def number(self, name: str) -> int | None:
        """Row of the episode of that name, or None."""
        if self._rows is None:
            self._rows = {n: i for i, n in enumerate(self.names)}
        return self._rows.get(name)

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, index: int) -> EpisodeInfo: ...
    @overload
    def __getitem__(self, index: slice) -> list[EpisodeInfo]: ...
    def __getitem__(self, index: int | slice) -> EpisodeInfo | list[EpisodeInfo]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        row = range(len(self))[index]
        column = self._columns
        kind = self._kinds[column["kind"][row]]
        return EpisodeInfo(
            **{key: column[key][row] for key in self._PLAIN},
            codec=kind["codec"],
            cameras={c: (h, w) for c, (h, w) in kind["cameras"].items()},
            has_state=kind["has_state"],
            has_action=kind["has_action"],
            meta=dict(zip(kind["meta"], column["meta"][row], strict=True)),
            instruction=self._instructions[column["instruction"][row]],
            segments=[Segment(start=a, end=b, instruction=t) for a, b, t in self._segments.get(str(row), [])],
        )

    def __iter__(self) -> Iterator[EpisodeInfo]:
        return (self[i] for i in range(len(self)))

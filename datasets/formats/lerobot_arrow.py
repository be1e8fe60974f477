"""Parquet files of LeRobot datasets: columns to arrays, and where the frames of an episode lie in a file.

Uses pyarrow alone; the extra `data` of ForeAct installs it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from foreact.datasets.formats.base import FormatError
from foreact.datasets.formats.lerobot_footer import MAX_CHUNK_BYTES, check_parquet
from foreact.datasets.formats.limits import MAX_FRAMES, check_shape
from foreact.vla.errors import ConfigError

if TYPE_CHECKING:
    import pyarrow as pa

MAX_TABLE_BYTES = 1 << 30
_TABLE_CHUNK_BYTES = 64 << 20
_DICTIONARY_BYTES = 1 << 20
_ROWS_AT_ONCE = 32
_PICTURES_AT_ONCE = 8


def arrow() -> tuple[Any, Any]:
    """The modules pyarrow and pyarrow.parquet.

    Raises:
        ConfigError: If pyarrow is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ConfigError(
            "LeRobot datasets are Parquet files, which need pyarrow: pip install '.[data]' in ForeAct's folder"
        ) from error
    return pyarrow, pyarrow.parquet


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn what pyarrow raises about a broken file into a FormatError that names it."""
    pa, _ = arrow()
    try:
        yield
    except (pa.ArrowException, OSError, ValueError, KeyError, MemoryError) as error:
        raise FormatError(f"{path} is not a readable Parquet file: {error!s:.300}") from error


def open_parquet(path: Path, max_chunk_bytes: int = MAX_CHUNK_BYTES) -> Any:
    """A `pyarrow.parquet.ParquetFile` whose declared sizes are within limits.

    Raises:
        FormatError: If it is missing, broken or declares too much.
    """
    _, pq = arrow()
    check_parquet(path, max_chunk_bytes)
    with explained(path):
        return pq.ParquetFile(path)


def read_table(path: Path, skip: str = "") -> pa.Table:
    """A whole small table, without the columns whose name starts with `skip`.

    Raises:
        FormatError: As `open_parquet`.
    """
    pa, _ = arrow()
    file = open_parquet(path, _TABLE_CHUNK_BYTES)
    with explained(path):
        names = [name for name in file.schema_arrow.names if not (skip and name.startswith(skip))]
        batches, total = [], 0
        for batch in file.iter_batches(_ROWS_AT_ONCE, columns=names):
            columns = [_decoded(path, column) for column in batch.columns]
            batches.append(pa.RecordBatch.from_arrays(columns, names=batch.schema.names))
            total += batches[-1].nbytes
            if total > MAX_TABLE_BYTES:
                raise FormatError(f"{path} unpacks to more than {MAX_TABLE_BYTES} bytes; LeRobot's tables are smaller")
        return pa.Table.from_batches(batches) if batches else file.read(columns=names)


def _decoded(path: Path, column: Any) -> Any:
    """A column in which repeated values really take their place."""
    pa, _ = arrow()
    if not isinstance(column.type, pa.DictionaryType):
        return column
    if column.dictionary.nbytes > _DICTIONARY_BYTES:
        raise FormatError(f"{path} unpacks to more than {MAX_TABLE_BYTES} bytes; LeRobot's tables are smaller")
    return column.dictionary_decode()


@dataclass(frozen=True)
class _Run:
    """Rows [start, stop) of a row group, all of one episode."""

    group: int
    start: int
    stop: int


class EpisodeRows:
    """Finds the rows of episodes in data files, and keeps the last file open."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._file: Any = None
        self._runs: dict[int, list[_Run]] = {}
        self._group: tuple[int, tuple[str, ...], Any] | None = None

    def read(self, path: Path, episode: int, columns: Sequence[str], length: int) -> pa.Table:
        """The rows of one episode.

        Raises:
            FormatError: If the file is broken, has not all of the columns, or not `length` rows of the episode in one
                piece.
        """
        pa, _ = arrow()
        if not 0 < length <= MAX_FRAMES:
            raise FormatError(f"episode {episode} declares {length} frames; the limit is {MAX_FRAMES}")
        self._open(path)
        missing = sorted(set(columns) - set(self._file.schema_arrow.names))
        if missing:
            raise FormatError(f"{path}: columns {missing} are missing; it has {self._file.schema_arrow.names}")
        runs = self._runs.get(episode, [])
        rows = sum(run.stop - run.start for run in runs)
        if rows != length:
            raise FormatError(f"{path}: episode {episode} has {rows} rows there, its metadata says {length} frames")
        with explained(path):
            return pa.concat_tables(
                [self._read_group(run.group, tuple(columns)).slice(run.start, run.stop - run.start) for run in runs]
            )

    def cells(self, path: Path, episode: int, column: str) -> Iterator[Any]:
        """The values of one column of an episode that was found by `read`, without holding them all.

        Raises:
            FormatError: If the file is broken.
        """
        self._open(path)
        if column not in self._file.schema_arrow.names:
            raise FormatError(f"{path}: the column {column!r} is missing; it has {self._file.schema_arrow.names}")
        with explained(path):
            for run in self._runs.get(episode, []):
                at = 0
                for batch in self._file.iter_batches(_PICTURES_AT_ONCE, row_groups=[run.group], columns=[column]):
                    first, last = max(run.start - at, 0), min(run.stop - at, batch.num_rows)
                    if first < last:
                        yield from batch.column(0).slice(first, last - first).to_pylist()
                    at += batch.num_rows
                    if at >= run.stop:
                        break

    def _open(self, path: Path) -> None:
        if path == self._path:
            return
        self._path, self._group, self._runs = None, None, {}
        self._file = open_parquet(path)
        if "episode_index" not in self._file.schema_arrow.names:
            raise FormatError(f"{path}: the column episode_index is missing; it has {self._file.schema_arrow.names}")
        with explained(path):
            for group in range(self._file.num_row_groups):
                table = self._file.read_row_group(group, columns=["episode_index"])
                numbers = np.atleast_1d(table["episode_index"].to_numpy())
                if numbers.ndim != 1 or numbers.dtype.kind not in "iu":
                    raise FormatError(f"{path}: the column episode_index must hold integers, found {numbers.dtype}")
                edges = np.flatnonzero(np.diff(numbers)) + 1
                for start, stop in zip([0, *edges], [*edges, len(numbers)], strict=True):
                    if start < stop:
                        self._runs.setdefault(int(numbers[start]), []).append(_Run(group, int(start), int(stop)))
        self._path = path

    def _read_group(self, group: int, columns: tuple[str, ...]) -> Any:
        if self._group is None or self._group[:2] != (group, columns):
            self._group = None  # frees the last one first
            self._group = (group, columns, self._file.read_row_group(group, columns=list(columns)))
        return self._group[2]


def numbers(table: pa.Table, key: str, shape: tuple[int, ...], where: str) -> np.ndarray:
    """A numeric column as an array (T, *shape), whether scalars, lists, fixed-size lists or lists of lists.

    Raises:
        FormatError: If a value is missing, is not a number, or has another shape.
    """
    pa, _ = arrow()
    rows = table.num_rows
    size = math.prod(shape)
    check_shape(f"{where}: {key!r}", (rows, *shape), 8)
    with explained(Path(where)):
        column: Any = table[key].combine_chunks()
        while True:
            if isinstance(column.type, pa.ExtensionType):
                column = column.storage
            elif column.null_count:
                raise FormatError(f"{where}: {key!r} has missing values")
            elif isinstance(column.type, pa.ListType | pa.LargeListType | pa.FixedSizeListType):
                _require_regular(column, key, where)
                column = column.flatten()
            else:
                break
        kind = column.type
        if not (pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
            raise FormatError(f"{where}: {key!r} must hold numbers, found {kind}")
        values = column.to_numpy(zero_copy_only=False)
    if len(values) != rows * size:
        raise FormatError(
            f"{where}: {key!r} is declared as {shape} in each of {rows} frames, found {len(values)} numbers"
        )
    return values.reshape(rows, *shape)


def _require_regular(column: Any, key: str, where: str) -> None:
    import pyarrow.compute as pc

    lengths = pc.unique(pc.list_value_length(column))  # pyright: ignore[reportAttributeAccessIssue]
    if len(lengths) > 1:
        raise FormatError(f"{where}: the rows of {key!r} differ in length: {lengths.to_pylist()[:5]}")

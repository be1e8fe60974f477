"""What a Parquet file declares in its footer, read before pyarrow opens it.

A few bytes can stand for billions of equal values, and pyarrow takes memory for them all; asked for these counts, it
ends the process on some damaged files. So they are read here, and files that declare too much are refused.

Source: apache/parquet-format (Apache-2.0), parquet.thrift; the compact protocol of Apache Thrift.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from foreact.datasets.formats.base import FormatError
from foreact.datasets.formats.limits import regular_file

MAX_FILE_BYTES = 64 << 30
MAX_FOOTER_BYTES = 256 << 20
MAX_ROWS = 20_000_000
MAX_CHUNK_BYTES = 2 << 30
"""Largest column of a row group, unpacked: LeRobot closes a file at about 100 MB."""
MAX_CHUNK_VALUES = 1 << 28
"""Most values of a column in a row group."""

_MAGIC = b"PAR1"
_TRUE, _FALSE, _BYTE, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = 1, 2, 3, 6, 7, 8, 9, 10, 11, 12


def check_parquet(path: Path, max_chunk_bytes: int = MAX_CHUNK_BYTES) -> None:
    """Check that a file has a Parquet footer that declares no more than the limits.

    Raises:
        FormatError: If not.
    """
    regular_file(path, "the Parquet file", MAX_FILE_BYTES)
    with open(path, "rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 8))
        tail = file.read(8)
        length = int.from_bytes(tail[:4], "little")
        if len(tail) != 8 or tail[4:] != _MAGIC or length + 12 > size or length > MAX_FOOTER_BYTES:
            raise FormatError(f"{path} is not a Parquet file: it has no footer (was its writer closed?)")
        file.seek(size - 8 - length)
        footer = file.read(length)
    try:
        rows, values, n_bytes = _declared(_Reader(footer))
    except (IndexError, RecursionError, OverflowError) as error:
        raise FormatError(f"{path} is not a readable Parquet file: its footer is damaged") from error
    except _Refused as error:
        raise FormatError(f"{path} is not read: {error}") from error
    if not 0 <= rows <= MAX_ROWS or values > MAX_CHUNK_VALUES or n_bytes > max_chunk_bytes:
        raise FormatError(
            f"{path} declares {rows} rows, and up to {values} values and {n_bytes} bytes in a column of a row group; "
            f"the limits are {MAX_ROWS}, {MAX_CHUNK_VALUES} and {max_chunk_bytes}"
        )


class _Refused(ValueError):
    """The footer says what no file of ours would say."""


def _declared(reader: _Reader) -> tuple[int, int, int]:
    """Rows of the file; most values, and most bytes, of a column chunk. Field numbers are those of parquet.thrift."""
    rows, values, n_bytes = -1, 0, 0
    for number, kind in reader.fields():  # FileMetaData
        if number == 3 and kind == _I64:
            rows = reader.whole()
        elif number == 4 and kind == _LIST:
            for _ in reader.items():
                for group_number, group_kind in reader.fields():  # RowGroup
                    if group_number == 1 and group_kind == _LIST:
                        for _ in reader.items():
                            found = _column(reader)
                            values, n_bytes = max(values, found[0]), max(n_bytes, found[1])
                    else:
                        reader.skip(group_kind)
        else:
            reader.skip(kind)
    return rows, values, n_bytes


def _column(reader: _Reader) -> tuple[int, int]:
    values = n_bytes = -1
    for number, kind in reader.fields():  # ColumnChunk
        if number == 1:
            raise _Refused("a column lies in another file")
        if number != 3 or kind != _STRUCT:
            reader.skip(kind)
            continue
        for meta_number, meta_kind in reader.fields():  # ColumnMetaData
            if meta_number == 5 and meta_kind == _I64:
                values = reader.whole()
            elif meta_number == 6 and meta_kind == _I64:
                n_bytes = reader.whole()
            else:
                reader.skip(meta_kind)
    if values < 0 or n_bytes < 0:
        raise _Refused("a column does not tell its size")
    return values, n_bytes


class _Reader:
    """The compact protocol of Thrift; running off the end is an IndexError."""

    def __init__(self, data: bytes):
        self._data = data
        self._at = 0

    def fields(self) -> Iterator[tuple[int, int]]:
        """Number and type of each field of a struct; the caller takes its value, or skips it."""
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self.whole()
            yield number, head & 15

    def items(self) -> Iterator[None]:
        """Once per element of a list of structs."""
        head = self._byte()
        count = head >> 4 if head >> 4 != 15 else self._varint()
        if head & 15 != _STRUCT:
            raise _Refused("its footer is damaged")
        for _ in range(count):
            yield None

    def whole(self) -> int:
        """A signed number."""
        value = self._varint()
        return (value >> 1) ^ -(value & 1)

    def skip(self, kind: int) -> None:
        """Pass over a value."""
        if kind in (_TRUE, _FALSE):
            return
        if kind == _BYTE:
            self._move(1)
        elif kind < _DOUBLE:
            self._varint()
        elif kind == _DOUBLE:
            self._move(8)
        elif kind == _BINARY:
            self._move(self._varint())
        elif kind in (_LIST, _SET):
            head = self._byte()
            for _ in range(head >> 4 if head >> 4 != 15 else self._varint()):
                self._skip_element(head & 15)
        elif kind == _MAP:
            count = self._varint()
            kinds = self._byte() if count else 0
            for _ in range(count):
                self._skip_element(kinds >> 4)
                self._skip_element(kinds & 15)
        elif kind == _STRUCT:
            for _, inner in self.fields():
                self.skip(inner)
        else:
            raise _Refused("its footer is damaged")

    def _skip_element(self, kind: int) -> None:
        """Booleans in lists take a byte; as fields they are in the head."""
        self.skip(_BYTE if kind in (_TRUE, _FALSE) else kind)
        if kind == 0:
            raise _Refused("its footer is damaged")

    def _byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1]

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7
            if shift > 63:
                raise _Refused("its footer is damaged")

    def _move(self, count: int) -> None:
        self._at += count
        if self._at > len(self._data):
            raise IndexError("beyond the end")

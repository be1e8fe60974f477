"""Walks through an MCAP file before anything is decompressed: no chunk may unfold to more than it declares.

Format: https://mcap.dev/spec (records of one byte of kind and eight bytes of length).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from foreact.datasets.formats.base import FormatError
from foreact.datasets.formats.limits import check_bytes

MAGIC = b"\x89MCAP0\r\n"
MAX_CHUNK_BYTES = 512 << 20
_CHUNK, _FOOTER = 0x06, 0x02
_STEP = 1 << 22


def check_mcap(path: Path) -> None:
    """Raise unless the file is whole and every chunk has the size that it declares.

    Raises:
        FormatError: Naming the place.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        if file.read(8) != MAGIC:
            raise FormatError(f"{path} is not an MCAP file")
        at = 8
        while True:
            header = file.read(9)
            if len(header) < 9:
                raise FormatError(f"{path} has no end; it was cut off. `mcap recover` makes it whole again.")
            kind, length = header[0], struct.unpack("<Q", header[1:])[0]
            if at + 9 + length > size:
                raise FormatError(f"{path} is cut off: the record at byte {at:,} has {length:,} bytes")
            if kind == _FOOTER:
                return
            if kind == _CHUNK:
                _check_chunk(file.read(length), f"{path}, chunk at byte {at:,},")
            else:
                file.seek(length, 1)
            at += 9 + length


def _check_chunk(data: bytes, what: str) -> None:
    try:
        declared, _, name_length = struct.unpack_from("<QII", data, 16)
        compression = data[32 : 32 + name_length].decode()
        (stored,) = struct.unpack_from("<Q", data, 32 + name_length)
    except (struct.error, UnicodeDecodeError) as error:
        raise FormatError(f"{what} is damaged: {error}") from error
    body = data[40 + name_length :]
    if len(body) != stored:
        raise FormatError(f"{what} has {len(body):,} bytes, {stored:,} were declared")
    check_unfolded(body, compression, declared, what)


def check_unfolded(body: bytes, compression: str, declared: int, what: str) -> None:
    """Raise unless the compressed part of a chunk unfolds to as many bytes as it declares, without holding them.

    Raises:
        FormatError: Naming `what`.
    """
    check_bytes(what, declared, MAX_CHUNK_BYTES)
    if compression not in _UNFOLD:
        raise FormatError(f"{what} is compressed by {compression!r:.20}; read are {', '.join(filter(None, _UNFOLD))}")
    total = 0
    try:
        for part in _UNFOLD[compression](body):
            total += part
            if total > declared:
                break
    except FormatError:
        raise
    except Exception as error:  # lz4 and zstandard each have errors of their own
        raise FormatError(f"{what} is damaged: {error}") from error
    if total != declared:
        found = "more" if total > declared else f"{total:,}"
        raise FormatError(f"{what} unfolds to {found} bytes, {declared:,} were declared")


def _zstd(data: bytes) -> Iterator[int]:
    import zstandard

    with zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(data, read_across_frames=True) as reader:
        while part := reader.read(_STEP):
            yield len(part)


def _lz4(data: bytes) -> Iterator[int]:
    from lz4.frame import LZ4FrameDecompressor

    decompressor: Any = LZ4FrameDecompressor()
    yield len(decompressor.decompress(data, max_length=_STEP))
    while not decompressor.eof:
        part = decompressor.decompress(b"", max_length=_STEP)
        if not part and decompressor.needs_input:
            return
        yield len(part)
    if decompressor.unused_data:
        raise ValueError("bytes behind the end of the frame")


_UNFOLD: dict[str, Callable[[bytes], Iterator[int]]] = {"": lambda data: iter([len(data)]), "zstd": _zstd, "lz4": _lz4}

"""Zarr v2 arrays of others, read with budgets: no codec that could run code, no chunk larger than it declares.

Specification: https://zarr-specs.readthedocs.io/en/latest/v2/v2.0.html. Decoding is by numcodecs; what is checked first
is what numcodecs and zarr-python take on trust: the sizes in the headers of compressed chunks.
"""

from __future__ import annotations

import bz2
import itertools
import lzma
import math
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from foreact.datasets.formats.base import FormatError
from foreact.datasets.formats.limits import (
    MAX_EPISODE_BYTES,
    check_bytes,
    check_shape,
    inside,
    open_zip,
    parse_json,
    read_entry,
    regular_file,
)

_CODECS = ("blosc", "zstd", "lz4", "zlib", "gzip", "bz2", "lzma")
_KEPT_CHUNKS = 4
MAX_CHUNK_BYTES = 1 << 30
_ARCHIVE_BYTES = 1 << 44


class Files:
    """The files of a Zarr v2 hierarchy: a folder or a ZIP."""

    def __init__(self, path: Path):
        self.path = path
        self._zip: zipfile.ZipFile | None = None
        if path.is_file():
            self._zip = open_zip(path, "the Zarr archive", max_total=_ARCHIVE_BYTES, max_entry=MAX_CHUNK_BYTES)
            self._entries = set(self._zip.namelist())
        elif not path.is_dir():
            raise FormatError(f"there is no Zarr folder or archive at {path}")

    def get(self, name: str) -> bytes | None:
        """The bytes of a file; None if it is not there."""
        if self._zip is not None:
            return read_entry(self._zip, name, str(self.path)) if name in self._entries else None
        path = inside(self.path, name, str(self.path))
        return regular_file(path, "the file", MAX_CHUNK_BYTES).read_bytes() if path.exists() else None

    def json(self, name: str) -> Any:
        """A JSON file; None if it is not there."""
        data = self.get(name)
        return None if data is None else parse_json(data, f"{self.path}: {name}")

    def members(self, folder: str) -> list[str]:
        """Names of the arrays directly in a group, sorted."""
        if self._zip is not None:
            parts = [name.split("/") for name in self._entries]
            prefix = folder.split("/")
            n = len(prefix)
            return sorted(p[n] for p in parts if len(p) == n + 2 and p[:n] == prefix and p[n + 1] == ".zarray")
        place = self.path / folder
        return sorted(p.name for p in place.iterdir() if (p / ".zarray").is_file()) if place.is_dir() else []


class ZarrArray:
    """One array of numbers, opened: its declared shape, chunks, type and codec are known and allowed.

    Args:
        files: The hierarchy.
        name: Path of the array in it.
        fill: Whether a missing chunk means the fill value; otherwise it is an error, since it may be a lost one.
    """

    def __init__(self, files: Files, name: str, fill: bool = False):
        self._files, self._name, self._fill = files, name, fill
        self._what = f"{files.path}: {name}"
        meta = files.json(f"{name}/.zarray")
        if not isinstance(meta, dict) or meta.get("zarr_format") != 2:
            raise FormatError(f"{self._what} is not a Zarr v2 array")
        self.dtype = _dtype(meta.get("dtype"), self._what)
        itemsize = self.dtype.itemsize
        try:
            self.shape = check_shape(self._what, meta["shape"], itemsize, budget=1 << 46)
            self._chunks = check_shape(f"{self._what}, a chunk", meta["chunks"], itemsize, budget=MAX_CHUNK_BYTES)
        except (KeyError, TypeError) as error:
            raise FormatError(f"{self._what}: its .zarray has no shape or chunks ({error!r:.80})") from error
        if len(self.shape) != len(self._chunks) or not self.shape or 0 in self._chunks:
            raise FormatError(f"{self._what}: chunks {self._chunks} do not divide the shape {self.shape}")
        if meta.get("filters"):
            raise FormatError(f"{self._what} uses filters, {meta['filters']!r:.100}; only plain arrays are read")
        order = meta.get("order", "C")
        if order not in ("C", "F"):
            raise FormatError(f"{self._what}: order {order!r:.20} is neither C nor F")
        self._order = order
        self._separator = meta.get("dimension_separator", ".")
        if self._separator not in (".", "/"):
            raise FormatError(f"{self._what}: dimension_separator {self._separator!r:.20}")
        self._fill_value = meta.get("fill_value")
        self._codec = _codec_id(meta.get("compressor"), self._what)
        self._kept: OrderedDict[tuple[int, ...], np.ndarray] = OrderedDict()

    def read(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Rows [start, stop) along the first axis.

        Raises:
            FormatError: If a chunk is missing, damaged or larger than declared, or the rows are too much to hold.
        """
        stop = self.shape[0] if stop is None else stop
        if not 0 <= start <= stop <= self.shape[0]:
            raise FormatError(f"{self._what} has {self.shape[0]} rows; rows {start} to {stop} were asked for")
        shape = (stop - start, *self.shape[1:])
        check_bytes(f"{self._what}, rows {start} to {stop},", math.prod(shape) * self.dtype.itemsize, MAX_EPISODE_BYTES)
        parts = [
            range(start // self._chunks[0], -(-stop // self._chunks[0]) if stop > start else start // self._chunks[0])
        ]
        parts += [range(-(-n // c)) for n, c in zip(self.shape[1:], self._chunks[1:], strict=True)]
        out: np.ndarray | None = None
        for index in itertools.product(*parts):
            chunk = self._chunk(index)  # before `out`, so that a declared size alone takes no memory
            if out is None:
                out = np.empty(shape, self.dtype)
            low = [i * c for i, c in zip(index, self._chunks, strict=True)]
            first, last = max(low[0], start), min(low[0] + self._chunks[0], stop)
            rest_out = tuple(
                slice(lo, min(lo + c, n)) for lo, c, n in zip(low[1:], self._chunks[1:], self.shape[1:], strict=True)
            )
            rest_in = tuple(slice(0, s.stop - s.start) for s in rest_out)
            out[(slice(first - start, last - start), *rest_out)] = chunk[
                (slice(first - low[0], last - low[0]), *rest_in)
            ]
        return np.empty(shape, self.dtype) if out is None else out

    def _chunk(self, index: tuple[int, ...]) -> np.ndarray:
        if index in self._kept:
            self._kept.move_to_end(index)
            return self._kept[index]
        name = f"{self._name}/{self._separator.join(map(str, index))}"
        data = self._files.get(name)
        size = math.prod(self._chunks) * self.dtype.itemsize
        if data is not None:
            flat = np.frombuffer(decode(self._codec, data, size, f"{self._files.path}: {name}"), self.dtype)
            chunk = flat.reshape(self._chunks, order="F" if self._order == "F" else "C")
        elif self._fill and isinstance(self._fill_value, int | float):
            chunk = np.full(self._chunks, self._fill_value, self.dtype)
        else:
            raise FormatError(
                f"{self._files.path}: the chunk {name} is missing. If it was left out because it is all "
                f"{self._fill_value!r:.20}, pass --set missing=fill"
            )
        self._kept[index] = chunk
        while len(self._kept) > _KEPT_CHUNKS:
            self._kept.popitem(last=False)
        return chunk


def decode(codec: str, data: bytes, size: int, what: str) -> bytes:
    """Decompress a chunk that must give exactly `size` bytes.

    Raises:
        FormatError: If it is damaged or gives another number of bytes; no more than `size` is ever taken.
    """
    try:
        declared = _declared_size(codec, data)
        if declared is not None and declared != size:
            raise FormatError(f"{what} holds {declared:,} bytes, {size:,} were declared")
        found = _DECODE[codec](data, size)
    except FormatError:
        raise
    except Exception as error:  # each codec has errors of its own
        raise FormatError(f"{what} is damaged: {error}") from error
    if len(found) != size:
        raise FormatError(f"{what} holds {len(found):,} bytes, {size:,} were declared")
    return found


def _declared_size(codec: str, data: bytes) -> int | None:
    """The decompressed size that a chunk's own header names, where its format has one."""
    if codec == "blosc":  # Blosc 1 header: version, versionlz, flags, typesize, nbytes, blocksize, cbytes
        if len(data) < 16 or int.from_bytes(data[12:16], "little") != len(data):
            raise ValueError("not a Blosc frame")
        return int.from_bytes(data[4:8], "little")
    if codec == "lz4":  # numcodecs puts the size in front
        return int.from_bytes(data[:4], "little")
    if codec == "zstd":
        from foreact.datasets.zstandard import content_size

        return content_size(data[:18])
    return None


def _numcodecs(name: str) -> Callable[[bytes, int], bytes]:
    def run(data: bytes, size: int) -> bytes:
        import numcodecs

        codec: Any = numcodecs.get_codec({"id": name})
        return bytes(codec.decode(data))

    return run


def _zstd(data: bytes, size: int) -> bytes:
    if _declared_size("zstd", data) is None:
        raise ValueError("the Zstandard frame does not declare its size")
    return _numcodecs("zstd")(data, size)


def _limited(make: Callable[[], Any]) -> Callable[[bytes, int], bytes]:
    return lambda data, size: make().decompress(data, size + 1)


_DECODE: dict[str, Callable[[bytes, int], bytes]] = {
    "": lambda data, size: data,
    "blosc": _numcodecs("blosc"),
    "lz4": _numcodecs("lz4"),
    "zstd": _zstd,
    "zlib": _limited(zlib.decompressobj),
    "gzip": _limited(lambda: zlib.decompressobj(31)),
    "bz2": _limited(bz2.BZ2Decompressor),
    "lzma": _limited(lambda: lzma.LZMADecompressor(memlimit=256 << 20)),
}


def _codec_id(compressor: Any, what: str) -> str:
    if compressor is None:
        return ""
    name = compressor.get("id") if isinstance(compressor, dict) else None
    if isinstance(name, str) and "jpegxl" in name.replace("_", ""):
        raise FormatError(
            f"{what} is compressed as JPEG XL ({name}), as UMI does; ForeAct has no decoder for it. Rewrite the array "
            "once with its own codecs (universal_manipulation_interface, register_codecs()) and compressor Blosc."
        )
    if name not in _CODECS:
        raise FormatError(f"{what} is compressed by {compressor!r:.100}; known are {', '.join(_CODECS)}")
    return name


def _dtype(text: Any, what: str) -> np.dtype:
    try:
        dtype = np.dtype(text) if isinstance(text, str) and len(text) < 8 else None
    except TypeError:
        dtype = None
    if dtype is None or dtype.kind not in "fiub":
        raise FormatError(f"{what} holds {text!r:.80}, not numbers; objects are never read")
    return dtype

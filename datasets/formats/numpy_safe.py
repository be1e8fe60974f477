"""`.npy` and `.npz` of others: numbers only, never a pickle, nothing larger than the file that holds it.

Format: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from foreact.datasets.formats.base import FormatError
from foreact.datasets.formats.limits import check_shape, open_zip, read_entry, regular_file
from foreact.vla import npy

_MAX_NPZ_BYTES = 1 << 30


def parse_npy(data: bytes, what: str) -> np.ndarray:
    """An array of numbers from the bytes of a `.npy` file; read-only.

    Raises:
        FormatError: If it is damaged, holds objects, or is not as long as its shape says.
    """
    shape, fortran, dtype, start = npy_header(data, what)
    if dtype.kind not in "fiub":
        raise FormatError(f"{what} holds {dtype}, not numbers; pickled objects are not read")
    check_shape(what, shape, dtype.itemsize)
    if len(data) - start != math.prod(shape) * dtype.itemsize:
        raise FormatError(f"{what} declares {dtype} {shape}, but has {len(data) - start:,} bytes of it")
    flat = np.frombuffer(data, dtype, offset=start)
    return flat.reshape(shape, order="F" if fortran else "C")


def npy_header(data: bytes, what: str) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    """Shape, Fortran order, type, and where the contents begin; see `foreact.vla.npy`.

    Raises:
        FormatError: If it is not the header of a `.npy` file.
    """
    try:
        return npy.npy_header(data, what)
    except npy.NpyError as error:
        raise FormatError(str(error)) from error


def load_npy(path: Path, what: str = "the array", budget: int = _MAX_NPZ_BYTES) -> np.ndarray:
    """An array of numbers from a `.npy` file.

    Raises:
        FormatError: As `parse_npy`, or if the file is missing or too large.
    """
    return parse_npy(regular_file(path, what, budget).read_bytes(), f"{what} {path}")


def load_npz(path: Path, keys: Iterable[str], optional: Iterable[str] = ()) -> dict[str, np.ndarray]:
    """Some arrays of a `.npz` file; those of `optional` only if they are there.

    Raises:
        FormatError: If the archive is hostile or damaged, or an array is missing or not of numbers.
    """
    regular_file(path, "the frame", _MAX_NPZ_BYTES)
    with open_zip(path, "the frame", max_total=_MAX_NPZ_BYTES, max_entry=_MAX_NPZ_BYTES) as archive:
        there = {name.removesuffix(".npy") for name in archive.namelist()}
        wanted = [*keys, *(key for key in optional if key in there)]
        for key in wanted:
            _check_entry(archive, f"{key}.npy", f"{path}: {key}")
        return {key: parse_npy(read_entry(archive, f"{key}.npy", str(path)), f"{path}: {key}") for key in wanted}


def _check_entry(archive: zipfile.ZipFile, name: str, what: str) -> None:
    """Look at the header of an array before the rest is unfolded: a few kilobytes may unfold to a gigabyte."""
    if name not in archive.namelist():
        return  # reading it says so
    size = archive.getinfo(name).file_size
    try:
        with archive.open(name) as entry:
            head = entry.read(npy.MAX_HEADER + 16)
    except Exception as error:  # zlib has errors of its own
        raise FormatError(f"{what} is damaged: {error}") from error
    shape, _, dtype, start = npy_header(head, what)
    check_shape(what, shape, dtype.itemsize)
    if start + math.prod(shape) * dtype.itemsize != size:
        raise FormatError(f"{what} declares {dtype} {shape}, but has {size - start:,} bytes of it")

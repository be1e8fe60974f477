"""HDF5 files of others: no link is followed, sizes are checked before reading, filters are known ones.

HDF5 lets a file point at other files (external links, external and virtual datasets) and name filters that the library
would load as plug-ins; none of it is needed for a dataset, so all of it is refused.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from foreact.datasets.formats.base import FormatError
from foreact.datasets.formats.limits import MAX_TEXT_BYTES, check_bytes, check_shape

if TYPE_CHECKING:
    import h5py

MAGIC = b"\x89HDF\r\n\x1a\n"
_FILTERS = {1: "gzip", 2: "shuffle", 3: "fletcher32", 4: "szip", 5: "nbit", 6: "scaleoffset", 32000: "lzf"}
_ERRORS = (OSError, RuntimeError, ValueError, KeyError, TypeError, OverflowError, MemoryError)
"""What h5py raises on a damaged file, depending on where the damage is."""


def is_hdf5(path: Path) -> bool:
    """Whether a file begins like HDF5."""
    try:
        with open(path, "rb") as file:
            return file.read(8) == MAGIC
    except OSError:
        return False


def open_hdf5(path: Path) -> h5py.File:
    """Open a file for reading.

    Raises:
        FormatError: If it is not HDF5, or truncated.
    """
    import h5py

    if not path.is_file() or not is_hdf5(path):
        raise FormatError(f"{path} is not an HDF5 file (it does not begin with its signature)")
    try:
        return h5py.File(path, "r")
    except _ERRORS as error:
        raise FormatError(f"{path} is a damaged HDF5 file: {error}") from error


def child(group: h5py.Group, name: str, what: str) -> Any:
    """A member of a group, through hard links only.

    Raises:
        FormatError: If it is missing, damaged, or a link.
    """
    import h5py

    try:
        link = group.get(name, getlink=True)
        if link is None:
            raise FormatError(f"{what} has no {name!r}")
        if not isinstance(link, h5py.HardLink):
            raise FormatError(f"{what}: {name!r} is a link ({type(link).__name__}); links are not followed")
        return group[name]
    except _ERRORS as error:
        raise FormatError(f"{what}: {name!r} is damaged: {error}") from error


def subgroup(group: h5py.Group, name: str, what: str) -> h5py.Group:
    """A group in a group.

    Raises:
        FormatError: As `child`, or if it is an array.
    """
    import h5py

    found = child(group, name, what)
    if not isinstance(found, h5py.Group):
        raise FormatError(f"{what}: {name!r} is not a group")
    return found


def keys(group: h5py.Group, what: str, limit: int = 100_000) -> list[str]:
    """The names of a group's members, sorted.

    Raises:
        FormatError: If they are damaged or too many.
    """
    try:
        if len(group) > limit:
            raise FormatError(f"{what} has {len(group):,} members; at most {limit:,} are read")
        return sorted(group.keys())
    except _ERRORS as error:
        raise FormatError(f"{what} is damaged: {error}") from error


def declared(group: h5py.Group, name: str, what: str) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of an array of numbers, checked, nothing read.

    Raises:
        FormatError: If it is not an array of numbers inside this file, of a size that may be read.
    """
    import h5py

    found = child(group, name, what)
    if not isinstance(found, h5py.Dataset):
        raise FormatError(f"{what}: {name!r} is not an array")
    where = f"{what}: {name!r}"
    try:
        if found.external or found.is_virtual:
            raise FormatError(f"{where} keeps its numbers in other files; they are not read")
        if found.dtype.kind not in "fiub" or found.dtype.itemsize > 16 or found.shape is None:
            raise FormatError(f"{where} is not an array of numbers (its type is {found.dtype})")
        properties = found.id.get_create_plist()
        filters = [properties.get_filter(i)[0] for i in range(properties.get_nfilters())]
        chunk = math.prod(found.chunks or (1,)) * found.dtype.itemsize
    except _ERRORS as error:
        raise FormatError(f"{where} is damaged: {error}") from error
    for number in filters:
        if number not in _FILTERS:
            raise FormatError(f"{where} uses the HDF5 filter {number}; known are {', '.join(_FILTERS.values())}")
    check_bytes(f"{where}, one chunk,", chunk)
    return check_shape(where, found.shape, found.dtype.itemsize), found.dtype


def array(group: h5py.Group, name: str, what: str) -> np.ndarray:
    """A whole array of numbers.

    Raises:
        FormatError: As `declared`, or if its bytes are damaged.
    """
    declared(group, name, what)
    try:
        found: Any = group[name]
        return np.asarray(found[...])
    except _ERRORS as error:
        raise FormatError(f"{what}: {name!r} is damaged: {error}") from error


def text_attribute(owner: h5py.Group, name: str, what: str) -> str:
    """A text attribute; "" if it is not there.

    Raises:
        FormatError: If it is not a text, damaged or too large.
    """
    try:
        if name not in owner.attrs:
            return ""
        check_bytes(f"{what}: attribute {name!r}", owner.attrs.get_id(name).get_storage_size(), MAX_TEXT_BYTES)
        value = owner.attrs[name]
    except _ERRORS as error:
        raise FormatError(f"{what}: the attribute {name!r} is damaged: {error}") from error
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if not isinstance(value, str):
        raise FormatError(f"{what}: the attribute {name!r} is not a text")
    check_bytes(f"{what}: attribute {name!r}", len(value), MAX_TEXT_BYTES)
    return value

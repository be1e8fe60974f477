"""A file of arrays that opens at the speed of reading it: a sealed JSON line, then the bytes of each array.

The line names type, shape and CRC-32C of each array, in the order in which they follow, little endian, nothing between
them. Its length is a multiple of 8 (the member `pad` sees to that) and wide types come first: every array is aligned.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import google_crc32c
import numpy as np

from foreact.datasets.sealed import BrokenSeal, seal, unseal

_DTYPES = {"<i8": np.dtype("<i8"), "<i4": np.dtype("<i4"), "|u1": np.dtype("u1")}
_ALIGNED = 8


def encode_columns(header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> list[bytes]:
    """The pieces of the file, to be written one after another.

    Args:
        header: JSON values; `arrays` and `pad` are taken.
        arrays: Of int64, int32 or uint8.
    """
    order = sorted(arrays, key=lambda name: -arrays[name].dtype.itemsize)
    flat = {name: np.ascontiguousarray(arrays[name]) for name in order}
    views = [flat[name].tobytes() for name in order]
    listing = [
        [name, flat[name].dtype.str, list(flat[name].shape), google_crc32c.value(view)]
        for name, view in zip(order, views, strict=True)
    ]
    line = seal({**header, "arrays": listing, "pad": ""})
    line = seal({**header, "arrays": listing, "pad": " " * (-len(line) % _ALIGNED)})
    return [line, *views]


def decode_columns(data: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The header, and the arrays as read-only views of `data`; every byte is checked.

    Raises:
        BrokenSeal: If any byte is wrong, missing or added.
        ValueError, KeyError, TypeError: If the line is not what `encode_columns` writes.
    """
    start = data.find(b"\n") + 1
    header = unseal(data[:start])
    arrays: dict[str, np.ndarray] = {}
    for name, kind, shape, crc in header["arrays"]:
        dtype, count = _DTYPES[kind], math.prod(shape)
        if start + count * dtype.itemsize > len(data):
            raise BrokenSeal(f"it ends before the column {name}")
        array = np.frombuffer(data, dtype, count, start).reshape(shape)
        if count and google_crc32c.value(array.reshape(-1).view(np.uint8)) != crc:  # pyright: ignore[reportArgumentType]
            raise BrokenSeal(f"the crc32c of its column {name} is wrong")
        arrays[name] = array
        start += count * dtype.itemsize
    if start != len(data):
        raise BrokenSeal(f"{len(data) - start} bytes follow its last column")
    return header, arrays

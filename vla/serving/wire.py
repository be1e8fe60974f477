"""Arrays in messages, the way openpi sends them and the way GR00T does: numbers only, never an object or a pickle.

openpi (Physical-Intelligence/openpi, Apache-2.0) writes an array as the map
`{b"__ndarray__": True, b"data": ..., b"dtype": "<f4", b"shape": [...]}`; GR00T (NVIDIA/Isaac-GR00T, Apache-2.0) as
`{"__ndarray_class__": True, "as_npy": <the bytes of a .npy file>}`. Both sit in msgpack.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from foreact.vla.npy import NpyError, npy_header
from foreact.vla.serving.msgpack_reader import MAX_MESSAGE_BYTES, WireError, read_msgpack

__all__ = ["MAX_MESSAGE_BYTES", "WireError", "pack_gr00t", "pack_openpi", "unpack_gr00t", "unpack_openpi"]

_KINDS = ("|b1", "|u1", "|i1", "<u2", "<i2", "<u4", "<i4", "<u8", "<i8", "<f2", "<f4", "<f8")
_DTYPES = {kind: np.dtype(kind) for kind in _KINDS}
MAX_AXES = 6
MAX_SIDE = MAX_MESSAGE_BYTES


def pack_openpi(message: Mapping[str, Any]) -> bytes:
    """A message as openpi's clients and servers read it.

    Raises:
        WireError: If it is too large, or holds something that is neither number, text, list nor array of numbers.
    """
    return _pack(message, _as_openpi)


def unpack_openpi(data: bytes) -> Any:
    """What is in a message of openpi's dialect; arrays are read-only views of it.

    Raises:
        WireError: If it is damaged, hostile, or too large.
    """
    return read_msgpack(data, _from_openpi)


def pack_gr00t(message: Any) -> bytes:
    """A message as GR00T's clients and servers read it.

    Raises:
        WireError: As `pack_openpi`.
    """
    return _pack(message, _as_gr00t)


def unpack_gr00t(data: bytes) -> Any:
    """What is in a message of GR00T's dialect; arrays are read-only views of it.

    Raises:
        WireError: If it is damaged, hostile, or too large.
    """
    return read_msgpack(data, _from_gr00t)


def _pack(message: Any, default: Any) -> bytes:
    import msgpack

    try:
        data = msgpack.packb(message, default=default)
    except (TypeError, ValueError, OverflowError) as error:
        raise WireError(f"this cannot be sent: {error}") from error
    assert data is not None
    if len(data) > MAX_MESSAGE_BYTES:
        raise WireError(f"a message of {len(data):,} bytes is not sent; at most {MAX_MESSAGE_BYTES:,} are")
    return data


def _little(array: np.ndarray) -> np.ndarray:
    """The same numbers in the byte order of the wire.

    Raises:
        WireError: If they are not plain numbers.
    """
    array = np.asarray(array)
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    if little.dtype.str not in _DTYPES:
        raise WireError(f"an array of {array.dtype} cannot be sent; numbers and booleans can")
    return little


def _as_openpi(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{type(value).__name__} is neither number, text, list nor array")
    array = _little(value)
    return {b"__ndarray__": True, b"data": array.tobytes(), b"dtype": array.dtype.str, b"shape": array.shape}


def _as_gr00t(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{type(value).__name__} is neither number, text, list nor array")
    file = io.BytesIO()
    np.save(file, _little(value), allow_pickle=False)
    return {"__ndarray_class__": True, "as_npy": file.getvalue()}


def _dtype(found: Any) -> np.dtype:
    text = str(found, "ascii", "replace") if isinstance(found, bytes | memoryview) else found
    if not isinstance(text, str) or text not in _DTYPES:
        raise WireError(f"an array of type {text!r:.40}; known: {', '.join(_KINDS)}")
    return _DTYPES[text]


def _array(data: memoryview, dtype: np.dtype, shape: Any, order: Literal["C", "F"] = "C") -> np.ndarray:
    """A view of the contents, if they are as many as the shape says."""
    sides = tuple(shape) if isinstance(shape, list | tuple) else None
    if sides is None or len(sides) > MAX_AXES or any(type(n) is not int or not 0 <= n <= MAX_SIDE for n in sides):
        raise WireError(f"an array of shape {shape!r:.80}")
    if math.prod(sides) * dtype.itemsize != len(data):
        raise WireError(f"an array of {dtype} {sides} has {len(data):,} bytes of contents")
    try:
        return np.frombuffer(data, dtype).reshape(sides, order=order)
    except ValueError as error:  # nothing at all, in a shape whose other sides overflow
        raise WireError(f"an array of shape {sides}") from error


def _from_openpi(found: dict[Any, Any]) -> Any:
    if b"__ndarray__" in found:
        data = found.get(b"data")
        if not isinstance(data, memoryview):
            raise WireError("an array without contents")
        dtype = _dtype(found.get(b"dtype"))
        return _array(data, dtype, found.get(b"shape"))
    if b"__npgeneric__" in found:  # a NumPy scalar
        dtype, value = _dtype(found.get(b"dtype")), found.get(b"data")
        if type(value) not in (bool, int, float):
            raise WireError(f"a number of type {dtype} is {value!r:.40}")
        try:
            with np.errstate(all="ignore"):
                return dtype.type(value)
        except (OverflowError, ValueError) as error:
            raise WireError(f"{value!r:.40} is no {dtype}") from error
    return found


def _from_gr00t(found: dict[Any, Any]) -> Any:
    if "__ndarray_class__" not in found:
        return found
    data = found.get("as_npy")
    if not isinstance(data, memoryview):
        raise WireError("an array without contents")
    try:
        shape, fortran, dtype, start = npy_header(data, "an array")
    except NpyError as error:
        raise WireError(str(error)) from error
    return _array(data[start:], _dtype(dtype.str), shape, "F" if fortran else "C")

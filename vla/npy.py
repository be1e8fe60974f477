"""The header of a `.npy` array, read before anything of its size is believed or taken from memory.

Format: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html.
"""

from __future__ import annotations

import io

import numpy as np
from numpy.lib import format as npy

from foreact.vla.errors import ForeActError

MAX_HEADER = 10_000
"""Bytes of a header that are read; one of plain numbers has about a hundred."""


class NpyError(ForeActError):
    """Bytes are not a `.npy` array."""


def npy_header(data: bytes | memoryview, what: str) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    """Shape, Fortran order, type, and where the contents begin. Nothing is unpickled, whatever the type says.

    Raises:
        NpyError: If it is not the header of a `.npy` file.
    """
    file = io.BytesIO(data[: MAX_HEADER + 16])
    try:
        version = npy.read_magic(file)
        read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[version]
        shape, fortran, dtype = read(file, max_header_size=MAX_HEADER)
    except Exception as error:  # from `ast`, `tokenize`, `struct` and numpy, whatever the bytes provoke
        raise NpyError(f"{what} is not a .npy array: {error!r:.200}") from error
    return shape, fortran, dtype, file.tell()

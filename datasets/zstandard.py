"""Arrays to Zstandard frames and back."""

from __future__ import annotations

import numpy as np

from foreact.datasets.codec_base import BadFrame, Blob


def compress(array: np.ndarray, level: int) -> bytes:
    """The bytes of an array as one Zstandard frame that declares their number."""
    from numcodecs import Zstd

    return bytes(Zstd(level=level).encode(np.ascontiguousarray(array)))


def decompress(blob: Blob, out: np.ndarray) -> None:
    """Fill `out` (uint8, C-contiguous) from a Zstandard frame that declares exactly its size.

    Raises:
        BadFrame: If it is not one; no memory is taken for what it declares.
    """
    from numcodecs.zstd import decompress as unpack  # the class Zstd around it takes as long as a small picture

    blob = bytes(blob)
    if (found := content_size(blob[:18])) != out.size:
        raise BadFrame(f"not a Zstandard frame of {out.size} bytes; its header says {found}")
    try:
        unpack(blob, out)
    except (RuntimeError, ValueError) as error:
        raise BadFrame(f"not a Zstandard frame: {error}") from error


def content_size(header: bytes) -> int | None:
    """The size that a Zstandard frame declares to unpack to, or None. Source: RFC 8878, section 3.1.1.1."""
    if len(header) < 5 or header[:4] != b"\x28\xb5\x2f\xfd":
        return None
    descriptor = header[4]
    single_segment = descriptor >> 5 & 1
    size_bytes = (single_segment, 2, 4, 8)[descriptor >> 6]
    at = 5 + (1 - single_segment) + (0, 1, 2, 4)[descriptor & 3]
    if not size_bytes or len(header) < at + size_bytes:
        return None
    return int.from_bytes(header[at : at + size_bytes], "little") + (256 if size_bytes == 2 else 0)

"""What an image codec is: it turns each frame of one camera into one blob, and back.

Still-picture codecs decode any frame alone; others decode in groups of `group` frames, each of which starts with a key
frame that needs no other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

MAX_SIDE = 8192
"""Pictures with a longer side are refused."""

Blob = bytes | memoryview


class BadFrame(ValueError):
    """A blob is not a frame of the declared size."""


class FrameEncoder(Protocol):
    """Encodes the frames of one camera and one episode in order."""

    def add(self, frame: np.ndarray) -> None:
        """Take the next (H, W, 3) uint8 RGB frame."""
        ...

    def finish(self) -> list[bytes]:
        """One blob per added frame."""
        ...


class FrameCodec(Protocol):
    """Frames to blobs and back."""

    @property
    def group(self) -> int:
        """Frames from one key frame to the next: 1 for still pictures."""
        ...

    @property
    def spec(self) -> str:
        """The text that `codec_from_spec` turns into this codec."""
        ...

    def encoder(self, height: int, width: int) -> FrameEncoder:
        """A new encoder for frames of this size."""
        ...

    def needs(self, frames: Sequence[int]) -> list[int]:
        """The frames, rising, whose blobs `decode_into` must be given for these frames (distinct and rising)."""
        ...

    def decode_into(self, blobs: Mapping[int, Blob], out: Mapping[int, np.ndarray], height: int, width: int) -> None:
        """Decode the frames that are keys of `out`, each into its array: (height, width, 3) uint8, C-contiguous.

        Args:
            blobs: frame number -> blob, for exactly the frames that `needs` names, in rising order.
            out: frame number -> where to put it, in rising order.
            height, width: Size of the frames.

        Raises:
            BadFrame: If a blob is not a picture of exactly that size; no memory is taken for what it declares.
        """
        ...

    def decode(self, blobs: Sequence[Blob], height: int, width: int) -> list[np.ndarray]:
        """Decode the blobs of whole groups, from the first frame of a group on; see `decode_into`."""
        ...


class GroupDecoder:
    """`FrameCodec.decode` in terms of `decode_into`."""

    def decode_into(self, blobs: Mapping[int, Blob], out: Mapping[int, np.ndarray], height: int, width: int) -> None:
        """See `FrameCodec.decode_into`."""
        raise NotImplementedError

    def decode(self, blobs: Sequence[Blob], height: int, width: int) -> list[np.ndarray]:
        """See `FrameCodec.decode`."""
        check_size(height, width)
        frames = [np.empty((height, width, 3), np.uint8) for _ in blobs]
        self.decode_into(dict(enumerate(blobs)), dict(enumerate(frames)), height, width)
        return frames


def check_size(height: int, width: int) -> None:
    """Raise unless frames of this size may be decoded.

    Raises:
        BadFrame: If a side is longer than `MAX_SIDE`.
    """
    if not 0 < height <= MAX_SIDE or not 0 < width <= MAX_SIDE:
        raise BadFrame(f"a frame of {height}x{width} pixels is beyond the limit of {MAX_SIDE}")

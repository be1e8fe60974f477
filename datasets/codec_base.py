"""What an image codec is: it turns each frame of one camera into one blob, and back.

Still-picture codecs decode any frame alone; a video codec decodes groups of `group` frames, each starting with a key
frame.
"""

from __future__ import annotations

from collections.abc import Sequence
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

    group: int
    """Frames that are decoded together: 1 for still pictures."""

    @property
    def spec(self) -> str:
        """The text that `codec_from_spec` turns into this codec."""
        ...

    def encoder(self, height: int, width: int) -> FrameEncoder:
        """A new encoder for frames of this size."""
        ...

    def decode(self, blobs: Sequence[Blob], height: int, width: int) -> list[np.ndarray]:
        """Decode the blobs of one group, from its first frame on, to (height, width, 3) uint8 frames.

        Raises:
            BadFrame: If a blob is not a picture of exactly that size, found before memory is allocated for it.
        """
        ...


def check_size(height: int, width: int) -> None:
    """Raise unless frames of this size may be decoded.

    Raises:
        BadFrame: If a side is longer than `MAX_SIDE`.
    """
    if not 0 < height <= MAX_SIDE or not 0 < width <= MAX_SIDE:
        raise BadFrame(f"a frame of {height}x{width} pixels is beyond the limit of {MAX_SIDE}")

"""A lossless codec for cameras that stand still: what differs from a key frame, by Zstandard.

The first frame of a group is stored as it is, each other one as its difference to that one (modulo 256), so that any
frame is decoded from two blobs, whatever the length of the group. What does not move in a picture without noise costs
next to nothing; the noise of a real camera costs as much as it does in any lossless codec.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from foreact.datasets.codec_base import Blob, FrameEncoder, GroupDecoder, check_size
from foreact.datasets.zstandard import compress, decompress
from foreact.vla.errors import ConfigError


class _Deltas:
    def __init__(self, codec: DeltaCodec):
        self._codec = codec
        self._blobs: list[bytes] = []
        self._key: np.ndarray | None = None

    def add(self, frame: np.ndarray) -> None:
        if self._key is None or len(self._blobs) % self._codec.group == 0:
            self._key = frame.copy()
            self._blobs.append(compress(frame, self._codec.level))
        else:
            self._blobs.append(compress(frame - self._key, self._codec.level))

    def finish(self) -> list[bytes]:
        return self._blobs


@dataclass(frozen=True)
class DeltaCodec(GroupDecoder):
    """Lossless: key frames and differences to them, each by Zstandard."""

    name: ClassVar[str] = "delta"
    level: int = 3
    group: int = 10

    def __post_init__(self) -> None:
        if not 1 <= self.level <= 22 or not 1 <= self.group <= 1000:
            raise ConfigError(f"delta: expected level 1 to 22 and group 1 to 1000, found {self.level} and {self.group}")

    @property
    def spec(self) -> str:
        return f"{self.name}:level={self.level},group={self.group}"

    def encoder(self, height: int, width: int) -> FrameEncoder:
        return _Deltas(self)

    def needs(self, frames: Sequence[int]) -> list[int]:
        return sorted({t - t % self.group for t in frames} | set(frames))

    def decode_into(self, blobs: Mapping[int, Blob], out: Mapping[int, np.ndarray], height: int, width: int) -> None:
        check_size(height, width)
        key = spare = np.empty((0,), np.uint8)
        for t, blob in blobs.items():
            if t % self.group == 0:
                if t in out:
                    key = out[t]
                else:
                    key = spare = spare if spare.size else np.empty((height, width, 3), np.uint8)
                decompress(blob, key)
            else:
                frame = out[t]
                decompress(blob, frame)
                np.add(frame, key, out=frame)

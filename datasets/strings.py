"""Many texts in two arrays: their UTF-8 bytes one after another, and where each begins."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np


class Strings(Sequence[str]):
    """N texts; one is decoded when it is looked at.

    Args:
        at: (N + 1,) int64, where each begins, and the end of the last.
        heap: (bytes,) uint8.

    Raises:
        ValueError: If `at` does not divide `heap`.
    """

    def __init__(self, at: np.ndarray, heap: np.ndarray):
        if at.ndim != 1 or heap.ndim != 1 or not len(at) or at[0] != 0 or at[-1] != len(heap):
            raise ValueError("offsets of texts do not cover their bytes")
        if (at[1:] < at[:-1]).any():
            raise ValueError("offsets of texts go backwards")
        self.at = at
        self.heap = heap

    @classmethod
    def of(cls, texts: Sequence[str]) -> Strings:
        """Encode texts."""
        blobs = [text.encode("utf-8", "surrogatepass") for text in texts]
        at = np.zeros(len(blobs) + 1, np.int64)
        np.cumsum([len(blob) for blob in blobs], out=at[1:])
        return cls(at, np.frombuffer(b"".join(blobs), np.uint8))

    def __len__(self) -> int:
        return len(self.at) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        return _text(self._blob(index))

    def __iter__(self) -> Iterator[str]:
        whole, at = self.heap.tobytes(), self.at.tolist()
        if whole.isascii():  # then bytes and letters are the same, and one decoding does for all
            text = whole.decode("ascii")
            return (text[a:b] for a, b in zip(at, at[1:], strict=False))
        return (_text(whole[a:b]) for a, b in zip(at, at[1:], strict=False))

    def place(self, text: str) -> int:
        """Where `text` is, or would be inserted, if the texts are sorted. (UTF-8 sorts as Python's texts do.)"""
        blob, low, high = text.encode("utf-8", "surrogatepass"), 0, len(self)
        while low < high:
            middle = (low + high) // 2
            if self._blob(middle) < blob:
                low = middle + 1
            else:
                high = middle
        return low

    def _blob(self, index: int) -> bytes:
        return self.heap[self.at[index] : self.at[index + 1]].tobytes()


def _text(blob: bytes) -> str:
    return blob.decode("utf-8", "surrogatepass")

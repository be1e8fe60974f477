"""Cuts hours of play into pieces that fit into memory, never through an annotated window."""

from __future__ import annotations

from collections.abc import Sequence

from foreact.datasets.formats.calvin_language import Window

MAX_PIECE = 1000
"""Frames: 33 s at 30 Hz, 141 MB decoded."""


def cut(first: int, last: int, windows: Sequence[Window], piece: int) -> list[tuple[int, int, list[Window]]]:
    """Pieces (first, last, windows inside) that together are frames first to last, all inclusive.

    A piece has at most `piece` frames, unless windows that overlap one another leave no place to cut.
    """
    inner = sorted((w for w in windows if first <= w.start and w.end <= last), key=lambda w: (w.start, w.end))
    blocks: list[tuple[int, int]] = []  # windows that overlap, joined
    for window in inner:
        if blocks and window.start <= blocks[-1][1]:
            blocks[-1] = (blocks[-1][0], max(blocks[-1][1], window.end))
        else:
            blocks.append((window.start, window.end))
    pieces = []
    start = first
    while start <= last:
        end = min(start + piece - 1, last)
        # The last frame of a piece may not have its successor in the same block.
        for low, high in blocks:
            if low <= end < high:
                end = low - 1 if low > start else high
                break
        pieces.append((start, end, [w for w in inner if start <= w.start and w.end <= end]))
        start = end + 1
    return pieces

"""Clips: stretches of episodes under one instruction, and the windows in them.

An episode without segments is one clip. An episode with segments has one clip per segment, and windows do not look
beyond it: what happens after the segment does not follow its instruction.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property

import numpy as np

from foreact.datasets.layout import StoreError
from foreact.datasets.store import Store
from foreact.datasets.table import EpisodeInfo

EpisodeFilter = Callable[[EpisodeInfo], bool] | Collection[int] | None


@dataclass(frozen=True)
class Clips:
    """C clips of one store."""

    episode: np.ndarray
    """(C,) int64 episode number in the store."""
    start: np.ndarray
    """(C,) int64 first frame."""
    end: np.ndarray
    """(C,) int64 frame after the last."""
    instruction: list[str]
    """(C,) sentences, possibly empty."""
    has_state: np.ndarray
    """(C,) bool."""
    has_action: np.ndarray
    """(C,) bool."""

    @property
    def windows(self) -> int:
        """Number of windows: every frame of every clip anchors one."""
        return int((self.end - self.start).sum())

    @cached_property
    def _ends(self) -> np.ndarray:
        """(C,) int64 number of windows up to and with each clip; kept, so that a step costs a search and no sum."""
        return np.cumsum(self.end - self.start)

    def locate(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(N,) window numbers -> (N,) clip numbers and (N,) anchor frames."""
        ends = self._ends
        clip = np.searchsorted(ends, numbers, side="right")
        frame = numbers - (ends[clip] - (self.end[clip] - self.start[clip])) + self.start[clip]
        return clip, frame


def choose_episodes(
    store: Store,
    cameras: Iterable[str],
    split: str | None = None,
    episodes: EpisodeFilter = None,
    patterns: Collection[str] | None = None,
) -> tuple[list[int], list[str]]:
    """Episode numbers that have all the cameras, the split and pass the filter; and notes on what was left out.

    With `patterns`, only episodes whose name matches one of them, such as "D-*".

    Raises:
        StoreError: If none is left, naming the splits and cameras there are.
    """
    table, wanted = store.index, set(cameras)
    codes, values = table.meta_values("split")
    keep = np.ones(len(table), bool)
    if split is not None:
        keep &= np.array([*(value == split for value in values), False])[codes]  # the last is for -1: no split
    if patterns is not None:
        keep &= np.array([any(fnmatchcase(name, p) for p in patterns) for name in table.names], bool)
    if callable(episodes):
        keep[[number for number in np.flatnonzero(keep) if not episodes(table[int(number)])]] = False
    elif episodes is not None:
        keep &= np.isin(np.arange(len(table)), list(episodes))
    with_cameras = table.has_cameras(wanted)
    chosen = np.flatnonzero(keep & with_cameras).tolist()
    without = int((keep & ~with_cameras).sum())
    if not chosen:
        splits = sorted({str(([*values, None])[code]) for code in np.unique(codes)})
        raise StoreError(
            f"the store {store.path} has no episode for this: {len(store)} episodes, splits {splits} "
            f"(asked for {split!r}), {without} without all of the cameras {sorted(wanted)}"
            + (f"; names like {sorted(patterns)}" if patterns is not None else "")
        )
    notes = [f"{store.path}: left out {without} episodes without all of {sorted(wanted)}"] if without else []
    return chosen, notes


def make_clips(store: Store, episodes: Iterable[int]) -> Clips:
    """The clips of these episodes, in their order."""
    numbers = np.fromiter(episodes, np.int64)
    table = store.index
    episode, start, end, instruction = table.spans(numbers)
    return Clips(
        episode=episode,
        start=start,
        end=end,
        instruction=instruction,
        has_state=table.has_state[episode],
        has_action=table.has_action[episode],
    )

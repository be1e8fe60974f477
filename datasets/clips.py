"""Clips: stretches of episodes under one instruction, and the windows in them.

An episode without segments is one clip. An episode with segments has one clip per segment, and windows do not look
beyond it: what happens after the segment does not follow its instruction.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

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

    def locate(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(N,) window numbers -> (N,) clip numbers and (N,) anchor frames."""
        ends = np.cumsum(self.end - self.start)
        clip = np.searchsorted(ends, numbers, side="right")
        frame = numbers - (ends[clip] - (self.end[clip] - self.start[clip])) + self.start[clip]
        return clip, frame


def choose_episodes(
    store: Store, cameras: Iterable[str], split: str | None = None, episodes: EpisodeFilter = None
) -> tuple[list[int], list[str]]:
    """Episode numbers that have all the cameras, the split and pass the filter; and notes on what was left out.

    Raises:
        StoreError: If none is left, naming the splits and cameras there are.
    """
    wanted = set(cameras)
    chosen: list[int] = []
    splits: set[str] = set()
    without: list[str] = []
    numbers = None if episodes is None or callable(episodes) else set(episodes)
    for number, info in enumerate(store.index):
        splits.add(str(info.meta.get("split")))
        if split is not None and info.meta.get("split") != split:
            continue
        if numbers is not None and number not in numbers or callable(episodes) and not episodes(info):
            continue
        if not wanted <= info.cameras.keys():
            without.append(info.name)
            continue
        chosen.append(number)
    if not chosen:
        raise StoreError(
            f"the store {store.path} has no episode for this: {len(store)} episodes, splits {sorted(splits)} "
            f"(asked for {split!r}), {len(without)} without all of the cameras {sorted(wanted)}"
        )
    notes = [f"{store.path}: left out {len(without)} episodes without all of {sorted(wanted)}"] if without else []
    return chosen, notes


def make_clips(store: Store, episodes: Iterable[int]) -> Clips:
    """The clips of these episodes, in their order."""
    rows: list[tuple[int, int, int, str, bool, bool]] = []
    for number in episodes:
        info = store.index[number]
        spans = [(s.start, s.end, s.instruction) for s in info.segments] or [(0, info.length, info.instruction)]
        rows += [(number, *span, info.has_state, info.has_action) for span in spans]
    episode, start, end, instruction, has_state, has_action = map(list, zip(*rows, strict=True))
    return Clips(
        episode=np.array(episode, np.int64),
        start=np.array(start, np.int64),
        end=np.array(end, np.int64),
        instruction=instruction,
        has_state=np.array(has_state, bool),
        has_action=np.array(has_action, bool),
    )

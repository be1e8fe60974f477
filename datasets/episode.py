"""One episode as plain arrays: what recorders write, what stores return.

Shape legend: T frames, H x W pixels, S state size, A action size.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Segment:
    """Frames [start, end) of an episode in which one instruction is carried out."""

    start: int
    end: int
    instruction: str


@dataclass(kw_only=True)
class EpisodeData:
    """An episode, or some frames of it. State and action are None for action-free video."""

    images: dict[str, np.ndarray]
    """camera -> (T, H, W, 3) uint8 RGB."""
    state: np.ndarray | None = None
    """(T, S) float32 in the fields of the store's contract, measured when the frame was taken."""
    action: np.ndarray | None = None
    """(T, A) float32: the label, what should be commanded on seeing the frame."""
    extras: dict[str, np.ndarray] = field(default_factory=dict)
    """name -> (T, ...) float32 or float64: what a policy may not see, such as "scene_obs" or "action_executed"."""
    instruction: str = ""
    segments: list[Segment] = field(default_factory=list)
    """Finer language than `instruction`; segments may overlap and need not cover the episode."""
    meta: dict[str, Any] = field(default_factory=dict)
    """JSON scalars by name: "task", "seed", "scene", "split", ..."""
    name: str = ""
    """Name in the store; empty for an episode that was not written yet."""

    def __len__(self) -> int:
        """T, from the first array there is."""
        for array in (*self.images.values(), self.state, self.action, *self.extras.values()):
            if array is not None:
                return len(array)
        return 0

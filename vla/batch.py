"""The training batch: one typed bundle of arrays that window samplers make and policies consume.

Shape legend: B windows, T history frames, K actions of a chunk, S state size, A action size, H x W pixels.
Valid history frames come first; padding is on the right (GR-1, bytedance/GR-1 evaluation code).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(kw_only=True)
class WindowBatch:
    """B windows. Everything is NumPy; `policy.loss` moves it to torch."""

    images: dict[str, np.ndarray]
    """camera -> (B, T, H, W, 3) uint8: history frames, oldest first, the current one at `last`."""
    future: dict[str, np.ndarray]
    """camera -> (B, T, H, W, 3) uint8: for history frame i, the frame `foresight_steps` control steps later."""
    future_mask: np.ndarray
    """(B, T) bool: the future frame exists inside the episode."""
    history_mask: np.ndarray
    """(B, T) bool: the history frame exists; True first, then False."""
    state: np.ndarray
    """(B, T, S) float32, zero where unknown."""
    state_mask: np.ndarray
    """(B, T) bool: False for action-free video."""
    action: np.ndarray
    """(B, T, K, A) float32: action chunk that starts at history frame i, zero where masked."""
    action_mask: np.ndarray
    """(B, T, K) bool: the action exists (inside the episode, and not action-free video)."""
    instruction: list[str]
    """(B,) sentences, possibly empty."""
    index: np.ndarray
    """(B, 2) int64: episode number in the store and frame of the current observation, to name a bad batch."""

    def __len__(self) -> int:
        return len(self.instruction)

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

    action_used: np.ndarray | None = None
    """(B, A) bool: which components of its actions a window teaches, where a data set lacks some or they are masked
    out; the others are zero and must not count in a loss. None: all."""

    features: dict[str, np.ndarray] | None = None
    """camera -> (B, T, 1 + P, V) float16: what the policy's frozen vision tower sees in `images` (summary, then P
    patches of width V), computed before (`foreact.vla.frozen_vision`); zero where masked. None: it has to look."""

    @property
    def action_numbers(self) -> np.ndarray:
        """(B, T, K, A) bool: the numbers of `action` that exist and are to be learned."""
        mask = (self.action_mask & self.history_mask[..., None])[..., None]
        if self.action_used is not None:
            mask = mask & self.action_used[:, None, None, :]
        return np.broadcast_to(mask, self.action.shape).copy()

    def __len__(self) -> int:
        return len(self.instruction)

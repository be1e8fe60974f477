"""Windows of one recorded episode, as a policy would have seen them while it acted.

Shape legend: B windows, T history frames, R recorded frames, K actions of a chunk, S state size, A action size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from foreact.vla.trainable import TrainablePolicy


@dataclass(frozen=True, kw_only=True)
class Episode:
    """A recorded episode in the policy's own cameras, sizes and fields."""

    images: Mapping[str, np.ndarray]
    """Camera name -> (R, H, W, 3) uint8."""
    state: np.ndarray | None
    """(R, S) float32; None where it was not recorded."""
    action: np.ndarray | None
    """(R, A) float32; None where it was not recorded."""
    instruction: str

    def __len__(self) -> int:
        return len(next(iter(self.images.values())))


@dataclass(frozen=True, kw_only=True)
class Windows:
    """Some windows; frames that exist come first."""

    images: Mapping[str, Tensor]
    """Camera name -> (B, T, H, W, 3) uint8; where a frame does not exist, zeros."""
    state_BTS: Tensor
    known_BT: Tensor
    """False where the state is unknown."""
    mask_BT: Tensor
    """True for frames that exist."""

    def __len__(self) -> int:
        return len(self.mask_BT)

    @property
    def last_B(self) -> Tensor:
        """Which of the T frames is the present one."""
        return self.mask_BT.sum(dim=1) - 1

    def present(self) -> dict[str, Tensor]:
        """Camera name -> (B, H, W, 3), the frame at which the plan is made."""
        rows = torch.arange(len(self), device=self.mask_BT.device)
        return {camera: images[rows, self.last_B] for camera, images in self.images.items()}


def history_mask(policy: TrainablePolicy, frames: Sequence[int]) -> np.ndarray:
    """(B, T) bool: which history frames exist at these frames of an episode; those come first."""
    config = policy.config
    return np.arange(config.history) <= np.asarray(frames)[:, None] // config.history_stride


def windows_at(policy: TrainablePolicy, episode: Episode, frames: Sequence[int]) -> Windows:
    """The windows that end at these frames of the episode, on the policy's device."""
    config, B = policy.config, len(frames)
    T, stride = config.history, config.history_stride
    place_BT, mask_BT = np.zeros((B, T), int), history_mask(policy, frames)
    for row, frame in enumerate(frames):
        first = frame - (int(mask_BT[row].sum()) - 1) * stride
        place_BT[row, mask_BT[row]] = range(first, frame + 1, stride)
    device = next(policy.parameters()).device
    state = np.zeros((len(episode), policy.contract.state_size), np.float32) if episode.state is None else episode.state
    known = mask_BT & (episode.state is not None)
    images = {
        camera: torch.from_numpy(seen[place_BT] * mask_BT[..., None, None, None]).to(device)
        for camera, seen in episode.images.items()
    }
    return Windows(
        images=images,
        state_BTS=torch.from_numpy(np.where(known[..., None], state[place_BT], 0.0).astype(np.float32)).to(device),
        known_BT=torch.from_numpy(known).to(device),
        mask_BT=torch.from_numpy(mask_BT).to(device),
    )


def encode(policy: TrainablePolicy, windows: Windows, images: Mapping[str, Tensor] | None = None) -> Tensor:
    """Frame tokens (B, T, F, D); `images` replaces the windows' own, and may be float, to be differentiated."""
    B, T = windows.mask_BT.shape
    flat = {name: rearrange(image, "b t h w c -> (b t) h w c") for name, image in (images or windows.images).items()}
    tokens = policy.encode_frames(flat, windows.state_BTS.reshape(B * T, -1), windows.known_BT.reshape(B * T))
    return rearrange(tokens, "(b t) f d -> b t f d", t=T)


def chunks(frames: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    """`frames`, so many at a time."""
    for start in range(0, len(frames), size):
        yield frames[start : start + size]


def recorded_chunks(episode: Episode, frames: Sequence[int], steps: int) -> tuple[np.ndarray, np.ndarray]:
    """What was recorded from each frame on: actions (B, K, A), and (B, K) which of them exist."""
    assert episode.action is not None
    place_BK = np.asarray(frames)[:, None] + np.arange(steps)
    exists_BK = place_BK < len(episode)
    return episode.action[np.minimum(place_BK, len(episode) - 1)], exists_BK

"""A frozen vision tower as what may be computed once per frame and kept, instead of at every step of training.

Shape legend: N pictures, P patches, V width of the tower, H x W pixels.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from foreact.vla.errors import ConfigError
from foreact.vla.vision import PretrainedVision, VisionTower, to_pixels

KEPT = np.dtype(np.float16)
"""Kept features are rounded to this: 11 bits of mantissa. bfloat16 has 8, and NumPy does not know it."""
_AT_ONCE = 32
_SAYS_NOTHING = {"_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype"}
"""Entries of a transformers config that change no number (the type of the weights is looked at itself)."""


@dataclass(frozen=True)
class FrozenVision:
    """What a frozen tower sees in a picture, as one array: the summary, then the patches."""

    name: str
    """16 hex digits: its weights, and how pictures are prepared for it."""
    shape: tuple[int, int]
    """(1 + P, V)."""
    look: Callable[[Tensor], Tensor]
    """(N, H, W, 3) uint8 to (N, 1 + P, V)."""
    device: torch.device

    @torch.no_grad()
    def features(self, images_NHWC: np.ndarray) -> np.ndarray:
        """uint8 pictures (N, H, W, 3) to (N, 1 + P, V) of type `KEPT`, computed in float32.

        Raises:
            ConfigError: If a number is too large for that type.
        """
        out = np.empty((len(images_NHWC), *self.shape), KEPT)
        for at in range(0, len(out), _AT_ONCE):
            images = torch.from_numpy(np.ascontiguousarray(images_NHWC[at : at + _AT_ONCE])).to(self.device)
            found = self.look(images).to(torch.float16)
            if not bool(torch.isfinite(found).all()):
                raise ConfigError(
                    "the vision tower gives numbers that float16 cannot hold (above 65504, or not finite), so its "
                    "features cannot be kept: use data.features=live"
                )
            out[at : at + _AT_ONCE] = found.cpu().numpy()
        return out


def freeze(weights: nn.Module, prepared: str, shape: tuple[int, int], look: Callable[[Tensor], Tensor]) -> FrozenVision:
    """Of a module that is never trained.

    Args:
        weights: The tower.
        prepared: Everything else that its features depend on: sizes, normalisation, how pictures are resized.
        shape: (1 + P, V).
        look: See `FrozenVision`.

    Raises:
        ConfigError: If it is trained.
    """
    if any(parameter.requires_grad for parameter in weights.parameters()):
        raise ConfigError("the vision tower is trained, so its features change: use data.features=live")
    digest = hashlib.sha256(f"{prepared}\n".encode())
    for name, value in sorted(weights.state_dict().items()):
        digest.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().data if value.numel() else b"")
    device = next(weights.parameters()).device
    return FrozenVision(digest.hexdigest()[:16], shape, look, device)


def freeze_tower(tower: VisionTower) -> FrozenVision:
    """Of the tower of a policy.

    Raises:
        ConfigError: If it is trained, whole or by adapters.
    """
    if not isinstance(tower, PretrainedVision):
        raise ConfigError(
            "data.features=disk keeps what a frozen vision tower sees, and policy.vision=small is trained: use "
            "data.features=live, or a frozen tower (policy.vision=mae, dino or vit)"
        )
    if tower.adapted:
        raise ConfigError(
            "data.features=disk keeps what a frozen vision tower sees, and this one has adapters that are trained "
            "(policy.lora_rank): use data.features=live, or policy.lora_rank=0"
        )

    def look(images_NHWC: Tensor) -> Tensor:
        patches, summary = tower(to_pixels(images_NHWC))
        return torch.cat([summary[:, None], patches], dim=1)

    settings = {name: value for name, value in tower.model.config.to_dict().items() if name not in _SAYS_NOTHING}
    prepared = f"{tower.prepared}\n{json.dumps(settings, sort_keys=True, default=str)}"
    return freeze(tower, prepared, (1 + tower.patches, tower.width), look)

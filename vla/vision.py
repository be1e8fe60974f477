"""Vision towers: a picture becomes patch tokens and one token for the whole picture.

Every tower maps (N, 3, H, W) pixels in [0, 1] to patches (N, P, D) and a summary (N, D). `small` learns from
scratch; the others are pretrained, frozen, and come through transformers from a folder or a hub.

Shape legend: N pictures, P patches, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from foreact.vla.errors import ConfigError, did_you_mean
from foreact.vla.layers import Block, sincos_positions

PRETRAINED = {
    "mae": "facebook/vit-mae-base",
    "dino": "facebook/dinov2-small",
    "vit": "google/vit-base-patch16-224-in21k",
}
"""Name in a config -> hub name; only these families are ever loaded, and never with remote code."""

FAMILIES = ("vit_mae", "dinov2", "vit")
"""transformers model types of the above."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class VisionTower(nn.Module):
    """What a policy asks of a vision tower: `forward` maps (N, 3, H, W) to patches (N, P, D) and a summary (N, D)."""

    width: int
    """Width of its tokens, D."""
    grid: tuple[int, int]
    """Rows and columns of its patches."""

    def files(self) -> dict[str, bytes]:
        """What a checkpoint must keep besides weights, to build the tower again offline."""
        return {}


class SmallVision(VisionTower):
    """A small encoder trained from scratch: three stride-2 convolutions (8x8 pixels become one token), then
    transformer blocks with a learned summary token."""

    def __init__(self, size: tuple[int, int], *, width: int = 128, depth: int = 1, heads: int = 4):
        super().__init__()
        height, wide = size
        if height % 8 or wide % 8:
            raise ConfigError(f"vision 'small' needs pictures whose sides are multiples of 8, found {height}x{wide}")
        self.width = width
        self.grid = (height // 8, wide // 8)
        channels = (3, width // 4, width // 2, width)
        self.stem = nn.Sequential()
        for narrow, broad in zip(channels, channels[1:], strict=False):
            self.stem.append(nn.Conv2d(narrow, broad, 3, stride=2, padding=1))
            self.stem.append(nn.GELU())
        self.summary_D = nn.Parameter(torch.randn(width) * 0.02)
        self.register_buffer("positions_PD", sincos_positions(height // 8, wide // 8, width), persistent=False)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        features = self.stem((pixels - 0.5) * 4.0)
        x = rearrange(features, "n d h w -> n (h w) d") + self.positions_PD
        x = torch.cat([self.summary_D.expand(len(x), 1, -1).to(x.dtype), x], dim=1)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return x[:, 1:], x[:, 0]


class PretrainedVision(VisionTower):
    """A frozen tower of transformers; pictures are resized to its own size and normalised as it was trained."""

    mean: Tensor
    std: Tensor
    prepared = "bicubic without antialiasing, ImageNet's mean and spread; 1"
    """How pictures are prepared; kept features (`foreact.vla.frozen_vision`) depend on it."""

    def __init__(self, model: Any):
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.adapted = False
        """Whether adapters inside are trained (`foreact.vla.lora`)."""
        config = model.config
        self.family = str(config.model_type)
        # DINOv2 interpolates its positions: 16 x 16 patches are enough, its own 518 pixels would cost five times more.
        side = 16 * config.patch_size if self.family == "dinov2" else config.image_size
        self.size = (int(side), int(side))
        self.grid = (int(side) // config.patch_size,) * 2
        self.patches = self.grid[0] * self.grid[1]
        self.width = int(config.hidden_size)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)

    def train(self, mode: bool = True) -> PretrainedVision:
        """Stays in evaluation mode: the tower is frozen."""
        return super().train(False)

    def adapt(self, adapted: bool) -> None:
        """Say whether adapters stand inside; without, nothing behind the tower needs gradients of it."""
        self.adapted = adapted

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        with torch.set_grad_enabled(self.adapted and torch.is_grad_enabled()):
            return self._tokens(pixels)

    def _tokens(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        pixels = F.interpolate(pixels, self.size, mode="bicubic", antialias=False)
        settings = {}
        if self.family == "vit_mae":  # without noise it would shuffle the patches, even with nothing masked
            settings["noise"] = torch.arange(self.patches, device=pixels.device).expand(len(pixels), -1)
        tokens = self.model((pixels - self.mean) / self.std, **settings).last_hidden_state
        return tokens[:, 1:], tokens[:, 0]

    def files(self) -> dict[str, bytes]:
        """The config file, from which `from_files` builds the tower without weights."""
        return {"config.json": self.model.config.to_json_string(use_diff=False).encode()}

    @classmethod
    def from_files(cls, folder: Path) -> PretrainedVision:
        """The tower with unset weights, offline. Only the families of `PRETRAINED` are built.

        Raises:
            ConfigError: If the config names another family.
        """
        import json

        from transformers import AutoConfig, AutoModel

        family = json.loads((folder / "config.json").read_text()).get("model_type")
        if family not in FAMILIES:
            raise ConfigError(f"{folder}: vision tower family {family!r}; {did_you_mean(str(family), FAMILIES)}")
        return cls(AutoModel.from_config(AutoConfig.from_pretrained(folder, local_files_only=True)))


def build_vision(
    name: str, size: tuple[int, int], *, width: int, depth: int, heads: int, folder: str = ""
) -> VisionTower:
    """The tower called `name` for pictures of `size` (height, width).

    Args:
        name: "small" or a key of `PRETRAINED`.
        size: Height and width of the pictures [pixels].
        width: Width of "small"; a pretrained tower brings its own.
        depth: Transformer blocks of "small".
        heads: Attention heads of "small".
        folder: Local folder of a pretrained tower; empty for the hub.

    Raises:
        ConfigError: If there is no such tower, or its weights cannot be had.
    """
    if name == "small":
        return SmallVision(size, width=width, depth=depth, heads=heads)
    if name not in PRETRAINED:
        raise ConfigError(f"no vision tower {name!r}; {did_you_mean(name, ['small', *PRETRAINED])}")
    return PretrainedVision(load_pretrained_tower(name, folder))


def load_pretrained_tower(name: str, folder: str) -> Any:
    """Weights of a pretrained tower through transformers (safetensors only, no remote code).

    Raises:
        ConfigError: If they cannot be had; says what to do.
    """
    source = folder or PRETRAINED[name]
    if folder and not Path(folder).is_dir():
        raise ConfigError(f"vision tower {name!r}: no folder {folder}; download {PRETRAINED[name]} into it")
    try:
        from transformers import AutoModel

        settings = {"mask_ratio": 0.0} if name == "mae" else {}
        return AutoModel.from_pretrained(source, use_safetensors=True, trust_remote_code=False, **settings)
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(
            f"vision tower {name!r} could not be loaded from {source}: {str(error).splitlines()[0]}\n"
            f"Download {PRETRAINED[name]} into a folder and name it with policy.vision_folder=DIR, "
            "or use policy.vision=small."
        ) from error


def to_pixels(frames: Tensor) -> Tensor:
    """(N, H, W, 3) uint8 to (N, 3, H, W) float32 in [0, 1] (channels last in memory)."""
    return (frames.float() / 255.0).permute(0, 3, 1, 2)


Features = Mapping[str, Tensor] | None
"""Camera -> (N, 1 + P, D): summary and patches that a frozen tower saw in N pictures, if they are known already."""


def see(
    tower: VisionTower, cameras: Sequence[str], images: Mapping[str, Tensor], features: Features
) -> tuple[Tensor, Tensor]:
    """Patches (C N, P, D) and summaries (C N, D) of N pictures (N, H, W, 3) uint8 of each of C cameras."""
    if features is None:
        return tower(torch.cat([to_pixels(images[name]) for name in cameras]))
    kept = torch.cat([features[name] for name in cameras]).float()
    return kept[:, 1:], kept[:, 0]

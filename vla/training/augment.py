"""Random shifts and light for training pictures: a pure function of (window, seed, step, row of the batch).

All frames of one window, its future frames included, change in the same way, so that what moves in the pictures is
what moved in the world; each camera changes by itself.

Shape legend: B windows, M frames (history, then future), H x W pixels.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from foreact.vla.batch import WindowBatch
from foreact.vla.errors import ConfigError, did_you_mean
from foreact.vla.rows import Rows
from foreact.vla.training.config import AugmentConfig


def augment_batch(batch: WindowBatch, config: AugmentConfig, rows: Rows) -> WindowBatch:
    """A copy of the batch with changed pictures; `rows` says which windows of the step's batch these are."""
    if not config.active:
        return batch
    images: dict[str, np.ndarray] = {}
    future: dict[str, np.ndarray] = {}
    for number, name in enumerate(sorted(batch.images)):
        T = batch.images[name].shape[1]
        frames = np.concatenate([batch.images[name], batch.future[name]], axis=1)
        rng = np.random.default_rng([rows.seed, rows.step, number])
        changed = _change(torch.from_numpy(frames), config, rng, rows, _shift_of(name, config)).numpy()
        images[name], future[name] = changed[:, :T], changed[:, T:]
    return replace(batch, images=images, future=future)


def _shift_of(camera: str, config: AugmentConfig) -> float:
    """Largest shift of a camera's pictures [pixels].

    Raises:
        ConfigError: If shifts are said for each camera, but not for this one.
    """
    if not isinstance(config.shift_pixels, dict):
        return config.shift_pixels
    if camera not in config.shift_pixels:
        names = did_you_mean(camera, config.shift_pixels)
        raise ConfigError(f"trainer.augment.shift_pixels says nothing about the camera {camera!r}; {names}")
    return config.shift_pixels[camera]


def _change(
    frames_BMHWC: Tensor, config: AugmentConfig, rng: np.random.Generator, rows: Rows, shift_pixels: float
) -> Tensor:
    M = frames_BMHWC.shape[1]

    def draw(size: float, *shape: int) -> Tensor:
        numbers = rng.uniform(-size, size, (rows.total, *shape))
        return torch.from_numpy(numbers[rows.first : rows.first + rows.count]).float()

    shift_B2 = draw(shift_pixels, 2)
    if config.shift_whole and shift_pixels >= 1:  # each of -n ... n equally likely
        n = int(shift_pixels)
        shift_B2 = (((shift_B2 / shift_pixels + 1) / 2 * (2 * n + 1)).floor() - n).clamp(-n, n)
    gain_BC = (1.0 + draw(config.contrast, 1)) * (1.0 + draw(config.color, 3))
    light_B = draw(255.0 * config.brightness)

    x = rearrange(frames_BMHWC, "b m h w c -> (b m) c h w").float()
    if shift_pixels:
        x = shift_frames(x, shift_B2.repeat_interleave(M, dim=0))
    # Contrast turns around mid-grey: around each frame's own mean, frames of one window would change differently.
    gain = gain_BC.repeat_interleave(M, dim=0)[:, :, None, None]
    x = (x - 127.5) * gain + (127.5 + light_B.repeat_interleave(M)[:, None, None, None])
    return rearrange(x.round_().clamp_(0, 255).to(torch.uint8), "(b m) c h w -> b m h w c", m=M).contiguous()


def shift_frames(x_NCHW: Tensor, shift_N2: Tensor) -> Tensor:
    """Move picture contents by (dx, dy) pixels to the right and down, between pixels too; edges are repeated."""
    N, C, H, W = x_NCHW.shape
    affine = torch.eye(2, 3).repeat(N, 1, 1)
    affine[:, 0, 2] = -2.0 * shift_N2[:, 0] / W
    affine[:, 1, 2] = -2.0 * shift_N2[:, 1] / H
    grid = F.affine_grid(affine, [N, C, H, W], align_corners=False)
    return F.grid_sample(x_NCHW, grid, mode="bilinear", padding_mode="border", align_corners=False)

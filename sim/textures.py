"""Procedural wood and floor pictures, computed with NumPy; nothing is read from disk.

Only the mean colours come from CALVIN (mees/calvin_env, MIT); the grain is ours. A picture is a function of
its arguments alone, and it tiles without a seam because it is a sum of waves with whole wave numbers.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import ArrayLike, NDArray

Image = NDArray[np.uint8]

# grain -> (mean wave number of the fibres along the grain, across it, number of rings, how far they bend, contrast)
_GRAINS: dict[str, tuple[float, float, int, float, float]] = {
    "fine": (9.0, 60.0, 17, 0.22, 0.15),
    "straight": (2.0, 50.0, 23, 0.12, 0.10),
    "oak": (3.5, 45.0, 15, 0.45, 0.20),
}


def _waves(
    rng: np.random.Generator, height: int, width: int, along: float, across: float, count: int
) -> NDArray[np.float64]:
    """A tiling random field (height, width) of zero mean and unit variance, stretched along the width."""
    v, u = np.meshgrid(np.arange(height) / height, np.arange(width) / width, indexing="ij")
    field = np.zeros((height, width))
    for _ in range(count):
        ku = round(rng.normal(0.0, along))
        kv = round(rng.normal(0.0, across)) or 1
        field += rng.normal() * np.cos(2.0 * np.pi * (ku * u + kv * v) + rng.uniform(0.0, 2.0 * np.pi))
    return (field - field.mean()) / max(float(field.std()), 1e-9)


@functools.lru_cache(maxsize=32)
def grain_shade(grain: str, seed: int = 0, height: int = 256, width: int = 256) -> NDArray[np.float64]:
    """How much lighter or darker than the mean each point of a tile of wood is, (height, width), read-only."""
    along, across, rings, bend, contrast = _GRAINS[grain]
    rng = np.random.default_rng(seed)
    v = (np.arange(height) / height)[:, None]
    bending = bend * _waves(rng, height, width, 1.2, 3.0, 16)
    ring = np.sin(2.0 * np.pi * rings * v + 6.0 * bending)
    fibre = _waves(rng, height, width, along, across, 64)
    # late wood is a thin dark line at the end of every ring
    shade = contrast * (0.7 - 1.4 * np.clip(ring, 0.0, 1.0) ** 2 + 0.55 * fibre)
    shade.setflags(write=False)
    return shade


def wood(mean_rgb: ArrayLike, grain: str, seed: int = 0, height: int = 256, width: int = 256) -> Image:
    """A tile of wood, (height, width, 3) uint8, the grain along the width.

    Args:
        mean_rgb: Mean colour 0-255; the picture's mean is within one level of it.
        grain: fine, straight or oak.
        seed: Another board of the same wood.
    """
    shade = grain_shade(grain, seed, height, width)
    mean = np.asarray(mean_rgb, dtype=np.float64)
    # dark grain is redder than light grain, so blue swings most
    picture = mean * (1.0 + shade[..., None] * np.array([0.85, 1.0, 1.15]))
    picture = np.clip(picture, 0.0, 255.0)
    picture += mean - picture.mean(axis=(0, 1))
    return np.clip(np.rint(picture), 0.0, 255.0).astype(np.uint8)


def two_colours(first_rgb: ArrayLike, second_rgb: ArrayLike, squares: int = 2, size: int = 256) -> Image:
    """A chequered tile, (size, size, 3) uint8, `squares` along each edge; with equal colours it is plain."""
    step = np.arange(size) * squares // size
    odd = (step[:, None] + step[None, :]) % 2 == 1
    return np.where(odd[..., None], np.asarray(second_rgb), np.asarray(first_rgb)).round().astype(np.uint8)


def checker(light: int = 255, dark: int = 222, size: int = 256) -> Image:
    """Two by two grey squares, (size, size, 3) uint8, the light ones on the diagonal."""
    half = np.arange(size) >= size // 2
    squares = half[:, None] == half[None, :]
    grey = np.where(squares, light, dark).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)

"""From many patch tokens of a picture to a few: four ways, one interface.

Every way maps the patches of N pictures (N, P, D) and the sentence of each (N, D) to (N, L, D).

Shape legend: N pictures, P patches (rows x columns), L tokens that are kept, D width.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from foreact.vla.errors import ConfigError, did_you_mean
from foreact.vla.layers import PerceiverResampler


class VisualTokens(nn.Module):
    """What the policy asks of a reduction; `count` is L."""

    count: int

    def forward(self, patches_NPD: Tensor, language_ND: Tensor) -> Tensor:
        """(N, P, D) and (N, D) to (N, L, D)."""
        raise NotImplementedError


class Resampled(VisualTokens):
    """GR-1's way: learned latents look at the patches (Perceiver resampler, Flamingo).

    With `told`, the sentence is added to the latents before they look, so that they look for what it names.
    """

    def __init__(self, width: int, count: int, *, depth: int, heads: int, head_width: int, told: bool):
        super().__init__()
        self.count = count
        self.resampler = PerceiverResampler(width, depth=depth, latents=count, heads=heads, head_width=head_width)
        self.tell = nn.Linear(width, count * width) if told else None
        if self.tell is not None:
            nn.init.zeros_(self.tell.bias)

    def forward(self, patches_NPD: Tensor, language_ND: Tensor) -> Tensor:
        hint = None
        if self.tell is not None:
            hint = rearrange(self.tell(language_ND), "n (l d) -> n l d", l=self.count)
        return self.resampler(patches_NPD, hint)


class Pooled(VisualTokens):
    """Means over a grid of square cells; no weights."""

    def __init__(self, grid: tuple[int, int], count: int):
        super().__init__()
        self.grid, self.side = grid, _side("pool", count)
        self.count = count

    def forward(self, patches_NPD: Tensor, language_ND: Tensor) -> Tensor:
        rows, columns = self.grid
        picture = rearrange(patches_NPD, "n (r c) d -> n d r c", r=rows, c=columns)
        return rearrange(F.adaptive_avg_pool2d(picture, self.side), "n d r c -> n (r c) d")


class LowFrequencies(VisualTokens):
    """The lowest frequencies of a 2-D cosine transform over the grid of patches (orthonormal DCT-II); no weights."""

    basis_LP: Tensor

    def __init__(self, grid: tuple[int, int], count: int):
        super().__init__()
        side = _side("dct", count)
        if side > min(grid):
            raise ConfigError(f"policy.visual_tokens=dct: {count} tokens from a grid of {grid[0]}x{grid[1]} patches")
        rows, columns = (_cosines(n)[:side] for n in grid)
        basis = torch.einsum("ir,jc->ijrc", rows, columns).reshape(count, -1)
        self.register_buffer("basis_LP", basis.float(), persistent=False)
        self.count = count

    def forward(self, patches_NPD: Tensor, language_ND: Tensor) -> Tensor:
        return torch.einsum("lp,npd->nld", self.basis_LP.to(patches_NPD.dtype), patches_NPD)


class Merged(VisualTokens):
    """Alike tokens are averaged, pair by pair, until L are left; no weights.

    Source: D. Bolya et al., "Token Merging: Your ViT But Faster", ICLR 2023, section 3 (bipartite soft matching: every
    second token may join its most similar one of the others; the most similar pairs join, weighted by what they hold).
    """

    def __init__(self, count: int):
        super().__init__()
        self.count = count

    def forward(self, patches_NPD: Tensor, language_ND: Tensor) -> Tensor:
        x, size = patches_NPD, torch.ones_like(patches_NPD[..., :1])
        while x.shape[1] > self.count:
            x, size = _merge(x, size, min(x.shape[1] - self.count, x.shape[1] // 2))
        return x


def _merge(x: Tensor, size: Tensor, pairs: int) -> tuple[Tensor, Tensor]:
    """One round: `pairs` tokens of the odd half join tokens of the even half. `size` (N, P, 1) counts patches."""
    unit = F.normalize(x.detach().float(), dim=-1)
    likeness, partner = (unit[:, 1::2] @ unit[:, ::2].transpose(-1, -2)).max(dim=-1)
    order = likeness.argsort(dim=-1, descending=True)
    going, staying = order[:, :pairs], order[:, pairs:].sort(dim=-1).values
    target = partner.gather(1, going)[..., None]
    weighted = torch.cat([x * size, size], dim=-1)

    def rows(tensor: Tensor, index: Tensor) -> Tensor:
        return tensor.gather(1, index[..., None].expand(-1, -1, tensor.shape[-1]))

    even, odd = weighted[:, ::2], weighted[:, 1::2]
    even = even.scatter_add(1, target.expand(-1, -1, even.shape[-1]), rows(odd, going))
    joined = torch.cat([even, rows(odd, staying)], dim=1)
    return joined[..., :-1] / joined[..., -1:], joined[..., -1:]


def _cosines(n: int) -> Tensor:
    """(n, n) float64 orthonormal DCT-II: row k is the k-th cosine."""
    k, i = torch.meshgrid(torch.arange(n, dtype=torch.float64), torch.arange(n, dtype=torch.float64), indexing="ij")
    table = torch.cos(math.pi * (i + 0.5) * k / n) * math.sqrt(2.0 / n)
    table[0] /= math.sqrt(2.0)
    return table


def _side(way: str, count: int) -> int:
    side = math.isqrt(count)
    if side * side != count:
        raise ConfigError(f"policy.visual_tokens={way} keeps a square number of tokens, found visual_count={count}")
    return side


WAYS = ("resampler", "pool", "merge", "dct")


def build_visual_tokens(
    way: str, grid: tuple[int, int], width: int, count: int, *, depth: int, heads: int, head_width: int, told: bool
) -> VisualTokens:
    """The reduction called `way`.

    Args:
        way: One of `WAYS`.
        grid: Rows and columns of patches.
        width: Of the tokens, D.
        count: Tokens to keep, L.
        depth: Layers of the resampler.
        heads: Heads of the resampler.
        head_width: Width of one of its heads.
        told: The resampler's latents are told the sentence.

    Raises:
        ConfigError: If there is no such way, or it cannot keep so many.
    """
    if count > grid[0] * grid[1] and way != "resampler":
        raise ConfigError(f"policy.visual_count={count}: a picture has only {grid[0] * grid[1]} patches")
    if way == "resampler":
        return Resampled(width, count, depth=depth, heads=heads, head_width=head_width, told=told)
    if way == "pool":
        return Pooled(grid, count)
    if way == "dct":
        return LowFrequencies(grid, count)
    if way == "merge":
        return Merged(count)
    raise ConfigError(f"policy.visual_tokens: {did_you_mean(way, WAYS)}")

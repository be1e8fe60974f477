"""Transformer parts that policies and towers share.

Shape legend: B batch, N tokens, M keys, D width, H heads, L latents, P patches.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from foreact.vla.rows import RowDropout

ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU}
watcher: Callable[[Tensor, Tensor, Tensor | None], None] | None = None
"""Called with the queries, keys and mask of every `attend`; set by `foreact.vla.attention_probe` alone."""


def attend(q_BHNE: Tensor, k_BHME: Tensor, v_BHME: Tensor, mask_B1NM: Tensor | None) -> Tensor:
    """Scaled dot-product attention, (B, H, N, E). `mask_B1NM` is bool, True where a query may look at a key.

    Training on a CPU takes the three plain products: PyTorch's fused CPU kernel spends about ten times longer in its
    backward pass on short sequences (torch 2.13, bfloat16, 64 tokens).
    """
    if watcher is not None:
        watcher(q_BHNE, k_BHME, mask_B1NM)
    if q_BHNE.is_cuda or not torch.is_grad_enabled():
        return F.scaled_dot_product_attention(q_BHNE, k_BHME, v_BHME, attn_mask=mask_B1NM)
    scores = (q_BHNE * q_BHNE.shape[-1] ** -0.5) @ k_BHME.transpose(-1, -2)
    if mask_B1NM is not None:
        scores = scores.masked_fill(~mask_B1NM, torch.finfo(scores.dtype).min)
    return scores.softmax(dim=-1) @ v_BHME


class Attention(nn.Module):
    """Multi-head attention; keys and values come from `context` (by default the queries' own sequence)."""

    def __init__(self, width: int, heads: int, *, bias: bool = True, head_width: int | None = None):
        super().__init__()
        inner = heads * (head_width or width // heads)
        self.heads = heads
        self.to_q = nn.Linear(width, inner, bias=bias)
        self.to_kv = nn.Linear(width, 2 * inner, bias=bias)
        self.out = nn.Linear(inner, width, bias=bias)

    def forward(self, x_BND: Tensor, context_BMD: Tensor | None = None, mask_B1NM: Tensor | None = None) -> Tensor:
        """Attend; `mask_B1NM` is bool, True where a query may look at a key. Returns (B, N, D)."""
        context_BMD = x_BND if context_BMD is None else context_BMD
        q = rearrange(self.to_q(x_BND), "b n (h d) -> b h n d", h=self.heads)
        k, v = rearrange(self.to_kv(context_BMD), "b m (two h d) -> two b h m d", two=2, h=self.heads)
        y = attend(q, k, v, mask_B1NM)
        return self.out(rearrange(y, "b h n d -> b n (h d)"))


class Mlp(nn.Sequential):
    """Two affine layers with an activation between; four times wider inside."""

    def __init__(self, width: int, *, activation: str = "gelu", bias: bool = True):
        super().__init__(
            nn.Linear(width, 4 * width, bias=bias), ACTIVATIONS[activation](), nn.Linear(4 * width, width, bias=bias)
        )


class Block(nn.Module):
    """Pre-LN transformer block. With `n_keys`, only the first `n_keys` tokens can be looked at.

    Queries that nobody may look at (learned queries in GR-1) stand behind the `n_keys` context tokens; leaving
    them out of the keys is the same as masking them, and cheaper.
    """

    def __init__(self, width: int, heads: int, *, activation: str = "gelu", dropout: float = 0.0):
        super().__init__()
        self.norm_attention = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm_mlp = nn.LayerNorm(width)
        self.mlp = Mlp(width, activation=activation)
        self.dropout = RowDropout(dropout)
        self.recompute = False
        """In training, keep only the block's input and compute the rest again in the backward pass."""

    def forward(
        self, x_BND: Tensor, mask_B1NM: Tensor | None = None, n_keys: int | None = None, first: int = 0
    ) -> Tensor:
        """(B, N, D) to (B, N - first, D): the tokens before `first` are looked at, but not carried on (a last layer
        computes only the outputs that are read). The mask has rows for the tokens from `first` on."""
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(self._run, x_BND, mask_B1NM, n_keys, first, use_reentrant=False)  # type: ignore[return-value]
        return self._run(x_BND, mask_B1NM, n_keys, first)

    def _run(self, x_BND: Tensor, mask_B1NM: Tensor | None, n_keys: int | None, first: int) -> Tensor:
        h = self.norm_attention(x_BND)
        x_BND, queries = x_BND[:, first:], h[:, first:]
        x_BND = x_BND + self.dropout(self.attention(queries, h[:, :n_keys], mask_B1NM))
        return x_BND + self.dropout(self.mlp(self.norm_mlp(x_BND)), 1)


class PerceiverResampler(nn.Module):
    """Distils P patch tokens into L latents by cross-attention (Flamingo; flamingo-pytorch 0.1.2, MIT).

    Each layer: latents look at patches and latents, then a feed-forward; no biases, as in the original.
    """

    def __init__(self, width: int, *, depth: int, latents: int, heads: int, head_width: int):
        super().__init__()
        self.latents_LD = nn.Parameter(torch.randn(latents, width) * 0.5)
        self.norm_media = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))
        self.norm_latents = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))
        self.attention = nn.ModuleList(Attention(width, heads, bias=False, head_width=head_width) for _ in range(depth))
        self.mlp = nn.ModuleList(nn.Sequential(nn.LayerNorm(width), Mlp(width, bias=False)) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, patches_BPD: Tensor, hint_BLD: Tensor | None = None) -> Tensor:
        """(B, P, D) to (B, L, D); `hint_BLD` is added to the latents before they look."""
        x_BLD = self.latents_LD.expand(len(patches_BPD), -1, -1)
        if hint_BLD is not None:
            x_BLD = x_BLD + hint_BLD
        layers = zip(self.norm_media, self.norm_latents, self.attention, self.mlp, strict=True)
        for norm_media, norm_latents, attention, mlp in layers:
            latents = norm_latents(x_BLD)
            x_BLD = x_BLD + attention(latents, torch.cat([norm_media(patches_BPD), latents], dim=1))
            x_BLD = x_BLD + mlp(x_BLD)
        return self.norm(x_BLD)


def sincos_positions(height: int, width: int, channels: int) -> Tensor:
    """Fixed 2-D positions (height * width, channels), rows outermost; the first half encodes the column.

    Source: the convention of MAE (facebookresearch/mae, util/pos_embed.py); computed in float64.
    """
    if channels % 4:
        raise ValueError(f"2-D sin-cos positions need a multiple of 4 channels, found {channels}")

    def one_axis(position: Tensor) -> Tensor:
        rate = 1e-4 ** (torch.arange(channels // 4, dtype=torch.float64) / (channels / 4))
        angle = position.double().reshape(-1, 1) * rate
        return torch.cat([angle.sin(), angle.cos()], dim=1)

    row, column = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.cat([one_axis(column), one_axis(row)], dim=1).float()

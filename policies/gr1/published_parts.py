"""Parts of the published GR-1, with the parameter names of its authors, so that their weights load by name.

Sources: the trunk is GPT-2 without its position table (bytedance/GR-1, models/trajectory_gpt2.py), the resampler is
Flamingo's (flamingo-pytorch 0.1.2, MIT), the picture encoder MAE's ViT (facebookresearch/mae) and the decoder's blocks
the same ViT blocks (bytedance/GR-1, models/vision_transformer.py).

Shape legend: B batch, N tokens, M keys, D width, H heads, E head width, L latents, P patches.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from foreact.vla.layers import attend
from foreact.vla.rows import RowDropout


class Affine(nn.Module):
    """x @ weight + bias with `weight` (in, out), as GPT-2 stores it: the transpose of `nn.Linear`'s."""

    def __init__(self, n_in: int, n_out: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_in, n_out) * 0.02)
        self.bias = nn.Parameter(torch.zeros(n_out))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.T, self.bias)


class TrunkAttention(nn.Module):
    """Self-attention; only the first `n_keys` tokens can be looked at."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.heads = heads
        self.drop = RowDropout(dropout)
        self.c_attn = Affine(width, 3 * width)
        self.c_proj = Affine(width, width)

    def forward(self, x_BND: Tensor, mask_B1NM: Tensor, n_keys: int) -> Tensor:
        """(B, N, D) to (B, N, D); the mask is True where a token may look at a key."""
        q, k, v = rearrange(self.c_attn(x_BND), "b n (three h e) -> three b h n e", three=3, h=self.heads)
        k, v = k[:, :, :n_keys], v[:, :, :n_keys]
        if self.training and self.drop.p:
            scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
            scores = scores.masked_fill(~mask_B1NM, torch.finfo(scores.dtype).min)
            y = self.drop(scores.softmax(dim=-1)) @ v
        else:
            y = attend(q, k, v, mask_B1NM)
        return self.c_proj(rearrange(y, "b h n e -> b n (h e)"))


class TrunkMlp(nn.Module):
    """Two affine layers with a ReLU between."""

    def __init__(self, width: int):
        super().__init__()
        self.c_fc = Affine(width, 4 * width)
        self.c_proj = Affine(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(torch.relu(self.c_fc(x)))


class TrunkBlock(nn.Module):
    """Pre-LN block of GPT-2."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = TrunkAttention(width, heads, dropout)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = TrunkMlp(width)
        self.drop = RowDropout(dropout)

    def forward(self, x_BND: Tensor, mask_B1NM: Tensor, n_keys: int) -> Tensor:
        x_BND = x_BND + self.drop(self.attn(self.ln_1(x_BND), mask_B1NM, n_keys))
        return x_BND + self.drop(self.mlp(self.ln_2(x_BND)), 1)


class Trunk(nn.Module):
    """GPT-2's blocks. Position is not in them: steps are told apart by the time table, tokens by the causal mask.

    With `positions` there is GPT-2's own table after all (GR1-Training since May 2024).
    """

    def __init__(self, width: int, *, layers: int, heads: int, dropout: float, positions: int):
        super().__init__()
        # Never looked up; the published weights have it, and it counts among their 45,988,039 parameters.
        self.wte = nn.Embedding(1, width)
        self.wpe = nn.Embedding(positions, width) if positions else None
        self.drop = RowDropout(dropout)
        self.h = nn.ModuleList(TrunkBlock(width, heads, dropout) for _ in range(layers))
        self.ln_f = nn.LayerNorm(width)
        for table in (self.wte, self.wpe):
            if table is not None:
                nn.init.normal_(table.weight, std=0.02)

    def forward(self, x_BND: Tensor, position_N: Tensor, mask_BNM: Tensor) -> Tensor:
        """Outputs of all tokens (B, N, D).

        Args:
            x_BND: Tokens; the M context tokens first, then queries, which nobody can look at.
            position_N: Place of each token in the published flat sequence; only read with `wpe`.
            mask_BNM: True where a token may look at a context token.
        """
        if self.wpe is not None:
            x_BND = x_BND + self.wpe(position_N)
        x_BND = self.drop(x_BND)
        for block in self.h:
            x_BND = block(x_BND, mask_BNM[:, None], mask_BNM.shape[-1])
        return self.ln_f(x_BND)


class ResamplerAttention(nn.Module):
    """Latents look at the picture's tokens and at themselves."""

    def __init__(self, width: int, heads: int, head_width: int):
        super().__init__()
        self.heads = heads
        self.norm_media = nn.LayerNorm(width)
        self.norm_latents = nn.LayerNorm(width)
        self.to_q = nn.Linear(width, heads * head_width, bias=False)
        self.to_kv = nn.Linear(width, 2 * heads * head_width, bias=False)
        self.to_out = nn.Linear(heads * head_width, width, bias=False)

    def forward(self, media_BPD: Tensor, latents_BLD: Tensor) -> Tensor:
        latents_BLD = self.norm_latents(latents_BLD)
        seen = torch.cat([self.norm_media(media_BPD), latents_BLD], dim=1)
        q = rearrange(self.to_q(latents_BLD), "b l (h e) -> b h l e", h=self.heads)
        k, v = rearrange(self.to_kv(seen), "b m (two h e) -> two b h m e", two=2, h=self.heads)
        return self.to_out(rearrange(attend(q, k, v, None), "b h l e -> b l (h e)"))


def _resampler_mlp(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(width), nn.Linear(width, 4 * width, bias=False), nn.GELU(), nn.Linear(4 * width, width, bias=False)
    )


class Resampler(nn.Module):
    """Perceiver resampler: P patch tokens become L latents."""

    def __init__(self, width: int, *, depth: int, heads: int, head_width: int, latents: int):
        super().__init__()
        self.latents = nn.Parameter(torch.randn(latents, width))
        self.media_pos_emb = nn.Parameter(torch.randn(1, 1, width))
        self.layers = nn.ModuleList(
            nn.ModuleList([ResamplerAttention(width, heads, head_width), _resampler_mlp(width)]) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, patches_BPD: Tensor) -> Tensor:
        """(B, P, D) to (B, L, D)."""
        media = patches_BPD + self.media_pos_emb[0]
        x_BLD = self.latents.expand(len(media), -1, -1)
        for pair in self.layers:
            attention, mlp = pair.children()
            x_BLD = x_BLD + attention(media, x_BLD)
            x_BLD = x_BLD + mlp(x_BLD)
        return self.norm(x_BLD)


class VitAttention(nn.Module):
    """Self-attention of all tokens with all tokens."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x_BND: Tensor) -> Tensor:
        q, k, v = rearrange(self.qkv(x_BND), "b n (three h e) -> three b h n e", three=3, h=self.heads)
        return self.proj(rearrange(attend(q, k, v, None), "b h n e -> b n (h e)"))


class VitMlp(nn.Module):
    """Two affine layers with a GELU between."""

    def __init__(self, width: int):
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class VitBlock(nn.Module):
    """Pre-LN block of a vision transformer."""

    def __init__(self, width: int, heads: int, *, eps: float = 1e-5):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attn = VitAttention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.mlp = VitMlp(width)

    def forward(self, x_BND: Tensor) -> Tensor:
        x_BND = x_BND + self.attn(self.norm1(x_BND))
        return x_BND + self.mlp(self.norm2(x_BND))


class PatchEmbed(nn.Module):
    """Each patch of a picture becomes a token."""

    def __init__(self, patch: int, width: int):
        super().__init__()
        self.proj = nn.Conv2d(3, width, kernel_size=patch, stride=patch)

    def forward(self, pixels_B3XY: Tensor) -> Tensor:
        return rearrange(self.proj(pixels_B3XY), "b d i j -> b (i j) d")


class MaeEncoder(nn.Module):
    """The encoder of a masked autoencoder, nothing masked; frozen. Its LayerNorms have eps 1e-6, all others 1e-5."""

    def __init__(self, image_size: int, patch: int, *, width: int, layers: int, heads: int):
        super().__init__()
        self.cls_token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.pos_embed = nn.Parameter(torch.randn(1, 1 + (image_size // patch) ** 2, width) * 0.02)
        self.patch_embed = PatchEmbed(patch, width)
        self.blocks = nn.ModuleList(VitBlock(width, heads, eps=1e-6) for _ in range(layers))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> MaeEncoder:
        """Stays in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, pixels_B3XY: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised pixels to the picture's token (B, D) and its patches (B, P, D)."""
        patches = self.patch_embed(pixels_B3XY)
        x_BND = torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], dim=1) + self.pos_embed
        for block in self.blocks:
            x_BND = block(x_BND)
        x_BND = self.norm(x_BND)
        return x_BND[:, 0], x_BND[:, 1:]

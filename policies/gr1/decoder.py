"""Future frames painted from a few query outputs (GR-1's image decoder, after MAE's).

Shape legend: N pictures, Q queries, D width, P patches, H x W pixels.
"""

from __future__ import annotations

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from foreact.vla.errors import ConfigError
from foreact.vla.layers import Block, sincos_positions


class PixelDecoder(nn.Module):
    """Mask tokens with fixed 2-D positions stand beside the embedded queries; ViT blocks; one affine map per patch.

    One decoder serves all cameras, as in GR-1. With `blend` it also sees the current frame's patches, and for each
    pixel chooses how much of it to keep; its capacity then goes to what moves, not to redrawing the table.
    """

    def __init__(self, query_width: int, width: int, *, layers: int, heads: int, patch: int, blend: bool):
        super().__init__()
        self.patch = patch
        self.embed = nn.Linear(query_width, width)
        self.mask_token_D = nn.Parameter(torch.randn(width) * 0.02)
        self.see = nn.Linear(3 * patch * patch, width) if blend else None
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.paint = nn.Linear(width, 3 * patch * patch)
        self.keep = nn.Linear(width, patch * patch) if blend else None
        if self.keep is not None:
            nn.init.constant_(self.keep.bias, 2.0)  # most pixels stay as they are
        self._positions: dict[tuple[int, int], Tensor] = {}

    def check(self, height: int, width: int) -> None:
        """Raise ConfigError if pictures of this size cannot be cut into patches."""
        if height % self.patch or width % self.patch:
            raise ConfigError(f"{height}x{width} pictures cannot be cut into {self.patch}x{self.patch} patches")

    def forward(self, queries_NQD: Tensor, current_N3HW: Tensor) -> Tensor:
        """Query outputs and the current frames (pixels in [0, 1]) to predicted frames (N, 3, H, W)."""
        return self.picture(self.features(queries_NQD, current_N3HW), current_N3HW)

    def features(self, queries_NQD: Tensor, current_N3HW: Tensor) -> Tensor:
        """What is known of each patch of the future frame (N, P, width), before it is painted."""
        rows, columns = (side // self.patch for side in current_N3HW.shape[-2:])
        now_NPC = self._patches(current_N3HW)
        masks = (self.mask_token_D + self._table(rows, columns)).expand(len(queries_NQD), -1, -1)
        if self.see is not None:
            masks = masks + self.see((now_NPC - 0.5) * 4.0)
        x = torch.cat([self.embed(queries_NQD), masks], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x[:, queries_NQD.shape[1] :])

    def picture(self, x_NPD: Tensor, current_N3HW: Tensor) -> Tensor:
        """From `features` to predicted frames (N, 3, H, W)."""
        rows, columns = (side // self.patch for side in current_N3HW.shape[-2:])
        painted_NPC = self.paint(x_NPD).float() * 0.25 + 0.5
        if self.keep is not None:
            keep_NPC = repeat(self.keep(x_NPD).float().sigmoid(), "n p k -> n p (k c)", c=3)
            painted_NPC = keep_NPC * self._patches(current_N3HW) + (1.0 - keep_NPC) * painted_NPC
        return rearrange(
            painted_NPC, "n (r s) (p q c) -> n c (r p) (s q)", r=rows, s=columns, p=self.patch, q=self.patch
        )

    def _patches(self, frames_N3HW: Tensor) -> Tensor:
        """(N, P, 3 * patch * patch), row in the patch outermost, channel innermost."""
        return rearrange(frames_N3HW, "n c (r p) (s q) -> n (r s) (p q c)", p=self.patch, q=self.patch)

    def _table(self, rows: int, columns: int) -> Tensor:
        device = self.mask_token_D.device
        table = self._positions.get((rows, columns))
        if table is None or table.device != device:
            table = sincos_positions(rows, columns, len(self.mask_token_D)).to(device)
            self._positions[rows, columns] = table
        return table

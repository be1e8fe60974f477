"""Future frames painted from a few query outputs (GR-1's image decoder, after MAE's).

Shape legend: N pictures, Q queries, D width, P patches, H x W pixels.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

from foreact.vla.errors import ConfigError
from foreact.vla.layers import Block, sincos_positions


class PixelDecoder(nn.Module):
    """Mask tokens with fixed 2-D positions stand beside the embedded queries; ViT blocks; one affine map per patch.

    One decoder serves all cameras, as in GR-1. With `residual` it also sees the current frame's patches and paints
    the change; the squared error then goes to what moves, not to redrawing the table.
    """

    def __init__(self, query_width: int, width: int, *, layers: int, heads: int, patch: int, residual: bool):
        super().__init__()
        self.patch, self.residual = patch, residual
        self.embed = nn.Linear(query_width, width)
        self.mask_token_D = nn.Parameter(torch.randn(width) * 0.02)
        self.see = nn.Linear(3 * patch * patch, width) if residual else None
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.paint = nn.Linear(width, 3 * patch * patch)
        self._positions: dict[tuple[int, int], Tensor] = {}

    def check(self, height: int, width: int) -> None:
        """Raise ConfigError if pictures of this size cannot be cut into patches."""
        if height % self.patch or width % self.patch:
            raise ConfigError(f"{height}x{width} pictures cannot be cut into {self.patch}x{self.patch} patches")

    def forward(self, queries_NQD: Tensor, current_N3HW: Tensor) -> Tensor:
        """Query outputs and the current frames (pixels in [0, 1]) to predicted frames (N, 3, H, W)."""
        rows, columns = (side // self.patch for side in current_N3HW.shape[-2:])
        now_NPC = rearrange(current_N3HW, "n c (r p) (s q) -> n (r s) (p q c)", p=self.patch, q=self.patch)
        masks = (self.mask_token_D + self._table(rows, columns)).expand(len(queries_NQD), -1, -1)
        if self.see is not None:
            masks = masks + self.see((now_NPC - 0.5) * 4.0)
        x = torch.cat([self.embed(queries_NQD), masks], dim=1)
        for block in self.blocks:
            x = block(x)
        painted_NPC = self.paint(self.norm(x[:, queries_NQD.shape[1] :])).float() * 0.25
        painted_NPC = painted_NPC + (now_NPC if self.residual else 0.5)
        return rearrange(
            painted_NPC, "n (r s) (p q c) -> n c (r p) (s q)", r=rows, s=columns, p=self.patch, q=self.patch
        )

    def _table(self, rows: int, columns: int) -> Tensor:
        device = self.mask_token_D.device
        table = self._positions.get((rows, columns))
        if table is None or table.device != device:
            table = sincos_positions(rows, columns, len(self.mask_token_D)).to(device)
            self._positions[rows, columns] = table
        return table

"""From the contract's state vector to what the network sees: normalised numbers; angles as sine and cosine.

A roll that hovers at +-pi jumps by 2 pi in the recording; its sine and cosine do not.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from foreact.vla.contract import Field


class StateEncoding(nn.Module):
    """(…, S) contract state to (…, E) features; holds the data set's mean and standard deviation (S,)."""

    mean_S: Tensor
    std_S: Tensor

    def __init__(self, state_fields: Sequence[Field], mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        size = sum(field.size for field in state_fields)
        if len(mean) != size or len(std) != size:
            raise ValueError(f"state statistics need {size} numbers, found {len(mean)} and {len(std)}")
        self.register_buffer("mean_S", torch.tensor(mean, dtype=torch.float32))
        # A number that never changes in the data must not be blown up when it moves a little.
        self.register_buffer("std_S", torch.tensor(std, dtype=torch.float32).clamp(min=1e-3))
        self.angles: list[int] = []
        self.plain: list[int] = []
        start = 0
        for field in state_fields:
            positions = list(range(start, start + field.size))
            (self.angles if field.rotation == "euler_xyz" else self.plain).extend(positions)
            start += field.size
        self.size = len(self.plain) + 2 * len(self.angles)

    def places(self, positions: Sequence[int]) -> list[int]:
        """Where in the features the numbers at these positions of the state are to be found."""
        angle = len(self.plain)
        found = [self.plain.index(position) for position in positions if position in self.plain]
        for position in positions:
            if position in self.angles:
                row = angle + self.angles.index(position)
                found += [row, row + len(self.angles)]
        return found

    def forward(self, state: Tensor) -> Tensor:
        """Normalised plain numbers, then sines, then cosines of the angles."""
        plain = ((state - self.mean_S) / self.std_S)[..., self.plain].clamp(-10.0, 10.0)
        angle = state[..., self.angles]
        return torch.cat([plain, angle.sin(), angle.cos()], dim=-1)

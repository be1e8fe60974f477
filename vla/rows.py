"""Random numbers of training that belong to a window, not to a process: pure functions of (seed, step, row).

A batch may be trained on by one process or cut between many; row r of step s draws the same numbers in each case.

Shape legend: B windows, N tokens, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

_LOW = 0xFFFFFFFF


@dataclass(frozen=True)
class Rows:
    """Which windows of a step's batch these are: [first, first + count) of `total`."""

    seed: int
    step: int
    first: int
    count: int
    total: int

    @property
    def torch_seed(self) -> int:
        """A seed for torch's own generator: the step's, and another one for each later piece of the batch."""
        if self.first == 0:
            return (self.seed << 32) + self.step
        return int(np.random.SeedSequence([self.seed, self.step, self.first]).generate_state(1, np.uint64)[0])

    def uniform(self, *shape: int, stream: int = 0) -> Tensor:
        """(count, *shape) numbers in [0, 1) on the CPU; drawn for the whole batch, so meant for small shapes.

        Whatever must not depend on each other in one step draws from a stream of its own.
        """
        numbers = torch.rand(self.total, *shape, generator=self._generator(stream))
        return numbers[self.first : self.first + self.count]

    def normal(self, *shape: int, stream: int = 0) -> Tensor:
        """(count, *shape) normal numbers, drawn like `uniform`."""
        numbers = torch.randn(self.total, *shape, generator=self._generator(stream))
        return numbers[self.first : self.first + self.count]

    def _generator(self, stream: int) -> torch.Generator:
        seed = (self.seed << 32) + self.step
        if stream:
            seed = int(np.random.SeedSequence([self.seed, self.step, 0, stream]).generate_state(1, np.uint64)[0] >> 1)
        return torch.Generator().manual_seed(seed)

    def keys(self) -> Tensor:
        """(count,) int64 in [0, 2^32): one key per window, for `RowDropout`."""
        words = np.random.SeedSequence([self.seed, self.step]).generate_state(1, np.uint32)
        row = torch.arange(self.first, self.first + self.count)
        return _mix(row * 0x9E3779B9 + int(words[0]))


class RowDropout(nn.Module):
    """Dropout whose mask follows from each window's key; where no keys are set, plain dropout.

    The mask is a hash of (key, number of this module, `call`, position), computed where the data lies: repeated
    forward passes of one step, as activation checkpointing makes them, draw the same mask.
    """

    def __init__(self, p: float):
        super().__init__()
        self.p = p
        self.number = 0
        self.keys_B: Tensor | None = None

    def forward(self, x_BND: Tensor, call: int = 0) -> Tensor:
        """`x_BND` with a share `p` of its numbers zeroed and the others scaled by 1 / (1 - p), in training only.

        `call` tells several uses in one forward pass apart. The first dimension must be the batch.
        """
        if self.p == 0.0 or not self.training:
            return x_BND
        if self.keys_B is None:
            return nn.functional.dropout(x_BND, self.p, training=True)
        if len(self.keys_B) != len(x_BND):
            raise ValueError(f"RowDropout: {len(self.keys_B)} windows have keys, the tensor has {len(x_BND)} rows")
        places = torch.arange(x_BND[0].numel(), device=x_BND.device)
        places = _mix(places * 0x9E3779B9 + (2 * self.number + call + 1) * 0x85EBCA6B)
        numbers = _mix(places ^ self.keys_B[:, None]).view(x_BND.shape)
        return torch.where(numbers >= int(self.p * 2**32), x_BND / (1.0 - self.p), 0.0)

    def extra_repr(self) -> str:
        return f"p={self.p}"


def set_rows(module: nn.Module, rows: Rows | None, device: torch.device | str = "cpu") -> None:
    """Tell every `RowDropout` inside which windows come next; None for plain dropout."""
    layers = [part for part in module.modules() if isinstance(part, RowDropout)]
    keys = rows.keys().to(device) if rows is not None and any(part.p for part in layers) else None
    for number, part in enumerate(layers):
        part.number, part.keys_B = number, keys


def _mix(x: Tensor) -> Tensor:
    """A hash of 32-bit integers held in int64 (lowbias32 by Chris Wellons, public domain)."""
    x = x & _LOW
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & _LOW
    x = ((x ^ (x >> 15)) * 0x846CA68B) & _LOW
    return x ^ (x >> 16)

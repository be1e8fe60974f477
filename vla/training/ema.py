"""Averaged weights: steadier than the last ones, and what is saved for acting."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from foreact.vla.training.ranks import own_part


class Ema:
    """Exponential moving average of a module's trainable weights."""

    def __init__(self, module: nn.Module, decay: float):
        self.decay = decay
        self._live = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self.weights: dict[str, Tensor] = {name: p.detach().clone() for name, p in self._live.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after optimiser step `step` (from 0); early steps weigh more, as nothing is known yet."""
        decay = min(self.decay, (1.0 + step) / (10.0 + step))
        for name, parameter in self._live.items():
            own_part(self.weights[name]).lerp_(own_part(parameter), 1.0 - decay)

    @contextmanager
    @torch.no_grad()
    def applied(self) -> Iterator[None]:
        """Inside, the module has the averaged weights."""
        kept = {name: own_part(p.detach()).clone() for name, p in self._live.items()}
        for name, p in self._live.items():
            own_part(p).copy_(own_part(self.weights[name]))
        try:
            yield
        finally:
            for name, p in self._live.items():
                own_part(p).copy_(kept[name])

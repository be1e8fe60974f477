"""Means over what exists, also when a batch is trained on in pieces."""

from __future__ import annotations

import torch
from torch import Tensor


def masked_mean(values: Tensor, mask: Tensor, count: float | None = None) -> Tensor:
    """Sum of `values` where `mask`, divided by how many there are; 0 where there are none.

    Args:
        values: Any shape.
        mask: The same shape (bool, or numbers as weights).
        count: What to divide by instead: the number in the whole batch, of which these values are a piece. The
            results of all pieces then add up to the mean over the batch, and so do their gradients.
    """
    weight = mask.to(values.dtype)
    total = weight.sum() if count is None else torch.as_tensor(float(count), dtype=values.dtype, device=values.device)
    return (values * weight).sum() / total.clamp(min=1.0)

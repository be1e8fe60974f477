"""What a new chunk and older ones make together: real-time chunking's soft mask, ACT's temporal ensemble.

Shape legend: K rows, N arm joints.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def soft_mask(rows: int, frozen: int, overlap: int) -> Array:
    """(K,) weight of the old chunk at each row: 1 over the frozen prefix, falling over the overlap, then 0.

        W_i = 1                              i < d
        W_i = c (e^c - 1) / (e - 1)          d <= i < o,  c = (o - i) / (o - d + 1)
        W_i = 0                              o <= i

    Args:
        rows: K, the length of the new chunk.
        frozen: d, rows that are committed already.
        overlap: o, rows that the old chunk still reaches (the paper's H - s).

    Source: Black, Galliker, Levine, "Real-time execution of action chunking flow policies" (2025), equation 5. There
    the mask guides the denoising of a flow policy; here it weighs rows, which any policy allows.
    """
    index = np.arange(rows)
    c = np.clip((overlap - index) / max(overlap - frozen + 1, 1), 0.0, 1.0)
    weights = c * np.expm1(c) / (math.e - 1.0)
    weights[index < min(frozen, overlap)] = 1.0
    weights[index >= overlap] = 0.0
    return weights


def ensemble_weights(count: int, decay: float) -> Array:
    """(count,) weights exp(-m i), normalised, i = 0 for the oldest chunk.

    Source: Zhao et al., "Learning fine-grained bimanual manipulation with low-cost hardware" (2023), algorithm 2.
    """
    weights = np.exp(-decay * np.arange(count))
    return weights / weights.sum()

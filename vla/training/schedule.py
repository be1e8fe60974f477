"""The learning rate: a linear warm-up, then half a cosine."""

from __future__ import annotations

import math


def learning_rate(step: int, *, max_steps: int, warmup_steps: int, peak: float, least: float) -> float:
    """Rate of optimiser step `step` (from 0): rises to `peak` over `warmup_steps`, is `least` at the last step."""
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    progress = min(1.0, (step - warmup_steps) / max(1, max_steps - 1 - warmup_steps))
    return least + 0.5 * (peak - least) * (1.0 + math.cos(math.pi * progress))

"""The optimiser, and which arithmetic the network computes in."""

from __future__ import annotations

import torch

from foreact.vla.trainable import TrainablePolicy
from foreact.vla.training.config import TrainerConfig
from foreact.vla.training.state import trainable

_FUSED = ("cpu", "cuda")


def make_optimizer(policy: TrainablePolicy, config: TrainerConfig) -> torch.optim.AdamW:
    """AdamW, fused where torch has it; matrices decay, vectors and learned tokens do not."""
    live = trainable(policy)
    matrices = {
        name for name, module in policy.named_modules() if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d))
    }
    decayed = [p for name, p in live.items() if name.endswith(".weight") and name.removesuffix(".weight") in matrices]
    chosen = {id(p) for p in decayed}
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": [p for p in live.values() if id(p) not in chosen], "weight_decay": 0.0},
    ]
    fused = all(p.device.type in _FUSED for p in live.values())
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, fused=fused)


def use_bf16(precision: str, device: torch.device) -> bool:
    """Whether to compute in bfloat16 (weights stay float32)."""
    if precision != "auto":
        return precision == "bf16"
    return device.type == "cuda" or torch.cpu._is_avx512_bf16_supported()

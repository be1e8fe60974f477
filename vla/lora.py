"""Low-rank adapters on frozen pretrained towers (LoRA, Hu et al., arXiv 2106.09685), through peft.

The tower stays frozen; beside each chosen linear layer W stands B A, of rank r, that is trained:
W x + alpha / r * B A x. B begins at zero, so a new policy computes what the frozen tower does. A checkpoint holds tower
and adapters; for acting they are added up to plain weights, `merge_lora`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from foreact.vla.errors import ConfigError

QUERIES_AND_VALUES = {
    "vit_mae": ("query", "value", "q_proj", "v_proj"),
    "dinov2": ("query", "value", "q_proj", "v_proj"),
    "vit": ("query", "value", "q_proj", "v_proj"),
    "clip_text_model": ("q_proj", "v_proj"),
}
"""Model type of transformers -> names of what the paper adapts (its section 4.2), in old and new releases."""


@dataclass(frozen=True, kw_only=True)
class Lora:
    """Which adapters."""

    rank: int
    """Rank r of each; at least 1."""
    alpha: float
    """The sum is scaled by alpha / rank."""
    targets: tuple[str, ...] = ()
    """Last parts of names of linear layers; empty: the attention's queries and values."""


def check_lora(rank: int, alpha: float, targets: str, *, vision: str, text: str) -> None:
    """Check settings of a policy's config; `vision` and `text` name its towers.

    Raises:
        ConfigError: If they make no sense together.
    """
    if rank < 0 or (rank and alpha <= 0):
        raise ConfigError(
            f"policy.lora_rank must be 0 (none) or more and policy.lora_alpha more than 0, found {rank} and {alpha:g}"
        )
    if not rank and targets:
        raise ConfigError(f"policy.lora_targets={targets!r} without adapters: set policy.lora_rank, such as 8")
    if rank and vision == "small" and text != "clip":
        raise ConfigError(
            f"policy.lora_rank={rank} adapts pretrained towers, but vision={vision!r} and text={text!r} are none: "
            "set policy.vision (mae, dino, vit) or policy.text (clip), or policy.lora_rank=0"
        )


def of_config(config: Any) -> Lora | None:
    """The adapters that a policy's config asks for, if any."""
    if not getattr(config, "lora_rank", 0):
        return None
    targets = tuple(filter(None, (name.strip() for name in config.lora_targets.split(","))))
    return Lora(rank=config.lora_rank, alpha=float(config.lora_alpha), targets=targets)


def adapt_towers(config: Any, towers: Mapping[str, nn.Module]) -> None:
    """Put adapters into the pretrained ones of a policy's towers, in place, if its config asks for them.

    Raises:
        ConfigError: If peft is not installed, or a tower has no layer of the names that are wanted.
    """
    lora = of_config(config)
    if lora is None:
        return
    pretrained = {name: tower for name, tower in towers.items() if hasattr(tower, "adapt")}
    found = {name: add_lora(tower.model, lora) for name, tower in pretrained.items()}  # type: ignore[arg-type]
    if not any(found.values()):
        names = {n.rpartition(".")[2] for t in pretrained.values() for n, m in t.named_modules() if _linear(m)}
        raise ConfigError(
            f"policy.lora_targets: no tower has a linear layer called {' or '.join(lora.targets)}; "
            f"there are {', '.join(sorted(names))}"
        )
    for name, count in found.items():
        pretrained[name].adapt(count > 0)  # type: ignore[operator]


def add_lora(model: Any, lora: Lora) -> int:
    """Put adapters beside a transformers model's linear layers, in place; everything else is frozen.

    Returns:
        How many layers have one now; 0 if none has such a name.

    Raises:
        ConfigError: If peft is not installed, or the rank is larger than a layer.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ConfigError("policy.lora_rank needs peft: pip install '.[lora]' in ForeAct's folder") from error

    wanted = lora.targets or QUERIES_AND_VALUES.get(str(model.config.model_type), ("query", "value"))
    layers = {n: m for n, m in model.named_modules() if _linear(m) and n.rpartition(".")[2] in wanted}
    if not layers:
        return 0
    smallest = min(min(layer.weight.shape) for layer in layers.values())
    if lora.rank > smallest:
        raise ConfigError(f"policy.lora_rank={lora.rank}: the smallest adapted layer has {smallest} rows or columns")
    alpha: Any = lora.alpha  # peft's annotation says int; it divides
    inject_adapter_in_model(LoraConfig(r=lora.rank, lora_alpha=alpha, target_modules=sorted(layers)), model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name)
    return len(layers)


def merge_lora(policy: nn.Module) -> int:
    """Add all adapters to the weights beside which they stand, in place; returns how many there were.

    The policy computes the same (up to rounding), a little faster, and is from then on one without adapters.
    """
    merged = 0
    config: Any = getattr(policy, "config", None)
    if getattr(config, "lora_rank", 0):
        policy.config = replace(config, lora_rank=0, lora_targets="")
    for tower in list(policy.modules()):
        if not getattr(tower, "adapted", False):
            continue
        names: Sequence[str] = [name for name, module in tower.named_modules() if hasattr(module, "lora_A")]
        for name in names:
            layer: Any = tower.get_submodule(name)
            layer.merge(safe_merge=True)
            parent, _, leaf = name.rpartition(".")
            setattr(tower.get_submodule(parent), leaf, layer.get_base_layer())
            merged += 1
        tower.adapt(False)  # type: ignore[operator]
    return merged


def _linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear)

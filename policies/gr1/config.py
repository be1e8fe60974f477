"""Every size and weight of the policy, in one frozen dataclass that travels as config.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from foreact.vla.errors import ConfigError, did_you_mean
from foreact.vla.lora import check_lora


@dataclass(frozen=True, kw_only=True)
class GR1Config:
    """Sizes of the GR-1-shaped policy. The defaults are the size `tiny`, which trains on two CPU cores."""

    history: int = 2
    """Frames a plan is made from (T)."""
    history_stride: int = 3
    """Control steps between two of them."""
    foresight_steps: int = 9
    """Predicted frames show the scene so many control steps ahead."""
    chunk: int = 10
    """Actions planned at once (K), one query token each."""
    execute_steps: int = 5
    """Actions of a plan that an actor executes before it plans again."""

    width: int = 192
    layers: int = 4
    heads: int = 6
    dropout: float = 0.0

    vision: str = "small"
    """"small" (trained from scratch), or a frozen pretrained tower: "mae", "dino", "vit"."""
    vision_folder: str = ""
    """Local folder of a pretrained tower; empty for the hub."""
    vision_width: int = 96
    vision_layers: int = 1
    vision_heads: int = 3
    text: str = "small"
    """"small" (UTF-8 bytes, trained from scratch), "distilled" (frozen, small, knows words that were never trained on,
    see docs/language.md; an adapter learns) or "clip" (frozen)."""
    text_folder: str = ""
    """Local folder of "clip"; empty for the hub."""
    text_width: int = 96
    """Width of "small", or of the adapter of "distilled" (0 for no adapter)."""
    text_layers: int = 2
    text_heads: int = 4
    lora_rank: int = 0
    """Rank of adapters that are trained in frozen pretrained towers; 0: none. See `foreact.vla.lora`."""
    lora_alpha: float = 16.0
    """Adapters are scaled by this over their rank."""
    lora_targets: str = ""
    """Names of the layers that get one, such as "query,value"; empty: the attention's queries and values."""
    resampler_latents: int = 6
    resampler_depth: int = 1
    resampler_heads: int = 4
    resampler_head_width: int = 32

    image_queries: int = 6
    """Query tokens per camera from which a future picture is decoded."""
    decoder_width: int = 96
    decoder_layers: int = 2
    decoder_heads: int = 3
    decoder_patch: int = 8
    """Side of the square patches that the decoder paints [pixels]."""
    decoder_blend: bool = True
    """The decoder sees the current frame and blends it with what it paints; GR-1 itself paints from nothing."""

    foresight_positions: str = "one"
    """In training, paint the future of "one" random history frame per window (cheaper), or of "all"."""
    arm_weight: float = 1.0
    arm_beta: float = 0.1
    """Smooth-L1 turns from squared to absolute at this error [action units]."""
    gripper_weight: float = 0.1
    foresight_weight: float = 0.5
    """Weight of the mean squared pixel error of each camera (pixel values scaled to standard deviation about 1)."""
    moved_weight: float = 4.0
    """Pixels that change by more than 16/255 until the predicted moment count 1 + this much."""

    def __post_init__(self) -> None:
        check_lora(self.lora_rank, self.lora_alpha, self.lora_targets, vision=self.vision, text=self.text)
        for name in ("history", "history_stride", "foresight_steps", "chunk", "width", "layers", "heads"):
            if getattr(self, name) < 1:
                raise ConfigError(f"policy.{name} must be at least 1, found {getattr(self, name)}")
        if not 1 <= self.execute_steps <= self.chunk:
            raise ConfigError(
                f"policy.execute_steps must be 1 to policy.chunk={self.chunk}, found {self.execute_steps}"
            )
        for width, heads in (("width", "heads"), ("decoder_width", "decoder_heads")):
            if getattr(self, width) % getattr(self, heads):
                raise ConfigError(
                    f"policy.{width} ({getattr(self, width)}) must be a multiple of policy.{heads} "
                    f"({getattr(self, heads)})"
                )
        if self.foresight_positions not in ("one", "all"):
            raise ConfigError(f"policy.foresight_positions must be 'one' or 'all', found {self.foresight_positions!r}")

    def to_dict(self) -> dict:
        """Plain values for config.json."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping) -> GR1Config:
        """The inverse of `to_dict`; unknown names are refused.

        Raises:
            ConfigError: If a name is unknown or a value has the wrong type.
        """
        return cls(**checked(cls, values))


def checked(kind: type, values: Mapping) -> dict[str, Any]:
    """`values` as settings of the dataclass `kind`, whose fields all have defaults of the types that are expected.

    Raises:
        ConfigError: If a name is unknown or a value has the wrong type.
    """
    known = {field.name: type(field.default) for field in fields(kind)}
    for name, value in values.items():
        if name not in known:
            raise ConfigError(f"policy setting {name!r} is unknown; {did_you_mean(name, known)}")
        expected = (int, float) if known[name] is float else (known[name],)
        if not isinstance(value, expected) or (isinstance(value, bool) and known[name] is not bool):
            raise ConfigError(f"policy.{name} must be {known[name].__name__}, found {value!r}")
    return dict(values)

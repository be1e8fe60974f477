"""Every size, part and weight of the improved policy, in one frozen dataclass that travels as config.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from foreact.policies.gr1.heads import HEADS
from foreact.policies.gr1.settings import checked
from foreact.policies.gr1.visual_tokens import WAYS
from foreact.vla.errors import ConfigError, did_you_mean
from foreact.vla.lora import check_lora


@dataclass(frozen=True, kw_only=True)
class ForeActConfig:
    """Sizes and parts. The defaults are the size `tiny`, which trains on two CPU cores."""

    # --- the window
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

    # --- parts, each replaceable by itself
    within_step: str = "causal"
    """Tokens of one step look at those "before" them ("causal", as in GR-1), or at each other ("bidirectional")."""
    action_sees: str = "context"
    """Action queries look at the "context" alone (GR-1), or also at the "foresight" queries of their step (as in Seer,
    arXiv 2412.15109: what is about to be seen tells what to do)."""
    action_head: str = "linear"
    """"linear", "mlp" or "flow" (flow matching, `flow_steps` steps)."""
    flow_steps: int = 5
    action_frame: str = "base"
    """Translations are learned in the frame of the robot's "base" (or whatever the contract says), or of its "tool"."""
    state_frame: str = "base"
    """The tool's pose is given in the "base"'s frame, or relative to the "first" frame of the window."""
    foresight_target: str = "pixels"
    """What is predicted: "pixels", or "latent" patch tokens of the vision tower's moving average."""
    target_decay: float = 0.99
    """Decay per step of that average."""
    visual_tokens: str = "resampler"
    """From patches to `visual_count` tokens per camera: "resampler", "pool", "merge" or "dct"."""
    visual_count: int = 6
    resampler_told: bool = False
    """The resampler's latents are told the sentence before they look."""

    # --- sizes
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

    # --- losses
    foresight_positions: str = "one"
    """In training, paint the future of "one" random history frame per window (cheaper), or of "all"."""
    arm_weight: float = 1.0
    arm_beta: float = 0.1
    """Smooth-L1 turns from squared to absolute at this error [action units]; not used by "flow"."""
    gripper_weight: float = 0.1
    foresight_weight: float = 0.5
    """Weight of each camera's foresight error (scaled so that guessing a constant costs about 1)."""
    moved_weight: float = 4.0
    """Pixels that change by more than 16/255 until the predicted moment count 1 + this much."""

    def __post_init__(self) -> None:
        check_lora(self.lora_rank, self.lora_alpha, self.lora_targets, vision=self.vision, text=self.text)
        for name in ("history", "history_stride", "foresight_steps", "chunk", "width", "layers", "heads", "flow_steps"):
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
        for name, known in _CHOICES.items():
            found = getattr(self, name)
            if found not in known:
                raise ConfigError(f"policy.{name} has no {found!r}; {did_you_mean(found, known)}")
        if self.foresight_weight <= 0 and self.action_sees == "foresight":
            raise ConfigError("policy.action_sees=foresight needs a foresight to see: policy.foresight_weight > 0")

    def to_dict(self) -> dict:
        """Plain values for config.json."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping) -> ForeActConfig:
        """The inverse of `to_dict`; unknown names are refused.

        Raises:
            ConfigError: If a name is unknown or a value has the wrong type.
        """
        return cls(**checked(cls, values))


_CHOICES = {
    "within_step": ("causal", "bidirectional"),
    "action_sees": ("context", "foresight"),
    "action_head": HEADS,
    "action_frame": ("base", "tool"),
    "state_frame": ("base", "first"),
    "foresight_target": ("pixels", "latent"),
    "visual_tokens": WAYS,
    "foresight_positions": ("one", "all"),
}

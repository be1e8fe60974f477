"""Sizes of the published GR-1; the defaults are those of the released weights (bytedance/GR-1, logs/configs.json)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from foreact.policies.gr1.settings import checked
from foreact.vla.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class PublishedGR1Config:
    """Everything that decides what the published network computes, and how it is trained."""

    # --- time ---
    history: int = 10
    """Frames it sees (seq_len), and rows of its time table."""
    history_stride: int = 1
    """Control steps between them."""
    foresight_steps: int = 3
    """How far ahead it predicts frames [control steps] (fwd_pred_next_n)."""
    chunk: int = 1
    """Actions per plan: 1 as published, 10 in the weights of EDiRobotics/GR1-Training."""
    execute_steps: int = 1
    """Actions of a plan executed before the next one. More than 1 does harm: docs/gr1.md."""

    # --- trunk ---
    width: int = 384
    layers: int = 12
    heads: int = 12
    dropout: float = 0.1
    """Of embeddings, attention and residual branches, in training."""
    positions: int = 0
    """Rows of a learned table over flat token positions (`wpe`): 0, none, as published; GR1-Training has 1024."""
    chunk_queries: bool = False
    """Whether a query per action of the chunk is added to the action query (GR1-Training)."""

    # --- frozen towers ---
    towers: str = ""
    """Where a new policy takes them from: the folder of a checkpoint that has them (`foreact convert-checkpoint` writes
    one), or "random", which is only good for tests."""
    image_size: int = 224
    """Side of the square that pictures are resized to [pixels]."""
    patch_size: int = 16
    """Side of a patch, of the encoder's and of the painted ones [pixels]."""
    vision_width: int = 768
    vision_layers: int = 12
    vision_heads: int = 12
    text_width: int = 512
    """Length of a sentence's vector."""

    # --- resampler ---
    resampler_depth: int = 3
    resampler_heads: int = 4
    resampler_head_width: int = 128
    resampler_latents: int = 9

    # --- decoder of future frames ---
    decoder_layers: int = 2
    decoder_heads: int = 16

    # --- training ---
    normalise_patches: bool = True
    """Video targets are standardised patch by patch (without_norm_pixel_loss = false)."""
    arm_weight: float = 1.0
    gripper_weight: float = 1.0
    video_weight: float = 1.0
    """Unit weights, as in the paper's equation; its neighbours' code differs: docs/gr1.md."""

    def __post_init__(self) -> None:
        for name in ("history", "history_stride", "foresight_steps", "chunk", "width", "layers", "heads"):
            if getattr(self, name) < 1:
                raise ConfigError(f"policy.{name} must be at least 1, found {getattr(self, name)}")
        if not 1 <= self.execute_steps <= self.chunk:
            raise ConfigError(
                f"policy.execute_steps must be 1 to policy.chunk={self.chunk}, found {self.execute_steps}"
            )
        if self.chunk > 1 and not self.chunk_queries:
            raise ConfigError(f"policy.chunk={self.chunk} needs policy.chunk_queries=true: one query per action")
        for whole, part in (
            ("width", "heads"), ("width", "decoder_heads"), ("vision_width", "vision_heads"),
            ("image_size", "patch_size"),
        ):  # fmt: skip
            if getattr(self, whole) % getattr(self, part):
                found = f"{getattr(self, whole)} and {getattr(self, part)}"
                raise ConfigError(f"policy.{whole} must be a multiple of policy.{part}, found {found}")
        if self.positions and self.positions < self.history * self.step_tokens:
            raise ConfigError(
                f"policy.positions must be 0 or at least {self.history * self.step_tokens} (history {self.history} x "
                f"{self.step_tokens} tokens), found {self.positions}"
            )

    @property
    def patches(self) -> int:
        """Patches of a picture."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def image_queries(self) -> int:
        """Queries per camera: as many as a picture has tokens in the trunk."""
        return self.resampler_latents + 1

    @property
    def step_tokens(self) -> int:
        """Tokens of one step with both cameras and all queries: 43 as published, 52 with ten action queries."""
        return 2 + 4 * self.image_queries + self.chunk

    def to_dict(self) -> dict:
        """Plain values for config.json. A checkpoint brings its towers, so where they came from is left out."""
        return {**asdict(self), "towers": ""}

    @classmethod
    def from_dict(cls, values: Mapping) -> PublishedGR1Config:
        """The inverse of `to_dict`; unknown names are refused.

        Raises:
            ConfigError: If a name is unknown or a value has the wrong type.
        """
        return cls(**checked(cls, values))

"""Settings of the training loop: what stands under `trainer:` in a config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar, get_type_hints

from pydantic import TypeAdapter, ValidationError

from foreact.vla.errors import ConfigError, did_you_mean

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Random changes of pictures; zero switches one off. All frames of a window, its future included, change alike."""

    shift_pixels: float | dict[str, float] = 2.0
    """Largest shift to either side, in fractions of pixels; edges are repeated. Drawn per camera. A mapping says it for
    each camera, in pixels of the pictures that the policy is given."""
    shift_whole: bool = False
    """Shift by whole pixels alone, as random shifts of DrQ-v2 and GR-1 do, so that nothing is blurred."""
    brightness: float = 0.1
    """Largest brightness added or taken away, as a share of full scale."""
    contrast: float = 0.1
    """Largest change of the contrast around the mean, as a share."""
    color: float = 0.05
    """Largest change of each colour channel's gain, as a share."""

    @property
    def active(self) -> bool:
        """Whether anything changes."""
        shifts = self.shift_pixels.values() if isinstance(self.shift_pixels, dict) else [self.shift_pixels]
        return any((*shifts, self.brightness, self.contrast, self.color))


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """Settings of the training loop."""

    seed: int = 0
    """Everything random follows from it and the step number."""
    max_steps: int | None = None
    """Optimiser steps; the learning rate follows step / max_steps. None: as many as fit into `max_minutes` at the
    speed measured before the start."""
    max_minutes: float | None = None
    """Stop (with a checkpoint) after this much training time [min], validation included, resumed runs added up."""
    batch_size: int = 64
    """Windows per optimiser step, of all processes together."""
    accumulate: int = 1
    """Each process computes its share of the batch in so many pieces, one after another, to need less memory."""
    learning_rate: float = 1e-3
    min_learning_rate: float = 1e-5
    warmup_steps: int = 200
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.95)
    clip_norm: float = 1.0
    ema_decay: float = 0.998
    """Decay per step of the averaged weights that are saved and judged."""
    precision: str = "auto"
    """"bf16", "fp32", or "auto": bf16 on CUDA and on CPUs that multiply it in hardware."""
    device: str = "cpu"
    """"cpu", "cuda" or "cuda:N"; of several processes, each takes its own GPU."""
    threads: int | None = None
    """CPU threads of torch in each process; None: torch's own choice."""
    workers: int = 0
    """Threads that make the next batches while one is trained on; 0: none."""
    shard: bool = False
    """With several processes: split weights and optimiser between them (FSDP2) instead of keeping copies (DDP)."""
    recompute: bool = False
    """Keep only the input of each transformer block and compute the rest again in the backward pass: less memory."""
    compile: bool = False
    """Compile the transformer blocks with torch.compile before training."""
    augment: AugmentConfig = AugmentConfig()

    log_every: int = 20
    validate_every: int = 500
    """Steps between validations; 0: never."""
    validate_batches: int = 8
    save_every: int = 500
    """Steps between training checkpoints."""
    keep: int = 2
    """Newest training checkpoints kept, at least 2: the newest may be damaged."""
    tensorboard: bool = True
    wandb: bool = False

    def __post_init__(self) -> None:
        if self.max_steps is None and self.max_minutes is None:
            raise ConfigError("say how long to train: trainer.max_steps=N or trainer.max_minutes=M (or both)")
        for name, least in (
            ("batch_size", 1),
            ("keep", 2),
            ("save_every", 1),
            ("log_every", 1),
            ("warmup_steps", 0),
            ("accumulate", 1),
            ("workers", 0),
        ):
            if getattr(self, name) < least:
                raise ConfigError(f"trainer.{name} must be at least {least}, found {getattr(self, name)}")
        if self.max_steps is not None and self.max_steps < 1:
            raise ConfigError(f"trainer.max_steps must be at least 1, found {self.max_steps}")
        if self.precision == "fp16":
            raise ConfigError("trainer.precision=fp16 would need loss scaling; use bf16, which has the range of fp32")
        if self.precision not in ("auto", "bf16", "fp32"):
            raise ConfigError(f"trainer.precision must be auto, bf16 or fp32, found {self.precision!r}")

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def changed(self, **values: Any) -> TrainerConfig:
        """A copy with other values."""
        return replace(self, **values)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainerConfig:
        """The inverse of `to_dict`.

        Raises:
            ConfigError: If a name is unknown or a value is out of range.
        """
        plain = dict(values)
        augment = _checked(AugmentConfig, plain.pop("augment", {}), "trainer.augment")
        if isinstance(plain.get("betas"), list):
            plain["betas"] = tuple(plain["betas"])
        return _checked(cls, {**plain, "augment": augment}, "trainer")


def _checked(kind: type[T], values: Mapping[str, Any], where: str) -> T:
    """An instance of a dataclass, if all names are known and all values are of the right types."""
    types = get_type_hints(kind)
    for name, value in values.items():
        if name not in types:
            raise ConfigError(f"{where}.{name} is unknown; {did_you_mean(name, types)}")
        try:
            TypeAdapter(types[name]).validate_python(value, strict=True)
        except ValidationError as error:
            raise ConfigError(f"{where}.{name}: {error.errors()[0]['msg']}, found {value!r}") from error
    return kind(**values)

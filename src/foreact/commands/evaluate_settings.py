"""The settings of `foreact evaluate`, checked before anything heavy is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, ValidationError, model_validator

from foreact.vla.errors import ConfigError


class Benchmark(BaseModel):
    """What is asked, from where, and for how long."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    scene: str = "D"
    tasks: Literal["all"] | tuple[str, ...] = "all"
    starts_per_task: PositiveInt = 50
    tasks_per_start: PositiveInt = 2
    max_steps: PositiveInt = 180
    """Control steps per rollout."""
    language: Literal["validation", "training"] = "validation"

    @model_validator(mode="after")
    def _tasks_are_named_once(self) -> Benchmark:
        if not self.tasks or len(set(self.tasks)) != len(self.tasks) and self.tasks != "all":
            raise ValueError(f"tasks must be 'all' or a list of different names, found {list(self.tasks)}")
        return self


class EvaluateSettings(BaseModel):
    """See `configs/evaluate.yaml` for what each key means."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    checkpoint: Path | None = None
    actor: str | None = None
    seed: NonNegativeInt = 0
    benchmark: Benchmark = Benchmark()
    workers: NonNegativeInt = 2
    envs_per_worker: PositiveInt = 4
    execute_steps: PositiveInt | None = None
    device: Annotated[str, Field(pattern=r"^(cpu|cuda(:\d+)?)$")] = "cpu"
    videos_per_task: NonNegativeInt = 1
    foresight: bool = True
    out: Path | None = None
    resume: bool = True

    @model_validator(mode="after")
    def _one_is_judged(self) -> EvaluateSettings:
        if (self.checkpoint is None) == (self.actor is None):
            raise ValueError("say who is judged: either checkpoint=DIR or actor=NAME (zero, random, ...)")
        if self.actor is not None and (self.execute_steps is not None or self.device != "cpu"):
            raise ValueError("execute_steps and device go with checkpoint=DIR; an actor=NAME decides both itself")
        return self

    @property
    def name(self) -> str:
        """The actor's name, or that of the checkpoint's folder (of its run, where the folder is a run's `policy`)."""
        if self.checkpoint is None:
            return str(self.actor)
        folder = self.checkpoint.resolve()
        return folder.parent.name if folder.name == "policy" else folder.name

    @property
    def folder(self) -> Path:
        """Where results go."""
        return self.out or Path("outputs/evaluate") / self.name

    @classmethod
    def parse(cls, config: dict[str, Any]) -> EvaluateSettings:
        """Check a composed config.

        Raises:
            ConfigError: With one line per bad key.
        """
        try:
            return cls.model_validate(config)
        except ValidationError as error:
            lines = [
                f"  {'.'.join(str(p) for p in e['loc'] if p not in _BRANCHES) or 'evaluate'}: "
                + e["msg"].removeprefix("Value error, ")
                + ("" if e["type"] in ("missing", "value_error") else f", found {e['input']!r}")
                for e in error.errors()
            ]
            raise ConfigError("evaluate: these settings are not valid:\n" + "\n".join(dict.fromkeys(lines))) from error


_BRANCHES = ("literal['all']", "tuple[str, ...]")
"""What pydantic adds to the name of a key that may be one of two things."""

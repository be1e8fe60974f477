"""The settings of `foreact collect`, checked before anything heavy is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from foreact.vla.errors import ConfigError

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Scene = Literal["A", "B", "C", "D"]


class Split(BaseModel):
    """Amounts of one of CALVIN's training splits; see `configs/split/`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    language_episodes: PositiveInt
    frames: PositiveInt
    language_share: Share
    scene_frames: dict[Scene, PositiveInt]

    @property
    def play_frames(self) -> int:
        """Frames that no language window covers."""
        return round(self.frames * (1.0 - self.language_share))


class CollectSettings(BaseModel):
    """See `configs/collect.yaml` for what each key means."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    out: Path
    kind: Literal["demonstrations", "video"] = "demonstrations"
    seed: NonNegativeInt = 0
    workers: PositiveInt = 2
    codec: str = "fast"
    split: Split | None = None
    scale: PositiveFloat = 1.0
    scenes: Annotated[tuple[Scene, ...], Field(min_length=1)] = ("D",)
    tasks: str | tuple[str, ...] = "fixtures"
    episodes_per_task: NonNegativeInt | None = None
    play_frames: NonNegativeInt | None = None
    language_fraction: Share = 1.0
    label_play: bool = False
    manner: Literal["steady", "human"] = "steady"
    looks: Literal["nominal", "random"] = "nominal"
    body: Literal["arm", "floating_hand"] = "arm"
    max_steps: PositiveInt = 180
    tail_steps: NonNegativeInt = 8
    speed: tuple[PositiveFloat, Annotated[float, Field(le=1.0)]] = (0.75, 1.0)
    jitter: NonNegativeFloat = 0.08
    slip_probability: Share = 0.02
    slip_steps: tuple[PositiveInt, PositiveInt] = (3, 8)
    slip_size: NonNegativeFloat = 1.0
    gain: tuple[PositiveFloat, Annotated[float, Field(le=0.5)]] = (0.22, 0.38)
    travel_m: tuple[NonNegativeFloat, NonNegativeFloat] = (0.0, 0.05)
    off_centre: Share = 0.8
    other_way: Share = 0.25
    unsteady: tuple[NonNegativeFloat, NonNegativeFloat] = (0.25, 1.5)
    driver: str = ""
    driver_share: Share = 0.75
    driver_steps: tuple[PositiveInt, PositiveInt] = (20, 160)
    session_steps: tuple[PositiveInt, PositiveInt] = (1800, 3600)
    pause: Share = 0.3
    pause_steps: tuple[NonNegativeInt, NonNegativeInt] = (5, 45)
    dry_run: bool = False
    force: bool = False

    @model_validator(mode="after")
    def _fits_together(self) -> CollectSettings:
        ranges = ("speed", "slip_steps", "gain", "travel_m", "unsteady", "driver_steps", "pause_steps", "session_steps")
        for key in ranges:
            low, high = getattr(self, key)
            if low > high:
                raise ValueError(f"{key} must be [smallest, largest], found [{low}, {high}]")
        if self.body != "arm" and self.kind != "video":
            raise ValueError(
                f"body={self.body} goes with kind=video: there is no arm in the pictures that the states and actions "
                "could belong to"
            )
        if self.driver and self.kind == "video":
            raise ValueError(f"driver={self.driver} goes with kind=demonstrations: a video has no labels")
        if self.driver and self.driver_steps[1] >= self.max_steps:
            raise ValueError(
                f"driver_steps must end before max_steps={self.max_steps}, so that the expert has time left; found "
                f"{list(self.driver_steps)}"
            )
        if self.session_steps[1] < 2 * self.session_steps[0]:
            low, high = self.session_steps
            raise ValueError(f"session_steps: the second must be at least twice the first, found [{low}, {high}]")
        for key in ("scenes", "tasks"):
            value = getattr(self, key)
            if not value or not isinstance(value, str) and len(set(value)) != len(value):
                raise ValueError(f"{key} must be a list of different names, found {list(value)}")
        return self

    @model_validator(mode="after")
    def _split_or_amounts(self) -> CollectSettings:
        amounts = {"episodes_per_task": self.episodes_per_task, "play_frames": self.play_frames}
        if self.split is None:
            if self.scale != 1.0:
                raise ValueError(f"scale={self.scale} goes with split=d, abc or abcd")
            missing = [key for key, value in amounts.items() if value is None]
            if missing:
                raise ValueError(f"without a split, {' and '.join(missing)} must be numbers")
        else:
            given = [f"{key}={value}" for key, value in amounts.items() if value is not None]
            if given:
                raise ValueError(f"{' and '.join(given)} cannot go with a split, whose amounts scale=... sets")
            if set(self.scenes) != set(self.split.scene_frames):
                raise ValueError(
                    f"split={self.split.name} is of the scenes {', '.join(self.split.scene_frames)}, "
                    f"found scenes=[{', '.join(self.scenes)}]"
                )
        return self

    @property
    def task_names(self) -> tuple[str, ...]:
        """The tasks that are asked for, one by one.

        Raises:
            ConfigError: If a name is unknown or has no scripted expert.
        """
        from foreact.sim.experts import LAWS
        from foreact.sim.tasks import TASK_SETS, get_task
        from foreact.vla.errors import did_you_mean

        if isinstance(self.tasks, str):
            if self.tasks not in TASK_SETS:
                raise ConfigError(
                    f"tasks={self.tasks}: no such set of tasks; {did_you_mean(self.tasks, TASK_SETS)}, "
                    "or a list such as tasks=[open_drawer]"
                )
            names = TASK_SETS[self.tasks]
        else:
            names = tuple(get_task(name).name for name in self.tasks)
        without = [name for name in names if name not in LAWS]
        if without:
            raise ConfigError(f"tasks: no scripted expert for {', '.join(without)}; name others by tasks=[...]")
        return names

    @classmethod
    def parse(cls, config: dict[str, Any]) -> CollectSettings:
        """Check a composed config.

        Raises:
            ConfigError: With one line per bad key.
        """
        try:
            return cls.model_validate(config)
        except ValidationError as error:
            lines = []
            for e in error.errors():
                key = ".".join(str(part) for part in e["loc"] if part not in ("str", "tuple[str, ...]"))
                found = "" if e["type"] in ("missing", "value_error") else f", found {e['input']!r}"
                lines.append(f"  {key}: ".replace("  : ", "  ") + e["msg"].removeprefix("Value error, ") + found)
            raise ConfigError("collect: these settings are not valid:\n" + "\n".join(dict.fromkeys(lines))) from error

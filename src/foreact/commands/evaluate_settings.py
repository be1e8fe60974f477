"""The settings of `foreact evaluate`, checked before anything heavy is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from foreact.vla.errors import ConfigError

Language = Literal["validation", "training", "unseen"]


class Tasks(BaseModel):
    """Single tasks, each from starts of its own."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["tasks"] = "tasks"
    tasks: str | tuple[str, ...] = "fixtures"
    """A name for several (all, fixtures, blocks) or a list."""
    starts_per_task: PositiveInt = 50
    tasks_per_start: PositiveInt = 2
    max_steps: PositiveInt | None = None
    """Control steps per rollout; None: what the simulator says."""
    language: Language = "validation"

    @model_validator(mode="after")
    def _tasks_are_named_once(self) -> Tasks:
        if not self.tasks or not isinstance(self.tasks, str) and len(set(self.tasks)) != len(self.tasks):
            raise ValueError(f"tasks must be 'all' or a list of different names, found {list(self.tasks)}")
        return self


class Chains(BaseModel):
    """Tasks in a row, without a reset in between."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["chains"]
    chain_list: Literal["official", "generated"] = "official"
    chains: PositiveInt = 1000
    length: PositiveInt = 5
    """Tasks in a chain that is generated."""
    tasks: str | tuple[str, ...] = "all"
    """That may occur in a chain that is generated."""
    max_steps: PositiveInt = 360
    """Control steps per task."""
    language: Language = "validation"

    @model_validator(mode="after")
    def _official_chains_are_what_they_are(self) -> Chains:
        if self.chain_list == "official" and (self.length, self.tasks) != (5, "all"):
            raise ValueError("CALVIN's own chains have 5 of all tasks; other ones need chain_list=generated")
        return self


class Env(BaseModel):
    """Which simulator; everything but its name is handed to it."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str = "desk"


FAILURE_VIDEOS = 4
"""Films of failures by default."""
REMOTE = "remote"
"""The actor's name for whatever a policy server runs."""


class Remote(BaseModel):
    """How a policy server is asked; see docs/serving.md."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    timeout_s: PositiveFloat = 30.0
    """For each reply."""
    token_file: str = ""
    tls_ca: str = ""
    contract: Path | None = None
    keys: tuple[str, ...] = ()
    """OURS=THEIRS."""
    image_size: PositiveInt | None = None
    layout: Literal["nested", "flat"] = "nested"


class EvaluateSettings(BaseModel):
    """See `configs/evaluate.yaml` for what each key means."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    checkpoint: Path | None = None
    actor: str | None = None
    url: str | None = None
    remote: Remote = Remote()
    seed: NonNegativeInt = 0
    env: Env = Env()
    benchmark: Annotated[Tasks | Chains, Field(discriminator="kind")] = Tasks()
    workers: NonNegativeInt = 2
    envs_per_worker: PositiveInt = 4
    batch_size: PositiveInt = 1
    execute_steps: PositiveInt | None = None
    device: Annotated[str, Field(pattern=r"^(cpu|cuda(:\d+)?)$")] = "cpu"
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    graphs: bool = False
    compiled: bool = False
    videos_per_task: NonNegativeInt = 1
    failure_videos: NonNegativeInt | None = None
    best_video: bool = False
    foresight: bool = True
    out: Path | None = None
    resume: bool = True

    @model_validator(mode="before")
    @classmethod
    def _a_server_is_an_actor(cls, config: Any) -> Any:
        if not isinstance(config, dict):
            return config
        url, actor = config.get("url"), config.get("actor")
        if actor == REMOTE and url is None:
            raise ValueError("a remote policy needs its address: url=ws://HOST:PORT or url=zmq+tcp://HOST:PORT")
        if url is not None and actor not in (None, REMOTE):
            raise ValueError(f"url={url} goes with policy=remote, not with actor={actor}")
        return {**config, "actor": REMOTE} if url is not None else config

    @model_validator(mode="after")
    def _one_is_judged(self) -> EvaluateSettings:
        if (self.checkpoint is None) == (self.actor is None):
            raise ValueError(
                "say who is judged: either checkpoint=DIR or actor=NAME (expert, zero, random, ...), "
                "or a server's url=ws://HOST:PORT"
            )
        if self.actor is not None and self.device != "cpu":
            raise ValueError("device goes with checkpoint=DIR; an actor=NAME decides itself, a server has its own")
        if self.actor not in (None, REMOTE) and self.execute_steps is not None:
            raise ValueError("execute_steps goes with checkpoint=DIR or a server's url=; an actor=NAME decides itself")
        if self.actor is not None and self.runtime:
            raise ValueError(f"{', '.join(self.runtime)}: goes with checkpoint=DIR; an actor=NAME or a server decides")
        if self.best_video and self.benchmark.kind != "chains":
            raise ValueError("best_video goes with benchmark=calvin_chains: of single tasks none is best")
        return self

    @property
    def runtime(self) -> dict[str, Any]:
        """Precision, graphs and compiled, where they are not at their defaults."""
        return self.model_dump(include={"precision", "graphs", "compiled"}, exclude_defaults=True)

    @property
    def n_failure_videos(self) -> int:
        """How many films of failures; by default none where no other videos are wanted."""
        if self.failure_videos is None:
            return FAILURE_VIDEOS if self.videos_per_task else 0
        return self.failure_videos

    @property
    def records_any(self) -> bool:
        """Whether anything may be recorded."""
        return self.videos_per_task > 0 or self.n_failure_videos > 0 or self.best_video

    @property
    def name(self) -> str:
        """The actor's name, or that of the checkpoint's folder (of its run, where the folder is a run's `policy`)."""
        if self.checkpoint is None:
            return str(self.actor)
        folder = self.checkpoint.resolve()
        if folder.parent.name == "snapshots":  # in the cache of a model hub: models--user--name/snapshots/<commit>
            return folder.parents[1].name.removeprefix("models--")
        return folder.parent.name if folder.name == "policy" else folder.name

    @property
    def title(self) -> str:
        """Who is judged, for messages."""
        if self.url is not None:
            return f"the policy at {self.url}"
        return f"checkpoint {self.checkpoint}" if self.checkpoint else f"actor {self.actor!r}"

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
                f"  {_key(e['loc'])}: "
                + e["msg"].removeprefix("Value error, ")
                + ("" if e["type"] in ("missing", "value_error") else f", found {e['input']!r}")
                for e in error.errors()
            ]
            raise ConfigError("evaluate: these settings are not valid:\n" + "\n".join(dict.fromkeys(lines))) from error


_BRANCHES = ("str", "tuple[str, ...]", "tasks", "chains")
"""What pydantic adds to the name of a key that may be one of several things."""


def _key(loc: tuple[int | str, ...]) -> str:
    """The dotted name of a setting; the names of pydantic's branches are left out, that of a key `tasks` is not."""
    parts = [str(part) for at, part in enumerate(loc) if at == 0 or part not in _BRANCHES or loc[at - 1] in _BRANCHES]
    return ".".join(parts) or "evaluate"

"""What an evaluation writes down: one record per rollout, and `results.json` summed up from them.

Both are read back through the same schema, so a file that was edited, truncated or written by another version is
refused with the field named.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, NonNegativeFloat, NonNegativeInt, PositiveInt, ValidationError
from pydantic import Field as Checked

from foreact.vla.errors import ForeActError
from foreact.vla.intervals import bootstrap_mean, bootstrap_ratio, clustered_wilson, wilson

RESULTS_VERSION = 1
ALL_CAMERAS = "all cameras"

Rate = float
Unit = Checked(ge=0.0, le=1.0)


class ResultsError(ForeActError):
    """A results file is missing or not valid."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ForesightSums(_Part):
    """Squared errors of predicted frames, summed over pixels and channels, in (0..255)^2.

    Only pixels that change by more than the threshold in any channel between the frame at plan time and the frame
    `foresight_steps` later count. `copied` is the error of predicting that nothing changes.
    """

    frames: NonNegativeInt = 0
    pixels: NonNegativeInt = 0
    predicted: NonNegativeFloat = 0.0
    copied: NonNegativeFloat = 0.0

    def __add__(self, other: ForesightSums) -> ForesightSums:
        pairs = {name: getattr(self, name) + getattr(other, name) for name in type(self).model_fields}
        return ForesightSums(**pairs)


class RolloutRecord(_Part):
    """One finished rollout: a line of `rollouts.jsonl`."""

    start: NonNegativeInt
    """Index of the start; rollouts with the same index begin in the same state."""
    start_seed: int
    task: str
    instruction: str
    success: bool
    steps: NonNegativeInt
    """Control steps until success, or until the limit."""
    other_tasks: tuple[str, ...] = ()
    """Tasks that happened although they were not asked for."""
    reason: str = ""
    """Why it failed, where the simulator can tell."""
    kind: str = ""
    """What kind of failure it was, in a few words that are always the same; empty where nobody can tell."""
    detail: str = ""
    """How far it got."""
    wall_s: NonNegativeFloat = 0.0
    """Time between the reset and the end; environments of the same worker take turns in it."""
    video: str | None = None
    """Path relative to the results folder."""
    foresight: dict[str, ForesightSums] = {}
    """Per camera, when this rollout's predictions were measured."""
    foresight_steps: NonNegativeInt = 0
    """How far ahead they looked, in control steps."""

    @property
    def key(self) -> tuple[int, str]:
        """What makes a rollout one of its kind within an evaluation: (start, task)."""
        return self.start, self.task


class ChainAttempt(_Part):
    """One task of a chain that was tried."""

    task: str
    instruction: str
    success: bool
    steps: NonNegativeInt
    """Control steps until success, or until the limit."""
    other_tasks: tuple[str, ...] = ()
    """Tasks that happened although they were not asked for."""
    reason: str = ""
    """Why it failed, where the simulator can tell."""
    kind: str = ""
    """What kind of failure it was, in a few words that are always the same; empty where nobody can tell."""
    detail: str = ""
    """How far it got."""


class ChainRecord(_Part):
    """One finished chain: a line of `chains.jsonl`. A chain ends at its first failure."""

    chain: NonNegativeInt
    """Position in the list of chains."""
    seed: NonNegativeInt
    tasks: tuple[str, ...]
    """All tasks of the chain, tried or not."""
    attempts: tuple[ChainAttempt, ...]
    defects: tuple[str, ...] = ()
    """Why the chain cannot be done; empty if it can."""
    wall_s: NonNegativeFloat = 0.0
    video: str | None = None
    foresight: dict[str, ForesightSums] = {}
    foresight_steps: NonNegativeInt = 0

    @property
    def key(self) -> tuple[int, str]:
        """What makes a chain one of its kind within an evaluation."""
        return self.chain, "chain"

    @property
    def length(self) -> int:
        """How many tasks in a row were solved."""
        return sum(attempt.success for attempt in self.attempts)

    def as_rollouts(self) -> list[RolloutRecord]:
        """Its attempts as rollouts of single tasks that share a start; pictures belong to the first."""
        return [
            RolloutRecord(
                start=self.chain,
                start_seed=self.seed,
                task=attempt.task,
                instruction=attempt.instruction,
                success=attempt.success,
                steps=attempt.steps,
                other_tasks=attempt.other_tasks,
                reason=attempt.reason,
                kind=attempt.kind,
                detail=attempt.detail,
                video=self.video if number == 0 else None,
                foresight=self.foresight if number == 0 else {},
                foresight_steps=self.foresight_steps if number == 0 else 0,
            )
            for number, attempt in enumerate(self.attempts)
        ]


Record = RolloutRecord | ChainRecord


def as_rollouts(records: Iterable[Record]) -> list[RolloutRecord]:
    """All attempts as rollouts of single tasks."""
    found: list[RolloutRecord] = []
    for record in records:
        found += record.as_rollouts() if isinstance(record, ChainRecord) else [record]
    return found


_R = TypeVar("_R", RolloutRecord, ChainRecord)


class Success(_Part):
    """A success rate with its 95 % interval."""

    success_rate: Rate = Unit
    ci95: tuple[float, float]
    n: NonNegativeInt


class Listening(_Part):
    """How often something happens that was not asked for; starts are reused under different instructions."""

    other_task_rate: Rate = Unit
    """Share of rollouts in which a registered task happened that was not the one asked for."""
    ci95: tuple[float, float]
    n_starts: NonNegativeInt
    n_rollouts: NonNegativeInt
    n_tasks_per_start: NonNegativeInt


class ForesightScore(_Part):
    """Error of predicted frames relative to copying the current frame: below 1 is better than copying."""

    error_ratio: NonNegativeFloat
    ci95: tuple[float, float]
    n_frames: PositiveInt
    n_pixels: PositiveInt


class Foresight(_Part):
    """Predicted frames against what was really seen, pooled over the measured rollouts."""

    cameras: dict[str, ForesightScore]
    """By camera name, and "all cameras" pooled."""
    n_rollouts: PositiveInt
    steps_ahead: PositiveInt
    change_threshold: float
    """A pixel counts when it changes by more than this in any channel, as a share of full scale."""


class ChainLength(_Part):
    """Tasks solved in a row, averaged over chains."""

    average: NonNegativeFloat
    ci95: tuple[float, float]
    """Bootstrap over chains."""
    n: PositiveInt


class Chains(_Part):
    """Long-horizon evaluation: instructions in a row, without a reset in between."""

    average_length: NonNegativeFloat
    ci95: tuple[float, float]
    """Bootstrap over chains."""
    success_at: tuple[float, ...]
    """Share of chains that solved at least 1, 2, ... tasks in a row."""
    success_at_ci95: tuple[tuple[float, float], ...] = ()
    n: PositiveInt
    n_infeasible: NonNegativeInt = 0
    """Chains that nobody can finish, because their list has defects; counted in the numbers above."""
    feasible: ChainLength | None = None
    """The same without them, where there are any."""
    infeasible: ChainLength | None = None


class Failure(_Part):
    """How often one task failed for one kind of reason."""

    task: str
    reason: str
    """Up to the first semicolon of the recorded reason."""
    count: PositiveInt
    examples: tuple[NonNegativeInt, ...]
    """The first starts or chains with it."""


class Film(_Part):
    """One recording made after the evaluation, of something that it found; the same rollout again, to be looked at."""

    shows: Literal["failure", "best chain"]
    index: NonNegativeInt
    """Which start, or which chain."""
    task: str
    """What failed; of a whole chain, its last attempt."""
    at: NonNegativeInt = 0
    """Its place in the chain, from 0."""
    video: str
    """Path relative to the results folder."""


class Results(_Part):
    """Everything about one evaluation: `results.json`."""

    version: Literal[1] = RESULTS_VERSION
    actor: str
    overall: Success
    tasks: dict[str, Success]
    listening: Listening
    foresight: Foresight | None = None
    chains: Chains | None = None
    failures: tuple[Failure, ...] = ()
    """The most frequent first; each one in full is in `rollouts.jsonl` or `chains.jsonl`."""
    failure_kinds: dict[str, dict[str, PositiveInt]] = {}
    """Task -> kind of failure -> how often; the task that failed most often first."""
    films: tuple[Film, ...] = ()
    checkpoint: dict[str, str] | None = None
    """`path` and `sha256`."""
    benchmark: dict[str, Any] = {}
    seeds: dict[str, Any]
    versions: dict[str, str]
    gl_renderer: str
    contract: dict[str, Any]
    """The actor's contract."""
    notes: tuple[str, ...] = ()
    """Adaptations between the actor and the environment, such as a resized camera."""
    command: str
    rejected_draws: NonNegativeInt
    """Random starts that were drawn and thrown away because too few tasks could be asked in them."""
    wall_s: NonNegativeFloat
    """Duration of the command that finished the evaluation."""
    n_resumed: NonNegativeInt = 0
    """Rollouts taken over from earlier, interrupted runs."""

    def write(self, path: Path) -> None:
        """Write as JSON, in one step."""
        staged = path.with_name(path.name + ".part")
        staged.write_text(self.model_dump_json(indent=2) + "\n")
        staged.replace(path)


def read_results(path: Path) -> Results:
    """Read `results.json`.

    Raises:
        ResultsError: If the file is missing or does not satisfy the schema; every bad field is named.
    """
    if not path.is_file():
        raise ResultsError(f"no results at {path}; `foreact evaluate` writes them")
    try:
        return Results.model_validate_json(path.read_text())
    except ValidationError as error:
        raise ResultsError(f"{path} is not a results file of version {RESULTS_VERSION}:\n{_lines(error)}") from error


def _lines(error: ValidationError) -> str:
    return "\n".join(f"  {'.'.join(map(str, e['loc'])) or '(file)'}: {e['msg']}" for e in error.errors())


def read_rollouts(path: Path) -> list[RolloutRecord]:
    """Read `rollouts.jsonl`; see `read_records`."""
    return read_records(path, RolloutRecord)


def read_chains(path: Path) -> list[ChainRecord]:
    """Read `chains.jsonl`; see `read_records`."""
    return read_records(path, ChainRecord)


def read_records(path: Path, kind: type[_R]) -> list[_R]:
    """Read a file of records, one per line. An unfinished last line, left by a kill or just being written, is none.

    Raises:
        ResultsError: If any other line is not such a record, or one is there twice.
    """
    if not path.exists():
        return []
    name = "chain" if kind is ChainRecord else "rollout"
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    records: list[_R] = []
    seen: set[tuple[int, str]] = set()
    for number, line in enumerate(data[:whole].splitlines(), start=1):
        try:
            record = kind.model_validate_json(line)
        except ValidationError as error:
            raise ResultsError(f"{path}, line {number} is not a {name}:\n{_lines(error)}") from error
        if record.key in seen:
            raise ResultsError(f"{path}, line {number}: {_what(record)} is there twice")
        seen.add(record.key)
        records.append(record)
    return records


def _what(record: Record) -> str:
    return f"chain {record.chain}" if isinstance(record, ChainRecord) else f"start {record.start}, {record.task}"


def chains(records: Sequence[ChainRecord]) -> Chains | None:
    """Average length and success at 1, 2, ...; None without chains."""
    if not records:
        return None
    lengths = [record.length for record in records]
    n, longest = len(records), max(len(record.tasks) for record in records)
    hits = [sum(length > at for length in lengths) for at in range(longest)]
    broken = [record.length for record in records if record.defects]
    sound = [record.length for record in records if not record.defects]
    return Chains(
        average_length=sum(lengths) / n,
        ci95=bootstrap_mean(lengths),
        success_at=tuple(hit / n for hit in hits),
        success_at_ci95=tuple(wilson(hit, n) for hit in hits),
        n=n,
        n_infeasible=len(broken),
        feasible=_length(sound) if broken else None,
        infeasible=_length(broken),
    )


def _length(lengths: list[int]) -> ChainLength | None:
    if not lengths:
        return None
    return ChainLength(average=sum(lengths) / len(lengths), ci95=bootstrap_mean(lengths), n=len(lengths))


def success(records: Sequence[RolloutRecord]) -> Success:
    """Success rate; rollouts that share a start count as one cluster."""
    clusters = defaultdict(list)
    for record in records:
        clusters[record.start].append(record.success)
    rate = sum(r.success for r in records) / max(1, len(records))
    return Success(success_rate=rate, ci95=clustered_wilson(list(clusters.values())), n=len(records))


def successes_by_task(records: Iterable[RolloutRecord]) -> dict[str, Success]:
    """`success` per task, tasks in alphabetical order. Within a task every rollout has a start of its own."""
    groups: dict[str, list[RolloutRecord]] = defaultdict(list)
    for record in records:
        groups[record.task].append(record)
    found = {}
    for task in sorted(groups):
        hits, n = sum(r.success for r in groups[task]), len(groups[task])
        found[task] = Success(success_rate=hits / n, ci95=wilson(hits, n), n=n)
    return found


def listening(records: Sequence[RolloutRecord]) -> Listening:
    """How often another task happened than the one asked for."""
    clusters: dict[int, list[bool]] = defaultdict(list)
    for record in records:
        clusters[record.start].append(bool(record.other_tasks))
    return Listening(
        other_task_rate=sum(bool(r.other_tasks) for r in records) / max(1, len(records)),
        ci95=clustered_wilson(list(clusters.values())),
        n_starts=len(clusters),
        n_rollouts=len(records),
        n_tasks_per_start=max((len(c) for c in clusters.values()), default=0),
    )


def foresight(records: Iterable[RolloutRecord], *, change_threshold: float) -> Foresight | None:
    """Pool the measured rollouts; None when nothing was measured or nothing moved."""
    with_predictions = [r for r in records if r.foresight]
    measured = [r.foresight for r in with_predictions]
    per_camera: dict[str, list[ForesightSums]] = defaultdict(list)
    for sums in measured:
        for camera, value in sums.items():
            per_camera[camera].append(value)
        per_camera[ALL_CAMERAS].append(sum(sums.values(), ForesightSums()))
    scores = {}
    for camera, values in per_camera.items():
        total = sum(values, ForesightSums())
        if total.pixels and total.copied > 0:
            scores[camera] = ForesightScore(
                error_ratio=total.predicted / total.copied,
                ci95=bootstrap_ratio([v.predicted for v in values], [v.copied for v in values]),
                n_frames=total.frames,
                n_pixels=total.pixels,
            )
    if not scores:
        return None
    return Foresight(
        cameras=scores,
        n_rollouts=len(measured),
        steps_ahead=with_predictions[0].foresight_steps,
        change_threshold=change_threshold,
    )

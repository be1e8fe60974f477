"""Studies: several ways to train, each with several seeds, judged on the same chains or starts.

A study is a YAML file (configs/study/), a row of its ledger a JSON file (results/<study>/<arm>-<seed>.json). A row
carries everything its numbers follow from; one whose settings are not the study's any more does not count.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, NonNegativeFloat, NonNegativeInt, ValidationError, model_validator

from foreact.vla.errors import ConfigError, ForeActError, did_you_mean
from foreact.vla.intervals import Interval

ROW_VERSION = 1
_DRAWS = 10_000


class StudyError(ForeActError):
    """A study or a row of its ledger is not valid."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Stage(_Part):
    """One training."""

    data: tuple[str, ...]
    """Names of the study's data sets."""
    settings: tuple[str, ...] = ()
    """Of `foreact train`."""
    begins_with: str | None = None
    """The stage whose weights it begins with; left out where that stage is."""


class Arm(_Part):
    """One way to train."""

    skip: tuple[str, ...] = ()
    """Stages that are left out."""
    settings: dict[str, tuple[str, ...]] = {}
    """Stage -> further settings of `foreact train`, or "all" stages."""
    data: dict[str, tuple[str, ...]] = {}
    """Stage -> data sets instead of the study's."""


class Study(_Part):
    """What is to be found out."""

    name: str
    question: str
    seeds: tuple[NonNegativeInt, ...]
    data: dict[str, tuple[str, ...]]
    """Name -> settings of `foreact collect`; in `driver=STAGE` the policy of an earlier stage drives."""
    stages: dict[str, Stage]
    """In the order in which they are trained; the last one's policy is judged."""
    evaluate: tuple[str, ...]
    """Settings of `foreact evaluate`."""
    arms: dict[str, Arm]
    against: str
    """The arm with which the others are compared."""

    @model_validator(mode="after")
    def _names_are_known(self) -> Study:
        for kind, found, known in [
            ("arm", [self.against], self.arms),
            ("stage", [s for arm in self.arms.values() for s in (*arm.skip, *arm.data)], self.stages),
            ("stage", [s for arm in self.arms.values() for s in arm.settings], [*self.stages, "all"]),
            *(("earlier stage", [s.begins_with], earlier) for s, earlier in self._earlier() if s.begins_with),
            ("data set", [d for s in self.stages.values() for d in s.data], self.data),
            ("data set", [d for arm in self.arms.values() for ds in arm.data.values() for d in ds], self.data),
        ]:
            for name in found:
                if name not in known:
                    raise ValueError(f"no {kind} {name!r}; {did_you_mean(name, known)}")
        if any(set(self.stages) <= set(arm.skip) for arm in self.arms.values()):
            raise ValueError("an arm skips every stage")
        for arm in self.arms:
            self.trainings(arm, 0)
        return self

    def _earlier(self) -> list[tuple[Stage, list[str]]]:
        """Each stage with the names of those before it."""
        names = list(self.stages)
        return [(self.stages[name], names[:i]) for i, name in enumerate(names)]

    @classmethod
    def load(cls, path: Path) -> Study:
        """Read a study.

        Raises:
            ConfigError: If there is none, or it is not valid, with the field named.
        """
        try:
            values = yaml.safe_load(path.read_text())
        except (OSError, yaml.YAMLError) as error:
            raise ConfigError(f"study {path}: {error}") from error
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            lines = [f"  {'.'.join(map(str, e['loc'])) or '(top)'}: {e['msg']}" for e in error.errors()]
            raise ConfigError(f"{path} is not a study:\n" + "\n".join(lines)) from error

    def trainings(self, arm: str, seed: int) -> list[Training]:
        """The stages of one row, in order."""
        chosen = self.arms[arm]
        done: dict[str, Training] = {}
        for name, stage in self.stages.items():
            if name in chosen.skip:
                continue
            more = (*chosen.settings.get("all", ()), *chosen.settings.get(name, ()))
            done[name] = Training(
                name=name,
                data={d: self._recipe(d, arm, name, done) for d in chosen.data.get(name, stage.data)},
                settings=(*stage.settings, *more, f"trainer.seed={seed}"),
                begins_with=done.get(stage.begins_with or ""),
            )
        return list(done.values())

    def _recipe(self, data: str, arm: str, stage: str, done: dict[str, Training]) -> tuple[str, ...]:
        """Settings of `foreact collect`, with the training whose policy drives named by its identity."""
        words = []
        for word in self.data[data]:
            driver = word.removeprefix("driver=")
            if driver != word and driver not in done:
                raise ValueError(
                    f"data set {data} has {word}; expected a stage that arm {arm} trains before {stage}: "
                    f"{' or '.join(done) or 'there is none'}"
                )
            words.append(word if driver == word else f"driver={done[driver].folder}")
        return tuple(words)

    def identity(self, arm: str, seed: int) -> str:
        """16 hex digits that name everything a row's numbers follow from, but the code."""
        return digest([self.trainings(arm, seed)[-1].identity, list(self.evaluate)])

    def rows(self) -> list[tuple[str, int]]:
        """(arm, seed) in the order in which they should run: each arm once, then each a second time, ..."""
        return [(arm, seed) for seed in self.seeds for arm in self.arms]


class Training(_Part):
    """One training with all that it depends on."""

    name: str
    data: dict[str, tuple[str, ...]]
    settings: tuple[str, ...]
    begins_with: Training | None

    @property
    def identity(self) -> str:
        """16 hex digits; trainings that several arms share have the same."""
        before = self.begins_with.identity if self.begins_with else None
        return digest([{k: list(v) for k, v in self.data.items()}, list(self.settings), before])

    @property
    def folder(self) -> str:
        """Name of its folder among the runs."""
        return f"{self.name}-{self.identity}"


class Row(_Part):
    """One trained and judged policy: a line of the ledger."""

    version: int = ROW_VERSION
    study: str
    arm: str
    seed: NonNegativeInt
    identity: str
    commands: tuple[str, ...]
    """Everything that was run, in order."""
    stages: dict[str, dict[str, Any]]
    """Per stage: steps, hours of training, the last validation."""
    checkpoint_sha256: str
    machine: dict[str, str]
    evaluate_hours: NonNegativeFloat
    results: dict[str, Any]
    """What `foreact evaluate` summed up: chains, tasks, listening, foresight."""
    unit: str
    """What is paired between rows: "chain" (tasks solved in a row, 0 to 5) or "start" (share of its tasks solved)."""
    outcomes: tuple[tuple[int, float], ...]
    """(number of the chain or start, outcome)."""

    def write(self, path: Path) -> None:
        """Write it, atomically."""
        path.parent.mkdir(parents=True, exist_ok=True)
        stage = path.with_suffix(".tmp")
        text = self.model_dump_json(indent=1)
        # One line per list of numbers: rows are read by people and kept in version control.
        head, _, tail = text.partition('"outcomes":')
        outcomes = json.dumps([[n, round(value, 6)] for n, value in self.outcomes])
        stage.write_text(f'{head}"outcomes": {outcomes}\n}}\n' if tail else text + "\n")
        stage.replace(path)

    @classmethod
    def read(cls, path: Path) -> Row:
        """Read it.

        Raises:
            StudyError: If it is damaged or of another version.
        """
        try:
            row = cls.model_validate_json(path.read_text())
        except (OSError, ValidationError) as error:
            raise StudyError(f"{path} is not a row of a study: {error}") from error
        if row.version != ROW_VERSION:
            raise StudyError(f"{path}: version {row.version}; this ForeAct reads {ROW_VERSION}")
        return row


class ArmSummary(_Part):
    """What all seeds of an arm say together."""

    arm: str
    seeds: tuple[int, ...]
    mean: float
    ci95: Interval
    """Drawn again: seeds, and chains (or starts) within them."""
    difference: float | None = None
    """This arm's mean minus that of the one it is compared with, both over all their seeds, on the same chains or
    starts."""
    difference_ci95: Interval | None = None
    """Drawn again: seeds of both, each for itself (one seed's number does not make two ways to train alike), and chains
    or starts, the same for both. None if either has one seed alone."""
    difference_ci95_given: Interval | None = None
    """Drawn again: chains or starts alone, that is, given the policies that were trained."""
    arm_error: float | None = None
    """Mean error of predicted arm actions on held-out episodes, in the action's own units and frame."""
    hours: float = 0.0
    """Mean hours of training per row."""


def summarise(study: Study, rows: Sequence[Row], draws_seed: int = 0) -> list[ArmSummary]:
    """Every arm that has a row, in the study's order."""
    found: dict[str, dict[int, Row]] = {}
    for row in rows:
        found.setdefault(row.arm, {})[row.seed] = row
    base = found.get(study.against, {})
    out: list[ArmSummary] = []
    for arm in study.arms:
        own = found.get(arm)
        if not own:
            continue
        table = _table(own.values())
        summary: dict[str, Any] = {"mean": float(table.mean()), "ci95": two_level_interval(table, seed=draws_seed)}
        if arm != study.against and base:
            both = _table([*own.values(), *base.values()])
            mine, theirs = both[: len(own)], both[len(own) :]
            pairs = mine.mean(axis=0, keepdims=True) - theirs.mean(axis=0, keepdims=True)
            several = min(len(own), len(base)) > 1
            summary |= {
                "difference": float(pairs.mean()),
                "difference_ci95": two_level_interval(mine, theirs, seed=draws_seed) if several else None,
                "difference_ci95_given": two_level_interval(pairs, seed=draws_seed),
            }
        hours = [sum(float(stage.get("hours", 0.0)) for stage in row.stages.values()) for row in own.values()]
        last = [row.stages[list(row.stages)[-1]].get("validation", {}) for row in own.values()]
        if all("arm_error" in validation for validation in last):
            summary["arm_error"] = float(np.mean([validation["arm_error"] for validation in last]))
        out.append(ArmSummary(arm=arm, seeds=tuple(sorted(own)), hours=float(np.mean(hours)), **summary))
    return out


def two_level_interval(values: np.ndarray, minus: np.ndarray | None = None, *, seed: int = 0) -> Interval:
    """95 % percentile bootstrap of the mean of (seeds, units): both are drawn again, the same units for all seeds.

    With `minus` (its own seeds, the same units) that of the difference of the two means.

    With three seeds the interval is still too narrow for what another seed may bring; it is honest about the units.
    Source: A. C. Davison, D. V. Hinkley, "Bootstrap Methods and their Application", 1997, section 3.8.
    """
    rng = np.random.default_rng(seed)

    def shares(count: int) -> np.ndarray:
        return rng.multinomial(count, np.full(count, 1 / count), _DRAWS) / count

    per_unit = shares(len(values)) @ values
    if minus is not None:
        per_unit = per_unit - shares(len(minus)) @ minus
    means = (per_unit * shares(values.shape[1])).sum(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def _table(rows: Iterable[Row]) -> np.ndarray:
    """(rows, units) of the units that every row has."""
    outcomes = [dict(row.outcomes) for row in rows]
    shared = sorted(set.intersection(*(set(units) for units in outcomes)))
    if not shared:
        raise StudyError("the rows that are compared share no chain or start")
    return np.array([[units[n] for n in shared] for units in outcomes], np.float64)


def digest(value: Any) -> str:
    """16 hex digits of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]

"""Two evaluations of the same starts or chains, compared pair by pair.

Both sides meet the same start with the same instruction, so the difference within a pair leaves out how hard the start
is; its interval is narrower than two intervals side by side would say.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from foreact.vla.errors import ForeActError
from foreact.vla.intervals import Interval, bootstrap_mean, bootstrap_ratio
from foreact.vla.results import ChainRecord, Record, Results, read_chains, read_results, read_rollouts

_MUST_AGREE = ("env", "scene", "rules", "kind", "tasks", "chain_list", "max_steps", "language")


class NotComparable(ForeActError):
    """Two evaluations cannot be compared pair by pair."""


@dataclass(frozen=True)
class Difference:
    """Mean of second minus first over pairs, with its 95 % bootstrap interval."""

    first: float
    second: float
    difference: float
    ci95: Interval
    n: int
    """Pairs."""

    @property
    def decided(self) -> bool:
        """Whether the interval excludes zero."""
        return self.ci95[0] > 0 or self.ci95[1] < 0


@dataclass(frozen=True)
class Comparison:
    """What `foreact compare` reports."""

    first: str
    second: str
    what: str
    """"average length" of chains, or "success rate" of rollouts."""
    overall: Difference
    better: int
    """Pairs in which the second did more."""
    worse: int
    details: dict[str, Difference]
    """Chains: share that solved at least 1, 2, ... tasks. Rollouts: success per task."""
    notes: tuple[str, ...]
    """What differs between the two besides who was judged."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def compare_folders(first: Path, second: Path) -> Comparison:
    """Compare two results folders of `foreact evaluate`.

    Raises:
        ResultsError: If one has no results, or damaged ones.
        NotComparable: If they asked for different things, or share no start.
    """
    sides = [(read_results(folder / "results.json"), _records(folder)) for folder in (first, second)]
    (a, records_a), (b, records_b) = sides
    wanted = [
        f"  - {key}: {a.benchmark.get(key)!r} in {first}, {b.benchmark.get(key)!r} in {second}"
        for key in _MUST_AGREE
        if a.benchmark.get(key) != b.benchmark.get(key)
    ]
    if a.seeds["benchmark"] != b.seeds["benchmark"]:
        wanted.append(f"  - seed: {a.seeds['benchmark']} in {first}, {b.seeds['benchmark']} in {second}")
    if wanted:
        raise NotComparable("the two evaluations asked for different things:\n" + "\n".join(wanted))
    by_key_a, by_key_b = ({_identity(record): record for record in records} for records in (records_a, records_b))
    pairs = [(by_key_a[key], by_key_b[key]) for key in by_key_a if key in by_key_b]
    if not pairs:
        raise NotComparable(f"{first} and {second} have no start and task in common")
    notes = _notes(a, b)
    left_out = len(by_key_a) + len(by_key_b) - 2 * len(pairs)
    if left_out:
        notes.append(f"{left_out} rollouts or chains are in one of the two only and were left out")
    names = a.actor, b.actor
    if names[0] == names[1]:
        names = str(first), str(second)
    chained = [(x, y) for x, y in pairs if isinstance(x, ChainRecord) and isinstance(y, ChainRecord)]
    if chained:
        return _chains(*names, chained, tuple(notes))
    return _rollouts(*names, pairs, tuple(notes))


def _records(folder: Path) -> Sequence[Record]:
    found: Sequence[Record] = read_chains(folder / "chains.jsonl") or read_rollouts(folder / "rollouts.jsonl")
    if not found:
        raise NotComparable(f"{folder} has no rollouts.jsonl or chains.jsonl; give the folder that `evaluate` wrote")
    return found


def _identity(record: Record) -> tuple[object, ...]:
    """What makes two records a pair: the same start (or chain), its seed and what was asked."""
    if isinstance(record, ChainRecord):
        return record.chain, record.seed, record.tasks
    return record.start, record.start_seed, record.task, record.instruction


def _notes(a: Results, b: Results) -> list[str]:
    notes = []
    for name in sorted({*a.versions, *b.versions}):
        if a.versions.get(name) != b.versions.get(name):
            notes.append(f"{name}: {a.versions.get(name, 'absent')} against {b.versions.get(name, 'absent')}")
    if a.gl_renderer != b.gl_renderer:
        notes.append(f"drawn by {a.gl_renderer} against {b.gl_renderer}")
    return notes


def _chains(
    first: str, second: str, pairs: Sequence[tuple[ChainRecord, ChainRecord]], notes: tuple[str, ...]
) -> Comparison:
    lengths = np.array([[x.length, y.length] for x, y in pairs], dtype=np.float64)
    longest = max(len(x.tasks) for x, _ in pairs)
    details = {f"at least {at}": _mean(lengths >= at) for at in range(1, longest + 1)}
    return Comparison(
        first,
        second,
        "average length",
        _mean(lengths),
        better=int((lengths[:, 1] > lengths[:, 0]).sum()),
        worse=int((lengths[:, 1] < lengths[:, 0]).sum()),
        details=details,
        notes=notes,
    )


def _mean(values: np.ndarray) -> Difference:
    """Of pairs (N, 2) that are independent of each other."""
    values = values.astype(np.float64)
    change = values[:, 1] - values[:, 0]
    first, second = values.mean(axis=0)
    return Difference(float(first), float(second), float(change.mean()), bootstrap_mean(change), len(values))


def _rollouts(first: str, second: str, pairs: Sequence[tuple[Record, Record]], notes: tuple[str, ...]) -> Comparison:
    by_start: dict[int, list[tuple[bool, bool]]] = defaultdict(list)
    by_task: dict[str, list[tuple[bool, bool]]] = defaultdict(list)
    for x, y in pairs:
        assert not isinstance(x, ChainRecord) and not isinstance(y, ChainRecord)
        by_start[x.start].append((x.success, y.success))
        by_task[x.task].append((x.success, y.success))
    clusters = [np.array(outcomes, dtype=np.float64) for outcomes in by_start.values()]
    everything = np.concatenate(clusters)
    rates = everything.mean(axis=0)
    change = everything[:, 1] - everything[:, 0]
    # Rollouts from one start share it, so whole starts are drawn.
    interval = bootstrap_ratio([float((c[:, 1] - c[:, 0]).sum()) for c in clusters], [len(c) for c in clusters])
    return Comparison(
        first,
        second,
        "success rate",
        Difference(float(rates[0]), float(rates[1]), float(change.mean()), interval, len(everything)),
        better=int((change > 0).sum()),
        worse=int((change < 0).sum()),
        details={task: _mean(np.array(outcomes)) for task, outcomes in sorted(by_task.items())},
        notes=notes,
    )

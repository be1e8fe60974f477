"""What failed in an evaluation: counted by task and by kind."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from foreact.vla.results import Failure, RolloutRecord

UNKNOWN_KIND = "not done in time"
"""The kind of a failure of which the simulator tells nothing more."""
_EXAMPLES = 5


def failures(records: Sequence[RolloutRecord]) -> tuple[Failure, ...]:
    """Failed attempts by task and kind of reason, the most frequent first."""
    groups: dict[tuple[str, str], list[int]] = defaultdict(list)
    for record in records:
        if not record.success:
            groups[record.task, record.reason.partition(";")[0]].append(record.start)
    return tuple(
        Failure(task=task, reason=reason, count=len(starts), examples=tuple(sorted(starts)[:_EXAMPLES]))
        for (task, reason), starts in sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
    )


def failure_kinds(records: Iterable[RolloutRecord]) -> dict[str, dict[str, int]]:
    """Task -> kind of failure -> how often, both the most frequent first."""
    counts: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for record in records:
        if not record.success:
            counts[record.task][record.kind or UNKNOWN_KIND] += 1
    by_task = sorted(counts.items(), key=lambda item: (-sum(item[1].values()), item[0]))
    return {task: dict(sorted(kinds.items(), key=lambda item: (-item[1], item[0]))) for task, kinds in by_task}


def write_failures(records: Sequence[RolloutRecord], path: Path) -> None:
    """Every failed attempt as a line of tab-separated text: start or chain, task, steps, reason."""
    lines = ["start\ttask\tsteps\treason\tkind\tdetail"]
    lines += [
        f"{r.start}\t{r.task}\t{r.steps}\t{r.reason}\t{r.kind or UNKNOWN_KIND}\t{r.detail}"
        for r in records
        if not r.success
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")

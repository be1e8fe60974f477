"""Which rollouts of a finished evaluation are worth a film: they are done once more, from the same start, and recorded.

A rollout follows from its start and the policy, so the second time shows what the first one was like, and only the few
that are wanted cost the time and memory of a recording. One that goes differently (an actor with chance of its own) is
not shown.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from foreact.vla.failures import UNKNOWN_KIND
from foreact.vla.results import ChainRecord, Film, Record, RolloutRecord

if TYPE_CHECKING:
    from foreact.commands.evaluate_settings import EvaluateSettings
    from foreact.sim.rollout import Job

_IMPOSSIBLE = "not possible"
_T = TypeVar("_T")


@dataclass(frozen=True)
class Filmed:
    """A rollout that was done again and recorded."""

    key: tuple[int, str]
    outcome: tuple[tuple[bool, int], ...]
    """Success and steps of each attempt."""
    video: str


def pick_films(settings: EvaluateSettings, records: Sequence[Record]) -> list[Film]:
    """What is to be shown; the same whatever order the records were made in.

    The best chain first, if it was asked for: most tasks, then fewest steps. Then failures: one of each task, the task
    that failed most often first, then a second of each. Of a task, first one of its most frequent kind, then of the
    next; those that were not possible come last. Of a kind, one that is already recorded, else the first.
    """
    films = []
    chains = [record for record in records if isinstance(record, ChainRecord)]
    if settings.best_video and chains:
        best = min(chains, key=lambda c: (-c.length, sum(a.steps for a in c.attempts if a.success), c.chain))
        video = best.video or film_path(best.chain, None)
        films.append(
            Film(
                shows="best chain",
                index=best.chain,
                task=best.attempts[-1].task,
                at=len(best.attempts) - 1,
                video=video,
            )
        )
    groups: dict[str, dict[str, list[Film]]] = defaultdict(lambda: defaultdict(list))
    for record in sorted(records, key=lambda r: (isinstance(r, ChainRecord) or r.video is None, r.key)):
        if isinstance(record, RolloutRecord):
            if not record.success:
                video = record.video or film_path(record.start, record.task)
                film = Film(shows="failure", index=record.start, task=record.task, video=video)
                groups[record.task][record.kind or UNKNOWN_KIND].append(film)
        elif not record.attempts[-1].success:
            last, at = record.attempts[-1], len(record.attempts) - 1
            film = Film(
                shows="failure", index=record.chain, task=last.task, at=at, video=film_path(record.chain, None, at)
            )
            groups[last.task][last.kind or UNKNOWN_KIND].append(film)
    tasks = sorted(groups, key=lambda task: (-sum(map(len, groups[task].values())), task))
    return films + _in_turn(_kinds_in_turn(groups[task]) for task in tasks)[: settings.n_failure_videos]


def film_path(index: int, task: str | None, first: int = 0) -> str:
    """Where the film of a start's task lies, or that of a chain (no task) from its task number `first`, from 0, on."""
    return f"videos/again-{task}-{index:04d}.mp4" if task else f"videos/again-chain-{index:04d}-from-{first + 1}.mp4"


def path_of(job: Job, *, chain: bool) -> str:
    """Where the film that a job of `film_jobs` makes is to lie."""
    return film_path(job.index, None if chain else job.tasks[0], job.record_from)


def film_jobs(films: Iterable[Film], jobs: Iterable[Job], folder: Path, *, chain: bool) -> list[Job]:
    """The jobs that make those films that are not there yet."""
    by_key = {(job.index, "chain" if chain else job.tasks[0]): job for job in jobs}
    found: dict[str, Job] = {}
    for film in films:
        if (folder / film.video).is_file() or film.video in found:
            continue
        job = by_key[film.index, "chain" if chain else film.task]
        first = film.at if chain and film.shows == "failure" else 0
        found[film.video] = replace(job, record=True, record_from=first)
    return list(found.values())


def went_alike(filmed: Filmed, record: Record) -> bool:
    """Whether the second time was as the first."""
    attempts: Sequence[Any] = record.attempts if isinstance(record, ChainRecord) else (record,)
    return filmed.outcome == tuple((attempt.success, attempt.steps) for attempt in attempts)


def _kinds_in_turn(kinds: dict[str, list[Film]]) -> list[Film]:
    order = sorted(kinds, key=lambda kind: (kind.startswith(_IMPOSSIBLE), -len(kinds[kind]), kind))
    return _in_turn(kinds[kind] for kind in order)


def _in_turn(lists: Iterable[list[_T]]) -> list[_T]:
    """The first of each list, then the second of each, and so on."""
    return [item for row in zip_longest(*lists) for item in row if item is not None]

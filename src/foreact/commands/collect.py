"""`foreact collect`: scripted experts fill a trajectory store, in parallel, resumable, the same for the same seed."""

from __future__ import annotations

import time
import warnings
from collections import Counter

from foreact.commands.collect_estimate import MARGIN, Estimate, check_disk, measure, size_text, time_text
from foreact.commands.collect_plan import PLAY, Job, plan
from foreact.commands.collect_recipe import (
    RECIPE,
    SUMMARY,
    check_recipe,
    locked,
    make_recipe,
    summarize_collection,
    write_json,
)
from foreact.commands.collect_settings import CollectSettings
from foreact.commands.collect_workers import CollectError, Workers
from foreact.commands.hydra_config import compose
from foreact.commands.terminate import orderly_end

FEW, FEW_FRAMES = 12, 1800
"""So few episodes, with so few frames of play, are recorded without measuring first how long they take."""


def main(argv: list[str]) -> None:
    """Run `foreact collect key=value ...`; see `configs/collect.yaml` for the keys."""
    from foreact.sim.rendering import pick_gl_backend

    settings = CollectSettings.parse(compose("collect", argv))
    jobs = plan(settings)
    pick_gl_backend()
    recipe = make_recipe(settings, argv)
    if settings.dry_run:
        check_recipe(settings, recipe, jobs)
        _begin(settings, _left(settings, jobs), jobs)
        return

    from foreact.datasets.recorder import Recorder
    from foreact.sim.embodiment import desk_contract

    kept = f"what is finished in {settings.out} is kept; run the same command again to go on"
    with orderly_end(kept), locked(settings.out):
        check_recipe(settings, recipe, jobs)
        Recorder(settings.out, desk_contract(), settings.codec)  # makes or checks the store, and sweeps
        todo = _left(settings, jobs)
        write_json(settings.out, RECIPE, recipe)
        if todo:
            _begin(settings, todo, jobs)
        _finish(settings, jobs, recipe["command"])


def _left(settings: CollectSettings, jobs: list[Job]) -> list[Job]:
    """The jobs whose episodes are not in the store.

    Raises:
        CollectError: If one of them is there but damaged.
    """
    from foreact.datasets.layout import EPISODES, ROOT_FILE
    from foreact.datasets.store import Store

    if not (settings.out / ROOT_FILE).is_file():
        return jobs
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those that matter here are named below
        store = Store.open(settings.out)
    there = set(store.index.names)
    left = [job for job in jobs if job.name not in there]
    damaged = [job.name for job in left if f"{EPISODES}/{job.name}" in store.damaged]
    if damaged:
        raise CollectError(
            f"{settings.out} holds damaged episodes: {', '.join(damaged[:20])}. `foreact data verify {settings.out}` "
            f"tells more; remove their folders below {settings.out / EPISODES} and run this again to get them back."
        )
    return left


def _begin(settings: CollectSettings, todo: list[Job], jobs: list[Job]) -> None:
    """Say what comes, and do it unless this is a dry run."""
    episodes = sum(job.task != PLAY for job in todo)
    play = sum(job.length for job in todo)
    spoken = sum(job.sentence for job in todo if job.task != PLAY)
    print(f"{settings.out}: {len(jobs) - len(todo)} of {len(jobs)} episodes are there, {len(todo)} to record")
    print(
        f"  {episodes} demonstrations ({spoken} with a sentence), {len(todo) - episodes} sessions of play "
        f"({play:,} frames)",
        flush=True,
    )
    if not todo:
        return
    count = min(settings.workers, len(todo))
    with Workers(settings, count) as workers:
        estimate = None
        if settings.dry_run or play > FEW_FRAMES or len(todo) > FEW:
            estimate = measure(workers, todo, count)
            free = check_disk(settings.out, estimate.bytes, settings.force or settings.dry_run)
            print(
                f"  about {estimate.frames:,.0f} frames, {size_text(estimate.bytes)}, {time_text(estimate.seconds)} "
                f"with {count} processes (measured on a few of them just now); {size_text(free)} are free"
                f"{', which is not enough' if free < MARGIN * estimate.bytes else ''}",
                flush=True,
            )
        if not settings.dry_run:
            _record(workers, settings, todo, estimate)


def _record(workers: Workers, settings: CollectSettings, todo: list[Job], estimate: Estimate | None) -> None:
    """Record everything, with a progress bar."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("recording"), BarColumn(), TextColumn("{task.fields[done]} of {task.fields[all]} episodes"),
        TextColumn("{task.fields[frames]:,} frames"), TextColumn("{task.fields[rate]:.0f}/s"),
        TextColumn("{task.fields[failed]} failures"), TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    per_episode = (estimate.episode_frames if estimate else 0.0) or 1.0
    weight = {job: job.length or per_episode for job in todo}
    count: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    size = 0
    began = time.monotonic()
    with Progress(*columns) as progress:
        fields = {"done": 0, "all": len(todo), "frames": 0, "rate": 0.0, "failed": 0}
        bar = progress.add_task("", total=sum(weight.values()), **fields)
        for outcome in workers.run(todo, settings.out):
            count["episodes"] += outcome.frames > 0
            count["frames"] += outcome.frames
            size += outcome.bytes
            if outcome.failed_attempts:
                failed[f"{outcome.job.scene}/{outcome.job.task}"] += outcome.failed_attempts
            rate = count["frames"] / (time.monotonic() - began)
            progress.update(
                bar,
                advance=weight[outcome.job],
                done=count["episodes"],
                frames=count["frames"],
                rate=rate,
                failed=sum(failed.values()),
            )
    seconds = time.monotonic() - began
    worst = ", ".join(f"{name}: {n}" for name, n in failed.most_common(8))
    print(
        f"recorded {count['episodes']} episodes, {count['frames']:,} frames, {size_text(size)} in {time_text(seconds)} "
        f"({count['frames'] / seconds:.0f} frames/s); {sum(failed.values())} attempts of experts failed and were made "
        f"anew{f' ({worst})' if worst else ''}"
    )


def _finish(settings: CollectSettings, jobs: list[Job], command: str) -> None:
    """Write the summary, and say how to get the same again.

    Raises:
        CollectError: If an episode could not be recorded in any of its attempts.
    """
    summary = summarize_collection(settings.out, jobs)
    write_json(settings.out, SUMMARY, summary)
    print(
        f"{settings.out}: {summary['episodes']} episodes ({summary['with_sentence']} with a sentence), "
        f"{summary['frames']:,} frames of which {summary['play_frames']:,} are play, {size_text(summary['bytes'])}; "
        f"{summary['failed_attempts']} failed attempts, {summary['rejected_draws']} start draws rejected; "
        f"hash {summary['store_hash']}"
    )
    print(f"the same again: {command}")
    if summary["missing"]:
        raise CollectError(
            f"{len(summary['missing'])} episodes could not be recorded, because the expert failed in every attempt: "
            f"{', '.join(summary['missing'][:20])}. Allow more time (max_steps=...) or leave the task out (tasks=...)."
        )

"""`foreact sim experts`: is the benchmark feasible? Every scripted expert tries its task from random starts."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from foreact.vla.errors import ConfigError, did_you_mean


def check(
    *, scenes: str, tasks: str, starts: int, seed: int, workers: int, at_least: float, out: str, as_json: bool
) -> bool:
    """Try, print one line per scene and task, and return whether every expert succeeded often enough.

    Args:
        scenes: A, B, C, D or all.
        tasks: all, fixtures, blocks, or names joined by commas.
        starts: Random starts per scene and task.
        seed: Start i is drawn from (seed, i).
        workers: Processes.
        at_least: The success rate that each expert must reach.
        out: File for the rows as JSON; empty: none.
        as_json: Print JSON instead of lines.

    Raises:
        ConfigError: If a scene or a task is unknown.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from foreact.sim.scenes import SCENES, get_scene
    from foreact.vla.processes import one_thread_each

    names = _tasks(tasks)
    jobs = [
        (scene, task, starts, seed)
        for scene in (list(SCENES) if scenes == "all" else [get_scene(scenes).name])
        for task in names
    ]
    rows: list[dict[str, Any]] = []
    columns = (TextColumn("trying"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        one_thread_each(),
        multiprocessing.get_context("spawn").Pool(min(workers, len(jobs))) as pool,
        Progress(*columns, console=Console(stderr=True)) as progress,
    ):
        bar = progress.add_task("", total=len(jobs))
        for row in pool.imap(_check, jobs):
            rows.append(row)
            progress.advance(bar)
            if not as_json:
                progress.console.print(_line(row), markup=False, highlight=False, soft_wrap=True)
    text = json.dumps({"seed": seed, "experts": rows}, indent=2)
    if out:
        Path(out).write_text(text + "\n")
    if as_json:
        print(text)
    return min(row["success_rate"] for row in rows) >= at_least


def _tasks(words: str) -> Sequence[str]:
    from foreact.sim.experts import LAWS
    from foreact.sim.tasks import TASK_SETS

    if words in TASK_SETS:
        return TASK_SETS[words]
    names = [word.strip() for word in words.split(",")]
    for name in names:
        if name not in LAWS:
            raise ConfigError(f"no scripted expert for task {name!r}; {did_you_mean(name, LAWS)}")
    return names


def _check(job: tuple[str, str, int, int]) -> dict[str, Any]:
    from foreact.sim.env import DeskEnv
    from foreact.sim.expert_check import check_expert

    scene, task, starts, seed = job
    env = DeskEnv(scene, render=False)
    try:
        return check_expert(env, task, starts, seed=seed).summary()
    finally:
        env.close()


def _line(row: dict[str, Any]) -> str:
    rate, low, high = (f"{100 * value:.1f}" for value in (row["success_rate"], *row["ci95"]))
    failed = f", failed from starts {row['failed_starts']}" if row["failed_starts"] else ""
    return (
        f"{row['scene']} {row['task']:24} {row['successes']}/{row['n']} ({rate} %, 95% interval {low}-{high}), "
        f"{row['steps_median'] or 0:.0f} steps (at most {row['steps_max']}), largest action "
        f"{row['largest_action']:.2f}, {row['rejected_draws']} draws rejected{failed}"
    )

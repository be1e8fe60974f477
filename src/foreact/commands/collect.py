"""`foreact collect`: scripted experts fill a trajectory store, in parallel, resumable, the same for the same seed."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foreact.commands.hydra_config import compose
from foreact.vla.errors import ConfigError, did_you_mean


@dataclass(frozen=True)
class Job:
    """One episode to record."""

    scene: str
    task: str
    index: int

    @property
    def name(self) -> str:
        """The episode's name in the store."""
        return f"{self.scene}-{self.task}-{self.index:06d}"


def main(argv: list[str]) -> None:
    """Run `foreact collect key=value ...`; see `configs/collect.yaml` for the keys."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    from foreact.datasets.recorder import Recorder
    from foreact.sim.experts import LAWS
    from foreact.sim.rendering import pick_gl_backend
    from foreact.sim.scenes import get_scene

    config = compose("collect", argv)
    tasks = list(LAWS) if config["tasks"] == "all" else list(config["tasks"])
    for task in tasks:
        if task not in LAWS:
            raise ConfigError(f"tasks: no scripted expert for {task!r}; {did_you_mean(task, LAWS)}")
    for scene in config["scenes"]:
        get_scene(scene)
    if config["kind"] not in ("demonstrations", "video"):
        raise ConfigError(f"kind={config['kind']!r}; known: demonstrations, video")
    pick_gl_backend()

    from foreact.sim.embodiment import desk_contract

    out = Path(config["out"])
    recorder = Recorder(out, desk_contract())
    jobs = [
        Job(scene, task, index)
        for index in range(config["episodes_per_task"])
        for scene in config["scenes"]
        for task in tasks
    ]
    todo = [job for job in jobs if not recorder.has(job.name)]
    if len(todo) < len(jobs):
        _refuse_another_recipe(config, {job.name for job in jobs})
    print(f"{out}: {len(jobs) - len(todo)} of {len(jobs)} episodes are there, {len(todo)} to record")
    outcomes: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    began = time.monotonic()
    columns = (
        TextColumn("recording"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[frames]:,} frames"),
        TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns) as progress:
        bar = progress.add_task("", total=len(todo), frames=0)
        for job, frames, rejected in _run(config, todo):
            outcomes["frames"] += frames
            outcomes["rejected"] += rejected
            outcomes["recorded" if frames else "failed"] += 1
            if not frames:
                failed[f"{job.scene}/{job.task}"] += 1
            progress.update(bar, advance=1, frames=outcomes["frames"])
    seconds = time.monotonic() - began
    print(
        f"recorded {outcomes['recorded']} episodes, {outcomes['frames']:,} frames in {seconds:.0f} s; "
        f"{outcomes['rejected']} start draws rejected; {outcomes['failed']} expert failures"
        + (f" ({', '.join(f'{k}: {n}' for k, n in failed.items())})" if failed else "")
    )


def _refuse_another_recipe(config: dict[str, Any], names: set[str]) -> None:
    """Episodes of another seed or kind must not pass for those that are asked for.

    Raises:
        ConfigError: If the store holds such an episode; it is named.
    """
    from foreact.datasets.store import Store

    for info in Store.open(config["out"]).index:
        if info.name not in names:
            continue
        kind = "demonstrations" if info.has_action else "video"
        found, wanted = (kind, info.meta.get("seed")), (config["kind"], config["seed"])
        if found != wanted:
            raise ConfigError(
                f"{config['out']} holds episode {info.name} with kind={found[0]} seed={found[1]}, asked for was "
                f"kind={wanted[0]} seed={wanted[1]}; choose another folder: out=..."
            )


def _run(config: dict[str, Any], jobs: list[Job]) -> Any:
    """Yield (job, recorded frames, rejected draws) as episodes are finished."""
    workers = min(config["workers"], len(jobs))
    if workers <= 1:
        _start(config)
        yield from map(_record, jobs)
        return
    # Spawned, not forked: a GL context must not be shared with a child.
    context = multiprocessing.get_context("spawn")
    with context.Pool(workers, initializer=_start, initargs=(config,)) as pool:
        yield from pool.imap_unordered(_record, jobs)


_worker: dict[str, Any] = {}


def _start(config: dict[str, Any]) -> None:
    os.environ.setdefault("LP_NUM_THREADS", "0")
    from foreact.datasets.recorder import Recorder
    from foreact.sim.demonstrate import DemonstrationSettings
    from foreact.sim.embodiment import desk_contract

    keys = DemonstrationSettings.__dataclass_fields__
    settings: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in config.items() if k in keys}
    _worker.update(
        config=config,
        envs={},
        recorder=Recorder(Path(config["out"]), desk_contract()),
        settings=DemonstrationSettings(**settings),
    )


def _record(job: Job) -> tuple[Job, int, int]:
    from foreact.sim.demonstrate import demonstrate, episode_rng
    from foreact.sim.env import DeskEnv

    config, envs = _worker["config"], _worker["envs"]
    if job.scene not in envs:
        envs[job.scene] = DeskEnv(job.scene)
    rng = episode_rng(config["seed"], job.scene, job.task, job.index)
    action_free = config["kind"] == "video"
    episode = demonstrate(envs[job.scene], job.task, rng, _worker["settings"], action_free=action_free)
    if episode is None:
        return job, 0, 0
    episode.meta.update(seed=config["seed"], index=job.index)
    _worker["recorder"].write(episode, name=job.name)
    return job, len(episode), int(episode.meta["rejected_draws"])

"""How long a collection takes and how large it gets, measured on a few episodes; and whether the disk holds it."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from foreact.commands.collect_plan import PLAY, Job
from foreact.commands.collect_workers import CollectError, Workers

TASKS_TRIED = 8
"""Episodes recorded for the measurement, of different tasks."""
PLAY_TRIED = 240
"""Frames of play recorded for the measurement, per process."""
MARGIN = 1.1
"""The disk must have room for so many times the estimate."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Measured per frame and per episode, for all processes together."""

    episode_frames: float
    """Mean length of a demonstration; 0 if none is left to record."""
    frames: float
    bytes: float
    seconds: float


def measure(workers: Workers, todo: list[Job], count: int) -> Estimate:
    """Record a few of the episodes into a temporary folder and work out what all of `todo` needs.

    Args:
        workers: `count` processes.
        todo: What is to be recorded.
        count: How many processes work at once.
    """
    episodes = [job for job in todo if job.task != PLAY]
    sessions = [job for job in todo if job.task == PLAY]
    first = {(job.scene, job.task): job for job in reversed(episodes)}
    spread = list(first.values())
    tried = spread[:: max(1, -(-len(spread) // TASKS_TRIED))]
    # A few more of the same tasks, so that no process is idle while others measure.
    tried += [job for job in episodes if job not in tried][: max(0, count - len(tried))]
    tried += [replace(job, length=min(job.length, PLAY_TRIED)) for job in sessions[:count]]
    with tempfile.TemporaryDirectory(prefix="foreact-collect-") as folder:
        outcomes = list(workers.run(tried, Path(folder)))
    by_task = [o for o in outcomes if o.job.task != PLAY]
    by_play = [o for o in outcomes if o.job.task == PLAY]
    frames = seconds = size = mean = 0.0
    if by_task and episodes:
        share = len(episodes) / len(by_task)
        mean = sum(o.frames for o in by_task) / len(by_task)
        frames += mean * len(episodes)
        seconds += share * sum(o.wall_s for o in by_task)
        size += share * sum(o.bytes for o in by_task)
    if by_play:
        share = sum(job.length for job in sessions) / sum(o.frames for o in by_play)
        frames += sum(job.length for job in sessions)
        seconds += share * sum(o.wall_s for o in by_play)
        size += share * sum(o.bytes for o in by_play)
    busy = min(count, len(tried))
    return Estimate(episode_frames=mean, frames=frames, bytes=size, seconds=seconds / max(1, busy))


def check_disk(out: Path, needed: float, force: bool) -> int:
    """Free bytes where `out` is.

    Raises:
        CollectError: If they do not suffice, unless `force`.
    """
    folder = out.absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < MARGIN * needed and not force:
        raise CollectError(
            f"the disk of {out} has {size_text(free)} free, and about {size_text(MARGIN * needed)} are needed; make "
            "room, choose another disk by out=..., record less, or begin all the same by force=true"
        )
    return free


def size_text(size: float) -> str:
    """Bytes for people."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def time_text(seconds: float) -> str:
    """A duration for people."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"

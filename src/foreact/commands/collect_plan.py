"""What is recorded: every episode of a collection, named before the first one begins."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from foreact.commands.collect_settings import CollectSettings

PLAY = "play"


@dataclass(frozen=True, kw_only=True)
class Job:
    """One episode to record."""

    scene: str
    task: str
    """Name of a task, or "play"."""
    index: int
    length: int = 0
    """Frames of a session of play; 0 for a task, whose length nobody knows before."""
    sentence: bool = True
    """Whether the episode keeps its sentence."""

    @property
    def name(self) -> str:
        """The episode's name in the store."""
        return f"{self.scene}-{self.task}-{self.index:06d}"


def plan(settings: CollectSettings) -> list[Job]:
    """All episodes, a pure function of the settings: sessions of play, then tasks by turns.

    Raises:
        ConfigError: If a task is unknown or has no expert.
    """
    tasks = settings.task_names
    counts = episode_counts(settings, tasks)
    spoken = _with_sentence(counts, settings.language_fraction, settings.seed)
    jobs = [
        Job(scene=scene, task=PLAY, index=index, length=length, sentence=settings.label_play)
        for scene, frames in play_frames(settings).items()
        for index, length in enumerate(_sessions(settings, scene, frames))
    ]
    for index in range(max(counts.values(), default=0)):
        for (scene, task), count in counts.items():
            if index < count:
                jobs.append(Job(scene=scene, task=task, index=index, sentence=(scene, task, index) in spoken))
    return jobs


def episode_counts(settings: CollectSettings, tasks: tuple[str, ...]) -> dict[tuple[str, str], int]:
    """(scene, task) -> number of episodes.

    Of a split: its language episodes times the scale, rounded (half up); divided over the scenes in proportion to their
    frames, rounded by largest remainder; within a scene each task gets the same number, and what is left goes to one
    task after the other, going on in the next scene where the last one stopped.
    """
    split = settings.split
    if split is None:
        each = settings.episodes_per_task or 0
        return {(scene, task): each for scene in settings.scenes for task in tasks}
    by_scene = divide(_round(split.language_episodes * settings.scale), _shares(settings))
    counts: dict[tuple[str, str], int] = {}
    turn = 0
    for scene, total in by_scene.items():
        each, left = divmod(total, len(tasks))
        extra = {tasks[(turn + i) % len(tasks)] for i in range(left)}
        turn += left
        counts |= {(scene, task): each + (task in extra) for task in tasks}
    return counts


def play_frames(settings: CollectSettings) -> dict[str, int]:
    """Scene -> frames of play; of a split: those that no language window covers, times the scale, by the same rule."""
    if settings.split is None:
        return dict.fromkeys(map(str, settings.scenes), settings.play_frames or 0)
    return divide(_round(settings.split.play_frames * settings.scale), _shares(settings))


def divide(total: int, shares: Mapping[str, int]) -> dict[str, int]:
    """Whole numbers in proportion to `shares` that sum to `total`: the largest remainder method."""
    whole = sum(shares.values())
    parts = {name: total * share // whole for name, share in shares.items()}
    by_remainder = sorted(shares, key=lambda name: -(total * shares[name] % whole))
    for name in by_remainder[: total - sum(parts.values())]:
        parts[name] += 1
    return parts


def _shares(settings: CollectSettings) -> dict[str, int]:
    assert settings.split is not None
    return {str(scene): frames for scene, frames in settings.split.scene_frames.items()}


def _round(value: float) -> int:
    return int(value + 0.5)


def _sessions(settings: CollectSettings, scene: str, frames: int) -> list[int]:
    from foreact.sim.play import session_lengths

    rng = np.random.default_rng([settings.seed, zlib.crc32(f"{scene}/sessions".encode())])
    return session_lengths(frames, settings.session_steps, rng)


def _with_sentence(counts: Mapping[tuple[str, str], int], fraction: float, seed: int) -> set[tuple[str, str, int]]:
    """The episodes that keep their sentence: the first so many of a fixed order, so that a smaller share is always
    among a larger one. The order draws evenly from all tasks, and for each task from all scenes."""
    by_task: dict[str, list[tuple[float, str, int]]] = {}
    for (scene, task), count in counts.items():
        rng = np.random.default_rng([seed, zlib.crc32(f"{scene}/{task}/sentences".encode())])
        shift = float(rng.random())
        places = ((int(place) + shift) / count for place in rng.permutation(count))
        by_task.setdefault(task, []).extend((place, scene, index) for index, place in enumerate(places))
    order: list[tuple[float, str, str, int]] = []
    for number, (task, rows) in enumerate(by_task.items()):
        shift = (number + 0.5) / len(by_task)
        order += [
            ((rank + shift) / len(rows), scene, task, index) for rank, (_, scene, index) in enumerate(sorted(rows))
        ]
    order.sort()
    return {(scene, task, index) for _, scene, task, index in order[: _round(len(order) * fraction)]}

"""Records one episode of a collection; what a worker process does."""

from __future__ import annotations

import time
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from foreact.commands.collect_plan import PLAY, Job
from foreact.commands.collect_settings import CollectSettings

if TYPE_CHECKING:
    from foreact.datasets.recorder import Recorder
    from foreact.sim.env import DeskEnv


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a job."""

    job: Job
    frames: int = 0
    """0: every attempt failed, and nothing was recorded."""
    bytes: int = 0
    failed_attempts: int = 0
    wall_s: float = 0.0
    """How long it took, without starting the process."""


class Worker:
    """Records jobs, keeping one environment per scene."""

    def __init__(self, settings: CollectSettings) -> None:
        """Loads the simulator; environments are made when a scene is asked for."""
        from foreact.sim.manner import DemonstrationSettings
        from foreact.sim.play import PlaySettings

        self._settings = settings
        values = settings.model_dump()
        self._demonstration = DemonstrationSettings(**_fields(DemonstrationSettings, values))
        self._play = PlaySettings(**_fields(PlaySettings, values))
        self._driver = None
        if settings.driver:
            from foreact.commands.collect_driver import PolicyDriver

            self._driver = PolicyDriver(settings.driver)
        self._envs: dict[str, DeskEnv] = {}
        self._recorders: dict[Path, Recorder] = {}

    def record(self, job: Job, out: Path) -> Outcome:
        """Record one episode into the store at `out`; one that is there already is left alone."""
        from foreact.datasets.layout import EpisodeExists
        from foreact.datasets.recorder import Recorder
        from foreact.sim.embodiment import desk_contract
        from foreact.sim.env import DeskEnv

        if out not in self._recorders:
            self._recorders[out] = Recorder(out, desk_contract(), self._settings.codec)
        if job.scene not in self._envs:
            self._envs[job.scene] = DeskEnv(job.scene)
            self._envs[job.scene].reset(seed=0)  # draw once: what is made at the first frame is no part of the episode
        began = time.monotonic()
        if self._settings.looks == "random" or self._settings.body == "floating_hand":
            from dataclasses import replace

            import numpy as np

            from foreact.sim.looks import UNCHANGED, Looks, apply_look

            looks = Looks(distractors=3) if self._settings.looks == "random" else UNCHANGED
            name = zlib.crc32(f"look/{job.name}".encode())
            apply_look(
                self._envs[job.scene].model,
                np.random.default_rng([self._settings.seed, name]),
                replace(looks, hand_alone=self._settings.body == "floating_hand"),
            )
        try:
            outcome = (self._session if job.task == PLAY else self._episode)(job, self._recorders[out])
        except EpisodeExists:  # by a process that outlived its parent for a moment; it had the same content
            outcome = Outcome(job=job)
        return Outcome(**{**vars(outcome), "wall_s": time.monotonic() - began})

    def _episode(self, job: Job, recorder: Recorder) -> Outcome:
        from foreact.sim.demonstrate import demonstrate_once

        episode, failed = demonstrate_once(
            self._envs[job.scene],
            job.task,
            self._settings.seed,
            job.index,
            self._demonstration,
            action_free=self._settings.kind == "video",
            driver=self._driver,
        )
        if episode is None:
            return Outcome(job=job, failed_attempts=failed)
        if not job.sentence:
            episode.instruction = ""
        written = recorder.write(episode, name=job.name)
        return Outcome(job=job, frames=len(episode), bytes=written, failed_attempts=failed)

    def _session(self, job: Job, recorder: Recorder) -> Outcome:
        from foreact.sim.demonstrate import episode_rng
        from foreact.sim.play import play, sentences_for

        env, settings = self._envs[job.scene], self._settings
        rng = episode_rng(settings.seed, job.scene, PLAY, job.index)
        with recorder.episode(name=job.name) as writer:

            def add(parts: dict) -> None:
                images = {camera.name: parts[camera.name] for camera in env.contract.cameras}
                if settings.kind == "video":
                    writer.add(images)
                else:
                    extras = {key: parts[key] for key in ("scene_obs", "action_executed")}
                    writer.add(images, parts["state"], parts["action"], extras)

            session = play(env, rng, job.length, self._demonstration, self._play, add)
            writer.meta = {**session.meta(), "scene": job.scene, "seed": settings.seed, "index": job.index}
            if job.sentence:
                writer.segments = sentences_for(session.segments, rng)
        return Outcome(job=job, frames=job.length, bytes=writer.bytes)


def _fields(kind: type, values: dict) -> dict:
    return {key: values[key] for key in kind.__dataclass_fields__}

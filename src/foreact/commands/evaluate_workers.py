"""Rollouts in several processes: each has its own actor and its own desks, and takes the next job when one is free."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foreact.commands.evaluate_folder import EvaluationError
from foreact.commands.evaluate_settings import EvaluateSettings
from foreact.vla.errors import ForeActError
from foreact.vla.results import RolloutRecord

if TYPE_CHECKING:
    from foreact.sim.rollout import Job, Rollout
    from foreact.vla.policy import Actor

_ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "LP_NUM_THREADS": "0",  # llvmpipe draws in the calling thread
}
"""Processes are the parallelism here; threads below them only take each other's cores."""


@dataclass(frozen=True, kw_only=True)
class About:
    """What a worker tells about its actor before the first rollout."""

    contract: dict[str, Any]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Failed:
    message: str
    exit_code: int


def run_jobs(settings: EvaluateSettings, jobs: list[Job]) -> Iterator[About | RolloutRecord]:
    """Do the jobs and yield each when it is done; first of all one `About`.

    Raises:
        ForeActError: If the actor cannot be loaded, does not fit the desk, or breaks its interface.
        EvaluationError: If a worker dies.
    """
    if settings.workers == 0:
        yield from _work(settings, jobs)
        return
    # Spawned, not forked: neither a GL context nor torch's threads survive a fork.
    context = multiprocessing.get_context("spawn")
    todo: Any = context.Queue()
    done: Any = context.Queue()
    n_workers = min(settings.workers, max(1, len(jobs)))
    for job in [*jobs, *[None] * n_workers]:
        todo.put(job)
    with _environment(_ONE_THREAD):
        workers = [
            context.Process(target=_worker, args=(settings, todo, done), daemon=True, name=f"worker {i}")
            for i in range(n_workers)
        ]
        for worker in workers:
            worker.start()
    told, left = False, len(jobs)
    try:
        while left or not told:
            item = _next(done, workers, left)
            if isinstance(item, _Failed):
                error = ForeActError(item.message)
                error.exit_code = item.exit_code
                raise error
            if isinstance(item, About):
                if told:
                    continue
                told = True
            else:
                left -= 1
            yield item
    finally:
        for worker in workers:
            worker.join(timeout=0 if left else 10)
            if worker.is_alive():
                worker.terminate()
                worker.join()
        todo.cancel_join_thread()  # jobs that nobody will fetch must not keep this process from ending


def _next(done: Any, workers: list[Any], left: int) -> Any:
    while True:
        try:
            return done.get(timeout=1.0)
        except queue.Empty:
            dead = [w for w in workers if w.exitcode not in (None, 0)]
            if dead or all(w.exitcode is not None for w in workers):
                code = dead[0].exitcode if dead else 0
                why = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit status {code}"
                raise EvaluationError(
                    f"{(dead or workers)[0].name} {why} with {left} rollouts to do (out of memory?). "
                    "Run the same command again to go on, perhaps with fewer workers or envs_per_worker."
                ) from None


def _worker(settings: EvaluateSettings, todo: Any, done: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        for item in _work(settings, iter(todo.get, None)):
            done.put(item)
    except ForeActError as error:
        done.put(_Failed(str(error), error.exit_code))
    except Exception as error:
        trace = "".join(traceback.format_exception(error))
        done.put(_Failed(f"a worker of the evaluation failed, which is a bug in ForeAct or in the actor:\n{trace}", 1))


def _end_with_parent() -> None:
    """A parent that was killed cannot end its workers, and they must not go on without it."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def _work(settings: EvaluateSettings, jobs: Iterable[Job]) -> Iterator[About | RolloutRecord]:
    from foreact.sim.embodiment import desk_contract
    from foreact.sim.rollout import Lockstep, find_border, make_envs

    actor = load_actor(settings, desk_contract())
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    name = f"checkpoint {settings.checkpoint}" if settings.checkpoint else f"actor {settings.actor!r}"
    border = find_border(actor.contract, name)
    yield About(contract=actor.contract.model_dump(mode="json"), notes=border.adapter.notes)
    envs = make_envs(settings.benchmark.scene, border, settings.envs_per_worker)
    lockstep = Lockstep(actor, envs, border, max_steps=settings.benchmark.max_steps, foresight=settings.foresight)
    try:
        for rollout in lockstep.run(jobs):
            yield _finish(rollout, settings.folder, actor.contract.rate_hz)
    finally:
        for env in envs:
            env.close()


def load_actor(settings: EvaluateSettings, offered: Any) -> Actor:
    """The actor that is judged; `offered` is the contract of the environment."""
    from foreact.vla.actors import load_checkpoint_actor, make_actor

    if settings.checkpoint is not None:
        return load_checkpoint_actor(settings.checkpoint, device=settings.device, execute_steps=settings.execute_steps)
    assert settings.actor is not None
    return make_actor(settings.actor, offered)


def _finish(rollout: Rollout, folder: Path, rate_hz: float) -> RolloutRecord:
    """Turn a rollout into its record; a recording becomes a video on disk first."""
    job, recording = rollout.job, rollout.recording
    video = None
    if recording is not None:
        from foreact.vla.video import rollout_frames, write_video

        video = f"videos/{job.task}-{job.start_index:04d}.mp4"
        frames = rollout_frames(
            recording.seen,
            recording.predicted,
            steps_ahead=recording.steps_ahead,
            rate_hz=rate_hz,
            title=job.instruction,
            success=rollout.success,
        )
        write_video(folder / video, frames, rate_hz)
    return RolloutRecord(
        start=job.start_index,
        start_seed=job.start.seed,
        task=job.task,
        instruction=job.instruction,
        success=rollout.success,
        steps=rollout.steps,
        other_tasks=rollout.other_tasks,
        wall_s=rollout.wall_s,
        video=video,
        foresight=recording.foresight() if recording is not None else {},
        foresight_steps=recording.steps_ahead if recording is not None else 0,
    )


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Environment variables for child processes, where the user has not set them."""
    added = [key for key in values if key not in os.environ]
    os.environ.update({key: values[key] for key in added})
    try:
        yield
    finally:
        for key in added:
            del os.environ[key]

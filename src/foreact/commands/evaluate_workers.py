"""Rollouts in several processes: each has its own actor and its own desks, and takes the next job when one is free."""

from __future__ import annotations

import multiprocessing
import queue
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from foreact.commands.evaluate_films import Filmed, path_of
from foreact.commands.evaluate_folder import EvaluationError
from foreact.commands.evaluate_settings import EvaluateSettings
from foreact.vla.errors import ConfigError, ForeActError
from foreact.vla.processes import end_with_parent, one_thread_each
from foreact.vla.results import ChainAttempt, ChainRecord, Record, RolloutRecord

if TYPE_CHECKING:
    from pathlib import Path

    from foreact.sim.rollout import Job, Rollout
    from foreact.sim.suites import Suite
    from foreact.vla.contract import Contract
    from foreact.vla.policy import Actor
    from foreact.vla.serving.foreign import ForeignActor
    from foreact.vla.serving.remote import RemoteActor

EXPERT = "expert"
"""The actor's name for the simulator's own scripted policies."""


@dataclass(frozen=True, kw_only=True)
class About:
    """What a worker tells about its actor before the first rollout."""

    contract: dict[str, Any]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Failed:
    message: str
    exit_code: int


def run_jobs(
    settings: EvaluateSettings, jobs: list[Job], films: Callable[[], list[Job]] = list
) -> Iterator[About | Record | Filmed]:
    """Do the jobs and yield each when it is done; first of all one `About`.

    Args:
        settings: What to do it with.
        jobs: What counts.
        films: Asked when all jobs are done: what is to be done once more and recorded.

    Raises:
        ForeActError: If the actor cannot be loaded, does not fit the desk, or breaks its interface.
        EvaluationError: If a worker dies.
    """
    if settings.workers == 0:
        yield from _work(settings, jobs, _later(films))
        return
    # Spawned, not forked: neither a GL context nor torch's threads survive a fork.
    context = multiprocessing.get_context("spawn")
    todo: Any = context.Queue()
    again: Any = context.Queue()
    done: Any = context.Queue()
    n_workers = min(settings.workers, max(1, len(jobs)))
    for job in [*jobs, *[None] * n_workers]:
        todo.put(job)
    with one_thread_each():
        workers = [
            context.Process(target=_worker, args=(settings, todo, again, done), daemon=True, name=f"worker {i}")
            for i in range(n_workers)
        ]
        for worker in workers:
            worker.start()
    told, asked, left = False, False, len(jobs)
    try:
        while left or not told or not asked:
            if told and not left:  # what was yielded has been looked at, so it is known what is worth a film
                asked, more = True, films()
                left = len(more)
                for job in [*more, *[None] * n_workers]:
                    again.put(job)
                continue
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
            worker.join(timeout=0 if left or not asked else 10)
            if worker.is_alive():
                worker.terminate()
                worker.join()
        for unread in (todo, again):  # jobs that nobody will fetch must not keep this process from ending
            unread.cancel_join_thread()


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


def _later(films: Callable[[], list[Job]]) -> Iterator[Job]:
    """The films' jobs, asked for when the first is fetched."""
    yield from films()


def _worker(settings: EvaluateSettings, todo: Any, again: Any, done: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers
    end_with_parent()
    try:
        for item in _work(settings, iter(todo.get, None), iter(again.get, None)):
            done.put(item)
    except ForeActError as error:
        done.put(_Failed(str(error), error.exit_code))
    except Exception as error:
        trace = "".join(traceback.format_exception(error))
        done.put(_Failed(f"a worker of the evaluation failed, which is a bug in ForeAct or in the actor:\n{trace}", 1))


def _work(settings: EvaluateSettings, jobs: Iterable[Job], films: Iterable[Job]) -> Iterator[About | Record | Filmed]:
    from foreact.commands.evaluate_jobs import make_suite
    from foreact.sim.border import find_border
    from foreact.sim.rollout import Lockstep

    suite = make_suite(settings)
    actor = load_actor(settings, suite)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    border = find_border(actor.contract, suite, settings.title)
    yield About(contract=actor.contract.model_dump(mode="json"), notes=border.adapter.notes)
    envs = [border.make_env(record=settings.records_any) for _ in range(settings.envs_per_worker)]
    limit = settings.benchmark.max_steps or suite.max_steps
    lockstep = Lockstep(actor, envs, border, max_steps=limit, foresight=settings.foresight)
    # One after another: few are wanted, they are shared out evenly, and a recording fills memory.
    camera = Lockstep(actor, envs[:1], border, max_steps=limit, foresight=settings.foresight)
    try:
        for rollout in lockstep.run(jobs):
            yield _finish(rollout, settings, actor.contract.rate_hz)
        for rollout in camera.run(films):
            yield _film(rollout, settings, actor.contract.rate_hz)
    finally:
        for env in envs:
            env.close()
        if settings.url is not None:
            cast("RemoteActor | ForeignActor", actor).close()


def load_actor(settings: EvaluateSettings, suite: Suite) -> Actor:
    """The actor that is judged.

    Raises:
        ForeActError: If it cannot be loaded, or the simulator has no expert.
    """
    from foreact.sim.border import public_contract
    from foreact.vla.actors import load_checkpoint_actor, make_actor

    if settings.checkpoint is not None:
        return load_checkpoint_actor(
            settings.checkpoint,
            device=settings.device,
            execute_steps=settings.execute_steps,
            batch_size=settings.batch_size,
            **settings.runtime,
        )
    if settings.url is not None:
        return connect_remote(settings, public_contract(suite.contract()))
    assert settings.actor is not None
    if settings.actor != EXPERT:
        return make_actor(settings.actor, public_contract(suite.contract()))
    expert = suite.expert()
    if expert is None:
        raise ConfigError(f"env={suite.name} has no scripted experts; name another actor or a checkpoint")
    return expert


def connect_remote(settings: EvaluateSettings, offered: Contract) -> RemoteActor | ForeignActor:
    """The policy behind `url`.

    Raises:
        ForeActError: If nobody answers there, or its contract cannot be read.
    """
    from foreact.vla.contract import Contract
    from foreact.vla.serving.access import read_token
    from foreact.vla.serving.client import ClientSettings
    from foreact.vla.serving.foreign import Foreign
    from foreact.vla.serving.keys import parse_keys
    from foreact.vla.serving.remote import connect_actor

    assert settings.url is not None
    remote = settings.remote
    client = ClientSettings(
        connect_timeout_s=min(remote.timeout_s, 10.0),
        request_timeout_s=remote.timeout_s,
        silence_s=max(remote.timeout_s, 10.0),
        reconnect=False,  # a server that was started anew has forgotten what it saw
        token=read_token(remote.token_file),
        tls_ca=remote.tls_ca,
    )
    foreign = Foreign(
        contract=None if remote.contract is None else Contract.load(remote.contract),
        keys=parse_keys(remote.keys),
        image_size=remote.image_size,
        layout=remote.layout,
        execute_steps=settings.execute_steps,
    )
    return connect_actor(settings.url, offered, client, foreign)


def _film(rollout: Rollout, settings: EvaluateSettings, rate_hz: float) -> Filmed:
    """Write what was done once more."""
    job, chain = rollout.job, settings.benchmark.kind == "chains"
    video = path_of(job, chain=chain)
    _write_video(rollout, settings.folder / video, rate_hz)
    outcome = tuple((attempt.success, attempt.steps) for attempt in rollout.attempts)
    return Filmed(key=(job.index, "chain" if chain else job.tasks[0]), outcome=outcome, video=video)


def _write_video(rollout: Rollout, path: Path, rate_hz: float) -> None:
    from foreact.vla.failures import UNKNOWN_KIND
    from foreact.vla.film import EVERY, chain_frames
    from foreact.vla.video import rollout_frames, write_video

    job, recording, last = rollout.job, rollout.recording, rollout.attempts[-1]
    if recording is None:  # a chain that did not get as far as the first time
        return
    verdict = "" if last.success else last.kind or UNKNOWN_KIND
    if len(job.tasks) == 1:
        frames = rollout_frames(
            recording.seen,
            recording.predicted,
            steps_ahead=recording.steps_ahead,
            rate_hz=rate_hz,
            title=job.instructions[0],
            success=last.success,
            verdict=verdict,
        )
        write_video(path, frames, rate_hz)
        return
    frames = chain_frames(
        recording.seen,
        recording.predicted,
        steps_ahead=recording.steps_ahead,
        rate_hz=rate_hz,
        instructions=job.instructions,
        begun={step: job.record_from + at for at, step in enumerate(sorted(recording.instructions))},
        solved=rollout.solved,
        verdict=verdict,
    )
    write_video(path, frames, rate_hz / EVERY)


def _finish(rollout: Rollout, settings: EvaluateSettings, rate_hz: float) -> Record:
    """Turn a rollout into its record; a recording becomes a video on disk first."""
    job, recording = rollout.job, rollout.recording
    video = None
    chain = settings.benchmark.kind == "chains"
    if recording is not None:
        video = f"videos/chain-{job.index:04d}.mp4" if chain else f"videos/{job.tasks[0]}-{job.index:04d}.mp4"
        _write_video(rollout, settings.folder / video, rate_hz)
    foresight = recording.foresight() if recording is not None else {}
    steps_ahead = recording.steps_ahead if recording is not None else 0
    if not chain:
        attempt = rollout.attempts[0]
        return RolloutRecord(
            start=job.index,
            start_seed=job.seed,
            task=job.tasks[0],
            instruction=job.instructions[0],
            success=attempt.success,
            steps=attempt.steps,
            other_tasks=attempt.other_tasks,
            reason=attempt.reason,
            kind=attempt.kind,
            detail=attempt.detail,
            wall_s=rollout.wall_s,
            video=video,
            foresight=foresight,
            foresight_steps=steps_ahead,
        )
    return ChainRecord(
        chain=job.index,
        seed=job.seed,
        tasks=job.tasks,
        attempts=tuple(
            ChainAttempt(
                task=task,
                instruction=instruction,
                success=attempt.success,
                steps=attempt.steps,
                other_tasks=attempt.other_tasks,
                reason=attempt.reason,
                kind=attempt.kind,
                detail=attempt.detail,
            )
            for task, instruction, attempt in zip(job.tasks, job.instructions, rollout.attempts, strict=False)
        ),
        wall_s=rollout.wall_s,
        video=video,
        foresight=foresight,
        foresight_steps=steps_ahead,
    )

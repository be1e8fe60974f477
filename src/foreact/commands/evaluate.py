"""`foreact evaluate`: judge an actor on the desk benchmark, with an interval on every number."""

from __future__ import annotations

import platform
import shlex
import time
from dataclasses import replace
from importlib import metadata
from typing import TYPE_CHECKING, Any

from foreact.commands.evaluate_folder import EvaluationError, EvaluationFolder
from foreact.commands.evaluate_settings import EvaluateSettings
from foreact.commands.hydra_config import compose

if TYPE_CHECKING:
    from rich.console import Console

    from foreact.commands.evaluate_workers import About
    from foreact.sim.rollout import Job
    from foreact.sim.starts import Start
    from foreact.vla.results import Results, RolloutRecord

_PACKAGES = ("numpy", "mujoco", "gymnasium", "torch", "transformers", "pillow", "av")

_DECIDES = {"actor", "seed", "benchmark", "execute_steps", "device", "videos_per_task", "foresight"}
"""Settings that an evaluation may not change when it is resumed."""


def main(argv: list[str]) -> None:
    """Run `foreact evaluate key=value ... [--json]`; see `configs/evaluate.yaml` for the keys.

    Raises:
        ForeActError: If a setting is wrong, the actor does not fit, or the evaluation cannot be finished.
    """
    from rich.console import Console

    from foreact.commands.evaluate_table import print_summary

    as_json = "--json" in argv
    settings = EvaluateSettings.parse(compose("evaluate", [word for word in argv if word != "--json"]))
    console = Console(stderr=as_json)
    results = evaluate(settings, command=shlex.join(["foreact", "evaluate", *argv]), console=console)
    print_summary(results, settings.folder, console)
    if as_json:
        print(results.model_dump_json(indent=2))


def evaluate(settings: EvaluateSettings, *, command: str, console: Console) -> Results:
    """Do the rollouts, write `rollouts.jsonl`, `results.json`, `report.html` and `videos/`, and return the results.

    Args:
        settings: What to do.
        command: The command line, kept in the results.
        console: Where progress is shown.

    Raises:
        ForeActError: As `main`.
    """
    from foreact.sim.gl_backend import pick_gl_backend
    from foreact.sim.rollout import find_border
    from foreact.sim.scenes import get_scene
    from foreact.sim.starts import plan_starts
    from foreact.sim.tasks import TASKS, get_task
    from foreact.vla.contract import Contract
    from foreact.vla.report import write_report

    began = time.monotonic()
    bench = settings.benchmark
    get_scene(bench.scene)
    tasks = list(TASKS) if bench.tasks == "all" else [get_task(name).name for name in bench.tasks]
    checkpoint = _checkpoint(settings)
    if settings.checkpoint is not None:  # looked at before anything is loaded or drawn
        find_border(Contract.load(settings.checkpoint / "contract.yaml"), f"checkpoint {settings.checkpoint}")
    pick_gl_backend()
    with EvaluationFolder(settings.folder, _identity(settings, checkpoint), resume=settings.resume) as folder:
        with console.status("drawing starts"):
            starts = plan_starts(
                bench.scene,
                starts_per_task=bench.starts_per_task,
                tasks_per_start=bench.tasks_per_start,
                tasks=tasks,
                seed=settings.seed,
            )
        jobs = make_jobs(starts, settings)
        finished = {record.key for record in folder.records}
        todo = [job for job in jobs if (job.start_index, job.task) not in finished]
        if finished:
            console.print(f"{folder.path}: {len(finished)} of {len(jobs)} rollouts are there")
        about = _run(todo, folder, settings, console)
        # The order in which workers finish is chance; results and report do not depend on it.
        order = {(job.start_index, job.task): number for number, job in enumerate(jobs)}
        records = sorted(folder.records, key=lambda record: order[record.key])
        results = _results(settings, records, starts, about, checkpoint, command)
        results = results.model_copy(update={"wall_s": time.monotonic() - began, "n_resumed": len(finished)})
        try:
            results.write(folder.path / "results.json")
            write_report(results, records, folder.path)
        except OSError as error:
            raise EvaluationError(f"cannot write results to {folder.path}: {error}") from error
    return results


def _run(todo: list[Job], folder: EvaluationFolder, settings: EvaluateSettings, console: Console) -> About:
    """Do the jobs, each written to the folder as soon as it is done, and return what the actor said of itself."""
    from foreact.commands.evaluate_workers import About, run_jobs

    about: About | None = None
    hits = sum(record.success for record in folder.records)
    total = len(folder.records) + len(todo)
    try:
        with _progress(console) as progress:
            bar = progress.add_task(settings.name, total=total, completed=len(folder.records), rate="")
            for item in run_jobs(settings, todo):
                if isinstance(item, About):
                    about = item
                    for note in item.notes:
                        console.print(f"note: {note}", markup=False)
                    continue
                folder.add(item)
                hits += item.success
                progress.update(bar, advance=1, rate=f"{hits}/{len(folder.records)} solved")
    except KeyboardInterrupt:
        error = EvaluationError(
            f"interrupted with {len(folder.records)} of {total} rollouts done; run the same command again to go on"
        )
        error.exit_code = 130
        raise error from None
    assert about is not None
    return about


def make_jobs(starts: list[Start], settings: EvaluateSettings) -> list[Job]:
    """One job per start and task; the first `videos_per_task` of each task are recorded."""
    from foreact.sim.language import training_instructions, validation_instruction
    from foreact.sim.rollout import Job

    recorded: dict[str, int] = {}
    jobs = []
    for index, start in enumerate(starts):
        for task in start.tasks:
            recorded[task] = recorded.get(task, 0) + 1
            if settings.benchmark.language == "validation":
                instruction = validation_instruction(task)
            else:
                sentences = training_instructions(task)
                instruction = sentences[index % len(sentences)]
            # Each rollout is sent to a worker with only its own task.
            jobs.append(
                Job(
                    start_index=index,
                    start=replace(start, tasks=(task,)),
                    task=task,
                    instruction=instruction,
                    record=recorded[task] <= settings.videos_per_task,
                )
            )
    return jobs


def _checkpoint(settings: EvaluateSettings) -> dict[str, str] | None:
    if settings.checkpoint is None:
        return None
    from foreact.vla.actors import checkpoint_sha256

    return {"path": str(settings.checkpoint), "sha256": checkpoint_sha256(settings.checkpoint)}


def _identity(settings: EvaluateSettings, checkpoint: dict[str, str] | None) -> dict[str, Any]:
    """All that the outcome of a rollout, or the existence of its video, depends on."""
    config = settings.model_dump(mode="json", include=_DECIDES)
    return {**config, "checkpoint_sha256": checkpoint and checkpoint["sha256"], "versions": _versions(settings)}


def _versions(settings: EvaluateSettings) -> dict[str, str]:
    """Installed versions of what the outcome may depend on; nothing is imported for it."""
    from foreact import __version__
    from foreact.vla.actors import actor_package

    found = {"foreact": __version__, "python": platform.python_version()}
    if settings.actor is not None:
        found |= actor_package(settings.actor)
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _results(
    settings: EvaluateSettings,
    records: list[RolloutRecord],
    starts: list[Start],
    about: About,
    checkpoint: dict[str, str] | None,
    command: str,
) -> Results:
    from foreact.sim.system import gl_renderer
    from foreact.vla.foresight import CHANGE_THRESHOLD
    from foreact.vla.results import Results, foresight, listening, success, successes_by_task

    return Results(
        actor=settings.name,
        overall=success(records),
        tasks=successes_by_task(records),
        listening=listening(records),
        foresight=foresight(records, change_threshold=CHANGE_THRESHOLD),
        checkpoint=checkpoint,
        benchmark=settings.benchmark.model_dump(mode="json"),
        seeds={"benchmark": settings.seed, "starts": [start.seed for start in starts]},
        versions=_versions(settings),
        gl_renderer=gl_renderer(),
        contract=about.contract,
        notes=about.notes,
        command=command,
        rejected_draws=sum(start.rejected_draws for start in starts),
        wall_s=0.0,
    )


def _progress(console: Console) -> Any:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
    )

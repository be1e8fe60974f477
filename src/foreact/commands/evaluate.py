"""`foreact evaluate`: judge an actor on the desk benchmark, with an interval on every number."""

from __future__ import annotations

import platform
import shlex
import time
from importlib import metadata
from typing import TYPE_CHECKING, Any

from foreact.commands.evaluate_folder import EvaluationError, EvaluationFolder
from foreact.commands.evaluate_settings import REMOTE, EvaluateSettings
from foreact.commands.hydra_config import compose

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from foreact.commands.evaluate_jobs import Plan
    from foreact.commands.evaluate_workers import About
    from foreact.sim.rollout import Job
    from foreact.sim.suites import Suite
    from foreact.vla.results import Record, Results

_PACKAGES = ("numpy", "mujoco", "gymnasium", "torch", "transformers", "pillow", "av")

_DECIDES = {
    "actor",
    "seed",
    "env",
    "benchmark",
    "batch_size",
    "execute_steps",
    "device",
    "videos_per_task",
    "foresight",
}
"""Settings that an evaluation may not change when it is resumed; and those of `EvaluateSettings.runtime`."""


def main(argv: list[str]) -> None:
    """Run `foreact evaluate key=value ... [--json]`; see `configs/evaluate.yaml` for the keys.

    Raises:
        ForeActError: If a setting is wrong, the actor does not fit, or the evaluation cannot be finished.
    """
    from rich.console import Console

    from foreact.commands.evaluate_table import print_summary
    from foreact.vla.hub import local_checkpoint

    as_json = "--json" in argv
    # `policy` is a group of the training's settings, which Hydra would look in.
    words = [f"actor={REMOTE}" if word == "policy=remote" else word for word in argv if word != "--json"]
    settings = EvaluateSettings.parse(compose("evaluate", words))
    if settings.checkpoint is not None:  # hf://user/name is fetched
        settings = settings.model_copy(update={"checkpoint": local_checkpoint(settings.checkpoint)})
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
    from foreact.commands.evaluate_films import pick_films
    from foreact.commands.evaluate_jobs import make_suite, plan_jobs
    from foreact.sim.border import find_border
    from foreact.sim.gl_backend import pick_gl_backend
    from foreact.vla.contract import Contract
    from foreact.vla.failures import write_failures
    from foreact.vla.report import write_report
    from foreact.vla.results import as_rollouts

    began = time.monotonic()
    suite = make_suite(settings)
    if settings.benchmark.max_steps is None:
        limit = settings.benchmark.model_copy(update={"max_steps": suite.max_steps})
        settings = settings.model_copy(update={"benchmark": limit})
    checkpoint = _checkpoint(settings, suite)
    if settings.checkpoint is not None:  # looked at before anything is loaded or drawn
        find_border(Contract.load(settings.checkpoint / "contract.yaml"), suite, settings.title)
    pick_gl_backend()
    versions = _versions(settings, suite)
    chains = settings.benchmark.kind == "chains"
    identity = _identity(settings, checkpoint, versions)
    with EvaluationFolder(settings.folder, identity, resume=settings.resume, chains=chains) as folder:
        with console.status("drawing starts"):
            plan = plan_jobs(settings, suite)
        finished = {record.key for record in folder.records}
        todo = [job for job in plan.jobs if _key(job, chains) not in finished]
        if finished:
            what = "chains" if chains else "rollouts"
            console.print(f"{folder.path}: {len(finished)} of {len(plan.jobs)} {what} are there")
        about = _run(todo, folder, settings, plan, console)
        # The order in which workers finish is chance; results and report do not depend on it.
        order = {_key(job, chains): number for number, job in enumerate(plan.jobs)}
        records = sorted(folder.records, key=lambda record: order[record.key])
        films = tuple(film for film in pick_films(settings, records) if (folder.path / film.video).is_file())
        results = _results(settings, records, plan, about, checkpoint, command, versions, _renderer(suite))
        results = results.model_copy(
            update={"wall_s": time.monotonic() - began, "n_resumed": len(finished), "films": films}
        )
        try:
            results.write(folder.path / "results.json")
            write_failures(as_rollouts(records), folder.path / "failures.tsv")
            write_report(results, records, folder.path)
        except OSError as error:
            raise EvaluationError(f"cannot write results to {folder.path}: {error}") from error
    return results


def _key(job: Job, chains: bool) -> tuple[int, str]:
    """As the key of its record."""
    return job.index, "chain" if chains else job.tasks[0]


def _run(todo: list[Job], folder: EvaluationFolder, settings: EvaluateSettings, plan: Plan, console: Console) -> About:
    """Do the jobs, each written to the folder as soon as it is done, and return what the actor said of itself."""
    from foreact.commands.evaluate_films import Filmed, film_jobs, pick_films, went_alike
    from foreact.commands.evaluate_workers import About, run_jobs
    from foreact.vla.results import ChainRecord

    about: About | None = None
    total = len(folder.records) + len(todo)
    chain = settings.benchmark.kind == "chains"
    try:
        with _progress(console) as progress:
            bar = progress.add_task(settings.name, total=total, completed=len(folder.records), rate="")
            films = progress.add_task("films", total=0, rate="", visible=False)

            def again() -> list[Job]:
                jobs = film_jobs(pick_films(settings, folder.records), plan.jobs, folder.path, chain=chain)
                progress.update(films, total=len(jobs), visible=bool(jobs))
                return jobs

            for item in run_jobs(settings, todo, again):
                if isinstance(item, Filmed):
                    progress.update(films, advance=1)
                    if not went_alike(item, next(r for r in folder.records if r.key == item.key)):
                        (folder.path / item.video).unlink(missing_ok=True)
                        console.print(f"note: {item.video} went differently than before and is left out", markup=False)
                    continue
                if isinstance(item, About):
                    about = item
                    for note in item.notes:
                        console.print(f"note: {note}", markup=False)
                    continue
                if isinstance(item, ChainRecord) and plan.defects:
                    item = item.model_copy(update={"defects": plan.defects[item.chain]})
                folder.add(item)
                progress.update(bar, advance=1, rate=_so_far(folder.records))
    except KeyboardInterrupt:
        what = "chains" if settings.benchmark.kind == "chains" else "rollouts"
        error = EvaluationError(
            f"interrupted with {len(folder.records)} of {total} {what} done; run the same command again to go on"
        )
        error.exit_code = 130
        raise error from None
    assert about is not None
    return about


def _so_far(records: Sequence[Record]) -> str:
    from foreact.vla.results import ChainRecord

    lengths = [record.length for record in records if isinstance(record, ChainRecord)]
    if lengths:
        return f"average length {sum(lengths) / len(lengths):.2f}"
    return f"{sum(not isinstance(r, ChainRecord) and r.success for r in records)}/{len(records)} solved"


def _checkpoint(settings: EvaluateSettings, suite: Suite) -> dict[str, str] | None:
    if settings.url is not None:
        return _served(settings, suite)
    if settings.checkpoint is None:
        return None
    from foreact.vla.actors import checkpoint_sha256

    return {"path": str(settings.checkpoint), "sha256": checkpoint_sha256(settings.checkpoint)}


def _served(settings: EvaluateSettings, suite: Suite) -> dict[str, str] | None:
    """What a policy server runs, if it says; whether it fits is found before anything is drawn."""
    from foreact.commands.evaluate_workers import connect_remote
    from foreact.sim.border import find_border, public_contract

    actor = connect_remote(settings, public_contract(suite.contract()))
    try:
        find_border(actor.contract, suite, settings.title)
        return {"path": str(settings.url), "sha256": actor.checkpoint} if actor.checkpoint else None
    finally:
        actor.close()


def _identity(
    settings: EvaluateSettings, checkpoint: dict[str, str] | None, versions: dict[str, str]
) -> dict[str, Any]:
    """All that the outcome of a rollout, or the existence of its video, depends on."""
    config = settings.model_dump(mode="json", include=_DECIDES) | settings.runtime
    if settings.url is not None:
        config["remote"] = settings.remote.model_dump(mode="json", include={"contract", "keys", "image_size", "layout"})
        if checkpoint is None:  # such a server is known by nothing else
            config["url"] = settings.url
    return {**config, "checkpoint_sha256": checkpoint and checkpoint["sha256"], "versions": versions}


def _versions(settings: EvaluateSettings, suite: Suite) -> dict[str, str]:
    """Installed versions of what the outcome may depend on; nothing is imported for it."""
    from foreact import __version__
    from foreact.commands.evaluate_workers import EXPERT
    from foreact.vla.actors import actor_package

    found = {"foreact": __version__, "python": platform.python_version()}
    if settings.actor not in (None, EXPERT, REMOTE):
        found |= actor_package(settings.actor)
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found | suite.versions()


def _renderer(suite: Suite) -> str:
    """What drew the pictures: backend and driver, unless the simulator draws by itself."""
    from foreact.sim.gl_backend import pick_gl_backend
    from foreact.sim.system import gl_renderer

    own = getattr(suite, "renderer", None)
    return own() if own is not None else f"{pick_gl_backend()}: {gl_renderer()}"


def _benchmark(settings: EvaluateSettings) -> dict[str, Any]:
    """What was asked, for the results."""
    env = settings.env.model_dump(mode="json")
    return {"env": env.pop("name"), **env, **settings.benchmark.model_dump(mode="json")}


def _results(
    settings: EvaluateSettings,
    records: Sequence[Record],
    plan: Plan,
    about: About,
    checkpoint: dict[str, str] | None,
    command: str,
    versions: dict[str, str],
    renderer: str,
) -> Results:
    from foreact.vla.failures import failure_kinds, failures
    from foreact.vla.foresight import CHANGE_THRESHOLD
    from foreact.vla.results import (
        ChainRecord,
        Results,
        as_rollouts,
        chains,
        foresight,
        listening,
        success,
        successes_by_task,
    )

    sequences = [record for record in records if isinstance(record, ChainRecord)]
    rollouts = as_rollouts(records)
    return Results(
        actor=settings.name,
        overall=success(rollouts),
        tasks=successes_by_task(rollouts),
        listening=listening(rollouts),
        foresight=foresight(rollouts, change_threshold=CHANGE_THRESHOLD),
        chains=chains(sequences),
        failures=failures(rollouts),
        failure_kinds=failure_kinds(rollouts),
        checkpoint=checkpoint,
        benchmark=_benchmark(settings),
        seeds={"benchmark": settings.seed, "starts": plan.seeds},
        versions=versions,
        gl_renderer=renderer,
        contract=about.contract,
        notes=about.notes,
        command=command,
        rejected_draws=plan.rejected_draws,
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

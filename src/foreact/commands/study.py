"""`foreact study`: train and judge what is missing of a study, and make its tables."""

from __future__ import annotations

import json
import platform
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from filelock import FileLock

from foreact.commands.terminate import orderly_end
from foreact.vla.errors import ConfigError, ForeActError, did_you_mean
from foreact.vla.study import ArmSummary, Row, Study, Training, digest, summarise

app = typer.Typer(
    help="Several ways to train, several seeds, one table.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

_STUDY = Annotated[str, typer.Argument(help="A name in configs/study/, or a YAML file.")]
_RESULTS = Annotated[Path, typer.Option(help="Folder of the ledger: one file per row.")]
_WORK = Annotated[
    Path, typer.Option(help="Folder for data, runs and evaluations, shared by studies; may be thrown away.")
]


@app.command()
def run(
    study: _STUDY,
    results: _RESULTS = Path("results"),
    work: _WORK = Path("runs/study"),
    only: Annotated[list[str] | None, typer.Option(help="An arm; repeat for several.")] = None,
    seeds: Annotated[str, typer.Option(help="Seeds to run, such as 0,1; default: all.")] = "",
    workers: Annotated[int, typer.Option(help="Processes that collect and evaluate.", min=1)] = 2,
    max_rows: Annotated[int | None, typer.Option(help="Stop after so many rows.", min=1)] = None,
) -> None:
    """Run the rows that are missing, one after another. Interrupt it at any time; the same command goes on."""
    plan = load(study)
    for arm in only or ():
        if arm not in plan.arms:
            raise ConfigError(f"study {plan.name} has no arm {arm!r}; {did_you_mean(arm, plan.arms)}")
    wanted_seeds = _seeds(seeds, plan)
    missing = [
        (arm, seed)
        for arm, seed in plan.rows()
        if (not only or arm in only) and seed in wanted_seeds and current_row(plan, results, arm, seed) is None
    ]
    print(f"study {plan.name}: {len(missing)} of {len(plan.rows())} rows to run", flush=True)
    for number, (arm, seed) in enumerate(missing[:max_rows], 1):
        print(f"row {number} of {len(missing)}: {arm}, seed {seed}", flush=True)
        row = run_row(plan, arm, seed, work, workers)
        row.write(row_path(results, plan, arm, seed))


@app.command()
def table(
    study: _STUDY,
    results: _RESULTS = Path("results"),
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """The study's table as Markdown: means, paired differences, intervals; rows that are missing as commands."""
    plan = load(study)
    rows = [row for arm, seed in plan.rows() if (row := current_row(plan, results, arm, seed)) is not None]
    found = summarise(plan, rows)
    if as_json:
        print(json.dumps([summary.model_dump() for summary in found], indent=2))
        return
    print(markdown(plan, rows, found))


@app.command()
def write(
    pages: Annotated[list[Path], typer.Argument(help="Markdown files with marked places: <!-- study: NAME -->.")],
    results: _RESULTS = Path("results"),
    check: Annotated[
        bool, typer.Option(help="Write nothing; exit status 1 if a page is not what the rows say.")
    ] = False,
) -> None:
    """Write the tables of studies into pages, between <!-- study: NAME --> and <!-- end of study -->."""
    stale = []
    for page in pages:
        try:
            before = page.read_text()
        except OSError as error:
            raise ConfigError(f"cannot read {page}: {error.strerror}") from error
        after = _PLACE.sub(lambda found: _placed(found["name"], results), before)
        if after != before and check:
            stale.append(page)
        elif after != before:
            page.write_text(after)
    if stale:
        names = " ".join(map(str, stale))
        print(f"error: {names}: not what {results}/ says; `foreact study write {names}` does it", file=sys.stderr)
        raise typer.Exit(1)


_PLACE = re.compile(r"<!-- study: (?P<name>\w+) -->.*?<!-- end of study -->", re.DOTALL)


def _placed(name: str, results: Path) -> str:
    plan = load(name)
    rows = [row for arm, seed in plan.rows() if (row := current_row(plan, results, arm, seed)) is not None]
    return f"<!-- study: {name} -->\n{markdown(plan, rows, summarise(plan, rows))}\n<!-- end of study -->"


@app.command()
def commands(study: _STUDY, work: _WORK = Path("runs/study")) -> None:
    """Everything that the study runs, as shell commands."""
    plan = load(study)
    for arm, seed in plan.rows():
        print(f"# {arm}, seed {seed}")
        for argv in row_commands(plan, arm, seed, work, workers=2):
            print(shlex.join(["foreact", *argv]))


def load(study: str) -> Study:
    """The study of that name or file.

    Raises:
        ConfigError: If there is none, or it is not valid.
    """
    from importlib.resources import files

    path = Path(study)
    if path.suffix != ".yaml":
        folder = Path(str(files("foreact.configs"))) / "study"
        known = sorted(p.stem for p in folder.glob("*.yaml"))
        if study not in known:
            raise ConfigError(f"no study {study!r}; {did_you_mean(study, known)}")
        path = folder / f"{study}.yaml"
    return Study.load(path)


def row_path(results: Path, study: Study, arm: str, seed: int) -> Path:
    """Where a row lies."""
    return results / study.name / f"{arm}-{seed}.json"


def current_row(study: Study, results: Path, arm: str, seed: int) -> Row | None:
    """The row, if there is one and it was made with the study's present settings."""
    path = row_path(results, study, arm, seed)
    if not path.exists():
        return None
    row = Row.read(path)
    return row if row.identity == study.identity(arm, seed) else None


def row_commands(study: Study, arm: str, seed: int, work: Path, workers: int) -> list[list[str]]:
    """What a row runs, in order: `collect`, `train`, `evaluate`, each with its settings."""
    trainings = study.trainings(arm, seed)
    out: list[list[str]] = []
    for training in trainings:
        for name, recipe in training.data.items():
            words = [_driver(word, work) for word in recipe]
            collect = ["collect", *words, f"out={_data_folder(work, name, recipe)}", f"workers={workers}"]
            out += [collect] if collect not in out else []
        out.append(_train(training, work))
    last = trainings[-1]
    checkpoint, folder = _run_folder(work, last) / "policy", _run_folder(work, last) / "evaluate"
    out.append(["evaluate", f"checkpoint={checkpoint}", *study.evaluate, f"workers={workers}", f"out={folder}"])
    return out


def run_row(study: Study, arm: str, seed: int, work: Path, workers: int) -> Row:
    """Run one row; what an interrupted run has left is gone on with.

    Raises:
        ForeActError: If one of its commands fails; its log is named.
    """
    trainings = study.trainings(arm, seed)
    folder = _run_folder(work, trainings[-1])
    argvs = row_commands(study, arm, seed, work, workers)
    began = time.monotonic()
    for argv in argvs:
        out = next(Path(word.removeprefix("out=")) for word in argv if word.startswith("out="))
        out.parent.mkdir(parents=True, exist_ok=True)
        # Another `study run` beside this one may be at the same data or the same pretraining: wait for it.
        with FileLock(out.parent / f"{out.name}.lock"):
            if argv[0] == "train" and _finished(out):
                continue
            began = time.monotonic()
            _call(argv, out if argv[0] == "train" else folder)
            if argv[0] == "train":
                (out / _DONE).touch()
    return Row(
        study=study.name,
        arm=arm,
        seed=seed,
        identity=study.identity(arm, seed),
        commands=tuple(shlex.join(["foreact", *argv]) for argv in argvs),
        stages={training.name: _stage_facts(_run_folder(work, training)) for training in trainings},
        machine=_machine(),
        evaluate_hours=round((time.monotonic() - began) / 3600, 3),
        **_judged(folder / "evaluate"),
    )


_DONE = "study-done"


def _finished(folder: Path) -> bool:
    return (folder / _DONE).exists()


def _train(training: Training, work: Path) -> list[str]:
    data = ",".join(str(_data_folder(work, *named)) for named in training.data.items())
    before = training.begins_with
    begins = [f"init_from={_run_folder(work, before) / 'policy'}"] if before else []
    settings = [*training.settings, f"data.path=[{data}]", *begins, "resume=true"]
    return ["train", *settings, f"out={_run_folder(work, training)}"]


def _data_folder(work: Path, name: str, recipe: tuple[str, ...]) -> Path:
    return work / "data" / f"{name}-{digest(list(recipe))[:8]}"


def _run_folder(work: Path, training: Training) -> Path:
    return work / "runs" / training.folder


def _driver(word: str, work: Path) -> str:
    """`driver=TRAINING` with the folder of its policy."""
    return f"driver={work / 'runs' / word.removeprefix('driver=') / 'policy'}" if word.startswith("driver=") else word


def _call(argv: list[str], folder: Path) -> None:
    """Run one command of ours in a process of its own; its words go to a log."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder.parent / f"{folder.name}-{argv[0]}.log"
    print(f"  {shlex.join(['foreact', *argv])}\n  log: {log}", flush=True)
    with (
        log.open("a") as out,
        orderly_end(f"what is done in {folder.parent} is kept; the same command goes on"),
        subprocess.Popen(
            [sys.executable, "-m", "foreact.commands.main", *argv], stdout=out, stderr=subprocess.STDOUT
        ) as child,
    ):
        try:
            status = child.wait()
        except BaseException:  # it writes its checkpoint first
            child.terminate()
            child.wait()
            raise
    if status:
        last = "\n".join(log.read_text().splitlines()[-5:])
        raise ForeActError(f"foreact {argv[0]} ended with status {status}; {log} ends with:\n{last}")


def _stage_facts(folder: Path) -> dict[str, Any]:
    """Steps, hours and the last validation, from a run's log."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    train = [line for line in lines if line["kind"] == "train"]
    validation = [line for line in lines if line["kind"] == "validation"]
    facts: dict[str, Any] = {"steps": train[-1]["step"], "hours": round(train[-1]["hours"], 4)}
    if validation:
        facts["validation"] = {k: v for k, v in validation[-1].items() if k not in ("kind", "step", "time")}
    return facts


def _judged(folder: Path) -> dict[str, Any]:
    """What a row takes from an evaluation."""
    from foreact.vla.results import read_chains, read_results, read_rollouts

    found = read_results(folder / "results.json")
    dumped = found.model_dump(mode="json")
    results = {key: dumped[key] for key in ("overall", "tasks", "chains", "listening", "foresight", "benchmark")}
    assert found.checkpoint is not None
    chains = read_chains(folder / "chains.jsonl")
    if chains:
        unit, outcomes = "chain", sorted((chain.chain, float(chain.length)) for chain in chains)
    else:
        by_start: dict[int, list[bool]] = {}
        for rollout in read_rollouts(folder / "rollouts.jsonl"):
            by_start.setdefault(rollout.start, []).append(rollout.success)
        unit, outcomes = "start", sorted((start, sum(won) / len(won)) for start, won in by_start.items())
    return {
        "results": results,
        "unit": unit,
        "outcomes": tuple(outcomes),
        "checkpoint_sha256": found.checkpoint["sha256"],
    }


def _machine() -> dict[str, str]:
    import os

    import torch

    return {
        "processor": platform.processor() or platform.machine(),
        "cores": str(os.cpu_count()),
        "device": torch.cuda.get_device_name(0) if torch.cuda.is_available() else "cpu",
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _seeds(text: str, study: Study) -> set[int]:
    if not text:
        return set(study.seeds)
    try:
        seeds = {int(word) for word in text.split(",")}
    except ValueError:
        raise ConfigError(f"--seeds takes whole numbers with commas, such as 0,1; found {text!r}") from None
    if unknown := seeds - set(study.seeds):
        raise ConfigError(f"study {study.name} has the seeds {list(study.seeds)}, not {sorted(unknown)}")
    return seeds


def markdown(study: Study, rows: list[Row], found: list[ArmSummary]) -> str:
    """The table, and what is missing."""
    what = "average length" if rows and rows[0].unit == "chain" else "success"
    units = sorted({len(row.outcomes) for row in rows})
    pairs = f"{rows[0].unit}s" if rows else "pairs"
    lines = [
        f"{study.question} {' or '.join(map(str, units))} {pairs} per row."
        if rows
        else f"{study.question} no row yet.",
        "",
    ]
    if rows:
        lines += _table(study, found, what, pairs)
    name, there = study.name, {(row.arm, row.seed) for row in rows}
    lines.append(f"`foreact study run {name}` runs what is missing; `foreact study commands {name}` prints each step.")
    missing: dict[str, list[str]] = {}
    for arm, seed in study.rows():
        if (arm, seed) not in there:
            missing.setdefault(arm, []).append(str(seed))
    if missing:
        arms = "; ".join(f"`{arm}` with seed {', '.join(seeds)}" for arm, seeds in missing.items())
        lines.append(f"Not run ({sum(map(len, missing.values()))} of {len(study.rows())} rows): {arms}.")
    return "\n".join(lines)


def _table(study: Study, found: list[ArmSummary], what: str, pairs: str) -> list[str]:
    lines = [
        f"| arm | seeds | {what} (95 %) | against `{study.against}` | 95 %, seeds and {pairs} "
        "| 95 %, these policies | held-out arm error | hours |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for summary in found:
        cells = [f"`{summary.arm}`", str(len(summary.seeds)), f"{summary.mean:.3f} ({_range(summary.ci95, '')})"]
        if summary.difference is None:
            cells += ["", "", ""]
        else:
            cells.append(f"{summary.difference:+.3f}")
            # Of one seed alone, nothing is known about another.
            cells.append(_range(summary.difference_ci95, "+") if summary.difference_ci95 else "one seed")
            cells.append(_range(summary.difference_ci95_given, "+"))
        error = "" if summary.arm_error is None else f"{summary.arm_error:.4f}"
        lines.append("| " + " | ".join([*cells, error, f"{summary.hours:.2f}"]) + " |")
    return [*lines, ""]


def _range(interval: tuple[float, float] | None, sign: str) -> str:
    assert interval is not None
    return " .. ".join(f"{value:{sign}.3f}" for value in interval)

"""`foreact evaluate`, from settings to files: resumable, the same however it is sharded, clear about mistakes."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

from foreact.commands.main import app, run
from foreact.vla.results import RolloutRecord, read_results, read_rollouts

EXAMPLE = Path(__file__).parents[2] / "examples" / "my_actor"
SMALL = (
    "benchmark.tasks=[open_drawer,turn_on_led,move_slider_left]",
    "benchmark.starts_per_task=1",
    "benchmark.max_steps=20",
    "workers=0",
    "videos_per_task=0",
)


def _run(*words: str) -> int:
    return run(app, ["evaluate", *words])


def _outcomes(folder: Path) -> dict[tuple[int, str], RolloutRecord]:
    return {r.key: r.model_copy(update={"wall_s": 0.0}) for r in read_rollouts(folder / "rollouts.jsonl")}


def test_results_do_not_depend_on_workers_and_survive_a_kill(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone, sharded = tmp_path / "alone", tmp_path / "sharded"
    words = ("actor=random", "seed=3", *SMALL)
    assert _run(*words, f"out={alone}", "envs_per_worker=1") == 0
    assert _run(*words, f"out={sharded}", "workers=2", "envs_per_worker=2", "--json") == 0
    printed = json.loads(capsys.readouterr().out.split("\n{", 1)[-1].join(["{", ""]))
    assert _outcomes(alone) == _outcomes(sharded) and len(_outcomes(alone)) >= 3
    whole = read_results(alone / "results.json")
    assert printed["overall"] == json.loads((sharded / "results.json").read_text())["overall"]
    assert whole.overall.n == len(_outcomes(alone)) == sum(t.n for t in whole.tasks.values())
    assert whole.seeds["benchmark"] == 3 and whole.versions["mujoco"] and whole.gl_renderer
    assert whole.contract["embodiment"] == "panda_long_finger" and "seed=3" in whole.command
    assert whole.checkpoint is None and whole.listening.n_tasks_per_start == 2

    # A kill in the middle of the third line: two rollouts are kept, the others are done again.
    path = alone / "rollouts.jsonl"
    before, lines = _outcomes(alone), path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:2]) + lines[2][:30])
    (alone / "results.json").unlink()
    assert _run(*words, f"out={alone}", "envs_per_worker=2") == 0
    assert path.read_text().splitlines(keepends=True)[:2] == lines[:2]
    assert _outcomes(alone) == before
    again = read_results(alone / "results.json")
    assert again.n_resumed == 2 and again.overall == whole.overall and again.tasks == whole.tasks

    # Other settings are refused, each difference named; nothing is changed.
    capsys.readouterr()
    assert _run(*words, f"out={alone}", "seed=4", "benchmark.max_steps=21") == 1
    error = capsys.readouterr().err
    assert "seed: 3 there, 4 now" in error and "benchmark.max_steps: 20 there, 21 now" in error
    assert "Traceback" not in error and _outcomes(alone) == before
    assert _run(*words, f"out={alone}", "resume=false") == 1
    assert "already holds" in capsys.readouterr().err
    with (alone / "rollouts.jsonl").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert _run(*words, f"out={alone}") == 1
    assert "another evaluation" in capsys.readouterr().err


def test_videos_and_report_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("actor=zero", *SMALL, "videos_per_task=1", "benchmark.max_steps=5", "benchmark.language=training")
    assert _run(*words, "failure_videos=0", f"out={tmp_path}") == 0
    recorded = [r for r in read_rollouts(tmp_path / "rollouts.jsonl") if r.video]
    assert sorted(r.task for r in recorded) == ["move_slider_left", "open_drawer", "turn_on_led"]
    for record in recorded:
        assert record.video and (tmp_path / record.video).stat().st_size > 1000
    assert (tmp_path / "report.html").read_text().count("data:video/mp4;base64,") == 3
    shown = capsys.readouterr().out
    assert "open_drawer" in shown and "0 %" in shown and "report.html" in shown


@pytest.mark.parametrize(
    ("words", "status", "needed"),
    [
        ((), 2, "checkpoint=DIR or actor=NAME"),
        (("actor=zero", "checkpoint=x"), 2, "checkpoint=DIR or actor=NAME"),
        (("actor=zeor",), 2, "did you mean 'zero'"),
        (("checkpoint={tmp}/none",), 1, "does not exist"),
        (("checkpoint={tmp}",), 1, "has no manifest.json"),
        (("actor=zero", "benchmark.tasks=[open_drawr]"), 2, "did you mean 'open_drawer'"),
        (("actor=zero", "env.scene=E"), 2, "'E'"),
        (("actor=zero", "env=moon"), 2, "env/moon"),
        (("actor=zero", "env.rules=2021"), 2, "2022-12"),
        (("actor=zero", "benchmark.tasks=al"), 2, "did you mean 'all'"),
        (("actor=zero", "benchmark=calvin_chains", "env.scene=A", "-"), 2, "benchmark.chain_list=generated"),
        (("actor=zero", "benchmark=calvin_chains", "benchmark.tasks=fixtures", "-"), 2, "need chain_list=generated"),
        (("actor=zero", "benchmark=fixture_chains", "benchmark.length=4", "-"), 2, "no chain of 4 of these tasks"),
        (("actor=zero", "benchmark=calvin_chains", "benchmark.chains=1001", "-"), 2, "the official list has 1000"),
        (("actor=zero", "benchmark.max_stesp=3"), 2, "max_stesp"),
        (("actor=zero", "benchmark.max_steps=0"), 2, "benchmark.max_steps: Input should be greater than 0"),
        (("actor=zero", "device=gpu"), 2, "device"),
        (("actor=zero", "benchmark.tasks=[open_drawer]"), 1, "tasks_per_start"),
        (("actor=zero", "out={tmp}/file/x"), 1, "cannot write results"),
        (("actor=zero", "seed=["), 2, "cannot read 'seed=['"),
    ],
)
def test_a_mistake_is_one_clear_error(
    words: tuple[str, ...], status: int, needed: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    given = [word.format(tmp=tmp_path) for word in words]
    if not any(word.startswith("out=") for word in given):
        given.append(f"out={tmp_path / 'out'}")
    if "-" in given:  # settings of single tasks do not go with chains
        given = [word for word in given if word != "-"] + ["workers=0", "videos_per_task=0"]
    else:
        given += _missing(given)
    assert _run(*given) == status
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("error: ") == 1 and needed in error
    assert "Traceback" not in error and not (tmp_path / "out" / "results.json").exists()


def _missing(given: list[str]) -> list[str]:
    """The settings of a small evaluation that are not given."""
    return [word for word in SMALL if word.split("=")[0] not in {w.split("=")[0] for w in given}]


def _install(folder: Path, module: Path, name: str, value: str) -> dict[str, str]:
    """Put a module and its entry point where an installer would; the environment of a process that finds them."""
    info = folder / "theirs-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[foreact.actors]\n{name} = {value}\n")
    shutil.copy(module, folder)
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), *sys.path])}


def _evaluate(environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "foreact.commands.main", "evaluate", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=150, check=False, env=environment)


def test_the_example_of_somebody_elses_policy_opens_drawers_and_does_not_listen(tmp_path: Path) -> None:
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    ((name, value),) = project["entry-points"]["foreact.actors"].items()
    assert len((EXAMPLE / "my_actor.py").read_text().splitlines()) <= 35
    environment = _install(tmp_path / "site", EXAMPLE / "my_actor.py", name, value)
    words = (f"actor={name}", "benchmark.tasks=[open_drawer,turn_on_led]", "benchmark.starts_per_task=2", "workers=1")
    done = _evaluate(environment, *words, "videos_per_task=0", f"out={tmp_path / 'out'}", "--json")
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)  # nothing but JSON on standard output
    assert results["tasks"]["open_drawer"]["success_rate"] == 1.0
    assert results["tasks"]["turn_on_led"]["success_rate"] == 0.0
    assert results["listening"]["other_task_rate"] == 0.5  # it opened the drawer when asked for the light
    assert results["versions"]["theirs"] == "1.0"
    assert results["notes"] == ["state: take 3 of 15 numbers"]


def test_an_interrupted_evaluation_says_how_to_go_on(tmp_path: Path) -> None:
    words = ("actor=zero", "benchmark.max_steps=40", "videos_per_task=0", "workers=1", f"out={tmp_path}")
    command = [sys.executable, "-m", "foreact.commands.main", "evaluate", *words]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}

    def mind_ctrl_c() -> None:
        # A shell's background jobs ignore SIGINT, and so would their children.
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, preexec_fn=mind_ctrl_c
    )
    deadline = time.monotonic() + 100
    while not read_rollouts(tmp_path / "rollouts.jsonl") and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130 and "run the same command again to go on" in error and "Traceback" not in error
    assert 0 < len(read_rollouts(tmp_path / "rollouts.jsonl")) < 400


BAD_ACTOR = """
import os, signal
class Dies:
    execute_steps = 1
    def __init__(self, contract): self.contract = contract.model_copy(update={"cameras": ()})
    def reset(self, slots): os.kill(os.getpid(), signal.SIGKILL)
    def observe(self, observation): pass
    def plan(self, observation, *, foresight=False): raise RuntimeError
"""


def test_a_worker_that_is_killed_ends_the_evaluation_with_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "dies.py").write_text(BAD_ACTOR)
    environment = _install(tmp_path / "site", tmp_path / "dies.py", "dies", "dies:Dies")
    # As many jobs as a real evaluation, so that most are still unfetched when the worker dies.
    many = [word for word in SMALL if "starts_per_task" not in word]
    done = _evaluate(environment, "actor=dies", *many, "workers=2", f"out={tmp_path / 'out'}")
    assert done.returncode == 1 and "was ended by SIGKILL" in done.stderr and "Traceback" not in done.stderr

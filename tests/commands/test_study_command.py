"""`foreact study`: what it would run is valid, and a tiny study runs from collection to its table."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from foreact.commands.hydra_config import compose
from foreact.commands.main import app, run
from foreact.commands.study import load, row_commands
from foreact.vla.study import Row

STUDIES = sorted(p.stem for p in (Path(__file__).parents[2] / "configs" / "study").glob("*.yaml"))
SMALL = [
    "policy=foreact_debug", "trainer.max_steps=2", "trainer.validate_batches=1", "trainer.precision=fp32",
    "trainer.threads=1", "trainer.batch_size=4", "trainer.warmup_steps=0", "trainer.tensorboard=false",
]  # fmt: skip
TINY = {
    "name": "tiny",
    "question": "Does it run?",
    "seeds": [0],
    "data": {"desk": ["tasks=[turn_on_led]", "episodes_per_task=6"]},
    "stages": {"train": {"data": ["desk"], "settings": [*SMALL, "data.holdout=0.3"]}},
    "evaluate": [
        "benchmark=fixture_tasks", "benchmark.tasks=[turn_on_led]", "benchmark.starts_per_task=1",
        "benchmark.tasks_per_start=1", "benchmark.max_steps=4", "videos_per_task=0", "foresight=false",
    ],
    "arms": {"plain": {}, "no_video": {"settings": {"train": ["policy.foresight_weight=0.0"]}}},
    "against": "plain",
}  # fmt: skip


@pytest.mark.parametrize("name", STUDIES)
def test_every_command_of_a_study_has_valid_settings(name: str) -> None:
    study = load(name)
    assert study.name == name
    for arm in study.arms:
        for command, *settings in row_commands(study, arm, study.seeds[0], Path("runs/study"), workers=2):
            compose(command, settings)


def test_a_tiny_study_runs_to_its_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(TINY, sort_keys=False))
    results = ["--results", str(tmp_path / "results")]
    words = ["study", "run", str(file), *results, "--work", str(tmp_path / "work"), "--workers", "1"]
    beside = subprocess.Popen([sys.executable, "-m", "foreact.commands.main", *words, "--only", "plain"])
    assert run(app, [*words, "--only", "no_video"]) == 0  # side by side: one waits while the other collects
    assert beside.wait() == 0
    (tmp_path / "results" / "tiny" / "no_video-0.json").unlink()
    assert run(app, ["study", "table", str(file), *results]) == 0
    shown = capsys.readouterr().out
    assert "Not run (1 of 2 rows): `no_video` with seed 0." in shown
    assert "Does it run? 1 starts per row." in shown and "95 %, seeds and starts" in shown
    assert run(app, [*words, "--max-rows", "1"]) == 0
    assert "1 of 2 rows to run" in capsys.readouterr().out
    row = Row.read(tmp_path / "results" / "tiny" / "no_video-0.json")
    assert row.stages["train"]["steps"] == 2 and row.unit == "start" and len(row.outcomes) == 1
    assert any("policy.foresight_weight=0.0" in command for command in row.commands)
    assert run(app, ["study", "table", str(file), *results, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [summary["arm"] for summary in found] == ["plain", "no_video"] and found[1]["difference"] is not None

    file.write_text(yaml.safe_dump({**TINY, "evaluate": [*TINY["evaluate"], "seed=1"]}, sort_keys=False))
    assert run(app, ["study", "table", str(file), *results]) == 0
    assert "Not run (2 of 2 rows)" in capsys.readouterr().out  # rows of other settings do not count


def test_a_policy_drives_what_a_later_stage_learns_from(tmp_path: Path) -> None:
    corrections = ["driver=train", "tasks=[turn_on_led]", "episodes_per_task=6", "driver_steps=[2,4]", "seed=1"]
    again = {"data": ["desk", "corrections"], "settings": [*SMALL, "data.holdout=0.3"], "begins_with": "train"}
    plan = {
        **TINY, "data": {**TINY["data"], "corrections": corrections}, "stages": {**TINY["stages"], "again": again},
        "arms": {"plain": {}},
    }  # fmt: skip
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(plan, sort_keys=False))
    words = ["--results", str(tmp_path / "results"), "--work", str(tmp_path / "work"), "--workers", "1"]
    assert run(app, ["study", "run", str(file), *words]) == 0
    row = Row.read(tmp_path / "results" / "tiny" / "plain-0.json")
    kinds = [command.split()[1] for command in row.commands]
    assert kinds == ["collect", "train", "collect", "train", "evaluate"]
    (driven,) = (path for path in (tmp_path / "work" / "data").glob("corrections-*") if path.is_dir())
    recipe = json.loads((driven / "recipe.json").read_bytes())
    trained = next(path for path in (tmp_path / "work" / "runs").glob("train-*") if path.is_dir())
    assert f"driver={trained / 'policy'}" in recipe["command"]
    from foreact.vla.actors import checkpoint_sha256

    assert recipe["versions"]["driver"] == checkpoint_sha256(trained / "policy")


def test_pages_say_what_the_rows_say(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = Path(__file__).parents[2]
    pages = [str(root / "RESULTS.md"), str(root / "docs" / "parts.md")]
    assert run(app, ["study", "write", "--check", *pages, "--results", str(root / "results")]) == 0
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- study: parts -->\nstale words\n<!-- end of study -->\nafter\n")
    words = ["study", "write", str(page), "--results", str(tmp_path / "none")]
    assert run(app, [*words, "--check"]) == 1
    assert "not what" in capsys.readouterr().err and "stale words" in page.read_text()
    assert run(app, words) == 0 and run(app, [*words, "--check"]) == 0
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "stale words" not in text
    assert "no row yet" in text and f"Not run ({len(load('parts').rows())} of" in text
    assert run(app, ["study", "write", str(tmp_path / "gone.md")]) == 2


def test_mistakes_are_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(app, ["study", "table", "prats"]) == 2
    assert "did you mean 'parts'" in capsys.readouterr().err
    assert run(app, ["study", "run", "parts", "--only", "flwo"]) == 2
    assert "did you mean 'flow'" in capsys.readouterr().err
    assert run(app, ["study", "run", "parts", "--seeds", "one", "--results", str(tmp_path)]) == 2
    assert "whole numbers" in capsys.readouterr().err

"""`foreact demo` asks for what it says, and says what it found: numbers, and which chain of how many is in the film."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from foreact.commands.demo import demo_settings
from foreact.commands.demo_page import rows, write_demo
from foreact.commands.evaluate_settings import EvaluateSettings
from foreact.commands.main import app, run
from foreact.vla.results import read_chains, read_results


def test_the_demo_evaluates_fixture_tasks_and_official_chains(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[EvaluateSettings] = []

    def note(settings: EvaluateSettings, **_: object) -> None:
        asked.append(settings)  # what an evaluation does is tested elsewhere

    monkeypatch.setattr("foreact.commands.evaluate.evaluate", note)
    monkeypatch.setattr("foreact.commands.demo_page.write_demo", lambda *_: None)
    monkeypatch.setattr("foreact.commands.demo_page.print_demo", lambda *_: None)
    words = ["--checkpoint", "somewhere", "--starts-per-task", "3", "--chains", "7", "--out", "there"]
    assert run(app, ["demo", *words]) == 0
    fixtures, chains = asked
    bench = fixtures.benchmark
    assert bench.kind == "tasks" and bench.tasks == "fixtures" and bench.starts_per_task == 3
    assert chains.benchmark.kind == "chains" and chains.benchmark.chain_list == "official"
    assert chains.benchmark.chains == 7 and chains.benchmark.max_steps == 360 and chains.best_video
    assert (fixtures.folder, chains.folder) == (Path("there/fixtures"), Path("there/chains"))


def test_the_page_shows_the_best_chain_and_says_so(tmp_path: Path) -> None:
    """A demo of experts that have too little time for most tasks."""
    fixtures, chains = demo_settings(Path("unused"), tmp_path, workers=1, starts=1, chains=3)
    for settings, words in (
        (fixtures, ("benchmark.tasks=[open_drawer,turn_on_led]", "benchmark.starts_per_task=1", "videos_per_task=0")),
        (chains, ("benchmark=calvin_chains", "benchmark.chains=3", "best_video=true", "videos_per_task=0")),
    ):
        more = ("workers=0", "benchmark.max_steps=40", f"out={settings.folder}")
        assert run(app, ["evaluate", "actor=expert", *words, *more]) == 0
    single, in_a_row = (read_results(tmp_path / name / "results.json") for name in ("fixtures", "chains"))
    shown = write_demo(tmp_path, single, in_a_row)
    records = read_chains(tmp_path / "chains" / "chains.jsonl")
    best = max(record.length for record in records)
    average = sum(record.length for record in records) / 3
    assert shown is not None and (shown.solved, shown.n, shown.tasks) == (best, 3, 5)
    assert [r.length for r in records if r.chain == shown.chain] == [best]
    assert str(shown).endswith(f"the best of 3; their average was {average:.2f}")
    film = tmp_path / "chains" / in_a_row.films[0].video
    assert (tmp_path / "film.mp4").read_bytes() == film.read_bytes()
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:video/mp4;base64,") == 1 and str(shown) in page and "chains/report.html" in page
    found = {what: (result, interval, n) for what, result, interval, n in rows(single, in_a_row)}
    length = found["chains of five tasks: average length"]
    assert length[0] == f"{average:.2f}" and length[2] == "3" and " - " in length[1]
    assert found["the eight fixture tasks"] == ("100 %", "21 - 100 %", "2")
    assert json.loads((tmp_path / "chains" / "results.json").read_text())["chains"]["n"] == 3

"""`foreact evaluate benchmark=calvin_chains`: the same numbers alone, in company and in several processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from foreact.commands.main import app, run
from foreact.sim.chains import official_chains
from foreact.sim.language import LANGUAGES, task_of
from foreact.vla.intervals import bootstrap_mean
from foreact.vla.results import ChainRecord, read_chains, read_results

SHIPPED = Path(__file__).parents[2] / "checkpoints" / "foreact_desk"
QUICK = ("benchmark=calvin_chains", "videos_per_task=0")


def _run(*words: str) -> int:
    return run(app, ["evaluate", *QUICK, *words])


def _outcomes(folder: Path) -> list[ChainRecord]:
    records = sorted(read_chains(folder / "chains.jsonl"), key=lambda record: record.chain)
    return [record.model_copy(update={"wall_s": 0.0}) for record in records]


def _without_times(folder: Path) -> dict[str, object]:
    results = json.loads((folder / "results.json").read_text())
    return {key: value for key, value in results.items() if key not in ("wall_s", "command", "n_resumed")}


def test_experts_solve_chains_alike_however_they_are_shared_out(tmp_path: Path) -> None:
    words = ("actor=expert", "benchmark.chains=6")
    assert _run(*words, "workers=0", "envs_per_worker=1", f"out={tmp_path / 'one'}") == 0
    assert _run(*words, "workers=2", "envs_per_worker=2", f"out={tmp_path / 'two'}") == 0
    assert _without_times(tmp_path / "one") == _without_times(tmp_path / "two")
    records = _outcomes(tmp_path / "one")
    assert [record.tasks for record in records] == [chain.tasks for chain in official_chains()[:6]]
    for record in records:
        assert [attempt.task for attempt in record.attempts] == list(record.tasks[: len(record.attempts)])
        assert all(attempt.success for attempt in record.attempts[:-1])
        assert all(task_of(attempt.instruction) == attempt.task for attempt in record.attempts)
        assert all(bool(attempt.reason) != attempt.success for attempt in record.attempts)
    found = read_results(tmp_path / "one" / "results.json")
    lengths = [record.length for record in records]
    assert found.chains is not None and found.chains.average_length == pytest.approx(sum(lengths) / 6)
    assert found.chains.average_length >= 3
    assert found.chains.ci95 == bootstrap_mean(lengths)
    assert found.overall.n == sum(len(record.attempts) for record in records)
    listed = (tmp_path / "one" / "failures.tsv").read_text().splitlines()[1:]
    assert len(listed) == sum(not record.attempts[-1].success for record in records)

    # A kill in the middle of the fourth chain's line: three are kept, the others done again with the same outcome.
    path = tmp_path / "one" / "chains.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:3]) + lines[3][:40])
    assert _run(*words, "workers=0", "envs_per_worker=3", f"out={tmp_path / 'one'}") == 0
    assert path.read_text().splitlines(keepends=True)[:3] == lines[:3]
    assert _outcomes(tmp_path / "one") == records


def test_a_trained_policy_does_the_same_alone_and_in_company(tmp_path: Path) -> None:
    words = (f"checkpoint={SHIPPED}", "benchmark.max_steps=25", "workers=0")
    assert _run(*words, "benchmark.chains=1", "envs_per_worker=1", f"out={tmp_path / 'alone'}") == 0
    assert _run(*words, "benchmark.chains=4", "envs_per_worker=4", f"out={tmp_path / 'company'}") == 0
    (alone,), company = _outcomes(tmp_path / "alone"), _outcomes(tmp_path / "company")
    assert company[0] == alone and len(company) == 4


def test_other_scenes_have_chains_of_their_own(tmp_path: Path) -> None:
    words = ("actor=zero", "env.scene=B", "benchmark.chain_list=generated", "benchmark.chains=3")
    for language in LANGUAGES:
        out = tmp_path / language
        more = ("benchmark.max_steps=2", f"benchmark.language={language}", "workers=0", f"out={out}")
        assert _run(*words, *more) == 0
        records = _outcomes(out)
        assert len(records) == 3 and all(task_of(r.attempts[0].instruction) == r.tasks[0] for r in records)
        assert read_results(out / "results.json").benchmark["scene"] == "B"


def test_a_recorded_chain_is_one_film_with_every_instruction(tmp_path: Path) -> None:
    words = ("actor=expert", "benchmark.chains=2", "workers=0", f"out={tmp_path}")
    assert _run(*words, "videos_per_task=1", "failure_videos=0") == 0
    first, second = _outcomes(tmp_path)
    assert first.video == "videos/chain-0000.mp4" and second.video is None
    assert (tmp_path / "videos" / "chain-0000.mp4").stat().st_size > 10_000
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:video/mp4;base64,") == 1 and "Average length" in page
    assert all(attempt.instruction in page for attempt in first.attempts)

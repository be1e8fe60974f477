"""Films of an evaluation's failures and of its best chain: the right ones, made once, none where none are wanted."""

from __future__ import annotations

from pathlib import Path

import pytest

from foreact.commands import evaluate_films
from foreact.commands.evaluate_films import Filmed, film_jobs, pick_films, went_alike
from foreact.commands.evaluate_settings import EvaluateSettings
from foreact.commands.main import app, run
from foreact.sim.failure_kinds import IMPOSSIBLE, OTHER, UNTOUCHED
from foreact.sim.rollout import Job
from foreact.vla.failures import UNKNOWN_KIND, failure_kinds
from foreact.vla.results import ChainAttempt, ChainRecord, RolloutRecord, as_rollouts, read_chains, read_results

SMALL = ("benchmark.tasks=[open_drawer,turn_on_led,move_slider_left]", "benchmark.starts_per_task=2", "workers=0")
NO_WAIT = "benchmark.max_steps=8"


def _run(*words: str) -> int:
    return run(app, ["evaluate", *words])


def _record(start: int, task: str, kind: str = UNTOUCHED, video: str | None = None) -> RolloutRecord:
    return RolloutRecord(
        start=start, start_seed=start, task=task, instruction=task, success=not kind, steps=9, kind=kind, video=video
    )


def _chain(index: int, *steps: int, tasks: tuple[str, ...] = ("a", "b", "c")) -> ChainRecord:
    """Solved in these steps, one after another; then, unless it is whole, a failure."""
    attempts = [ChainAttempt(task=t, instruction=t, success=True, steps=s) for t, s in zip(tasks, steps, strict=False)]
    if len(steps) < len(tasks):
        task = tasks[len(steps)]
        attempts.append(ChainAttempt(task=task, instruction=task, success=False, steps=360, kind=UNTOUCHED))
    return ChainRecord(chain=index, seed=index, tasks=tasks, attempts=tuple(attempts))


def _settings(**more: object) -> EvaluateSettings:
    return EvaluateSettings.parse({"actor": "zero", **more})


def test_the_tasks_that_fail_most_come_first_and_kinds_take_turns() -> None:
    records = [
        _record(0, "rare"),
        *(_record(i, "often", IMPOSSIBLE) for i in range(4)),
        *(_record(i, "often", OTHER) for i in range(4, 6)),
        _record(6, "often", UNTOUCHED),
        *(_record(i, "twice", UNTOUCHED) for i in (7, 8)),
        _record(9, "twice", ""),
    ]
    found = pick_films(_settings(failure_videos=9), records)
    assert [(f.task, f.index) for f in found] == [
        ("often", 4), ("twice", 7), ("rare", 0), ("often", 6), ("twice", 8), ("often", 0), ("often", 5), ("often", 1),
        ("often", 2),
    ]  # fmt: skip
    assert pick_films(_settings(failure_videos=9), records[::-1]) == found
    assert pick_films(_settings(failure_videos=2), records) == found[:2]
    assert pick_films(_settings(failure_videos=0), records) == []
    assert failure_kinds(records) == {
        "often": {IMPOSSIBLE: 4, OTHER: 2, UNTOUCHED: 1}, "twice": {UNTOUCHED: 2}, "rare": {UNTOUCHED: 1},
    }  # fmt: skip
    assert list(failure_kinds(records)) == ["often", "twice", "rare"]
    old = RolloutRecord(start=0, start_seed=0, task="a", instruction="a", success=False, steps=9)
    assert failure_kinds([old]) == {"a": {UNKNOWN_KIND: 1}}


def test_what_is_recorded_already_is_not_done_again(tmp_path: Path) -> None:
    records = [_record(0, "a"), _record(1, "a", video="videos/a-0001.mp4")]
    films = pick_films(_settings(failure_videos=2), records)
    assert [f.video for f in films] == ["videos/a-0001.mp4", "videos/again-a-0000.mp4"]
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "a-0001.mp4").touch()
    jobs = [Job(index=i, seed=i, tasks=("a",), instructions=("a",)) for i in range(2)]
    (job,) = film_jobs(films, jobs, tmp_path, chain=False)
    assert job.index == 0 and job.record and not jobs[0].record


def test_the_best_chain_is_the_longest_then_the_quickest(tmp_path: Path) -> None:
    records = [_chain(0, 5), _chain(1, 9, 9), _chain(2, 9, 8), _chain(3)]
    bench = {"kind": "chains"}
    settings = _settings(benchmark=bench, best_video=True, failure_videos=1)
    best, failure = pick_films(settings, records)
    assert (best.shows, best.index, best.at) == ("best chain", 2, 2)
    assert (failure.shows, failure.task, failure.index, failure.at) == ("failure", "c", 1, 2)
    jobs = [Job(index=i, seed=i, tasks=("a", "b", "c"), instructions=("a", "b", "c")) for i in range(4)]
    found = film_jobs([best, failure], jobs, tmp_path, chain=True)
    assert [(job.index, job.record_from) for job in found] == [(2, 0), (1, 2)]  # of a failure, its task alone
    assert pick_films(_settings(benchmark=bench), [_chain(0, 1, 1, 1)]) == []  # nothing failed, no best one wanted
    with pytest.raises(Exception, match="best_video goes with benchmark=calvin_chains"):
        _settings(best_video=True)


def test_a_second_time_that_went_differently_is_noticed() -> None:
    filmed = Filmed(key=(0, "chain"), outcome=((True, 5), (False, 360)), video="x.mp4")
    assert went_alike(filmed, _chain(0, 5))
    assert not went_alike(filmed, _chain(0, 6)) and not went_alike(filmed, _chain(0, 5, 5))


def test_a_policy_that_always_fails_gets_its_gallery_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("actor=zero", *SMALL, NO_WAIT, "videos_per_task=0", f"out={tmp_path}")
    assert _run(*words, "failure_videos=2") == 0
    results = read_results(tmp_path / "results.json")
    assert results.failure_kinds == {
        task: {UNTOUCHED: 2} for task in ("move_slider_left", "open_drawer", "turn_on_led")
    }
    assert [(f.task, f.shows) for f in results.films] == [("move_slider_left", "failure"), ("open_drawer", "failure")]
    films = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "videos").iterdir()}
    assert len(films) == 2 and all((tmp_path / film.video).stat().st_size > 1000 for film in results.films)
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:video/mp4;base64,") == 2 and page.count(">never touched</span>: it touched nothing") == 2
    table = (tmp_path / "failures.tsv").read_text().splitlines()
    assert table[0].split("\t")[-2:] == ["kind", "detail"] and len(table) == 1 + 6
    assert all(line.split("\t")[-2:] == [UNTOUCHED, "it touched nothing"] for line in table[1:])

    # The same again keeps the films; more of them are added; none are shown where none are wanted.
    assert _run(*words, "failure_videos=3") == 0
    now = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "videos").iterdir()}
    assert len(now) == 3 and films.items() < now.items()
    assert _run(*words) == 0
    assert read_results(tmp_path / "results.json").films == ()
    assert "data:video" not in (tmp_path / "report.html").read_text()

    # What does not go the same way again is thrown away.
    for path in (tmp_path / "videos").iterdir():
        path.unlink()
    monkeypatch.setattr(evaluate_films, "went_alike", lambda *_: False)
    capsys.readouterr()
    assert _run(*words, "failure_videos=1") == 0
    assert "went differently" in capsys.readouterr().out
    assert not list((tmp_path / "videos").iterdir()) and read_results(tmp_path / "results.json").films == ()


def test_a_policy_that_never_fails_has_no_gallery(tmp_path: Path) -> None:
    assert _run("actor=expert", *SMALL, "failure_videos=4", "videos_per_task=0", f"out={tmp_path}") == 0
    results = read_results(tmp_path / "results.json")
    assert results.overall.success_rate == 1.0 and results.films == () and results.failure_kinds == {}
    assert not (tmp_path / "videos").exists() and "Failures" not in (tmp_path / "report.html").read_text()


def test_failures_and_best_of_chains_are_filmed_by_several_processes(tmp_path: Path) -> None:
    """Thirty steps are enough for the first tasks of some chains and too few for most."""
    words = ("actor=expert", "benchmark=calvin_chains", "benchmark.chains=8", "benchmark.max_steps=30", "workers=2")
    assert _run(*words, "videos_per_task=0", "failure_videos=2", "best_video=true", f"out={tmp_path}") == 0
    results, records = read_results(tmp_path / "results.json"), read_chains(tmp_path / "chains.jsonl")
    best, *failures = results.films
    lengths = {record.chain: record.length for record in records}
    assert best.shows == "best chain" and lengths[best.index] == max(lengths.values()) > 0
    assert len(failures) == 2 and all(f.at == lengths[f.index] for f in failures)
    assert all((tmp_path / film.video).stat().st_size > 5000 for film in results.films)
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:video/mp4;base64,") == 3 and f"the best of the {len(records)}" in page
    missed = [r for r in as_rollouts(records) if not r.success]
    assert sum(sum(kinds.values()) for kinds in results.failure_kinds.values()) == len(missed) and missed
    assert all(record.kind for record in missed)

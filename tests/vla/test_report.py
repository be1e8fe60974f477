"""Records are summed up as counted by hand; results read back only if they are whole; the report stands alone."""

from __future__ import annotations

import base64
import json
from html.parser import HTMLParser
from pathlib import Path

import pytest

from foreact.vla.failures import failure_kinds, failures
from foreact.vla.files import drop_unfinished_line
from foreact.vla.intervals import wilson
from foreact.vla.report import write_report
from foreact.vla.results import (
    ALL_CAMERAS,
    ChainAttempt,
    ChainRecord,
    Chains,
    Film,
    ForesightSums,
    Results,
    ResultsError,
    RolloutRecord,
    as_rollouts,
    foresight,
    listening,
    read_results,
    read_rollouts,
    success,
    successes_by_task,
)

NASTY = '<script>alert("x")</script> & "go"'


def _record(start: int, task: str, ok: bool, others: tuple[str, ...] = (), **more: object) -> RolloutRecord:
    return RolloutRecord.model_validate(
        {"start": start, "start_seed": start, "task": task, "instruction": NASTY, "success": ok, "steps": 9}
        | {"other_tasks": others, **more}
    )


RECORDS = [
    _record(0, "open_drawer", True, video="videos/a.mp4"),
    _record(0, "turn_on_led", False, ("open_drawer",), video="videos/b.mp4"),
    _record(1, "open_drawer", True),
    _record(1, "turn_on_led", True, video="videos/gone.mp4"),
    _record(2, "open_drawer", False),
]


def _results(**more: object) -> Results:
    fields = {
        "actor": NASTY,
        "overall": success(RECORDS),
        "tasks": successes_by_task(RECORDS),
        "listening": listening(RECORDS),
        "benchmark": {"scene": "D", "max_steps": 180, "language": "validation"},
        "seeds": {"benchmark": 0, "starts": [0, 1, 2]},
        "versions": {"foreact": "0.1.0"},
        "gl_renderer": "llvmpipe",
        "contract": {"embodiment": "panda"},
        "notes": ["resize rgb_static"],
        "command": f"foreact evaluate actor='{NASTY}'",
        "rejected_draws": 3,
        "wall_s": 62.4,
    }
    return Results.model_validate(fields | more)


def test_rates_are_what_counting_gives() -> None:
    assert success(RECORDS).success_rate == 3 / 5 and success(RECORDS).n == 5
    tasks = successes_by_task(RECORDS)
    assert list(tasks) == ["open_drawer", "turn_on_led"]
    assert (tasks["open_drawer"].success_rate, tasks["open_drawer"].n) == (2 / 3, 3)
    assert tasks["open_drawer"].ci95 == wilson(2, 3)
    heard = listening(RECORDS)
    assert (heard.other_task_rate, heard.n_starts, heard.n_rollouts, heard.n_tasks_per_start) == (1 / 5, 3, 5, 2)
    assert success([]).ci95 == (0.0, 1.0)


def test_foresight_pools_pixels_not_ratios() -> None:
    def sums(predicted: float, copied: float, pixels: int) -> ForesightSums:
        return ForesightSums(frames=2, pixels=pixels, predicted=predicted, copied=copied)

    records = [
        _record(0, "a", True, foresight={"s": sums(1, 10, 5), "g": sums(6, 6, 1)}, foresight_steps=12),
        _record(1, "a", True, foresight={"s": sums(50, 90, 45), "g": sums(0, 0, 0)}, foresight_steps=12),
        _record(2, "a", True),
    ]
    found = foresight(records, change_threshold=16 / 255)
    assert found is not None and found.n_rollouts == 2 and found.steps_ahead == 12
    assert found.cameras["s"].error_ratio == pytest.approx(51 / 100)
    assert found.cameras["g"].error_ratio == 1.0
    everything = found.cameras[ALL_CAMERAS]
    assert everything.error_ratio == pytest.approx(57 / 106)
    assert (everything.n_pixels, everything.n_frames) == (51, 8)
    assert everything.ci95[0] <= everything.error_ratio <= everything.ci95[1]
    assert foresight(records[2:], change_threshold=0.1) is None


def test_results_survive_the_disk_and_damage_is_named(tmp_path: Path) -> None:
    chains = Chains(average_length=1.5, ci95=(1.2, 1.8), success_at=(0.9, 0.6), n=100)
    results = _results(chains=chains)
    path = tmp_path / "results.json"
    results.write(path)
    assert read_results(path) == results
    plain = json.loads(path.read_text())
    for damage, field in (({"overall": {}}, "overall.ci95"), ({"version": 9}, "version"), ({"extra": 1}, "extra")):
        path.write_text(json.dumps(plain | damage))
        with pytest.raises(ResultsError, match=field):
            read_results(path)
    path.write_text(path.read_text()[:50])
    with pytest.raises(ResultsError, match="not a results file"):
        read_results(path)
    with pytest.raises(ResultsError, match="no results at"):
        read_results(tmp_path / "nothing.json")


def test_an_unfinished_last_line_is_no_record_and_other_damage_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rollouts.jsonl"
    assert read_rollouts(path) == []
    whole = "".join(r.model_dump_json() + "\n" for r in RECORDS)
    torn = whole + '{"start": 7, "tas'
    path.write_text(torn)
    assert read_rollouts(path) == RECORDS
    assert path.read_text() == torn  # somebody may just be writing it
    drop_unfinished_line(path)
    assert path.read_text() == whole
    path.write_text(whole + RECORDS[0].model_dump_json() + "\n")
    with pytest.raises(ResultsError, match=r"line 6.*start 0, open_drawer is there twice"):
        read_rollouts(path)
    path.write_text(whole.replace('"start":1,', '"start":"x",', 1))
    with pytest.raises(ResultsError, match=r"(?s)line 3 is not a rollout.*start"):
        read_rollouts(path)


class _Page(HTMLParser):
    _VOID = {"meta", "rect", "line", "path", "br"}

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self._VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in self._VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def _report(folder: Path, **limits: int) -> _Page:
    (folder / "videos").mkdir(exist_ok=True)
    (folder / "videos" / "a.mp4").write_bytes(b"A" * 100)
    (folder / "videos" / "b.mp4").write_bytes(b"B" * 300)
    results = _results(checkpoint={"path": "runs/a", "sha256": "abc123"})
    return _Page(write_report(results, RECORDS, folder, **limits).read_text(encoding="utf-8"))


def test_the_report_is_well_formed_escaped_and_needs_nothing_else(tmp_path: Path) -> None:
    page = _report(tmp_path)
    assert page.open == []
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    text = " ".join(" ".join(page.words).split())
    assert NASTY in text  # as text
    for needed in ("open_drawer", "turn_on_led", "abc123", "runs/a", "llvmpipe", "foreact 0.1.0", "embodiment: panda"):
        assert needed in text
    assert "67 %" in text and "60 %" in text and "1 min 2 s" in text
    for _, attributes in page.tags:
        for name in ("src", "href"):
            assert (attributes.get(name) or "data:").startswith("data:")
    sources = [a["src"] or "" for tag, a in page.tags if tag == "video"]
    assert [base64.b64decode(s.removeprefix("data:video/mp4;base64,")) for s in sources] == [b"A" * 100, b"B" * 300]


def test_videos_beyond_the_limits_are_linked(tmp_path: Path) -> None:
    for limits in ({"max_video_bytes": 200}, {"max_total_bytes": 350}):
        sources = [a["src"] or "" for tag, a in _report(tmp_path, **limits).tags if tag == "video"]
        assert [s[:5] for s in sources] == ["data:", "video"] and sources[1] == "videos/b.mp4"


def test_films_of_failures_stand_under_their_kind_and_nowhere_else(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    for name in "ab":
        (tmp_path / "videos" / f"{name}.mp4").write_bytes(name.encode() * 100)
    records = [
        _record(0, "open_drawer", False, kind="never touched", detail=NASTY, video="videos/a.mp4"),
        _record(1, "open_drawer", False, kind="let go", video="videos/b.mp4"),
        _record(2, "turn_on_led", True),
    ]
    film = Film(shows="failure", index=0, task="open_drawer", video="videos/a.mp4")
    results = _results(
        films=[film], tasks=successes_by_task(records), overall=success(records),
        failures=failures(records), failure_kinds=failure_kinds(records),
    )  # fmt: skip
    page = _Page(write_report(results, records, tmp_path).read_text(encoding="utf-8"))
    words = " ".join(" ".join(page.words).split())
    head, _, after = words.partition("Some of them")
    assert "Failures task failed let go never touched starts open_drawer 2 of 2 1 1 0, 1 all 2 of 3 1 1" in head
    gallery, _, rollouts = after.partition("Rollouts What the cameras saw")
    assert f"never touched : {NASTY}" in gallery and "start 0" in gallery and "start 1" in rollouts
    sources = [(a["src"] or "")[-8:] for tag, a in page.tags if tag == "video"]
    assert len(sources) == len(set(sources)) == 2


def test_a_film_of_the_best_chain_says_of_how_many(tmp_path: Path) -> None:
    def attempt(ok: bool) -> ChainAttempt:
        return ChainAttempt(task="open_drawer", instruction="pull", success=ok, steps=8, kind="" if ok else "let go")

    tasks = ("open_drawer",) * 3
    records = [
        ChainRecord(chain=4, seed=4, tasks=tasks, attempts=(attempt(True), attempt(True), attempt(False))),
        ChainRecord(chain=5, seed=5, tasks=tasks, attempts=(attempt(False),)),
    ]
    (tmp_path / "best.mp4").write_bytes(b"best")
    rollouts = as_rollouts(records)
    results = _results(
        chains=Chains(average_length=1.0, ci95=(0, 2), success_at=(0.5, 0.5, 0), n=2),
        tasks=successes_by_task(rollouts), overall=success(rollouts), failure_kinds=failure_kinds(rollouts),
        films=[
            Film(shows="best chain", index=4, task="open_drawer", at=2, video="best.mp4"),
            Film(shows="failure", index=5, task="open_drawer", at=0, video="gone.mp4"),
        ],
    )  # fmt: skip
    page = _Page(write_report(results, records, tmp_path).read_text(encoding="utf-8"))
    words = " ".join(" ".join(page.words).split())
    assert "Chain 4, the best of the 2 that were run: 2 of 3 tasks , where the average is 1.00" in words
    assert "task 1 of 3 of chain 5, 8 steps" in words and "gone.mp4" in words
    assert [a["src"] for tag, a in page.tags if tag == "video"] == [
        "data:video/mp4;base64," + base64.b64encode(b"best").decode()
    ]
    with pytest.raises(ResultsError, match="no record"):
        write_report(results, records[:1], tmp_path)


def test_results_of_before_kinds_and_films_are_read(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    _results().write(path)
    plain = json.loads(path.read_text())
    for key in ("failure_kinds", "films"):
        del plain[key]
    path.write_text(json.dumps(plain))
    assert read_results(path) == _results()
    record = json.loads(RECORDS[1].model_dump_json())
    for key in ("kind", "detail"):
        del record[key]
    lines = tmp_path / "rollouts.jsonl"
    lines.write_text(json.dumps(record) + "\n")
    assert read_rollouts(lines) == [RECORDS[1]]


def test_bars_are_as_long_as_the_rates(tmp_path: Path) -> None:
    bars = [float(a["width"] or 0) for tag, a in _report(tmp_path).tags if tag == "rect"]
    assert bars == pytest.approx([420 * 2 / 3, 420 / 2, 420 * 3 / 5], abs=0.1)

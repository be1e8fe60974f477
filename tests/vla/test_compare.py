"""Paired comparison: differences as counted by hand, intervals against a slow bootstrap, refusals by name."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from foreact.commands.main import app, run
from foreact.vla.compare import NotComparable, compare_folders
from foreact.vla.results import (
    ChainAttempt,
    ChainRecord,
    Record,
    Results,
    RolloutRecord,
    chains,
    listening,
    success,
    successes_by_task,
)

TASKS = ("open_drawer", "turn_on_led", "move_slider_left", "close_drawer", "turn_off_led")


def _chain(index: int, length: int, defects: tuple[str, ...] = ()) -> ChainRecord:
    tried = min(length + 1, len(TASKS))
    attempts = tuple(
        ChainAttempt(task=TASKS[i], instruction=TASKS[i], success=i < length, steps=10) for i in range(tried)
    )
    return ChainRecord(chain=index, seed=index + 7, tasks=TASKS, attempts=attempts, defects=defects)


def _rollout(start: int, task: str, ok: bool) -> RolloutRecord:
    return RolloutRecord(start=start, start_seed=start, task=task, instruction=task, success=ok, steps=5)


def _folder(path: Path, records: Sequence[Record], **more: object) -> Path:
    path.mkdir()
    sequences = [r for r in records if isinstance(r, ChainRecord)]
    rollouts = [r for r in records if isinstance(r, RolloutRecord)]
    rollouts += [rollout for record in sequences for rollout in record.as_rollouts()]
    fields = {
        "actor": path.name,
        "overall": success(rollouts),
        "tasks": successes_by_task(rollouts),
        "listening": listening(rollouts),
        "chains": chains(sequences),
        "benchmark": {"env": "desk", "scene": "D", "max_steps": 360},
        "seeds": {"benchmark": 0, "starts": []},
        "versions": {"foreact": "0.1.0"},
        "gl_renderer": "llvmpipe",
        "contract": {},
        "command": "foreact evaluate",
        "rejected_draws": 0,
        "wall_s": 1.0,
    }
    Results.model_validate({**fields, **more}).write(path / "results.json")
    name = "chains.jsonl" if sequences else "rollouts.jsonl"
    (path / name).write_text("".join(record.model_dump_json() + "\n" for record in records))
    return path


def test_chain_lengths_are_counted_as_by_hand() -> None:
    records = [_chain(0, 5), _chain(1, 0), _chain(2, 3, ("cannot be done",)), _chain(3, 5)]
    found = chains(records)
    assert found is not None
    assert found.average_length == 13 / 4 and found.success_at == (0.75, 0.75, 0.75, 0.5, 0.5) and found.n == 4
    assert found.ci95[0] < found.average_length < found.ci95[1]
    assert found.n_infeasible == 1 and found.feasible is not None and found.feasible.average == 10 / 3
    assert found.infeasible is not None and found.infeasible.average == 3.0
    assert chains([]) is None and chains(records[:2]).feasible is None  # type: ignore[union-attr]
    tried = [rollout for record in records for rollout in record.as_rollouts()]
    assert len(tried) == 5 + 1 + 4 + 5 and sum(r.success for r in tried) == 13


def test_chains_are_compared_pair_by_pair(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    a = rng.integers(0, 6, 300)
    b = np.clip(a + rng.integers(-1, 3, 300), 0, 5)
    first = _folder(tmp_path / "a", [_chain(i, int(n)) for i, n in enumerate(a)])
    second = _folder(tmp_path / "b", [_chain(i, int(n)) for i, n in enumerate(b)][::-1])
    found = compare_folders(first, second)
    assert found.what == "average length" and found.overall.n == 300
    assert found.overall.difference == pytest.approx((b - a).mean()) and found.overall.decided
    assert (found.better, found.worse) == ((b > a).sum(), (b < a).sum())
    assert found.details["at least 3"].difference == pytest.approx((b >= 3).mean() - (a >= 3).mean())
    slow = [(b - a)[rng.integers(0, 300, 300)].mean() for _ in range(4000)]
    assert found.overall.ci95 == pytest.approx(np.quantile(slow, (0.025, 0.975)), abs=0.02)
    turned = compare_folders(second, first).overall
    assert turned.difference == pytest.approx(-found.overall.difference)


def test_rollouts_are_compared_with_whole_starts_drawn(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    sides: list[list[Record]] = [[], []]
    changes = []
    for start in range(80):
        hard = rng.random()
        for task in TASKS[:2]:
            outcomes = rng.random() > hard, rng.random() > 0.5 * hard
            for side, ok in zip(sides, outcomes, strict=True):
                side.append(_rollout(start, task, bool(ok)))
            changes.append((start, outcomes[1] - float(outcomes[0])))
    found = compare_folders(_folder(tmp_path / "a", sides[0]), _folder(tmp_path / "b", sides[1]))
    values = np.array([change for _, change in changes]).reshape(80, 2)
    assert found.what == "success rate" and found.overall.difference == pytest.approx(values.mean())
    slow = [values[rng.integers(0, 80, 80)].mean() for _ in range(4000)]
    assert found.overall.ci95 == pytest.approx(np.quantile(slow, (0.025, 0.975)), abs=0.02)
    assert set(found.details) == set(TASKS[:2]) and found.details["open_drawer"].n == 80


def test_what_cannot_be_paired_is_refused_by_name(tmp_path: Path) -> None:
    plain = _folder(tmp_path / "a", [_chain(0, 1), _chain(1, 2)])
    other = _folder(tmp_path / "b", [_chain(0, 1)], benchmark={"env": "desk", "scene": "A", "max_steps": 360})
    with pytest.raises(NotComparable, match="scene: 'D' in .*'A' in"):
        compare_folders(plain, other)
    seed = _folder(tmp_path / "c", [_chain(0, 1)], seeds={"benchmark": 4, "starts": []})
    with pytest.raises(NotComparable, match="seed: 0 in .* 4 in"):
        compare_folders(plain, seed)
    apart = _folder(tmp_path / "d", [_chain(5, 1)])
    with pytest.raises(NotComparable, match="no start and task in common"):
        compare_folders(plain, apart)
    (tmp_path / "c" / "chains.jsonl").unlink()
    with pytest.raises(NotComparable, match=r"no rollouts\.jsonl"):
        compare_folders(plain, tmp_path / "c")


def test_the_command_prints_a_table_or_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = _folder(tmp_path / "a", [_chain(i, 1) for i in range(9)])
    b = _folder(tmp_path / "b", [_chain(i, 1 + i % 2) for i in range(8)], versions={"foreact": "0.2.0"})
    assert run(app, ["compare", str(a), str(b)]) == 0
    shown = capsys.readouterr().out
    assert "average length" in shown and "+0.500" in shown and "better in 4 pairs, worse in 0" in shown
    assert "foreact: 0.1.0 against 0.2.0" in shown and "1 rollouts or chains are in one of the two only" in shown
    assert run(app, ["compare", str(a), str(b), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["overall"]["difference"] == 0.5
    assert run(app, ["compare", str(a), str(tmp_path / "none")]) == 1
    assert capsys.readouterr().err.startswith("error: no results at ")

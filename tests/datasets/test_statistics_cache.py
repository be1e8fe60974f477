"""Kept statistics: used only for what they were computed from, pooled as if over everything at once, and reported."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from foreact.commands.main import app
from foreact.commands.main import run as run_command
from foreact.datasets.layout import StoreError
from foreact.datasets.recorder import Recorder
from foreact.datasets.sealed import seal, unseal
from foreact.datasets.statistics import Moments, Running, compute_pixels, compute_statistics, pool
from foreact.datasets.statistics_cache import STATISTICS, WrongStatistics, cached_statistics, load_statistics
from foreact.datasets.statistics_report import rows
from foreact.datasets.store import Store
from foreact.vla.contract import Contract, Field


def moments_of(values: np.ndarray) -> Moments:
    running = Running(values.shape[1])
    running.add(values)
    found = running.result()
    assert found is not None
    return found


def test_pooling_is_computing_over_everything_at_once() -> None:
    rng = np.random.default_rng(0)
    parts = [rng.normal(5 * i, 1 + i, (100 * (i + 1), 3)).astype(np.float32) for i in range(4)]
    whole, found = np.concatenate(parts).astype(np.float64), pool([moments_of(part) for part in parts])
    assert found.count == len(whole) == 1000
    np.testing.assert_allclose(found.mean, whole.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.std, whole.std(0), rtol=1e-12)
    np.testing.assert_array_equal(found.low, whole.min(0))
    np.testing.assert_array_equal(found.high, whole.max(0))
    for q in (0.01, 0.5, 0.99):
        expected = np.quantile(whole, q, axis=0, method="inverted_cdf")
        np.testing.assert_allclose(found.quantile(q), expected, rtol=1e-9)


def test_weights_are_those_of_repeated_rows() -> None:
    rng = np.random.default_rng(1)
    a, b = (rng.normal(size=(50, 2)).astype(np.float32) for _ in range(2))
    found = pool([moments_of(a), moments_of(b)], [1.0, 3.0])
    whole = np.concatenate([a, b, b, b]).astype(np.float64)
    np.testing.assert_allclose(found.mean, whole.mean(0), rtol=1e-9)
    np.testing.assert_allclose(found.std, whole.std(0), rtol=1e-9)
    expected = np.quantile(whole, 0.1, axis=0, method="inverted_cdf")
    np.testing.assert_allclose(found.quantile(0.1), expected, rtol=1e-6)


def test_they_are_computed_once_and_again_after_an_episode_more(store: Store, make_episode, monkeypatch) -> None:
    first = cached_statistics(store)
    monkeypatch.setattr(
        "foreact.datasets.statistics_cache.compute_statistics", lambda *_: pytest.fail("computed again")
    )
    assert cached_statistics(Store.open(store.path)).to_json() == first.to_json()
    monkeypatch.undo()
    (file,) = (store.path / STATISTICS).iterdir()
    Recorder(store.path, store.contract).write(make_episode(7, 4), "one-more")
    grown = Store.open(store.path)
    with pytest.raises(WrongStatistics, match=r"are of 5 episodes with contents .*; asked for 6 episodes.*data stats"):
        load_statistics(file, grown)
    assert load_statistics(file, grown, range(5)).to_json() == first.to_json()
    notes: list[str] = []
    assert cached_statistics(grown, note=notes.append).episodes == 6
    assert notes == [] and len(list((store.path / STATISTICS).iterdir())) == 2


def test_what_does_not_fit_is_refused_by_name(store: Store, contract: Contract, tmp_path: Path, make_episode) -> None:
    cached_statistics(store)
    (file,) = (store.path / STATISTICS).iterdir()
    whole = file.read_bytes()
    other = Recorder(tmp_path / "other", contract.model_copy(update={"rate_hz": 20.0}))
    other.write(make_episode(1, 5), "e")
    with pytest.raises(WrongStatistics, match=r"belong to contract .*, the store .* has contract"):
        load_statistics(file, Store.open(tmp_path / "other"))
    for changed, message in (
        (whole.replace(b'"mean":[', b'"mean":[1'), "damaged: its contents do not match"),
        (seal({**unseal(whole), "version": 9}), r"version 9; this ForeAct reads 'foreact-statistics' version 1"),
        (seal({**unseal(whole), "state": {"count": 1}}), "is not what ForeAct writes"),
        (b"{}", "damaged"),
    ):
        file.write_bytes(changed)
        with pytest.raises(WrongStatistics, match=message):
            load_statistics(file, store)
        notes: list[str] = []
        assert cached_statistics(store, note=notes.append).episodes == 5
        assert len(notes) == 1 and notes[0].startswith("not used, computed again")
        assert file.read_bytes() == whole, "repaired"
    file.unlink()
    with pytest.raises(WrongStatistics, match="cannot be read"):
        load_statistics(file, store)


def test_a_store_that_cannot_be_written_keeps_none_and_says_so(store: Store) -> None:
    (store.path / STATISTICS).write_text("in the way")
    notes: list[str] = []
    assert cached_statistics(store, note=notes.append).episodes == 5
    assert "are not kept" in notes[0]


def test_old_ones_are_forgotten(store: Store) -> None:
    for number in range(20):
        cached_statistics(store, [number % 5, (number // 5 + number % 5 + 1) % 5])
    assert len(list((store.path / STATISTICS).iterdir())) <= 16


def test_pixels_are_those_of_a_sample(store: Store) -> None:
    found = compute_pixels(store, 1000)
    images = np.concatenate([store.read(i).images["static"] for i in range(5)]) / 255.0
    assert found["static"]["frames"] == 31
    np.testing.assert_allclose(found["static"]["mean"], images.mean((0, 1, 2)), rtol=1e-9)
    np.testing.assert_allclose(found["static"]["std"], images.std((0, 1, 2)), rtol=1e-9)
    assert compute_pixels(store, 4)["gripper"]["frames"] == 4


def test_what_looks_wrong_is_said() -> None:
    rng = np.random.default_rng(0)
    good = rng.normal(0.0, 0.5, 5000)
    columns = {
        "good": good, "constant": np.full(5000, 0.3), "spike": np.where(np.arange(5000) == 7, 900.0, good),
        "stuck": np.where(np.arange(5000) < 4, 1.0, 0.0), "tiny": good * 1e-4, "degrees": 90 * good, "loose": 3 * good,
    }  # fmt: skip
    units = {"good": "m", "tiny": "m", "degrees": "rad"}
    fields = [
        Field(name=name, size=1, unit=units.get(name, "1"), low=-1 if name == "loose" else None) for name in columns
    ]
    found = rows("state", fields, moments_of(np.stack(list(columns.values()), 1).astype(np.float32)))
    said = {row.field.name: "; ".join(row.warnings) for row in found}
    assert said["good"] == ""
    assert said["constant"] == "constant: always 0.3"
    assert "the largest value 900 is" in said["spike"]
    assert "98% of the values are 0, yet some reach 0 to 1" in said["stuck"]
    assert "is it really in m?" in said["tiny"]
    assert "are they in degrees?" in said["degrees"]
    assert "leave the contract's bounds, -1.0 to None" in said["loose"]
    assert rows("state", fields, None) == []


def test_the_command_prints_tables_and_json(
    store: Store, tmp_path: Path, contract: Contract, make_episode, capsys
) -> None:
    assert run_command(app, ["data", "stats", str(store.path), "--pixels", "3"]) == 0
    said = capsys.readouterr().out
    assert "5 episodes, 31 frames (25 with state, 25 with action)" in said
    line = next(line for line in said.splitlines() if "joints[1]" in line and line.startswith("state"))
    states = np.concatenate([s for i in range(5) if (s := store.read(i).state) is not None])
    column = states[:, 1].astype(np.float64)
    quantiles = np.quantile(column, [0.01, 0.5, 0.99], method="inverted_cdf")
    expected = (column.mean(), column.std(), column.min(), *quantiles, column.max())
    assert line.split()[-7:] == [f"{x:.4g}" for x in expected]
    assert "camera static: 3 frames" in said
    assert "warning: state gripper: constant: always 0.5" in said

    episode = make_episode(9, 4)
    Recorder(tmp_path / "second", contract).write(replace(episode, state=np.full((4, 3), 9, np.float32)), "x")
    assert run_command(app, ["data", "stats", str(store.path), str(tmp_path / "second"), "--json"]) == 0
    whole = json.loads(capsys.readouterr().out)["stores"][2]
    assert (whole["store"], whole["episodes"], whole["frames_with"]["state"]) == ("all together", 6, 29)
    both = np.concatenate([states[:, 1], np.full(4, 9)])
    component = next(c for c in whole["components"] if c["name"] == "joints[1]" and c["key"] == "state")
    assert component["mean"] == pytest.approx(both.mean()) and component["unit"] == "rad"


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["{store}", "--field", "jonts"], 2, "did you mean 'joints'"),
        (["/nowhere"], 1, "/nowhere does not exist"),
        (["{store}", "--check", "/nowhere.json"], 1, "cannot be read"),
        (["{store}", "{store}", "--check", "x.json"], 2, "compares a file with one store, found 2"),
    ],
)
def test_mistakes_on_the_command_line_are_explained(store: Store, capsys, words, status: int, message: str) -> None:
    assert run_command(app, ["data", "stats", *(word.format(store=store.path) for word in words)]) == status
    assert message in capsys.readouterr().err


def test_a_copied_file_is_checked_against_the_store(store: Store, tmp_path: Path, make_episode, capsys) -> None:
    cached_statistics(store)
    (file,) = (store.path / STATISTICS).iterdir()
    file.rename(tmp_path / "kept.json")
    assert run_command(app, ["data", "stats", str(store.path), "--check", str(tmp_path / "kept.json")]) == 0
    Recorder(store.path, store.contract).write(make_episode(7, 4), "one-more")
    capsys.readouterr()
    assert run_command(app, ["data", "stats", str(store.path), "--check", str(tmp_path / "kept.json")]) == 1
    assert "asked for 6 episodes" in capsys.readouterr().err


def test_no_episodes_have_no_statistics(store: Store) -> None:
    with pytest.raises(StoreError, match="no statistics of no episodes"):
        compute_statistics(store, [])

"""The tests that users can run themselves, `foreact data selftest`: small ones here, the full ones by --slow."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from foreact.datasets import conversion_test as conversions
from foreact.datasets import readers_test as readers
from foreact.datasets.bitflip_test import bitflip_test
from foreact.datasets.conversion_test import conversion_test, tree_digests, written_formats
from foreact.datasets.readers_test import readers_test
from foreact.vla.errors import ConfigError

SRC = Path(__file__).resolve().parents[2] / "src"
WRITTEN = ["foreact", "lerobot-v3", "lerobot-v2.1", "robomimic", "diffusion-policy", "mp4"]


def test_every_format_that_can_be_written_is_tried() -> None:
    assert sorted(written_formats()) == sorted(WRITTEN)


@pytest.mark.parametrize("name", WRITTEN)
def test_killed_conversions_end_in_the_same_bytes(tmp_path: Path, name: str) -> None:
    report = conversion_test(tmp_path, name, kills=2, seed=1)
    assert (report.failures, report.kills) == ([], 2)
    assert report.files >= 2 and report.outputs >= 1


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("name", "kills"), [(name, 100 if name == "foreact" else 50) for name in WRITTEN])
def test_many_killed_conversions_end_in_the_same_bytes(tmp_path: Path, name: str, kills: int) -> None:
    report = conversion_test(tmp_path, name, kills)
    assert (report.failures, report.kills) == ([], kills)


def test_the_conversion_test_can_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs: list[dict[str, str]] = []

    def digests(folder: Path) -> dict[str, str]:
        found = tree_digests(folder)
        outputs.append(found)
        return found if len(outputs) == 1 else {**found, "stray": "", "out/dataset.json": "other"}

    monkeypatch.setattr(conversions, "tree_digests", digests)
    report = conversion_test(tmp_path, "mp4", kills=1)
    assert {"output 0: stray should not be there", "output 0: out/dataset.json has other bytes"} <= {*report.failures}
    with pytest.raises(ConfigError, match="mp5"):
        conversion_test(tmp_path / "x", "mp5", kills=1)


def test_readers_beside_a_recorder_and_a_packer(tmp_path: Path) -> None:
    report = readers_test(tmp_path, seconds=2, readers=2, seed=1)
    assert not report.failures, report.failures
    assert report.recorded >= 1 and report.openings > 0 and report.reads > 0


@pytest.mark.slow
def test_ten_seconds_of_readers(tmp_path: Path) -> None:
    report = readers_test(tmp_path, seconds=10)
    assert not report.failures, report.failures
    assert report.packs > 2 and report.reads > 100


def test_the_readers_test_can_fail(tmp_path: Path) -> None:
    """Readers that meet a store which forgets an episode say so."""
    import random
    import time

    from foreact.datasets.recorder import Recorder
    from foreact.datasets.selftest_episodes import SELFTEST_CONTRACT, make_episode

    path = tmp_path / "store"
    recorder = Recorder(path, SELFTEST_CONTRACT, "zstd")
    for name in ("a", "b"):
        recorder.write(make_episode(name))
    real = readers.Store.open
    calls: list[Any] = []

    def forgetting(where: Path) -> Any:
        calls.append(where)
        if len(calls) == 3:
            (path / "episodes" / "a").rename(tmp_path / "gone")
        return real(where)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readers.Store, "open", forgetting)
        found = readers._read(path, time.time() + 20, random.Random(0))
    assert found["failures"] == ["1 episodes went away, such as a"]


def test_files_that_are_cut_emptied_removed_swapped_or_added_are_named(tmp_path: Path) -> None:
    report = bitflip_test(tmp_path, flips=0, mutations=60, seed=3)
    assert (report.mutations, report.mutations_found, report.missed) == (60, 60, [])
    assert len(report.mutation_kinds) == 7, report.mutation_kinds


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_five_hundred_damaged_files_and_a_thousand_flips(tmp_path: Path) -> None:
    report = bitflip_test(tmp_path, flips=1000, mutations=500, seed=4)
    assert (report.found, report.mutations_found, report.missed) == (1000, 500, [])


def test_the_commands_run_and_say_what_they_saw() -> None:
    def selftest(*words: str) -> str:
        command = [sys.executable, "-m", "foreact.commands.main", "data", "selftest", *words]
        done = subprocess.run(
            command,
            env={**os.environ, "PYTHONPATH": str(SRC)},
            capture_output=True,
            text=True,
            check=False,
            timeout=150,
        )
        assert done.returncode in (0, 1), done.stderr
        assert "Traceback" not in done.stderr, done.stderr
        return done.stdout

    out = selftest("conversions", "--kills", "1", "--to", "robomimic")
    assert out.startswith("robomimic: 1 conversions killed within") and "0 differences" in out
    assert "8 flipped bits" in (out := selftest("flips", "--flips", "8", "--mutations", "3")) and "3 damaged" in out
    assert "0 failures" in selftest("readers", "--seconds", "1", "--readers", "1")
    small = ("--episodes", "1", "--seconds", "0.5", "--rate", "10", "--height", "16", "--width", "16")
    assert json.loads(selftest("record", *small, "--json"))["frames"] == 5

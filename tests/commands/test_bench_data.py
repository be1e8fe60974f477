"""`foreact bench data`: it measures what it says, counts what it says, and explains what it cannot measure."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from foreact.commands.bench_busy import busy_share
from foreact.commands.bench_data import make_row, ratios
from foreact.commands.bench_data_episodes import psnr_db
from foreact.commands.bench_data_loop import cpu_s, time_windows
from foreact.commands.bench_data_ours import frames_of, window_sampler
from foreact.commands.bench_data_prepare import LEROBOT_VIDEO, Dataset, Way
from foreact.commands.bench_data_process import Measurer, PeerFailed, folder_bytes
from foreact.commands.bench_data_report import as_markdown, as_text
from foreact.commands.main import app, run
from foreact.datasets.episode import EpisodeData
from foreact.datasets.recorder import Recorder
from foreact.vla.contract import Camera, Contract, Field

CONTRACT = Contract(
    embodiment="test_arm",
    rate_hz=10,
    cameras=(Camera(name="front", height=24, width=32), Camera(name="wrist", height=16, width=16)),
    state=(Field(name="joints", size=3, unit="rad"),),
    action=(Field(name="joints", size=2, unit="rad"),),
)


def episode(number: int, length: int = 30) -> EpisodeData:
    rng = np.random.default_rng(number)
    return EpisodeData(
        images={c.name: rng.integers(0, 256, (length, c.height, c.width, 3), np.uint8) for c in CONTRACT.cameras},
        state=rng.normal(size=(length, 3)).astype(np.float32),
        action=rng.normal(size=(length, 2)).astype(np.float32),
        instruction="move",
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bench") / "store"
    recorder = Recorder(path, CONTRACT, codec="raw")
    for number in range(3):
        recorder.write(episode(number), name=f"e{number:05d}")
    recorder.write(episode(9, length=7), name="short")
    return path


SHORT = ["--windows", "16", "--seconds", "0.05", "--repeats", "2"]
SHORT += [word for codec in ("raw", "exact", "fast") for word in ("--codecs", codec)]


def test_it_measures_our_codecs_without_peers(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(app, ["bench", "data", str(store), *SHORT, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["episodes"] == 3 and found["frames"] == 90, "the episode of seven frames has no window"
    rows = {row["row"]: row for row in found["rows"]}
    assert list(rows) == ["raw", "exact", "fast"]
    for row in rows.values():
        low, high = row["range_windows_per_s"]
        assert 0 < low <= row["windows_per_s"] <= high and row["cpu_ms"] > 0
        assert row["speed_ratio"] is None and row["bytes_ratio"] is None
        assert row["bytes"] > 90 * row["picture_bytes_per_frame"] > 0
    pixels = 3 * (24 * 32 + 16 * 16)
    assert pixels < rows["raw"]["picture_bytes_per_frame"] < pixels + 200, "frames, and 24 bytes of index for each"
    assert rows["raw"]["psnr_db"] is None and rows["exact"]["psnr_db"] is None
    assert 20 < rows["fast"]["psnr_db"] < 60
    assert set(found["not_measured"]) == {"LeRobot", "diffusion_policy"}
    assert len(found["ways"]) == 6 and all(len(way["rounds"]) == 2 for way in found["ways"])
    assert 0 <= found["busy_before"] <= 1
    text, table = as_text(found), as_markdown(found)
    assert "LeRobot: not measured: give --lerobot-python" in text
    assert "diffusion_policy | not measured: give --diffusion-policy-python" in table
    lines = [line for line in table.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in lines} == {9} and len(lines) == 2 + 3 + 2


def test_a_window_is_ten_frames_in_one_block_per_camera(store: Path) -> None:
    torch = pytest.importorskip("torch", reason="needs torch: pip install '.[train]'")
    batch = window_sampler(str(store), 8).batch_at(0)
    for part in (batch.images, batch.future):
        for pictures in part.values():
            assert pictures.shape[:2] == (8, 5) and pictures.flags.c_contiguous
            assert torch.from_numpy(pictures).data_ptr() == pictures.ctypes.data, "no copy"
    frames = frames_of(batch)["front"]
    for row, (number, t) in enumerate(batch.index):
        if number < 3 and 4 <= t < 25:
            np.testing.assert_array_equal(frames[row], episode(int(number)).images["front"][t - 4 : t + 6])


@pytest.mark.parametrize("option", ["--lerobot-python", "--diffusion-policy-python"])
def test_a_wrong_python_is_explained(
    option: str, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = tmp_path / "python"
    plain.write_text("not a program")
    for wrong in (tmp_path / "absent", plain, tmp_path):
        assert run(app, ["bench", "data", str(store), *SHORT, option, str(wrong)]) != 0
        assert f"{option} {wrong}: expected the Python of an environment" in capsys.readouterr().err


def test_a_python_without_the_peer_is_explained(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')  # no site-packages
    bare.chmod(0o755)
    assert run(app, ["bench", "data", str(store), *SHORT, "--lerobot-python", str(bare)]) != 0
    err = capsys.readouterr().err
    assert "LeRobot, about: it ended with status 1" in err and "No module named" in err and str(bare) in err


def test_wrong_codecs_and_stores_are_explained(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(app, ["bench", "data", str(store), "--codecs", "exakt"]) != 0
    assert "did you mean 'exact'" in capsys.readouterr().err
    short = tmp_path / "short"
    Recorder(short, CONTRACT).write(episode(0, length=9), name="a")
    assert run(app, ["bench", "data", str(short), *SHORT]) != 0
    assert "no episode has 10 frames" in capsys.readouterr().err


def test_ratios_are_those_of_medians(tmp_path: Path) -> None:
    assert ratios([4, 6, 5], [2, 2, 1]) == {"speed_ratio": 2.5, "range_speed_ratio": [2.0, 5.0]}

    def dataset(row: str, pictures: int, rest: int) -> Dataset:
        path = tmp_path / row
        (path / "camera.a").mkdir(parents=True)
        (path / "camera.a" / "x").write_bytes(bytes(pictures))
        (path / "numbers").write_bytes(bytes(rest))
        return Dataset(row=row, group="", path=path, pictures=lambda file: file.parts[0] == "camera.a")

    def way(row: str, *rates: float) -> Way:
        rounds = [{"windows_per_s": rate, "cpu_ms": 1000 / rate} for rate in rates]
        return Way(row=row, detail=str(rates[0]), measurer=None, request={}, rounds=rounds)  # type: ignore[arg-type]

    sets = [dataset("ours", 900, 50), dataset(LEROBOT_VIDEO, 300, 7), dataset(f"{LEROBOT_VIDEO}, exported", 400, 7)]
    ways = [
        way("ours", 90, 100, 140),
        way("ours", 10, 20, 30),
        way(LEROBOT_VIDEO, 10, 30, 20),
        way(LEROBOT_VIDEO, 1, 2, 1),
        way(f"{LEROBOT_VIDEO}, exported", 15, 25, 40),  # the best: its median is 25
    ]
    row = make_row(sets[0], ways[:2], ways, sets, [episode(0), episode(1)])
    assert row["best"] == "90" and row["windows_per_s"] == 100 and row["cpu_ms"] == 10
    assert row["speed_ratio"] == 100 / 25 and row["range_speed_ratio"] == [140 / 40, 90 / 15]
    assert row["bytes"] == 950 and row["picture_bytes_per_frame"] == 900 / 60
    assert row["bytes_ratio"] == 3, "compared with what LeRobot's own writer wrote"
    assert folder_bytes(sets[0].path) == 950


def test_a_loader_that_hands_out_other_frames_is_found(tmp_path: Path) -> None:
    truth = [episode(0)]
    front = truth[0].images["front"]
    for shift, noise, expected in ((0, 0, None), (0, 2, 42.11), (1, 0, 7.7)):
        windows = np.stack([front[6 + shift : 16 + shift], np.zeros_like(front[:10])])
        changed = np.where(windows < 128, windows + noise, windows - noise).astype(np.uint8)
        np.savez(tmp_path / "check.npz", index=[(0, 10), (0, 2)], front=changed)  # frame 2: beyond its episode
        only = [EpisodeData(images={"front": front})]
        assert psnr_db(tmp_path / "check.npz", only, 4, 5) == (
            None if expected is None else pytest.approx(expected, abs=0.2)
        )


def test_the_stopwatch() -> None:
    taken = 0

    def batches() -> Iterator[int]:
        nonlocal taken
        while True:
            taken += 1
            time.sleep(0.02)
            yield taken

    found = time_windows(batches(), batch_size=8, windows=20, least_s=0, warm_batches=4)
    assert taken == 4 + 3, "three whole batches for twenty windows"
    assert 50 < found["windows_per_s"] <= 8 / 0.02
    assert found["cpu_ms"] < 1, "sleeping is no work"
    taken = 0
    time_windows(batches(), batch_size=8, windows=8, least_s=0.1, warm_batches=1)
    assert 1 + 3 <= taken <= 1 + 5, "for 0.1 s at least"


def test_no_speed_is_reported_for_other_pictures(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("foreact.commands.bench_data.draw_play", lambda count, length: (CONTRACT, [episode(0)]))
    monkeypatch.setattr(
        "foreact.commands.bench_data.psnr_db",
        lambda check, episodes, before, after: psnr_db(check, [episode(1)], before, after),
    )
    assert run(app, ["bench", "data", *SHORT]) != 0
    assert "raw: the loader hands out other pictures than were recorded (PSNR 7." in capsys.readouterr().err


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="Linux tells this in /proc")
def test_the_work_of_children_counts() -> None:
    script = (
        "import sys, time\n"
        "for line in sys.stdin:\n"
        "    began = time.process_time()\n"
        "    while time.process_time() - began < 0.3: pass\n"
        "    print('{}', flush=True)"
    )
    before = cpu_s()
    with Measurer("child", [sys.executable, "-c", script]) as child:
        assert child.ask({"do": "burn"}) == {}
        assert cpu_s() - before >= 0.25, "while it lives"
        assert 0 <= busy_share(0.05) <= 1
    assert cpu_s() - before >= 0.25, "and when it has ended"


def test_a_process_that_cannot_start_is_explained(tmp_path: Path) -> None:
    with pytest.raises(PeerFailed, match="Peer: .*absent could not be run: No such file"):
        Measurer("Peer", [str(tmp_path / "absent")])

"""Stores of every format version open for ever: what is expected of them is written here as numbers."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from foreact.datasets.episode import Segment
from foreact.datasets.recorder import Recorder
from foreact.datasets.selftest_episodes import SELFTEST_CONTRACT, make_episode
from foreact.datasets.store import Store
from foreact.datasets.verify import verify_store
from foreact.datasets.windows import WindowSampler, WindowSpec

FIXTURES = Path(__file__).parent / "fixtures"


@pytest.fixture(params=["store_v1_folders", "store_v1_packed"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    shutil.copytree(FIXTURES / request.param, tmp_path / "store")
    return tmp_path / "store"


def test_it_is_intact_and_says_what_it_said(path: Path) -> None:
    report = verify_store(path, decode=True)
    assert (report.problems, report.episodes) == ([], 4)
    store = Store.open(path)
    assert store.index.names == ["jpeg-n3", "jpeg-n6", "zstd-n3", "zstd-n6"]
    assert store.index.lengths.tolist() == [5, 3, 5, 3]
    assert store.contract == SELFTEST_CONTRACT and store.contract.hash == "9fa3d83a69a8a3d6"
    assert store.hash == "59eba414af651a42"
    info = store.index[1]
    assert (info.instruction, info.meta) == ("do n6", {"task": "selftest", "number": 8, "split": "train"})
    assert info.segments == [Segment(start=1, end=3, instruction="most of it")]


def test_its_arrays_are_those_that_were_recorded(path: Path) -> None:
    store = Store.open(path)
    for codec in ("jpeg", "zstd"):
        arm, video = store.read(f"{codec}-n6"), store.read(f"{codec}-n3")
        assert arm.state is not None and video.state is None and video.action is None
        assert arm.state[0].tolist() == [0.4343302845954895, 1.1905560493469238, -1.787378191947937]
        assert arm.extras["scene"][0, 0].tolist() == [-0.13590995315671067, 1.7047429861029932]
        assert video.extras["scene"][0, 0].tolist() == [-0.5956094235633376, 1.1542073391870633]
    front = store.read("zstd-n3").images["front"]
    assert front.shape == (5, 24, 32, 3) and front[1, 2, 3].tolist() == [30, 30, 30]
    assert int(store.read("zstd-n3").images["wrist"].sum()) == 281556
    lossy = store.read("jpeg-n3").images["front"]
    assert np.abs(lossy.astype(int) - front).max() <= 4, "another JPEG decoder may round otherwise, no more"


def test_it_can_be_continued_and_trained_on(path: Path) -> None:
    recorder = Recorder(path, SELFTEST_CONTRACT)
    assert recorder.has("jpeg-n6") and not recorder.has("new")
    recorder.write(make_episode("new"), name="new")
    store = Store.open(path)
    assert len(store) == 5
    spec = WindowSpec(cameras={"front": (8, 8), "wrist": (8, 8)})
    batch = WindowSampler(store, spec, seed=0, batch_size=4).batch_at(0)
    assert batch.images["front"].shape == (4, 2, 8, 8, 3)


def test_the_fixtures_stay_small() -> None:
    files = [p for store in FIXTURES.glob("store_*") for p in store.rglob("*") if p.is_file()]
    assert len(files) > 50 and sum(p.stat().st_size for p in files) < 200_000

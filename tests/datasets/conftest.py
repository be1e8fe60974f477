"""Episodes whose numbers name their own frame, so that any shift shows."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from foreact.datasets.episode import EpisodeData
from foreact.datasets.recorder import Recorder
from foreact.datasets.store import Store
from foreact.vla.contract import Camera, Contract, Field

STATE, ACTION = 3, 2

MakeEpisode = Callable[..., EpisodeData]


_CONTRACT = Contract(
    embodiment="test_arm",
    rate_hz=10,
    cameras=(Camera(name="static", height=12, width=16), Camera(name="gripper", height=8, width=8)),
    state=(Field(name="joints", size=2, unit="rad"), Field(name="gripper", size=1, unit="1")),
    action=(Field(name="joints", size=ACTION, unit="rad", relative=True),),
)


@pytest.fixture
def contract() -> Contract:
    return _CONTRACT


def numbered_episode(number: int, length: int, *, video: bool = False, **rest: object) -> EpisodeData:
    """Pixel = 10 * number + frame; state = (number, frame, 0.5); action = (number, -frame)."""
    frames = np.arange(length)
    pixels = (10 * number + frames).astype(np.uint8)[:, None, None, None]
    column = np.full(length, number)
    return EpisodeData(
        images={
            "static": np.broadcast_to(pixels, (length, 12, 16, 3)).copy(),
            "gripper": np.broadcast_to(pixels + 100, (length, 8, 8, 3)).astype(np.uint8),
        },
        state=None if video else np.stack([column, frames, np.full(length, 0.5)], 1).astype(np.float32),
        action=None if video else np.stack([column, -frames], 1).astype(np.float32),
        instruction=f"instruction {number}",
        **rest,  # pyright: ignore[reportArgumentType]
    )


@pytest.fixture
def make_episode() -> MakeEpisode:
    return numbered_episode


@pytest.fixture(scope="session")
def _recorded_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recorded") / "store"
    recorder = Recorder(path, _CONTRACT, codec="zstd")
    for number, length in enumerate((9, 1, 6, 12, 3)):
        split = "val" if number == 4 else "train"
        episode = numbered_episode(number, length, video=number == 2, meta={"split": split, "task": "count"})
        recorder.write(episode, name=f"e{number}")
    return path


@pytest.fixture
def store(tmp_path: Path, _recorded_once: Path) -> Store:
    """Five episodes of 9, 1, 6, 12 and 3 frames; the third is action-free video, the last is of split "val"."""
    shutil.copytree(_recorded_once, tmp_path / "store")
    return Store.open(tmp_path / "store")

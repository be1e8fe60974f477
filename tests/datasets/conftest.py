"""Episodes whose numbers name their own frame, so that any shift shows."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

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


@pytest.fixture
def write_calvin() -> Callable[..., Path]:
    """Writes one part of a CALVIN dataset in its exact layout: `write(folder, segments, windows, digits=7)`.

    Every number of a frame names the frame, and all pixels of its images are the frame number modulo 256.
    """

    def write(
        part: Path,
        segments: list[tuple[int, int]],
        windows: list[tuple[int, int, str, str]] = [],  # noqa: B006 - never changed
        digits: int = 7,
    ) -> Path:
        part.mkdir(parents=True)
        np.save(part / "ep_start_end_ids.npy", np.array(segments, np.int64))
        np.save(part / "ep_lens.npy", np.array([b - a + 1 for a, b in segments]))
        for number in sorted({n for a, b in segments for n in range(a, b + 1)}):
            np.savez_compressed(part / f"episode_{number:0{digits}d}.npz", **_calvin_frame(number))
        if windows:
            (part / "lang_annotations").mkdir()
            annotations = {
                "language": {
                    "ann": [text for *_, text in windows],
                    "task": [task for *_, task, _ in windows],
                    "emb": np.ones((len(windows), 1, 384), np.float32),
                },
                "info": {"indx": [(start, end) for start, end, *_ in windows], "episodes": []},
            }
            path = part / "lang_annotations" / "auto_lang_ann.npy"
            np.save(path, np.array(annotations, dtype=object), allow_pickle=True)
        return part

    return write


def _calvin_frame(number: int) -> dict[str, Any]:
    small = number % 1000 / 1000  # relative actions lie in -1 to 1
    return {
        "actions": np.full(7, number, np.float64),
        "rel_actions": np.array([small] * 6 + [1.0 if number % 2 else -1.0]),
        "robot_obs": number + np.arange(15) / 100,
        "scene_obs": number + np.arange(24) / 100,
        "rgb_static": np.full((200, 200, 3), number % 256, np.uint8),
        "rgb_gripper": np.full((84, 84, 3), (number + 1) % 256, np.uint8),
        "depth_static": np.full((200, 200), 2.5, np.float32),
        "depth_gripper": np.full((84, 84), 0.5, np.float32),
    }

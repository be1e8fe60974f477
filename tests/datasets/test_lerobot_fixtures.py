"""Datasets written by LeRobot's own writers (0.6.1 for v3.0, 0.3.3 for v2.1), against what LeRobot reads from them.

`scripts/peers/lerobot/write.py` made them; the .npz beside each holds its contents as LeRobot's own class gave them,
and of pictures the difference to what was recorded.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from foreact.datasets.formats.lerobot_source import LeRobotSource
from foreact.datasets.formats.lerobot_v3 import LeRobotV3Source
from foreact.datasets.formats.lerobot_v21 import LeRobotV21Source

FIXTURES = Path(__file__).parent / "fixtures" / "lerobot"
ALL = ("v30_video", "v30_rolled", "v30_image", "v21_video", "v21_image")
SIZES = {"front": (64, 80), "wrist": (64, 64)}


def recorded(number: int, t: int, height: int, width: int) -> np.ndarray:
    """The picture that was handed to LeRobot's writer: red tells the frame, green the episode."""
    y, x = np.mgrid[:height, :width]
    return np.stack([20 * t + x / 4, 60 * number + y / 4, 100 + (x + y) / 2], -1).astype(np.uint8)


def open_fixture(name: str) -> LeRobotSource:
    return (LeRobotV3Source if name.startswith("v30") else LeRobotV21Source)(FIXTURES / name)


@pytest.mark.parametrize("name", ALL)
def test_reads_what_lerobot_reads(name: str) -> None:
    source = open_fixture(name)
    with np.load(FIXTURES / f"{name}.npz") as truth:
        tasks = json.loads(str(truth["tasks"]))
        assert source.frames == sum(map(len, tasks)) == 15
        assert list(source.names()) == [f"episode_{n:06d}" for n in range(len(tasks))]
        for number, episode_name in enumerate(source.names()):
            episode = source.read(episode_name)
            assert len(episode) == len(tasks[number])
            assert episode.state is not None and episode.state.dtype == np.float32
            np.testing.assert_array_equal(episode.state, truth[f"{number}/observation.state"])
            np.testing.assert_array_equal(episode.action, truth[f"{number}/action"])
            assert set(episode.extras) == {"observation.environment_state", "next.reward", "next.done", "grid"}
            for key, value in episode.extras.items():
                np.testing.assert_array_equal(value, truth[f"{number}/{key}"].reshape(value.shape))
            assert [text_at(episode, t) for t in range(len(episode))] == tasks[number]
            for camera, frames in episode.images.items():
                made = np.stack([recorded(number, t, *SIZES[camera]) for t in range(len(frames))])
                as_lerobot = made.astype(int) + truth[f"{number}/observation.images.{camera}"]
                # FFmpeg versions round colours differently by one level; pictures must be bit by bit the same.
                assert np.abs(frames - as_lerobot).max() <= (0 if name.endswith("image") else 1)


def text_at(episode: object, t: int) -> str:
    texts = [s.instruction for s in episode.segments if s.start <= t < s.end]  # pyright: ignore
    return texts[0] if texts else episode.instruction  # pyright: ignore


@pytest.mark.parametrize("name", ["v30_video", "v30_rolled", "v21_video"])
def test_each_frame_of_a_video_is_itself_not_its_neighbour(name: str) -> None:
    source = open_fixture(name)
    for number, episode_name in enumerate(source.names()):
        frames = source.read(episode_name).images["front"]
        for t, frame in enumerate(frames):
            errors = {
                (n, k): np.abs(frame.astype(int) - recorded(n, k, *SIZES["front"])).mean()
                for n in range(4)
                for k in range(6)
            }
            assert min(errors, key=lambda key: errors[key]) == (number, t)


@pytest.mark.parametrize("name", ALL)
def test_contract_has_what_lerobot_tells(name: str) -> None:
    contract = open_fixture(name).contract
    assert (contract.embodiment, contract.rate_hz) == ("fixture_arm", 20.0)
    assert [(c.name, c.height, c.width) for c in contract.cameras] == [("front", 64, 80), ("wrist", 64, 64)]
    assert [f.name for f in contract.state] == ["shoulder.pos", "elbow.pos", "gripper.pos"]
    assert [f.name for f in contract.action] == ["left", "right"]
    assert {f.unit for f in (*contract.state, *contract.action)} == {"unknown"}


@pytest.mark.parametrize("name", ALL)
def test_recognised_by_one_version_only(name: str) -> None:
    assert LeRobotV3Source.recognise(FIXTURES / name) == name.startswith("v30")
    assert LeRobotV21Source.recognise(FIXTURES / name) == name.startswith("v21")


def test_notes_say_what_is_unknown() -> None:
    notes = " ".join(open_fixture("v30_video").notes)
    assert "units" in notes and "booleans become float64" in notes

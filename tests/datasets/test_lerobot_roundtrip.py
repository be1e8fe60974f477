"""Ours to LeRobot's formats and back."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foreact.datasets.episode import EpisodeData, Segment
from foreact.datasets.formats.base import Sink, Source
from foreact.datasets.formats.convert import Target, convert
from foreact.datasets.formats.lerobot_v3 import LeRobotV3Source
from foreact.datasets.formats.lerobot_v3_sink import LeRobotV3Sink
from foreact.datasets.formats.lerobot_v21 import LeRobotV21Source
from foreact.datasets.formats.lerobot_v21_sink import LeRobotV21Sink
from foreact.datasets.formats.registry import Opening, recognise
from foreact.datasets.recorder import Recorder
from foreact.datasets.selftest_episodes import same_episode
from foreact.datasets.store import Store
from foreact.vla.contract import Camera, Contract, Field

VERSIONS = {"v3": (LeRobotV3Sink, LeRobotV3Source), "v21": (LeRobotV21Sink, LeRobotV21Source)}
CONTRACT = Contract(
    embodiment="test_arm",
    rate_hz=10,
    cameras=(Camera(name="static", height=48, width=64), Camera(name="gripper", height=32, width=32)),
    state=(Field(name="joints", size=2, unit="rad"), Field(name="gripper", size=1, unit="1")),
    action=(Field(name="joints", size=2, unit="rad", relative=True),),
    gripper="+1 open, -1 close",
)


def make(seed: int, length: int, **rest: Any) -> EpisodeData:
    """An episode with smooth pictures and random numbers."""
    rng = np.random.default_rng(seed)
    images = {}
    for camera in CONTRACT.cameras:
        y, x = np.mgrid[: camera.height, : camera.width]
        slope = (x + 2 * y)[None, :, :, None] / 2 + rng.uniform(0, 120, (length, 1, 1, 3))
        images[camera.name] = slope.astype(np.uint8)
    return EpisodeData(
        images=images,
        state=rng.normal(size=(length, 3)).astype(np.float32),
        action=rng.normal(size=(length, 2)).astype(np.float32),
        instruction=f"instruction {seed % 2}",
        **rest,
    )


def through(version: str, episodes: dict[str, EpisodeData], path: Path, **options: Any) -> Source:
    sink_type, source_type = VERSIONS[version]
    sink: Sink = sink_type(path, CONTRACT, **options)
    for name, episode in episodes.items():
        sink.write(name, episode)
    sink.finish()
    return source_type(path)


@pytest.mark.parametrize("version", VERSIONS)
def test_pictures_come_back_bit_by_bit(version: str, tmp_path: Path) -> None:
    episodes = {
        f"run-{n}": make(n, length, extras={"scene": np.arange(length * 6.0).reshape(length, 2, 3)}, meta={"seed": n})
        for n, length in enumerate((5, 1, 9))
    }
    source = through(version, episodes, tmp_path / "out", codec="png")
    assert source.contract == CONTRACT
    assert list(source.names()) == list(episodes)
    for name, episode in episodes.items():
        back = source.read(name)
        assert back.meta.pop("source") == f"{source.format}:out#{list(episodes).index(name)}"
        episode.name = name
        assert same_episode(episode, back)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("codec", ["av1", "h264"])
def test_videos_come_back_at_the_right_frames_and_nearly_the_same(version: str, codec: str, tmp_path: Path) -> None:
    episodes = {f"run-{n}": make(n, length) for n, length in enumerate((6, 1, 3, 11))}
    source = through(version, episodes, tmp_path / "out", codec=codec)
    for name, episode in episodes.items():
        back = source.read(name)
        np.testing.assert_array_equal(back.state, episode.state)
        np.testing.assert_array_equal(back.action, episode.action)
        for camera, frames in episode.images.items():
            error = (back.images[camera].astype(float) - frames) ** 2
            psnr_db = 10 * np.log10(255**2 / error.mean(axis=(1, 2, 3)))
            assert psnr_db.min() > 36


_TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40)
_SCALARS = (
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats(allow_nan=False, allow_infinity=False) | _TEXTS
)


@st.composite
def datasets(draw: st.DrawFn) -> dict[str, EpisodeData]:
    lengths = draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    has_state, has_action = draw(st.booleans()), draw(st.booleans())
    shapes = draw(
        st.dictionaries(st.sampled_from(["a", "scene.obs", "q-1"]), st.sampled_from([(), (1,), (3,), (2, 2)]))
    )
    kind = draw(st.sampled_from([np.float32, np.float64]))
    episodes = {}
    for n, length in enumerate(lengths):
        episode = make(draw(st.integers(0, 2**31)), length)
        rng = np.random.default_rng(n)
        episode.images = {k: rng.integers(0, 256, v.shape, dtype=np.uint8) for k, v in episode.images.items()}
        episode.state = episode.state if has_state else None
        episode.action = episode.action if has_action else None
        episode.extras = {key: rng.normal(size=(length, *shape)).astype(kind) for key, shape in shapes.items()}
        episode.instruction = draw(_TEXTS)
        ends = draw(st.lists(st.tuples(st.integers(0, length - 1), st.integers(1, length)), max_size=3))
        episode.segments = [Segment(start=a, end=b, instruction=draw(_TEXTS)) for a, b in ends if a < b]
        episode.meta = draw(st.dictionaries(_TEXTS.filter(lambda key: key != "source"), _SCALARS, max_size=3))
        episode.name = f"e{n}"
        episodes[episode.name] = episode
    return episodes


@pytest.mark.parametrize("version", VERSIONS)
@settings(max_examples=15, deadline=None)
@given(episodes=datasets())
def test_any_episodes_come_back(version: str, episodes: dict[str, EpisodeData]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = through(version, episodes, Path(folder) / "out", codec="png")
        for name, episode in episodes.items():
            back = source.read(name)
            del back.meta["source"]
            assert same_episode(episode, back)


def test_frames_of_segments_have_their_sentence_as_task(tmp_path: Path) -> None:
    segments = [Segment(start=1, end=5, instruction="whole"), Segment(start=2, end=3, instruction="part")]
    episodes = {"a": make(0, 6, segments=segments)}
    for language, expected in (
        ("segments", ["instruction 0", "whole", "part", "whole", "whole", "instruction 0"]),
        ("episode", ["instruction 0"] * 6),
    ):
        source = through("v3", episodes, tmp_path / language, codec="png", language=language)
        tasks = pq.read_table(tmp_path / language / "meta/tasks.parquet")
        texts = dict(zip(tasks["task_index"].to_pylist(), tasks["task"].to_pylist(), strict=True))
        data = pq.read_table(tmp_path / language / "data/chunk-000/file-000.parquet")
        assert [texts[n] for n in data["task_index"].to_pylist()] == expected
        assert source.read("a").segments == segments


def test_without_our_side_file_it_is_read_like_any_dataset(tmp_path: Path) -> None:
    segments = [Segment(start=0, end=2, instruction="first"), Segment(start=2, end=4, instruction="second")]
    episode = make(3, 4, segments=segments, extras={"depth": np.ones(4)})
    through("v21", {"mine": episode}, tmp_path / "out", codec="png")
    (tmp_path / "out/meta/foreact.json").unlink()
    source = LeRobotV21Source(tmp_path / "out")
    back = source.read("episode_000000")
    assert back.segments == segments and back.instruction == "first; second"
    assert [f.name for f in source.contract.state] == ["joints", "gripper"]  # modality.json tells the ranges
    np.testing.assert_array_equal(back.state, episode.state)
    np.testing.assert_array_equal(back.extras["extras.depth"], np.ones(4))
    back_again = LeRobotV21Source(tmp_path / "out", CONTRACT)
    assert back_again.contract == CONTRACT


def test_modality_of_gr00t_names_ranges_and_cameras(tmp_path: Path) -> None:
    through("v21", {"a": make(0, 3)}, tmp_path / "out")
    found = json.loads((tmp_path / "out/meta/modality.json").read_text())
    assert found["state"]["joints"] == {"start": 0, "end": 2, "original_key": "observation.state"}
    assert found["state"]["gripper"] == {"start": 2, "end": 3, "original_key": "observation.state"}
    assert found["video"]["static"] == {"original_key": "observation.images.static"}
    assert found["annotation"] == {"human.task_description": {"original_key": "task_index"}}


def test_side_file_of_other_episodes_is_ignored_and_said(tmp_path: Path) -> None:
    through("v3", {"a": make(0, 3)}, tmp_path / "out", codec="png")
    side = tmp_path / "out/meta/foreact.json"
    side.write_text(side.read_text().replace('"length": 3', '"length": 4'))
    source = LeRobotV3Source(tmp_path / "out")
    assert list(source.names()) == ["episode_000000"]
    assert any("edited" in note for note in source.notes)


@pytest.mark.parametrize("version", VERSIONS)
def test_action_free_video_stays_action_free(version: str, tmp_path: Path) -> None:
    episode = make(0, 4)
    episode.state = episode.action = None
    back = through(version, {"a": episode}, tmp_path / "out").read("a")
    assert back.state is None and back.action is None and len(back) == 4


@pytest.mark.parametrize("to", ["lerobot-v3", "lerobot-v2.1"])
def test_a_store_is_converted_and_back_by_names(to: str, tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "store", CONTRACT, codec="zstd")
    for n, length in enumerate((4, 7)):
        recorder.write(make(n, length, meta={"seed": n}), name=f"e{n}")
    convert(Opening("foreact", tmp_path / "store"), Target(to, tmp_path / "there", {"codec": "png"}))
    assert recognise(tmp_path / "there") == to
    convert(Opening(to, tmp_path / "there"), Target("foreact", tmp_path / "back", {"codec": "zstd"}))
    before, after = Store.open(tmp_path / "store"), Store.open(tmp_path / "back")
    assert before.contract == after.contract and len(after) == 2
    for n in range(2):
        back = after.read(n)
        assert back.meta.pop("source") == f"{to}:there#{n}"
        assert same_episode(before.read(n), back)

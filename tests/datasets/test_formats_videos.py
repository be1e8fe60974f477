"""Folders of videos: films made here, whose frames say which they are."""

from __future__ import annotations

import csv
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from foreact.datasets.formats.base import FormatError, Source
from foreact.datasets.formats.clip import fit, read_clip
from foreact.datasets.formats.convert import Target, convert
from foreact.datasets.formats.registry import Opening, recognise
from foreact.datasets.formats.videos import VideosSource
from foreact.datasets.store import Store
from foreact.vla.contract import Camera, Contract
from foreact.vla.errors import ConfigError


def film(
    path: Path,
    frames: int = 40,
    rate: int = 20,
    size: tuple[int, int] = (48, 64),
    codec: str = "libx264",
    first: int = 0,
) -> Path:
    """Frame k is grey of level 5 k + 20, up to 220."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=Fraction(rate))
        stream.height, stream.width, stream.pix_fmt, stream.gop_size = *size, "yuv420p", 7
        stream.bit_rate = 8_000_000
        for number in range(frames):
            level = min(220, 20 + 5 * number)
            picture = av.VideoFrame.from_ndarray(np.full((*size, 3), level, np.uint8), format="rgb24")
            picture.pts, picture.time_base = number + first, Fraction(1, rate)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return path


def numbers(frames: np.ndarray) -> list[int]:
    """Which frames of the film these are, by their grey."""
    return [round((float(frame.mean()) - 20) / 5) for frame in frames]


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "libx264"), ("a.webm", "libvpx-vp9"), ("a.avi", "mpeg4")])
def test_frames_at_a_lower_rate(tmp_path: Path, name: str, codec: str) -> None:
    path = film(tmp_path / name, codec=codec)
    assert numbers(read_clip(path, 10, 24, 32)) == list(range(0, 40, 2))
    assert numbers(read_clip(path, 20, 24, 32)) == list(range(40))
    assert numbers(read_clip(path, 8, 24, 32, 0.5, 1.5)) == [10, 12, 15, 17, 20, 22, 25, 27]  # latest at or before


def test_a_higher_rate_repeats_frames(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", frames=6)
    assert numbers(read_clip(path, 40, 24, 32)) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]


def test_a_part_begins_at_its_start_whatever_the_key_frames(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4")
    for start in range(36):
        assert numbers(read_clip(path, 20, 24, 32, start / 20, (start + 3) / 20)) == [start, start + 1, start + 2]
    with pytest.raises(FormatError, match=r"no frame from 5 s to 6 s"):
        read_clip(path, 10, 24, 32, 5, 6)


def test_time_zero_is_the_first_frame(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mkv", first=30)
    assert numbers(read_clip(path, 20, 24, 32, 0, 0.2)) == [0, 1, 2, 3]


def test_crop_takes_the_middle_and_stretch_everything() -> None:
    frame = np.zeros((10, 30, 3), np.uint8)
    frame[:, 10:20] = 200
    assert fit(frame, 10, 10, crop=True).min() == 200
    stretched = fit(frame, 10, 10, crop=False)
    assert stretched.shape == (10, 10, 3) and stretched.min() == 0 and stretched.max() == 200


@pytest.mark.parametrize("kind", ["csv", "json"])
def test_a_table_of_captions(tmp_path: Path, kind: str) -> None:
    film(tmp_path / "in" / "kitchen" / "a.mp4")
    film(tmp_path / "in" / "b.mp4", frames=10)
    rows = [
        {"path": "kitchen/a.mp4", "caption": "open the\n drawer", "start_s": "0.5", "end_s": "1"},
        {"path": "kitchen/a.mp4", "caption": "close it", "start_s": "1", "end_s": ""},
        {"path": "b.mp4", "caption": "lift", "start_s": "", "end_s": ""},
    ]
    if kind == "csv":
        with open(tmp_path / "in" / "captions.csv", "w", newline="", encoding="utf-8-sig") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        (tmp_path / "in" / "captions.json").write_text(json.dumps(rows))
    assert recognise(tmp_path / "in") == "videos"
    source = VideosSource(tmp_path / "in", size="24x32", rate_hz="10")
    assert isinstance(source, Source)
    assert source.names() == ["kitchen-a-00000.50", "kitchen-a-00001.00", "b"]
    first = source.read("kitchen-a-00000.50")
    assert first.instruction == "open the drawer" and first.state is None and first.action is None
    assert numbers(first.images["video"]) == [10, 12, 14, 16, 18]
    assert first.meta["source"] == "kitchen/a.mp4, from 0.5 s to 1 s"
    assert numbers(source.read("b").images["video"]) == [0, 2, 4, 6, 8]
    goal = Target("foreact", tmp_path / "s", {"codec": "zstd"})
    convert(Opening("videos", tmp_path / "in", options={"size": "24x32"}), goal, workers=2)
    store = Store.open(tmp_path / "s")
    assert [(i.length, i.instruction) for i in store.index] == [(5, "lift"), (5, "open the drawer"), (10, "close it")]


def test_the_cameras_of_a_robot_may_be_given_so_that_the_data_mix(tmp_path: Path, contract: Contract) -> None:
    film(tmp_path / "b.mp4", frames=10)
    (tmp_path / "captions.csv").write_text("path,caption\nb.mp4,lift\n")
    with pytest.raises(ConfigError, match="cameras static, gripper: which one"):
        VideosSource(tmp_path, contract)
    source = VideosSource(tmp_path, contract, camera="static")
    episode = source.read("b")
    assert source.contract == contract and {k: v.shape for k, v in episode.images.items()} == {"static": (5, 12, 16, 3)}
    with pytest.raises(ConfigError, match="come from --contract"):
        VideosSource(tmp_path, contract, camera="static", size="10x10")


def test_labels_of_something_something(tmp_path: Path) -> None:
    film(tmp_path / "20bn-something-something-v2" / "78687.webm", codec="libvpx-vp9", frames=8)
    (tmp_path / "labels").mkdir()
    rows = [{"id": "78687", "label": "holding potato next to vicks bottle", "template": "Holding [something]", "x": []}]
    (tmp_path / "labels" / "train.json").write_text(json.dumps(rows))
    source = VideosSource(tmp_path, captions="labels/train.json", size="24x32", rate_hz="20")
    assert source.names() == ["78687"]
    assert source.read("78687").instruction == "holding potato next to vicks bottle"
    assert len(source.read("78687")) == 8


@pytest.mark.parametrize("nested", [True, False])
def test_narrations_of_ego4d(tmp_path: Path, nested: bool) -> None:
    film(tmp_path / "v2" / "full_scale" / "77ac-b0.mp4")
    narrations = [
        {"timestamp_sec": 1.0, "timestamp_frame": 20, "narration_text": "#C C opens a drawer #unsure"},
        {"timestamp_sec": 0.1, "timestamp_frame": 2, "narration_text": "#O a man X walks"},
    ]
    videos = {"77ac-b0": {"status": "complete", "narration_pass_1": {"narrations": narrations}, "split": "train"}}
    (tmp_path / "narration.json").write_text(json.dumps({"videos": videos} if nested else videos))
    source = VideosSource(tmp_path, captions="narration.json", size="24x32", rate_hz="10", clip_s="0.8")
    found = [source.read(name) for name in source.names()]
    assert [e.instruction for e in found] == ["C opens a drawer", "a man X walks"]
    assert numbers(found[0].images["video"]) == [12, 14, 16, 18, 20, 22, 24, 26]
    assert numbers(found[1].images["video"])[0] == 0


def test_our_own_mp4_export_is_a_folder_of_videos(tmp_path: Path, store: Store) -> None:
    convert(Opening("foreact", store.path), Target("mp4", tmp_path / "films"))
    assert recognise(tmp_path / "films") == "videos"
    source = VideosSource(tmp_path / "films", Contract(
        embodiment="video", rate_hz=10, cameras=(Camera(name="video", height=12, width=16),)
    ))  # fmt: skip
    lengths = {name: len(source.read(name)) for name in source.names()}
    assert lengths["videos-e0-static"] == 9 and lengths["videos-e3-gripper"] == 12


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [("size", "0x3", "HEIGHTxWIDTH"), ("size", "99999x9", "HEIGHTxWIDTH"), ("rate_hz", "nan", "above 0"),
     ("fit", "pad", "one of crop, stretch"), ("clip_s", "-1", "above 0")],
)  # fmt: skip
def test_wrong_options_are_named(tmp_path: Path, option: str, value: str, message: str) -> None:
    (tmp_path / "captions.csv").write_text("path,caption\nb.mp4,lift\n")
    with pytest.raises(ConfigError, match=f"option {option}.*{message}"):
        VideosSource(tmp_path, None, **{option: value})

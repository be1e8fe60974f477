"""robomimic files: ours back again in full, and files as robosuite writes them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from foreact.datasets.episode import EpisodeData
from foreact.datasets.formats.base import FormatError, Sink, Source
from foreact.datasets.formats.convert import Target, convert, copy_episodes
from foreact.datasets.formats.registry import Opening
from foreact.datasets.formats.robomimic import RobomimicSource
from foreact.datasets.formats.robomimic_sink import RobomimicSink
from foreact.datasets.formats.store import StoreSource
from foreact.datasets.selftest_episodes import same_episode
from foreact.datasets.store import Store
from foreact.vla.contract import Contract
from foreact.vla.errors import ConfigError


def theirs(path: Path, demos: int = 3, **changes: Any) -> Path:
    """A file as robomimic's own tools write one for a robosuite task."""
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        env = {"env_name": "Lift", "type": 1, "env_kwargs": {"robots": ["Panda"], "control_freq": 15}}
        data.attrs["env_args"] = json.dumps(changes.get("env", env))
        for number in range(demos):
            demo = data.create_group(f"demo_{number}")
            length = 4 + number
            demo.attrs["num_samples"] = length
            demo.create_dataset("actions", data=np.full((length, 7), number / 10))
            demo.create_dataset("rewards", data=np.zeros(length))
            demo.create_dataset("dones", data=np.eye(length, dtype=np.int64)[-1])
            demo.create_dataset("states", data=np.full((length, 32), number, np.float64))
            for group in ("obs", "next_obs"):
                pixels = np.full((length, 84, 84, 3), number, np.uint8)
                demo.create_dataset(f"{group}/agentview_image", data=pixels, compression="gzip")
                demo.create_dataset(f"{group}/robot0_eef_pos", data=np.full((length, 3), number, np.float64))
                demo.create_dataset(f"{group}/robot0_gripper_qpos", data=np.full((length, 2), -number, np.float64))
                demo.create_dataset(f"{group}/agentview_depth", data=np.zeros((length, 84, 84, 1), np.float32))
        file.create_dataset("mask/train", data=np.array([b"demo_0", b"demo_2"]))
        file.create_dataset("mask/valid", data=np.array([b"demo_1"]))
    return path


def test_a_file_of_robosuite(tmp_path: Path) -> None:
    source = RobomimicSource(theirs(tmp_path / "x.hdf5", demos=11))
    assert isinstance(source, Source)
    assert source.names() == [f"demo_{n}" for n in range(11)]  # by number, not demo_0, demo_1, demo_10
    contract = source.contract
    assert (contract.embodiment, contract.rate_hz) == ("Panda", 15)
    assert [(c.name, c.height, c.width) for c in contract.cameras] == [("agentview_image", 84, 84)]
    assert [(f.name, f.size, f.unit) for f in contract.state] == [
        ("robot0_eef_pos", 3, "unknown"), ("robot0_gripper_qpos", 2, "unknown"),
    ]  # fmt: skip
    episode = source.read("demo_2")
    assert len(episode) == 6 and episode.images["agentview_image"].max() == 2
    np.testing.assert_array_equal(episode.state, np.tile([2.0, 2, 2, -2, -2], (6, 1)))
    np.testing.assert_allclose(np.asarray(episode.action), np.full((6, 7), 0.2), rtol=1e-6)
    assert episode.extras["states"].dtype == np.float64 and episode.extras["done"][-1] == 1
    assert episode.meta == {"source": "x.hdf5/data/demo_2", "split": "train"}
    notes = " ".join(source.notes)
    assert "agentview_depth (4, 84, 84, 1) float32" in notes and "next_obs is left out" in notes
    assert RobomimicSource(tmp_path / "x.hdf5", filter="valid").names() == ["demo_1"]
    convert(Opening("robomimic", tmp_path / "x.hdf5"), Target("foreact", tmp_path / "s", {"codec": "zstd"}))
    assert len(Store.open(tmp_path / "s")) == 11


def test_language_of_libero_and_an_assumed_rate(tmp_path: Path) -> None:
    path = theirs(tmp_path / "x.hdf5", env={"env_name": "x"})
    with h5py.File(path, "a") as file:
        file["data"].attrs["problem_info"] = json.dumps({"language_instruction": ["open the", "x"][:1]})
    source = RobomimicSource(path)
    assert source.read("demo_0").instruction == "open the"
    assert source.contract.rate_hz == 20 and "20 Hz is assumed" in source.notes[0]
    assert RobomimicSource(path, rate_hz="7.5", instruction="lift").read("demo_0").instruction == "lift"
    with pytest.raises(ConfigError, match="option rate_hz: expected a number above 0"):
        RobomimicSource(path, rate_hz="-2")


def test_what_we_write_is_laid_out_as_robomimic_says(
    tmp_path: Path, contract: Contract, make_episode: Callable[..., EpisodeData]
) -> None:
    sink = RobomimicSink(tmp_path / "x.hdf5", contract, next_obs="yes")
    assert isinstance(sink, Sink)
    for number, split in enumerate(("train", "val", "train")):
        sink.write(f"e{number}", make_episode(number, 5 + number, meta={"split": split}))
    sink.write("video", make_episode(3, 4, video=True))
    sink.finish()
    assert sink.left_out == ["video"] and "left out, without actions: video" in sink.notes[-1]
    with h5py.File(tmp_path / "x.hdf5") as file:
        data: Any = file["data"]
        assert data.attrs["total"] == 5 + 6 + 7
        assert json.loads(data.attrs["env_args"])["env_kwargs"] == {"control_freq": 10}
        assert sorted(data) == ["demo_0", "demo_1", "demo_2"]
        demo = data["demo_1"]
        assert demo.attrs["num_samples"] == 6
        assert set(demo["obs"]) == set(demo["next_obs"]) == {"static_image", "gripper_image", "joints", "gripper"}
        np.testing.assert_array_equal(demo["actions"], make_episode(1, 6).action)
        np.testing.assert_array_equal(demo["obs/joints"][:, 1], np.arange(6))
        np.testing.assert_array_equal(demo["next_obs/joints"][:, 1], [1, 2, 3, 4, 5, 5])
        assert demo["obs/static_image"].shape == (6, 12, 16, 3) and demo["dones"][:].tolist() == [0] * 5 + [1]
        mask: Any = file["mask"]
        assert list(mask["train"]) == [b"demo_0", b"demo_2"] and list(mask["valid"]) == [b"demo_1"]


def test_ours_comes_back_in_full(tmp_path: Path, store: Store) -> None:
    source = StoreSource(store.path)
    sink = RobomimicSink(tmp_path / "x.hdf5", source.contract)
    copy_episodes(source, sink)
    back = RobomimicSource(tmp_path / "x.hdf5")
    assert back.contract == store.contract and back.names() == ["e0", "e1", "e3", "e4"]
    for name in back.names():
        assert same_episode(back.read(name), store.read(name))


def test_action_free_video_alone_is_refused(
    tmp_path: Path, contract: Contract, make_episode: Callable[..., EpisodeData]
) -> None:
    sink = RobomimicSink(tmp_path / "x.hdf5", contract)
    sink.write("video", make_episode(3, 4, video=True))
    with pytest.raises(FormatError, match="no episode has actions"):
        sink.finish()
    with pytest.raises(FormatError, match="robomimic needs actions"):
        RobomimicSink(tmp_path / "y.hdf5", contract.model_copy(update={"action": ()}))


def test_arrays_of_unequal_length_are_named(tmp_path: Path) -> None:
    path = theirs(tmp_path / "x.hdf5")
    with h5py.File(path, "a") as file:
        del file["data/demo_1/obs/agentview_image"]
        file["data/demo_1/obs/agentview_image"] = np.zeros((3, 84, 84, 3), np.uint8)
    with pytest.raises(
        FormatError, match=r"demo_1: agentview_image has shape \(3, 84, 84, 3\), but there are 5 actions"
    ):
        RobomimicSource(path).read("demo_1")

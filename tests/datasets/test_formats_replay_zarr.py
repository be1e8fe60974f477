"""diffusion_policy replay buffers: read back without any Zarr library, by zarr-python, and by us."""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import zarr
from zarr.storage import ZipStore

from foreact.datasets.episode import EpisodeData
from foreact.datasets.formats.base import FormatError, Sink, Source
from foreact.datasets.formats.convert import copy_episodes
from foreact.datasets.formats.replay_zarr import ReplayZarrSource
from foreact.datasets.formats.replay_zarr_sink import ReplayZarrSink
from foreact.datasets.formats.store import StoreSource
from foreact.datasets.selftest_episodes import same_episode
from foreact.datasets.store import Store
from foreact.vla.contract import Contract


def read_v2(get: Callable[[str], bytes], name: str) -> np.ndarray:
    """An array by the Zarr v2 specification: JSON, numcodecs and numpy."""
    meta = json.loads(get(f"{name}/.zarray"))
    out = np.zeros(meta["shape"], meta["dtype"])
    codec: Any = numcodecs.get_codec(meta["compressor"]) if meta["compressor"] else None
    assert meta["zarr_format"] == 2 and meta["order"] == "C" and not meta["filters"]
    for index in product(*(range(math.ceil(n / c)) for n, c in zip(meta["shape"], meta["chunks"], strict=True))):
        raw = get(f"{name}/{'.'.join(map(str, index))}")
        chunk = np.frombuffer(codec.decode(raw) if codec else raw, meta["dtype"]).reshape(meta["chunks"])
        place = tuple(
            slice(i * c, min((i + 1) * c, n)) for i, c, n in zip(index, meta["chunks"], meta["shape"], strict=True)
        )
        out[place] = chunk[tuple(slice(0, p.stop - p.start) for p in place)]
    return out


def theirs(path: Path, lengths: tuple[int, ...] = (5, 8, 3), **create: Any) -> Path:
    """A replay buffer as diffusion_policy makes one for Push-T: pixels as float32, no language, no contract."""
    root = zarr.open_group(path, mode="w", zarr_format=2)
    data, meta = root.create_group("data"), root.create_group("meta")
    total = sum(lengths)
    number = np.repeat(np.arange(len(lengths)), lengths)
    arrays = {
        "img": np.broadcast_to(number[:, None, None, None], (total, 12, 16, 3)).astype(np.float32) * 10.4,
        "state": np.stack([number, np.arange(total), *[np.zeros(total)] * 3], 1).astype(np.float32),
        "action": np.arange(total * 2).reshape(total, 2).astype(np.float32),
        "n_contacts": np.ones((total, 1), np.float32),
    }
    options: dict[str, Any] = {"compressors": numcodecs.Blosc("zstd", 5, 2), "config": {"write_empty_chunks": True}}
    for key, value in arrays.items():
        array = data.create_array(
            key, shape=value.shape, dtype=value.dtype, chunks=(4, *value.shape[1:]), **(options | create)
        )
        array[...] = value
    ends = meta.create_array("episode_ends", shape=(len(lengths),), dtype="int64", chunks=(len(lengths),), **options)
    ends[...] = np.cumsum(lengths)
    return path


@pytest.mark.parametrize("ending", ["out.zarr", "out.zarr.zip"])
def test_ours_comes_back_in_full_and_without_a_zarr_library(tmp_path: Path, store: Store, ending: str) -> None:
    source = StoreSource(store.path)
    sink = ReplayZarrSink(tmp_path / ending, source.contract, chunk_bytes="2000")  # several chunks, cut inside episodes
    assert isinstance(sink, Sink)
    copy_episodes(source, sink)
    back = ReplayZarrSource(tmp_path / ending)
    assert isinstance(back, Source)
    assert back.contract == store.contract and back.names() == ["e0", "e1", "e3", "e4"]
    episodes = [store.read(name) for name in back.names()]
    for name, episode in zip(back.names(), episodes, strict=True):
        assert same_episode(back.read(name), episode)
    assert sink.left_out == ["e2"] and "e2" in sink.notes[-1]

    if ending.endswith(".zip"):
        archive = zipfile.ZipFile(tmp_path / ending)
        get = archive.read
        opened: Any = zarr.open_group(ZipStore(tmp_path / ending, mode="r"), mode="r", zarr_format=2)
    else:
        get = lambda name: (tmp_path / ending / name).read_bytes()  # noqa: E731
        opened = zarr.open_group(tmp_path / ending, mode="r", zarr_format=2)
    whole = {
        "static": np.concatenate([e.images["static"] for e in episodes]),
        "gripper": np.concatenate([e.images["gripper"] for e in episodes]),
        "joints": np.concatenate([e.state[:, :2] for e in episodes if e.state is not None]),
        "gripper-2": np.concatenate([e.state[:, 2:] for e in episodes if e.state is not None]),
        "action": np.concatenate([e.action for e in episodes if e.action is not None]),
    }
    for key, expected in whole.items():
        np.testing.assert_array_equal(read_v2(get, f"data/{key}"), expected)
        np.testing.assert_array_equal(opened[f"data/{key}"][:], expected)
    ends = read_v2(get, "meta/episode_ends")
    assert ends.dtype == np.int64 and ends.tolist() == [9, 10, 22, 25]
    assert sorted(opened["data"].array_keys()) == sorted(whole)


def test_a_replay_buffer_of_push_t(tmp_path: Path) -> None:
    source = ReplayZarrSource(theirs(tmp_path / "x.zarr"), rate_hz="10", instruction="push the T")
    assert source.names() == ["episode_000000", "episode_000001", "episode_000002"] and source.frames == 16
    assert [(c.name, c.height, c.width) for c in source.contract.cameras] == [("img", 12, 16)]
    episode = source.read("episode_000001")
    assert episode.images["img"].dtype == np.uint8 and set(episode.images["img"].flat) == {10}
    assert episode.state is not None and episode.state[:, 1].tolist() == list(range(5, 13))
    assert episode.action is not None and episode.action[0].tolist() == [10, 11]
    assert list(episode.extras) == ["n_contacts"] and episode.instruction == "push the T"
    assert any("taken as pixels from 0 to 255" in note for note in source.notes)


@pytest.mark.parametrize(
    "compressor",
    [None, numcodecs.Blosc("lz4", 3, 1), numcodecs.Zstd(3), numcodecs.LZ4(), numcodecs.Zlib(), numcodecs.GZip(),
     numcodecs.BZ2(), numcodecs.LZMA()],
)  # fmt: skip
@pytest.mark.parametrize("order", ["C", "F"])
def test_every_allowed_codec_and_order(tmp_path: Path, compressor: Any, order: str) -> None:
    path = theirs(tmp_path / "x.zarr", compressors=compressor, order=order)
    reference: Any = zarr.open_group(path, mode="r", zarr_format=2)
    source = ReplayZarrSource(path)
    actions = np.concatenate([np.asarray(source.read(name).action) for name in source.names()])
    np.testing.assert_array_equal(actions, reference["data/action"][:])


def test_rate_from_time_stamps(tmp_path: Path) -> None:
    path = theirs(tmp_path / "x.zarr")
    stamps = zarr.open_group(path / "data", mode="a", zarr_format=2).create_array(
        "timestamp", shape=(16,), dtype="float64", chunks=(16,), config={"write_empty_chunks": True}
    )
    stamps[...] = 1.7e9 + np.arange(16) / 20
    source = ReplayZarrSource(path)
    assert source.contract.rate_hz == 20
    assert source.read("episode_000000").extras["timestamp"].dtype == np.float64


def test_missing_chunks_are_an_error_unless_they_are_said_to_be_fill_values(tmp_path: Path) -> None:
    path = theirs(tmp_path / "x.zarr", lengths=(4, 4))
    (path / "data" / "state" / "1.0").unlink()
    with pytest.raises(FormatError, match=r"chunk data/state/1\.0 is missing(.|\n)*missing=fill"):
        ReplayZarrSource(path).read("episode_000001")
    assert not np.asarray(ReplayZarrSource(path, missing="fill").read("episode_000001").state).any()


def test_jpeg_xl_of_umi_is_explained(tmp_path: Path) -> None:
    path = theirs(tmp_path / "x.zarr")
    meta = json.loads((path / "data/img/.zarray").read_text())
    meta["compressor"] = {"id": "imagecodecs_jpegxl", "level": 99, "effort": None}
    (path / "data/img/.zarray").write_text(json.dumps(meta))
    with pytest.raises(FormatError, match="compressed as JPEG XL .* as UMI does"):
        ReplayZarrSource(path)


def test_an_episode_with_other_arrays_is_left_out_and_named(
    tmp_path: Path, contract: Contract, make_episode: Callable[..., EpisodeData]
) -> None:
    sink = ReplayZarrSink(tmp_path / "x.zarr", contract)
    sink.write("a", make_episode(1, 4))
    sink.write("b", make_episode(2, 4, extras={"force": np.zeros((4, 6))}))
    one_camera = make_episode(3, 4)
    del one_camera.images["gripper"]
    sink.write("c", one_camera)
    sink.write("d", make_episode(4, 2))
    sink.finish()
    assert sink.left_out == ["b", "c"]
    assert ReplayZarrSource(tmp_path / "x.zarr").names() == ["a", "d"]


def test_a_kill_between_chunks_and_rows_loses_nothing(
    tmp_path: Path, contract: Contract, make_episode: Callable[..., EpisodeData]
) -> None:
    def begin() -> ReplayZarrSink:
        return ReplayZarrSink(tmp_path / "x.zarr", contract, chunk_bytes="1500")

    begin().write("a", make_episode(1, 7))
    chunk = tmp_path / "x.zarr.partial/whole.zarr/data/static/1.0.0.0"
    assert chunk.is_file()
    (chunk.parent / "3.0.0.0").write_bytes(b"torn")  # of an episode that was never finished
    sink = begin()
    assert sink.has("a") and not sink.has("b")
    sink.write("b", make_episode(2, 9))
    begin().finish()
    source = ReplayZarrSource(tmp_path / "x.zarr")
    for name, number, length in (("a", 1, 7), ("b", 2, 9)):
        assert same_episode(source.read(name), make_episode(number, length, name=name))

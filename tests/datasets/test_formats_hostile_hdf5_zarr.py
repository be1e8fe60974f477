"""HDF5 and Zarr datasets made to do damage, and random damage to good ones: nothing but our own errors."""

from __future__ import annotations

import bz2
import json
import os
import pickle
import resource
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numcodecs
import numpy as np
import pytest

from foreact.datasets.formats.base import FormatError
from foreact.datasets.formats.replay_zarr import ReplayZarrSource
from foreact.datasets.formats.robomimic import RobomimicSource
from foreact.vla.errors import ForeActError

SRC = Path(__file__).resolve().parents[2] / "src"


class _Reduce:
    def __init__(self, function: Any, *arguments: Any):
        self._made = function, arguments

    def __reduce__(self) -> Any:
        return self._made


def hdf5(path: Path, change: Callable[[Any], None]) -> Path:
    with h5py.File(path, "w") as file:
        demo = file.create_group("data/demo_0")
        demo["actions"] = np.zeros((4, 2))
        demo["obs/cam"] = np.zeros((4, 8, 8, 3), np.uint8)
        change(demo)
    return path


def _object(demo: Any) -> None:
    del demo["actions"]
    demo.create_dataset("actions", data=[b"x"] * 4, dtype=h5py.special_dtype(vlen=bytes))


def _huge(demo: Any) -> None:
    del demo["obs/cam"]
    demo["obs"].create_dataset("cam", shape=(4, 8000, 8000, 3000), dtype=np.uint8, chunks=(1, 10, 10, 3))


def _many_frames(demo: Any) -> None:
    del demo["actions"]
    demo.create_dataset("actions", shape=(10**9, 2), chunks=(1000, 2), dtype=np.float32)


def _external_link(demo: Any) -> None:
    del demo["obs/cam"]
    demo["obs/cam"] = h5py.ExternalLink("/etc/secret.hdf5", "/data")


def _soft_link(demo: Any) -> None:
    del demo["obs/cam"]
    demo["obs/cam"] = h5py.SoftLink("/data/demo_0/actions")


def _external_data(demo: Any) -> None:
    del demo["obs/cam"]
    demo["obs"].create_dataset("cam", shape=(4, 8, 8, 3), dtype=np.uint8, external=[("/etc/passwd", 0, 768)])


def _virtual(demo: Any) -> None:
    del demo["obs/cam"]
    layout = h5py.VirtualLayout(shape=(4, 8, 8, 3), dtype=np.uint8)
    layout[...] = h5py.VirtualSource("/etc/other.hdf5", "x", shape=(4, 8, 8, 3))
    demo["obs"].create_virtual_dataset("cam", layout)


def _group_as_array(demo: Any) -> None:
    del demo["actions"]
    demo.create_group("actions")


def _huge_attribute(demo: Any) -> None:
    demo.parent.attrs.create("env_args", "x" * 60_000)
    demo.parent.attrs["foreact"] = json.dumps({"version": 99})


def _huge_contract(demo: Any) -> None:
    contract = {
        "version": 1,
        "embodiment": "x",
        "rate_hz": 1,
        "cameras": [{"name": "cam", "height": 10**9, "width": 10**9}],
    }
    keys = {"cameras": {"cam": "cam"}, "state": []}
    demo.parent.attrs["foreact"] = json.dumps({"version": 1, "contract": contract, "keys": keys})


def _escaping_key(demo: Any) -> None:
    contract = {"version": 1, "embodiment": "x", "rate_hz": 1, "cameras": [{"name": "cam", "height": 8, "width": 8}]}
    keys = {"cameras": {"cam": "../../actions"}, "state": []}
    demo.parent.attrs["foreact"] = json.dumps({"version": 1, "contract": contract, "keys": keys})


@pytest.mark.parametrize(
    "change",
    [_object, _huge, _many_frames, _external_link, _soft_link, _external_data, _virtual, _group_as_array,
     _huge_attribute, _huge_contract, _escaping_key],
)  # fmt: skip
def test_hostile_hdf5(tmp_path: Path, change: Callable[[Any], None]) -> None:
    path = hdf5(tmp_path / "x.hdf5", change)
    with pytest.raises(FormatError):
        RobomimicSource(path).read("demo_0")


def test_a_hostile_hdf5_would_be_read_without_the_change(tmp_path: Path) -> None:
    assert len(RobomimicSource(hdf5(tmp_path / "x.hdf5", lambda demo: None)).read("demo_0")) == 4


@pytest.mark.parametrize("keep", [0, 7, 8, 100, 0.5, 0.97])
def test_truncated_hdf5(tmp_path: Path, keep: float) -> None:
    path = hdf5(tmp_path / "x.hdf5", lambda demo: None)
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[: int(keep if keep >= 1 else keep * size)])
    with pytest.raises(FormatError):
        RobomimicSource(path).read("demo_0")


def zarr_v2(
    path: Path, meta: dict[str, Any] | None = None, chunk: bytes | None = None, ends: list[int] | None = None
) -> Path:
    """A replay buffer of one episode of 4 frames, with changes to the metadata or the chunk of its images."""

    def put(name: str, size: tuple[int, ...], kind: str, data: bytes, **changes: Any) -> None:
        folder = path / name
        folder.mkdir(parents=True)
        base = {
            "zarr_format": 2, "shape": list(size), "chunks": list(size), "dtype": kind, "compressor": None,
            "fill_value": 0, "order": "C", "filters": None,
        }  # fmt: skip
        (folder / ".zarray").write_text(json.dumps(base | changes))
        (folder / ".".join("0" * len(size))).write_bytes(data)

    put("data/cam", (4, 8, 8, 3), "|u1", bytes(768) if chunk is None else chunk, **(meta or {}))
    put("data/action", (4, 2), "<f4", bytes(32))
    listed = np.array(ends or [4], np.int64)
    put("meta/episode_ends", listed.shape, "<i8", listed.tobytes())
    return path


BLOSC = {"id": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 1, "blocksize": 0}
BOMB = numcodecs.Blosc("zstd", 9).encode(np.zeros(200_000_000, np.uint8))


@pytest.mark.parametrize(
    ("meta", "chunk"),
    [
        ({"dtype": "|O"}, None),
        ({"dtype": "|O", "filters": [{"id": "pickle"}]}, pickle.dumps([_Reduce(os.system, "true")] * 768)),
        ({"filters": [{"id": "pickle", "protocol": 5}]}, None),
        ({"filters": [{"id": "json2"}]}, None),
        ({"compressor": {"id": "pickle"}}, None),
        ({"compressor": {"id": "../../evil"}}, None),
        ({"compressor": "blosc"}, None),
        ({"compressor": BLOSC}, b"short"),
        ({"compressor": BLOSC}, BOMB),
        ({"compressor": {"id": "zlib", "level": 1}}, zlib.compress(bytes(300_000_000), 9)),
        ({"compressor": {"id": "bz2", "level": 1}}, bz2.compress(bytes(100_000_000))),
        ({"compressor": {"id": "zstd", "level": 1}}, numcodecs.Zstd(1).encode(bytes(100_000_000))),
        ({"compressor": {"id": "lz4", "acceleration": 1}}, struct.pack("<I", 2**31 - 1) + bytes(100)),
        ({"shape": [10**12, 8, 8, 3]}, None),
        ({"shape": [4, 8, 8, 3], "chunks": [10**9, 10**3, 10**3, 3]}, None),
        ({"shape": [4, 8, 8]}, None),
        ({"shape": [-4, 8, 8, 3]}, None),
        ({"shape": [4.5, 8, 8, 3]}, None),
        ({"shape": [True, 8, 8, 3]}, None),
        ({"chunks": [0, 8, 8, 3]}, None),
        ({"shape": "x"}, None),
        ({"zarr_format": 3}, None),
        ({"order": "Z"}, None),
        ({"dimension_separator": "/../../"}, None),
        ({"dtype": [["a", "<f8"]]}, None),
        ({"dtype": "<U100000000"}, None),
        ({}, bytes(767)),
        ({}, bytes(769)),
    ],
)
def test_hostile_zarr(tmp_path: Path, meta: dict[str, Any], chunk: bytes | None) -> None:
    path = zarr_v2(tmp_path / "x.zarr", meta, chunk)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(FormatError):
        ReplayZarrSource(path).read("episode_000000")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB


def test_a_hostile_zarr_would_be_read_without_the_change(tmp_path: Path) -> None:
    assert len(ReplayZarrSource(zarr_v2(tmp_path / "x.zarr")).read("episode_000000")) == 4


@pytest.mark.parametrize("ends", [[0], [4, 4], [4, 3], [5], [-1, 4], [2**62]])
def test_episode_ends_that_cannot_be(tmp_path: Path, ends: list[int]) -> None:
    with pytest.raises(FormatError, match="episode_ends|rows"):
        ReplayZarrSource(zarr_v2(tmp_path / "x.zarr", ends=ends))


def test_zarr_chunks_that_are_links_out_of_the_folder(tmp_path: Path) -> None:
    path = zarr_v2(tmp_path / "x.zarr")
    (tmp_path / "secret").write_bytes(bytes(768))
    (path / "data/cam/0.0.0.0").unlink()
    (path / "data/cam/0.0.0.0").symlink_to(tmp_path / "secret")
    with pytest.raises(FormatError, match="a link that leads out"):
        ReplayZarrSource(path).read("episode_000000")


DAMAGE = """
import json, resource, sys
from pathlib import Path
import numpy as np
from foreact.datasets.formats.registry import Opening
from foreact.vla.errors import ForeActError
resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
name, path, files, options, rounds = json.loads(sys.argv[1])
rng = np.random.default_rng(5)
outcomes = {"read": 0, "refused": 0}
for _ in range(rounds):
    file = Path(files[rng.integers(len(files))])
    good = file.read_bytes()
    bad = bytearray(good)
    for _ in range(rng.integers(1, 4)):
        kind, at = rng.integers(4), int(rng.integers(len(bad)))
        if kind == 0: bad[at] ^= 1 << int(rng.integers(8))
        elif kind == 1: bad[at:at + 8] = rng.bytes(8)
        elif kind == 2: del bad[at:at + int(rng.integers(1, 50))]
        else: bad[at:at] = rng.bytes(int(rng.integers(1, 50)))
        if not bad: bad = bytearray(b"x")
    file.write_bytes(bad)
    try:
        source = Opening(name, Path(path), options=options).open()
        for episode in source.names():
            source.read(episode)
        outcomes["read"] += 1
    except ForeActError:
        outcomes["refused"] += 1
    finally:
        file.write_bytes(good)
print(json.dumps(outcomes))
"""


def damage(name: str, path: Path, files: list[Path], options: dict[str, str], rounds: int) -> dict[str, int]:
    argument = json.dumps([name, str(path), list(map(str, files)), options, rounds])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", DAMAGE, argument],
        env={**os.environ, "PYTHONPATH": str(SRC)}, capture_output=True, text=True, timeout=170, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", ["robomimic", "diffusion-policy", "calvin"])
def test_random_damage_gives_nothing_but_our_own_errors(
    tmp_path: Path, name: str, write_calvin: Callable[..., Path]
) -> None:
    if name == "robomimic":
        path = hdf5(tmp_path / "x.hdf5", lambda demo: None)
        files = [path]
    elif name == "diffusion-policy":
        chunk = numcodecs.Blosc("zstd").encode(np.arange(768, dtype=np.uint8))
        path = zarr_v2(tmp_path / "x.zarr", {"compressor": BLOSC}, chunk)
        files = [p for p in path.rglob("*") if p.is_file()]
    else:
        path = write_calvin(tmp_path / "training", [(0, 2)], [(0, 1, "t", "x")])
        files = [*path.glob("*.npz"), path / "ep_start_end_ids.npy", path / "lang_annotations/auto_lang_ann.npy"]
    outcomes = damage(name, path, files, {}, 60)
    assert outcomes["refused"] > 0 and sum(outcomes.values()) == 60


def test_every_error_is_one_of_ours() -> None:
    assert issubclass(FormatError, ForeActError)

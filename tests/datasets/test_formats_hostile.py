"""Datasets made to do damage: each is refused by name, runs nothing, and takes no memory to speak of."""

from __future__ import annotations

import bz2
import io
import json
import os
import pickle
import pickletools
import resource
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numcodecs
import numpy as np
import pytest
from PIL import Image

from foreact.datasets.formats.base import FormatError
from foreact.datasets.formats.calvin import CalvinSource
from foreact.datasets.formats.limits import open_zip, parse_json, read_yaml
from foreact.datasets.formats.mcap_check import check_mcap
from foreact.datasets.formats.numpy_safe import load_npy, load_npz, parse_npy
from foreact.datasets.formats.pictures import decode_picture
from foreact.datasets.formats.plain_pickle import read_plain_pickle
from foreact.datasets.formats.replay_zarr import ReplayZarrSource
from foreact.datasets.formats.rlds import RldsSource
from foreact.datasets.formats.robomimic import RobomimicSource
from foreact.datasets.formats.tfrecord import masked_crc, parse_example, record_offsets
from foreact.datasets.formats.videos import VideosSource
from foreact.vla.errors import ForeActError

SRC = Path(__file__).resolve().parents[2] / "src"
CANARY = "canary-of-a-hostile-pickle"


# Pickles. Each would make a file if it were unpickled; all are checked to be harmful first, by a real unpickling.


class _Reduce:
    def __init__(self, function: Any, *arguments: Any):
        self._made = function, arguments

    def __reduce__(self) -> Any:
        return self._made


def harmful(path: Path) -> dict[str, bytes]:
    """Pickles that touch `path` when they are unpickled."""
    touch = f"open({str(path)!r}, 'w').close()"
    name = str(path).encode()
    return {
        "os.system": pickle.dumps(_Reduce(os.system, f"touch {path}")),
        "protocol 0": pickle.dumps(_Reduce(os.system, f"touch {path}"), protocol=0),
        "protocol 2": pickle.dumps(_Reduce(os.system, f"touch {path}"), protocol=2),
        "eval": pickle.dumps(_Reduce(eval, touch)),
        "exec": pickle.dumps(_Reduce(exec, touch)),
        "os.mkdir": pickle.dumps(_Reduce(os.mkdir, str(path))),
        "subprocess": pickle.dumps(_Reduce(subprocess.call, ["touch", str(path)])),
        "inside a list": pickle.dumps([1, {"a": (_Reduce(os.system, f"touch {path}"),)}]),
        "inside an array": pickle.dumps(np.array([_Reduce(os.system, f"touch {path}")], dtype=object)),
        "as a key": pickle.dumps({"language": {"ann": _Reduce(eval, touch)}}),
        "instruction INST": b"(S'touch " + name + b"'\nios\nsystem\n.",
        "instruction OBJ": b"(cos\nsystem\nS'touch " + name + b"'\no.",
        "hidden behind POP": b"cos\nsystem\n(S'touch " + name + b"'\ntR0N.",
        "by builtins.getattr": b"cbuiltins\ngetattr\n(cos\nsystem\nS'__call__'\ntR(S'touch " + name + b"'\ntR.",
        "NEWOBJ": b"\x80\x02cpathlib\nPath\n(S'" + name + b"'\nt\x81.",
        "numpy loads": pickle.dumps(_Reduce(np.save, str(path), np.zeros(1))),
    }


@pytest.mark.parametrize("kind", list(harmful(Path("x"))))
def test_harmful_pickles_are_refused_and_not_run(tmp_path: Path, kind: str) -> None:
    data = harmful(tmp_path / CANARY)[kind]
    with pytest.raises(FormatError, match="not plain data"):
        read_plain_pickle(data, "auto_lang_ann.npy")
    assert not list(tmp_path.glob(f"{CANARY}*"))
    if kind != "NEWOBJ":  # makes a path object only, but from a class that the data names
        pickle.loads(data)  # noqa: S301
        assert list(tmp_path.glob(f"{CANARY}*")), "the pickle was not harmful: this test would prove nothing"


def test_the_annotations_of_a_dataset_are_read_by_that_machine(
    tmp_path: Path, write_calvin: Callable[..., Path]
) -> None:
    part = write_calvin(tmp_path / "training", [(0, 3)], [(1, 2, "t", "x")])
    evil = np.array({"language": _Reduce(os.system, f"touch {tmp_path / CANARY}")}, dtype=object)
    np.save(part / "lang_annotations" / "auto_lang_ann.npy", evil, allow_pickle=True)
    with pytest.raises(FormatError, match=r"auto_lang_ann\.npy holds the name posix\.system, which is not plain data"):
        CalvinSource(part)
    assert not (tmp_path / CANARY).exists()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "damaged pickle"),
        (b"\x80\x04", "damaged pickle"),
        (b"\x80\x04N", "damaged pickle"),
        (b"\x80\x04]e.", "damaged pickle"),
        (b"\x80\x04K\x01K\x02.", "damaged pickle"),
        (b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7fx.", "damaged pickle"),  # bytes of 2**63
        (b"\x80\x04h\x07.", "damaged pickle"),  # a memo that is not there
        (b"\x80\x04" + b"(" * 50 + b"l" * 50 + b".", "nested deeper"),
        (b"\x80\x04cnumpy\nndarray\n.", "a name as data"),
        (b"\x80\x04cnumpy\ndtype\n)R.", "a call of dtype"),
        (b"cnumpy\ndtype\n(S'O'\ntR.", "a name as data"),
        (b"\x80\x04\x82\x01.", "instruction EXT1"),
        (b"\x80\x02U\x01aQ.", "instruction BINPERSID"),
        (b"\x80\x05\x97.", "instruction NEXT_BUFFER"),
    ],
)
def test_damaged_and_odd_pickles_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        read_plain_pickle(data, "x")


def test_no_pickle_instruction_is_carried_out_that_could_reach_code() -> None:
    from foreact.datasets.formats import plain_pickle

    source = Path(str(plain_pickle.__file__)).read_text()
    for name in ("INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "PERSID", "BINPERSID", "EXT1", "EXT2", "EXT4"):
        assert name in {opcode.name for opcode in pickletools.opcodes}
        assert f'"{name}"' not in source


def test_a_list_that_holds_itself_ends() -> None:
    with pytest.raises(FormatError, match="nested deeper"):
        read_plain_pickle(b"\x80\x04]\x94h\x00a.", "x")


def test_shared_lists_do_not_grow_without_bounds() -> None:
    data = b"\x80\x04(]" + b"".join(b"\x94(h" + bytes([n]) + b"h" + bytes([n]) + b"l" for n in range(25)) + b"t."
    read_plain_pickle(data, "x")  # 2**25 leaves, if each were walked


# .npy and .npz


def npy(shape: str, descr: str = "'<f8'", body: bytes = b"") -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}".encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + body


@pytest.mark.parametrize(
    "data",
    [
        npy("(1000000000000,)"),
        npy("(10**9, 10**9)"),
        npy("(-1,)"),
        npy("(2,)", body=b"\0" * 15),
        npy("(2,)", body=b"\0" * 17),
        npy("(2,)", "'|O'", pickle.dumps([_Reduce(os.system, "touch /nowhere"), 1])),
        npy("(1,)", "[('a', '<f8'), ('b', '|O')]", b"\0" * 16),
        npy("(__import__('os').system('true'),)"),
        npy("(" * 5000),
        b"\x93NUMPY\x01\x00\xff\xffx",
        b"\x93NUMPY\x09\x00\x02\x00{}",
        b"",
    ],
)
def test_hostile_npy(data: bytes) -> None:
    with pytest.raises(FormatError):
        parse_npy(data, "x.npy")


def zip_with(path: Path, *entries: tuple[zipfile.ZipInfo | str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return path


def link() -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo("a.npy")
    entry.external_attr = 0o120777 << 16
    return entry


@pytest.mark.parametrize(
    ("entries", "method", "message"),
    [
        ([("../a.npy", npy("(0,)"))], zipfile.ZIP_DEFLATED, "would leave its folder"),
        ([("/etc/a.npy", npy("(0,)"))], zipfile.ZIP_DEFLATED, "would leave its folder"),
        ([("a\\..\\b.npy", npy("(0,)"))], zipfile.ZIP_DEFLATED, "would leave its folder"),
        ([("C:a.npy", npy("(0,)"))], zipfile.ZIP_DEFLATED, "would leave its folder"),
        ([(link(), b"/etc/passwd")], zipfile.ZIP_DEFLATED, "a link or a device"),
        ([("a.npy", npy("(0,)"))], zipfile.ZIP_LZMA, "neither stored nor deflated"),
        ([("b.npy", npy("(0,)"))], zipfile.ZIP_DEFLATED, "has no 'a.npy'"),
        ([("a.npy", npy("(99999999999,)"))], zipfile.ZIP_DEFLATED, "declares"),
    ],
)
def test_hostile_zips(tmp_path: Path, entries: Any, method: int, message: str) -> None:
    path = zip_with(tmp_path / "episode_0000001.npz", *entries, method=method)
    with pytest.raises(FormatError, match=message):
        load_npz(path, ["a"])


def test_a_zip_bomb_is_refused_before_it_unfolds(tmp_path: Path) -> None:
    path = zip_with(tmp_path / "bomb.npz", ("a.npy", bytes(50 << 20)))
    assert path.stat().st_size < 60_000
    with pytest.raises(FormatError, match="declares 52,428,800 bytes; at most"):
        open_zip(path, "the frame", max_total=1 << 30, max_entry=1 << 20)
    many = zip_with(tmp_path / "many.npz", *((f"{n}.npy", bytes(1 << 20)) for n in range(20)))
    with pytest.raises(FormatError, match="declares .* bytes; at most"):
        open_zip(many, "the frame", max_total=10 << 20, max_entry=1 << 20)
    data = bytearray(path.read_bytes())
    while (at := data.find(struct.pack("<I", 50 << 20))) >= 0:
        data[at : at + 4] = struct.pack("<I", 0x7FFFFFFF)
    path.write_bytes(data)
    with pytest.raises(FormatError, match="declares 2,147,483,647 bytes; at most"):
        load_npz(path, ["a"])


def test_a_zip_that_lies_about_its_sizes(tmp_path: Path) -> None:
    path = zip_with(tmp_path / "a.npz", ("a.npy", npy("(8,)", body=bytes(64)) + bytes(100_000)))
    data = bytearray(path.read_bytes())
    true = struct.pack("<I", len(npy("(8,)", body=bytes(64))) + 100_000)
    while (at := data.find(true)) >= 0:
        data[at : at + 4] = struct.pack("<I", 200)
    path.write_bytes(data)
    with pytest.raises(FormatError, match="damaged|bytes"):
        load_npz(path, ["a"])


def test_doubled_and_encrypted_entries(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        double = zip_with(tmp_path / "a.zip", ("a", b"1"), ("a", b"2"))
    with pytest.raises(FormatError, match="two entries named 'a'"):
        open_zip(double, "the archive", max_total=100, max_entry=100)
    data = bytearray(zip_with(tmp_path / "b.zip", ("a", b"1")).read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "b.zip").write_bytes(data)
    with pytest.raises(FormatError, match="encrypted"):
        open_zip(tmp_path / "b.zip", "the archive", max_total=100, max_entry=100)


def test_a_pipe_in_place_of_a_file_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "ep_start_end_ids.npy")
    with pytest.raises(FormatError, match="not an ordinary file"):
        load_npy(tmp_path / "ep_start_end_ids.npy")


def test_frames_that_are_links_out_of_the_dataset(tmp_path: Path, write_calvin: Callable[..., Path]) -> None:
    part = write_calvin(tmp_path / "training", [(0, 3)], [(1, 2, "t", "x")])
    outside = tmp_path / "secret.npz"
    (part / "episode_0000001.npz").rename(outside)
    (part / "episode_0000001.npz").symlink_to(outside)
    source = CalvinSource(part)
    with pytest.raises(FormatError, match="a link that leads out"):
        source.read(source.names()[0])


# JSON and YAML


@pytest.mark.parametrize("text", ["[" * 200_000, '{"a": NaN}', '{"a": 1e', b"\xff\xfe{}", "", '{"a": Infinity}'])
def test_hostile_json(text: str | bytes) -> None:
    with pytest.raises(FormatError):
        parse_json(text, "x.json")


@pytest.mark.parametrize(
    "text",
    ["a: &a [x, x]\nb: [*a, *a]", "!!python/object/apply:os.system ['true']", "[" * 100, "a: !!python/name:os.system",
     "a: 'b", "\x00"],
)  # fmt: skip
def test_hostile_yaml(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(FormatError):
        read_yaml(tmp_path / "x.yaml", "the map of topics")


# HDF5


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


# Zarr


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


# Videos and captions


@pytest.mark.parametrize(
    "path",
    ["../secret.mp4", "/etc/passwd.mp4", "a/../../secret.mp4", "", "a\\b.mp4", "http://127.0.0.1/a.mp4", "link.mp4"],
)
def test_captions_that_name_files_outside(tmp_path: Path, path: str) -> None:
    root = tmp_path / "in"
    root.mkdir()
    (tmp_path / "secret.mp4").write_bytes(b"x")
    (root / "link.mp4").symlink_to(tmp_path / "secret.mp4")
    (root / "captions.json").write_text(json.dumps([{"path": path, "caption": "x"}]))
    source = VideosSource(root)
    with pytest.raises(FormatError, match="leads out|relative to|is missing|no video"):
        source.read(source.names()[0])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.mp4", b""),
        ("a.mp4", b"\0" * 5000),
        ("a.mp4", b"\x00\x00\x00\x18ftypmp42" + b"\xff" * 4000),
        ("a.webm", b"\x1aE\xdf\xa3" + b"\xff" * 4000),
        ("a.mp4", b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n"),
        ("a.mp4", b"ffconcat version 1.0\nfile /etc/passwd\n"),
        ("a.avi", b"RIFF\xff\xff\xff\xffAVI LIST"),
        ("a.exe", b"MZ"),
    ],
)
def test_hostile_videos(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    (tmp_path / "captions.json").write_text(json.dumps([{"path": name, "caption": "x"}]))
    source = VideosSource(tmp_path)
    with pytest.raises(FormatError, match="damaged video|has no video|no frame|no video"):
        source.read(source.names()[0])


@pytest.mark.parametrize(
    "rows",
    [
        [], {}, [1], [{"path": 3, "caption": "x"}], [{"path": "a.mp4"}],
        [{"path": "a.mp4", "caption": "x", "start_s": -1}],
        [{"path": "a.mp4", "caption": "x", "start_s": 1, "end_s": 1}],
        [{"path": "a.mp4", "caption": "x", "end_s": 1e99}], [{"id": "../1", "label": "x"}], [{"id": 1, "label": 2}],
        {"videos": {"../x": {}}}, {"videos": {"x": {"narration_pass_1": {"narrations": [3]}}}}, {"videos": 3},
    ],
)  # fmt: skip
def test_hostile_captions(tmp_path: Path, rows: Any) -> None:
    (tmp_path / "captions.json").write_text(json.dumps(rows))
    with pytest.raises(FormatError):
        VideosSource(tmp_path)


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def _encoded(kind: str, mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    Image.new(mode, (16, 16)).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize(
    "data",
    [png_header(60_000, 60_000), png_header(8000, 8000), png_header(0, 1), b"", b"\xff\xd8\xff", _encoded("GIF"),
     _encoded("TIFF"), _encoded("PNG")[:50], _encoded("PNG", "I;16"), b"%!PS-Adobe-3.0 EPSF-3.0\n"],
)  # fmt: skip
def test_hostile_pictures(data: bytes) -> None:
    with pytest.raises(FormatError):
        decode_picture(data, "step 3")


# TFRecord


def frame(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", masked_crc(length)) + data + struct.pack("<I", masked_crc(data))


@pytest.mark.parametrize("length", [2**63, 2**40, 10**6])
def test_records_that_declare_more_than_there_is(tmp_path: Path, length: int) -> None:
    header = struct.pack("<Q", length)
    (tmp_path / "a").write_bytes(header + struct.pack("<I", masked_crc(header)) + b"x")
    with pytest.raises(FormatError, match="declares|truncated"):
        record_offsets(tmp_path / "a")


@pytest.mark.parametrize(
    "data",
    [b"\x0a", b"\x0a\xff\xff\xff\xff\x0f", b"\x0a\x02\x0a\x7f", b"\x0b", b"\x08\x01", b"\xff" * 30,
     b"\x0a\x04\x0a\x02\x12\x05",
     b"\x0a\x08\x0a\x06\x12\x04\x22\x02\x0a\x00", b"\x0a\x09\x0a\x07\x0a\x01\xff\x12\x02\x0a\x00"],
)  # fmt: skip
def test_hostile_examples(data: bytes) -> None:
    with pytest.raises(FormatError, match="not a tf.train.Example"):
        parse_example(data, "record 3")


@pytest.mark.parametrize(
    ("info", "features"),
    [
        ({"splits": [{"name": "train", "shardLengths": ["99999999999"]}]}, None),
        ({"splits": [{"name": "train", "shardLengths": ["4"] * 3}]}, None),
        ({"splits": "x"}, None),
        ({}, None),
        (None, {}),
        (
            None,
            {"featuresDict": {"features": {"steps": {"sequence": {"feature": {"featuresDict": {"features": {}}}}}}}},
        ),
        (None, {"featuresDict": {"features": {"steps": {"sequence": {"feature": 3}}}}}),
    ],
)
def test_hostile_tfds_folders(tmp_path: Path, info: Any, features: Any) -> None:
    (tmp_path / "x-train.tfrecord-00000-of-00001").write_bytes(frame(b""))
    image = {"image": {"shape": {"dimensions": ["8", "8", "3"]}}}
    good = {"featuresDict": {"features": {"observation": {"featuresDict": {"features": {"image": image}}}}}}
    root = {"featuresDict": {"features": {"steps": {"sequence": {"feature": good}}}}}
    (tmp_path / "features.json").write_text(json.dumps(root if features is None else features))
    default = {"splits": [{"name": "train", "shardLengths": ["1"]}]}
    (tmp_path / "dataset_info.json").write_text(json.dumps(default if info is None else info))
    with pytest.raises(FormatError):
        RldsSource(tmp_path)


# MCAP


def mcap(*records: tuple[int, bytes]) -> bytes:
    body = b"".join(bytes([kind]) + struct.pack("<Q", len(data)) + data for kind, data in records)
    return b"\x89MCAP0\r\n" + body + b"\x89MCAP0\r\n"


def mcap_chunk(compression: bytes, declared: int, data: bytes, stored: int | None = None) -> tuple[int, bytes]:
    head = struct.pack("<QQQII", 0, 0, declared, 0, len(compression)) + compression
    return 0x06, head + struct.pack("<Q", len(data) if stored is None else stored) + data


def _zstd_bomb() -> bytes:
    import zstandard

    compressor = zstandard.ZstdCompressor(level=1).compressobj()  # a stream: its header names no size
    return b"".join([compressor.compress(bytes(1 << 20)) for _ in range(300)]) + compressor.flush()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x89MCAP0\r\n",
        mcap((0x01, b"")),
        mcap(mcap_chunk(b"zstd", 1000, _zstd_bomb()), (0x02, bytes(20))),
        mcap(mcap_chunk(b"zstd", 2**62, b"x"), (0x02, bytes(20))),
        mcap(mcap_chunk(b"zstd", 10, b"garbage"), (0x02, bytes(20))),
        mcap(mcap_chunk(b"lz4", 10, b"garbage"), (0x02, bytes(20))),
        mcap(mcap_chunk(b"snappy", 10, b"garbage"), (0x02, bytes(20))),
        mcap(mcap_chunk(b"", 10, b"0123456789", stored=2**40), (0x02, bytes(20))),
        mcap(mcap_chunk(b"", 11, b"0123456789"), (0x02, bytes(20))),
        mcap((0x06, b"short"), (0x02, bytes(20))),
    ],
)
def test_hostile_mcap(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.mcap").write_bytes(data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(FormatError):
        check_mcap(tmp_path / "a.mcap")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


# Everything at once: random damage to good files never gives anything but our own errors.


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

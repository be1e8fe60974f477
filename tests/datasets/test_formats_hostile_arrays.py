"""Arrays, archives and texts (.npy, .npz, ZIP, JSON, YAML) made to do damage: refused before memory is taken."""

from __future__ import annotations

import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from foreact.datasets.formats.base import FormatError
from foreact.datasets.formats.calvin import CalvinSource
from foreact.datasets.formats.limits import open_zip, parse_json, read_yaml
from foreact.datasets.formats.numpy_safe import load_npy, load_npz, parse_npy


class _Reduce:
    def __init__(self, function: Any, *arguments: Any):
        self._made = function, arguments

    def __reduce__(self) -> Any:
        return self._made


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

"""Videos, captions, pictures, TFRecords and MCAP files made to do damage: each is refused by name."""

from __future__ import annotations

import io
import json
import resource
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from foreact.datasets.formats.base import FormatError
from foreact.datasets.formats.mcap_check import check_mcap
from foreact.datasets.formats.pictures import decode_picture
from foreact.datasets.formats.rlds import RldsSource
from foreact.datasets.formats.tfrecord import masked_crc, parse_example, record_offsets
from foreact.datasets.formats.videos import VideosSource


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

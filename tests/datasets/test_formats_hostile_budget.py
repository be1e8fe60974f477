"""Fifty small files that declare much: together they take no more memory and time than one honest file."""

from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import h5py
import numcodecs
import numpy as np

SRC = Path(__file__).resolve().parents[2] / "src"
BUDGET_KB = 256 * 1024
LIMIT_S = 5.0

READ_ALL = """
import json, resource, sys, time
from pathlib import Path
from foreact.datasets.formats.limits import read_yaml
from foreact.datasets.formats.mcap_check import check_mcap
from foreact.datasets.formats.numpy_safe import load_npy, load_npz
from foreact.datasets.formats.pictures import decode_picture
from foreact.datasets.formats.replay_zarr import ReplayZarrSource
from foreact.datasets.formats.robomimic import RobomimicSource
from foreact.datasets.formats.tfrecord import record_offsets
from foreact.datasets.formats.videos import VideosSource
from foreact.vla.errors import ForeActError

def video(path):
    source = VideosSource(path)
    for name in source.names(): source.read(name)

readers = {
    "npy": load_npy, "npz": lambda p: load_npz(p, ["a"]), "picture": lambda p: decode_picture(p.read_bytes(), "x"),
    "zarr": lambda p: ReplayZarrSource(p).read("episode_000000"),
    "hdf5": lambda p: RobomimicSource(p).read("demo_0"),
    "mcap": check_mcap, "yaml": lambda p: read_yaml(p, "x"), "tfrecord": record_offsets, "video": video,
}
resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = []
for kind, path in json.load(sys.stdin):
    began = time.process_time()
    try:
        readers[kind](Path(path))
        outcome = "read"
    except ForeActError as error:
        outcome = "refused"
    except BaseException as error:
        outcome = f"{type(error).__name__}: {error}"
    found.append([kind, Path(path).name, outcome, time.process_time() - began])
print(json.dumps({"kb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, "found": found}))
"""


def npy(shape: str, descr: str = "<f8") -> bytes:
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}}}".encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header


def npz(data: bytes, size: int | None = None) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", data)
    raw = bytearray(file.getvalue())
    while size is not None and (at := raw.find(struct.pack("<I", len(data)))) >= 0:
        raw[at : at + 4] = struct.pack("<I", size)
    return bytes(raw)


def picture(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(9))) + chunk(b"IEND", b"")


def mcap(declared: int, data: bytes, compression: bytes) -> bytes:
    head = struct.pack("<QQQII", 0, 0, declared, 0, len(compression)) + compression + struct.pack("<Q", len(data))
    records = ((6, head + data), (2, bytes(20)))
    body = b"".join(bytes([kind]) + struct.pack("<Q", len(part)) + part for kind, part in records)
    return b"\x89MCAP0\r\n" + body + b"\x89MCAP0\r\n"


def zarr(path: Path, size: list[int], compressor: dict[str, object] | None, data: bytes) -> None:
    arrays = {"data/cam": (size, "|u1", data, compressor), "data/action": ([4, 2], "<f4", bytes(32), None)}
    arrays["meta/episode_ends"] = ([1], "<i8", np.array([4], np.int64).tobytes(), None)
    for name, (shape, dtype, chunk, codec) in arrays.items():
        (path / name).mkdir(parents=True)
        meta = {"zarr_format": 2, "shape": shape, "chunks": shape, "dtype": dtype, "compressor": codec,
                "fill_value": 0, "order": "C", "filters": None}  # fmt: skip
        (path / name / ".zarray").write_text(json.dumps(meta))
        (path / name / ".".join("0" * len(shape))).write_bytes(chunk)


def hdf5(path: Path, shape: tuple[int, ...], **how: object) -> None:
    with h5py.File(path, "w") as file:
        demo = file.create_group("data/demo_0")
        demo["actions"] = np.zeros((4, 2))
        demo.create_group("obs").create_dataset("cam", shape=shape, dtype=np.uint8, **how)  # pyright: ignore


def hostile_files(folder: Path) -> list[tuple[str, str]]:
    """Kind and path of each."""
    found: list[tuple[str, str]] = []

    def put(kind: str, data: bytes, suffix: str = "") -> None:
        path = folder / f"{len(found):02d}.{suffix or kind}"
        path.write_bytes(data)
        found.append((kind, str(path)))

    for shape in (
        "(10**12,)",
        "(1000000000000,)",
        "(65536, 65536, 65536)",
        "(2147483648, 3)",
        "(4294967296, 4294967296)",
    ):
        put("npy", npy(shape))
        put("npz", npz(npy(shape)))
    put("npy", npy("(400000000,)", "<U1000000"))
    for size in (2**31 - 1, 2**30, 2**32 - 2):
        put("npz", npz(bytes(1000), size))
    put("npz", npz(bytes(300_000_000)))
    for width, height in (
        (60_000, 60_000),
        (2**31 - 1, 2**31 - 1),
        (8192, 8192),
        (1, 2**30),
        (8193, 1),
        (30_000, 9),
        (9, 30_000),
        (0, 9),
    ):
        put("picture", picture(width, height), "png")
    for declared in (2**62, 2**40, 2**33):
        for compression in (b"zstd", b"lz4", b""):
            put("mcap", mcap(declared, b"x" * 40, compression))
    put("yaml", b"a: " + b"x" * (2 << 20))
    put("yaml", b"".join(b"a%d: &a%d [%s]\n" % (n, n, b", ".join([b"*a%d" % (n - 1)] * 9)) for n in range(1, 10)))
    put("yaml", b"[" * 40 + b"]" * 40)
    put("yaml", b"{a: " * 100_000)
    for length in (2**63, 2**40, 2**31):
        put("tfrecord", struct.pack("<QI", length, 0) + b"x")
    bombs = {
        "zstd": ({"id": "zstd", "level": 1}, numcodecs.Zstd(1).encode(bytes(400_000_000))),
        "zlib": ({"id": "zlib", "level": 1}, zlib.compress(bytes(400_000_000), 9)),
        "blosc": (
            {"id": "blosc", "cname": "zstd", "clevel": 5, "shuffle": 1, "blocksize": 0},
            bytes(numcodecs.Blosc("zstd", 9).encode(np.zeros(400_000_000, np.uint8))),
        ),
    }
    for name, (codec, data) in bombs.items():
        zarr(folder / f"{name}.zarr", [4, 8, 8, 3], codec, data)
        found.append(("zarr", str(folder / f"{name}.zarr")))
    for number, size in enumerate(([4, 60_000, 60_000, 3], [4, 2**31, 8, 3], [4, 8, 8, 10**12])):
        zarr(folder / f"huge{number}.zarr", size, None, bytes(768))
        found.append(("zarr", str(folder / f"huge{number}.zarr")))
    for number, (shape, how) in enumerate([
        ((4, 60_000, 60_000, 3), {"chunks": (1, 10, 10, 3)}),
        ((10**9, 8, 8, 3), {"chunks": (1, 8, 8, 3)}),
        ((4, 8192, 8192, 300), {"chunks": (1, 8, 8, 3), "compression": "gzip"}),
    ]):  # fmt: skip
        hdf5(folder / f"{number}.hdf5", shape, **how)
        found.append(("hdf5", str(folder / f"{number}.hdf5")))
    for number, data in enumerate((b"\0\0\0\x18ftypmp42" + b"\xff" * 4000, struct.pack(">I", 2**31 - 1) + b"moov")):
        (folder / f"video{number}").mkdir()
        (folder / f"video{number}" / "a.mp4").write_bytes(data)
        (folder / f"video{number}" / "captions.json").write_text(json.dumps([{"path": "a.mp4", "caption": "x"}]))
        found.append(("video", str(folder / f"video{number}")))
    return found


def test_fifty_files_that_declare_much_take_little(tmp_path: Path) -> None:
    files = hostile_files(tmp_path)
    assert len(files) >= 50
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", READ_ALL], input=json.dumps(files), capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(SRC)}, timeout=170, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(done.stdout.splitlines()[-1])
    assert [row for row in report["found"] if row[2] != "refused"] == []
    assert [row for row in report["found"] if row[3] > LIMIT_S] == []
    assert report["kb"] < BUDGET_KB, f"{report['kb'] / 1024:.0f} MiB were taken"
    print(f"{len(files)} files, {report['kb'] / 1024:.0f} MiB, slowest {max(row[3] for row in report['found']):.2f} s")

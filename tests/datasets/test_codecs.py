"""Image codecs: how near the pixels stay, and what hostile bytes do."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from numcodecs import Zstd
from PIL import Image

from foreact.datasets.codec_base import BadFrame
from foreact.datasets.codecs import PRESETS, codec_from_spec
from foreact.vla.errors import ConfigError


def picture(height: int = 84, width: int = 200) -> np.ndarray:
    """A smooth ramp with a hard edge."""
    y, x = np.mgrid[:height, :width]
    frame = np.stack([x * 255 // width, y * 255 // height, (x + y) % 256], -1).astype(np.uint8)
    frame[height // 3 : height // 2, width // 4 : width // 2] = (200, 30, 40)
    return frame


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2)))


@pytest.mark.parametrize("spec", ["raw", "zstd", "zstd:level=9", "png", "webp:quality=100", "delta", "delta:group=1"])
def test_lossless_codecs_keep_every_pixel(spec: str) -> None:
    codec, frame = codec_from_spec(spec), picture()
    encoder = codec.encoder(84, 200)
    encoder.add(frame)
    encoder.add(frame[::-1].copy())
    decoded = codec.decode(encoder.finish(), 84, 200)
    np.testing.assert_array_equal(decoded[0], frame)
    np.testing.assert_array_equal(decoded[1], frame[::-1])
    assert codec_from_spec(codec.spec) == codec


@pytest.mark.parametrize(
    ("spec", "least_db"),
    [
        ("fast", 38),
        ("balanced", 36),
        ("small", 34),
        ("h264:fast=1,group=3", 25),
        ("jpeg:quality=80,subsampling=420", 28),
        ("webp", 30),
        ("h264", 25),
        ("av1", 25),
    ],
)
def test_lossy_codecs_stay_near(spec: str, least_db: float) -> None:
    codec, frame = codec_from_spec(spec), picture()
    for odd in (0, 1):
        height, width = 84 - odd, 200 - odd
        frames = [np.roll(frame[:height, :width], t, axis=1) for t in range(5)]
        encoder = codec.encoder(height, width)
        for each in frames:
            encoder.add(each)
        blobs = encoder.finish()
        for first in range(0, 5, codec.group):
            group = slice(first, first + codec.group)
            for decoded, each in zip(codec.decode(blobs[group], height, width), frames[group], strict=True):
                assert decoded.shape == each.shape and decoded.dtype == np.uint8
                assert psnr(each, decoded) > least_db


@pytest.mark.parametrize("spec", ["fast", "exact", "balanced", "small", "h264", "av1", "raw", "delta:group=4"])
def test_some_frames_are_the_same_as_out_of_all(spec: str) -> None:
    codec = codec_from_spec(spec)
    rng = np.random.default_rng(0)
    frames = [np.roll(picture(), t, axis=1) + rng.integers(0, 3, (84, 200, 3), np.uint8) for t in range(26)]
    encoder = codec.encoder(84, 200)
    for each in frames:
        encoder.add(each)
    blobs = encoder.finish()
    alone = [
        frame
        for first in range(0, len(blobs), codec.group)
        for frame in codec.decode(blobs[first : first + codec.group], 84, 200)
    ]
    for wanted in ([0], [25], [3, 4, 5], [9, 10], [1, 11, 12, 23], list(range(26))):
        needed = codec.needs(wanted)
        assert set(wanted) <= set(needed) and needed == sorted(set(needed))
        batch = np.zeros((26, 84, 200, 3), np.uint8)
        codec.decode_into({t: blobs[t] for t in needed}, {t: batch[t] for t in wanted}, 84, 200)
        for t in range(26):
            np.testing.assert_array_equal(batch[t], alone[t] if t in wanted else 0)


def test_what_stands_still_costs_delta_next_to_nothing() -> None:
    frames = [picture() for _ in range(10)]
    frames[7][40:44, 60:64] += 9
    encoder = codec_from_spec("delta").encoder(84, 200)
    for each in frames:
        encoder.add(each)
    key, *rest = (len(blob) for blob in encoder.finish())
    assert max(rest) < 60 < key


def test_new_options_do_not_change_the_names_of_old_codecs() -> None:
    assert codec_from_spec("h264:crf=18,subsampling=444").spec == "h264:crf=18,subsampling=444"
    assert codec_from_spec("h264:crf=18,fast=1").spec == "h264:crf=18,subsampling=444,fast=1"
    for name in PRESETS:
        assert codec_from_spec(codec_from_spec(name).spec) == codec_from_spec(name)


def _video(spec: str, height: int, width: int) -> bytes:
    encoder = codec_from_spec(spec).encoder(height, width)
    encoder.add(np.zeros((height, width, 3), np.uint8))
    return encoder.finish()[0]


def _jpeg(height: int, width: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(picture(84, 200)).save(out, "JPEG")
    data = bytearray(out.getvalue())
    at = data.index(b"\xff\xc0")  # the frame header: length, precision, height, width
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def _png(height: int, width: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(b"\0" * 1_000_000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("spec", "blob"),
    [
        ("jpeg", _jpeg(60_000, 60_000)),
        ("jpeg", _jpeg(83, 200)),
        ("png", _png(60_000, 60_000)),
        *((spec, bytes(Zstd().encode(bytes(200_000_000)))) for spec in ("zstd", "delta")),
        ("zstd", bytes(Zstd().encode(bytes(84 * 200 * 3 - 1)))),
        ("raw", bytes(84 * 200 * 3 + 1)),
        *(
            (spec, blob)
            for spec in ("jpeg", "png", "webp", "zstd", "raw", "delta")
            for blob in (b"", b"nonsense", b"\xff\xd8\xff")
        ),
        ("png", _jpeg(84, 200)),
        *((spec, blob) for spec in ("h264", "av1") for blob in (b"", b"nonsense", _jpeg(84, 200))),
        *((spec, _video(spec, 84, 198)) for spec in ("h264", "av1")),
        *((spec, _video(spec, 1080, 1920)) for spec in ("h264", "av1")),
    ],
)
def test_hostile_bytes_are_refused_before_memory_is_taken(spec: str, blob: bytes) -> None:
    codec = codec_from_spec(spec)
    encoder = codec.encoder(84, 200)
    encoder.add(picture())
    codec.decode(encoder.finish(), 84, 200)  # what libraries load on first use does not count
    tracemalloc.start()
    with pytest.raises(BadFrame):
        codec.decode([blob], 84, 200)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2_000_000


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("jpg", "no image codec 'jpg'.*did you mean 'jpeg'"),
        ("jpeg:qality=3", "has no option 'qality'.*did you mean 'quality'"),
        ("jpeg:quality=high", "quality must be int, found 'high'"),
        ("jpeg:quality=300", "quality"),
        ("delta:group=0", "group 1 to 1000, found 3 and 0"),
        ("h264:group=0", "group 1 to 250"),
        ("h264:fast=2", "fast 0 or 1"),
        ("h264:subsampling=422", "444, 420 or rgb"),
        ("os.system", "no image codec"),
    ],
)
def test_unknown_specs_are_explained(spec: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        codec_from_spec(spec)


def test_presets_name_codecs() -> None:
    assert {"fast", "exact", "balanced", "small"} <= set(PRESETS)
    for name, spec in PRESETS.items():
        assert codec_from_spec(name) == codec_from_spec(spec)

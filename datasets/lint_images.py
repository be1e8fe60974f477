"""Rules about pictures."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from foreact.datasets.lint_base import CameraScan, EpisodeScan, Found, Limits, Rule, runs
from foreact.datasets.reader import EpisodeReader

_CHUNK = 32


def scan_camera(reader: EpisodeReader, camera: str, limits: Limits) -> CameraScan:
    """Decode a camera's frames, a few at a time, and keep a few numbers of each."""
    length = reader.header.length
    change, dark, bright, std = (np.zeros(length) for _ in range(4))
    picture = np.zeros((4, 4, 3))
    before: np.ndarray | None = None
    for first in range(0, length, _CHUNK):
        wanted = np.arange(first, min(first + _CHUNK, length))
        for t, frame in zip(wanted, reader.images(camera, wanted), strict=True):
            change[t] = 255 if before is None else _largest_difference(frame, before)
            red, green, blue = frame[..., 0], frame[..., 1], frame[..., 2]  # planes: much faster than an axis of 3
            dark[t] = (np.maximum(np.maximum(red, green), blue) <= limits.dark).mean()
            bright[t] = (np.minimum(np.minimum(red, green), blue) >= limits.bright).mean()
            std[t] = _std(frame)
            picture += _small(frame) / length
            before = frame
    return CameraScan(change=change.astype(np.uint8), dark=dark, bright=bright, std=std, picture=picture)


def _largest_difference(a: np.ndarray, b: np.ndarray) -> int:
    return int((np.maximum(a, b) - np.minimum(a, b)).max())


def _std(frame: np.ndarray) -> float:
    numbers = frame.reshape(-1).astype(np.float32) - 128
    return float(np.sqrt(max(0.0, float(numbers @ numbers) / numbers.size - float(numbers.mean()) ** 2)))


def _small(frame: np.ndarray) -> np.ndarray:
    """(4, 4, 3) means of 16 tiles; pictures with a side below 4 pixels give one colour."""
    height, width = frame.shape[0] // 4, frame.shape[1] // 4
    if not height or not width:
        return np.broadcast_to(frame.mean((0, 1)), (4, 4, 3))
    rows = np.add.reduceat(frame[: 4 * height], np.arange(4) * height, axis=0, dtype=np.float32)
    tiles = np.add.reduceat(rows[:, : 4 * width], np.arange(4) * width, axis=1)
    return tiles / (height * width)


def _same(scan: EpisodeScan, camera: CameraScan) -> np.ndarray:
    """(T,) whether a frame shows what the frame before showed."""
    same = camera.change <= (0 if scan.still_codec else scan.limits.video_tolerance)
    same[0] = False
    return same


def _frozen(scan: EpisodeScan) -> Iterator[Found]:
    for name, camera in scan.cameras.items():
        for a, b in runs(_same(scan, camera), scan.frames(scan.limits.frozen_s) - 1):
            start = a - 1  # the first of the equal pictures
            seconds = (b - start) / scan.contract.rate_hz
            if scan.state is None and (start, b) == (0, scan.info.length):
                yield start, b, f"camera {name!r} shows one and the same picture in the whole video ({seconds:.1f} s)"
            elif scan.moves(start, b):
                yield start, b, f"camera {name!r} shows the same picture for {seconds:.1f} s while the robot moves"


def _repeated(scan: EpisodeScan) -> Iterator[Found]:
    if scan.state is None or scan.info.length < 2:
        return
    # A tenth of the travel from one frame to the next is motion that a camera sees.
    steps = np.abs(np.diff(scan.state, axis=0))
    moving = np.concatenate([[False], (steps > scan.travel / 10).any(1)])
    for name, camera in scan.cameras.items():
        same = _same(scan, camera) & moving
        for a, b in runs(same, scan.frames(scan.limits.frozen_s) - 1):
            same[a:b] = False  # is reported as frozen
        share = same.sum() / max(1, moving.sum())
        if same.sum() > 1 and share > scan.limits.repeated_share:
            first, last = np.flatnonzero(same)[[0, -1]]
            yield (
                int(first),
                int(last) + 1,
                (
                    f"camera {name!r}: {same.sum()} frames ({share:.0%} of those in motion) repeat the frame before; "
                    "the camera is slower than the recording, or drops frames"
                ),
            )


def _black(scan: EpisodeScan) -> Iterator[Found]:
    for name, camera in scan.cameras.items():
        for a, b in runs(camera.dark >= scan.limits.picture_share):
            yield a, b, f"camera {name!r} shows black"


def _bright(scan: EpisodeScan) -> Iterator[Found]:
    for name, camera in scan.cameras.items():
        for a, b in runs(camera.bright >= scan.limits.picture_share):
            yield a, b, f"camera {name!r} shows white: overexposed"


def _flat(scan: EpisodeScan) -> Iterator[Found]:
    share = scan.limits.picture_share
    for name, camera in scan.cameras.items():
        plain = (camera.std < scan.limits.flat_std) & (camera.dark < share) & (camera.bright < share)
        for a, b in runs(plain):
            yield a, b, f"camera {name!r} shows one plain colour"


IMAGE_RULES = (
    Rule("frozen-camera", "error", "the same picture for long while the robot moves", _frozen),
    Rule("repeated-frames", "warning", "many frames in motion repeat the frame before", _repeated),
    Rule("black-frames", "error", "a picture is black", _black),
    Rule("saturated-frames", "error", "a picture is overexposed to white", _bright),
    Rule("flat-frames", "warning", "a picture of one plain colour", _flat),
)

"""Frames of a video file at a steady rate: ordinary containers and codecs, only the file itself, with budgets."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from foreact.datasets.formats.base import FormatError
from foreact.datasets.formats.limits import MAX_FRAMES, MAX_SIDE, check_bytes, regular_file
from foreact.vla.images import resize_frame

CONTAINERS = {
    ".mp4": "mov", ".mov": "mov", ".m4v": "mov", ".webm": "matroska", ".mkv": "matroska", ".avi": "avi",
}  # fmt: skip
"""Ending -> FFmpeg's demuxer. It is named, not guessed: a playlist that is called .mp4 could open other files."""
CODECS = ("h264", "hevc", "vp8", "vp9", "av1", "libdav1d", "mpeg4", "mjpeg")
_MAX_FILE = 1 << 38
_SLACK_S = 1e-6


def read_clip(
    path: Path, rate_hz: float, height: int, width: int, start_s: float = 0.0, end_s: float | None = None,
    crop: bool = True,
) -> np.ndarray:  # fmt: skip
    """The frame shown at start_s, start_s + 1 / rate_hz, ... before end_s, as (T, height, width, 3) uint8.

    Args:
        path: The video; its first frame is time 0.
        rate_hz: Frames per second that are taken, whatever the video has.
        height, width: Size of the result in pixels.
        start_s, end_s: Part of the video in seconds; None: to its end.
        crop: Cut the middle out in the proportions of the result, rather than distort.

    Raises:
        FormatError: If it is no video of a known kind, is damaged, or has no frame there.
    """
    import av
    from av.error import FFmpegError

    container_name = CONTAINERS.get(path.suffix.lower())
    if container_name is None:
        raise FormatError(f"{path}: expected a video that ends in {', '.join(CONTAINERS)}")
    regular_file(path, "the video", _MAX_FILE)
    options = {"protocol_whitelist": "file", "max_streams": "64"}
    try:
        with av.open(str(path), "r", format=container_name, options=options) as container:
            if not container.streams.video:
                raise FormatError(f"{path} has no video")
            stream: Any = container.streams.video[0]
            name = stream.codec_context.name
            if name not in CODECS:
                raise FormatError(f"{path} is encoded as {name}; read are {', '.join(CODECS)}")
            stream.codec_context.options = {"max_pixels": str(MAX_SIDE * MAX_SIDE)}
            stream.codec_context.thread_count = 1
            frames = _sample(container, stream, path, rate_hz, (height, width), start_s, end_s, crop)
    except (FFmpegError, ValueError, OverflowError, MemoryError) as error:
        raise FormatError(f"{path} is a damaged video: {error!s:.200}") from error
    if not frames:
        raise FormatError(f"{path} has no frame from {start_s:g} s to {'its end' if end_s is None else f'{end_s:g} s'}")
    return np.stack(frames)


def _sample(
    container: Any, stream: Any, path: Path, rate_hz: float, size: tuple[int, int], start_s: float,
    end_s: float | None, crop: bool,
) -> list[np.ndarray]:  # fmt: skip
    base = float(stream.time_base) if stream.time_base else 0.0
    if base <= 0:
        raise FormatError(f"{path} has no time base")
    origin = stream.start_time or 0
    if start_s > 0:
        container.seek(int(start_s / base) + origin, stream=stream, backward=True)
    wanted = math.inf if end_s is None else max(1, math.ceil((end_s - start_s) * rate_hz - _SLACK_S))
    frames: list[np.ndarray] = []
    shown: Any = None
    decoded = 0
    last_s = -1.0
    for picture in container.decode(stream):
        decoded += 1
        if decoded > MAX_FRAMES:
            raise FormatError(f"{path}: more than {MAX_FRAMES} frames for one episode; give start_s and end_s")
        if picture.pts is None:
            continue
        at_s = (picture.pts - origin) * base
        # Every tick before this picture shows the one before it.
        while shown is not None and len(frames) < wanted and start_s + len(frames) / rate_hz < at_s - _SLACK_S:
            _keep(frames, shown, size, crop, path)
        if len(frames) >= wanted:
            return frames
        shown, last_s = picture, at_s
    if shown is not None:  # the last picture is shown for as long as those before it
        step = 1 / float(stream.average_rate) if stream.average_rate else 1 / rate_hz
        while len(frames) < wanted and start_s + len(frames) / rate_hz < last_s + step - _SLACK_S:
            _keep(frames, shown, size, crop, path)
    return frames


def _keep(frames: list[np.ndarray], picture: Any, size: tuple[int, int], crop: bool, path: Path) -> None:
    height, width = size
    check_bytes(f"{path}, {len(frames) + 1} frames,", (len(frames) + 1) * height * width * 3)
    if not (0 < picture.height <= MAX_SIDE and 0 < picture.width <= MAX_SIDE):
        raise FormatError(f"{path} has a picture of {picture.height}x{picture.width} pixels")
    frames.append(fit(picture.to_ndarray(format="rgb24"), height, width, crop))


def fit(frame: np.ndarray, height: int, width: int, crop: bool) -> np.ndarray:
    """Resize (H, W, 3) to (height, width, 3), either distorted or cut to the proportions first."""
    if crop:
        h, w = frame.shape[:2]
        scale = min(h / height, w / width)
        new_h, new_w = max(1, round(height * scale)), max(1, round(width * scale))
        top, left = (h - new_h) // 2, (w - new_w) // 2
        frame = frame[top : top + new_h, left : left + new_w]
    return resize_frame(np.ascontiguousarray(frame), height, width)

"""MP4 files of LeRobot datasets: one per episode (v2.1), or episodes after one another in long ones (v3).

LeRobot finds frames by time; here they are decoded one after another from the key frame before the first, and each
wanted time must have a frame of its own.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from foreact.datasets.formats.base import FormatError
from foreact.datasets.formats.limits import regular_file
from foreact.datasets.scheduling import scheduled_as_before
from foreact.datasets.video_codecs import VideoCodec

MAX_VIDEO_BYTES = 64 << 30
_MUXER = {"fflags": "+bitexact"}  # no version or date in the file: same frames, same bytes
_TOLERANCE = 0.4
"""Of a frame's duration: LeRobot's own files are exact to rounding, but some were cut with other tools."""


def encode_mp4(frames: np.ndarray, fps: int, codec: VideoCodec) -> bytes:
    """Encode (T, H, W, 3) uint8 frames as an MP4 file, by one thread; frame t is at t / fps seconds.

    Raises:
        FormatError: If a side is odd: colours are stored for blocks of two by two pixels.
    """
    import av

    height, width = frames.shape[1:3]
    if height % 2 or width % 2:
        raise FormatError(f"a video needs even sides, found {height}x{width} pixels; write pictures: codec=png")
    os.environ.setdefault("SVT_LOG", "1")  # else SVT-AV1 prints its settings for every episode
    out = io.BytesIO()
    with av.open(out, "w", format="mp4", options=_MUXER) as container:
        stream: Any = container.add_stream(codec.ffmpeg_encoder, rate=Fraction(fps))
        stream.height, stream.width = height, width
        stream.pix_fmt = codec.pixel_format
        stream.codec_context.gop_size = codec.group
        stream.codec_context.max_b_frames = 0
        stream.codec_context.thread_count = 1
        stream.codec_context.options = dict(codec.encoder_options())
        stream.time_base = Fraction(1, fps)
        stream.codec_context.time_base = Fraction(1, fps)
        with scheduled_as_before():
            stream.codec_context.open(strict=False)
        for t, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            picture.pts, picture.time_base = t, Fraction(1, fps)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return out.getvalue()


def join_mp4(parts: Iterable[tuple[Path, int]], out: Path, fps: int) -> None:
    """Put videos of `encode_mp4` (path, frames) after one another, without encoding again.

    Raises:
        FormatError: If they were not encoded alike.
    """
    import av

    done = 0
    header: bytes | None = None
    with av.open(str(out), "w", format="mp4", options={**_MUXER, "movflags": "+faststart"}) as container:
        stream: Any = None
        for path, frames in parts:
            with open_mp4(path) as (source, video):
                if stream is None:
                    stream = container.add_stream_from_template(video, opaque=True)
                    stream.time_base = video.time_base
                    header = video.codec_context.extradata
                if video.codec_context.extradata != header:
                    raise FormatError(f"{path} was encoded by other means than the videos before it: write all anew")
                offset = Fraction(done, fps) / video.time_base
                for packet in source.demux(video):
                    if packet.dts is None:  # the end
                        continue
                    packet.pts += int(offset)
                    packet.dts += int(offset)
                    packet.stream = stream
                    container.mux(packet)
            done += frames


def describe_mp4(path: Path, fps: int) -> dict[str, Any]:
    """What LeRobot writes about a video under a feature's `info`."""
    with open_mp4(path) as (_, video):
        context = video.codec_context
        return {
            "video.height": context.height,
            "video.width": context.width,
            "video.codec": video.codec.canonical_name,
            "video.pix_fmt": context.pix_fmt,
            "video.is_depth_map": False,
            "video.fps": fps,
            "video.channels": 3,
            "has_audio": False,
        }


def decode_mp4(path: Path, times_s: np.ndarray, height: int, width: int, fps: float) -> np.ndarray:
    """The frames at these ascending times, as (T, height, width, 3) uint8 RGB.

    Raises:
        FormatError: If the video is broken, has another size, or has no frame of its own for each time.
    """
    frames = np.empty((len(times_s), height, width, 3), np.uint8)
    with open_mp4(path, max_pixels=(height + 128) * (width + 128)) as (container, video):
        video.thread_count = 1
        first = int(times_s[0] / video.time_base) - 1
        if first > 0:
            container.seek(first, stream=video, backward=True, any_frame=False)
        wanted = 0
        before: tuple[float, Any] | None = None
        for picture in _with_end(container.decode(video)):
            time_s = float("inf") if picture is None else float(picture.pts * video.time_base)
            while wanted < len(times_s) and before is not None and _nearer(times_s[wanted], before[0], time_s):
                if abs(before[0] - times_s[wanted]) > _TOLERANCE / fps:
                    raise FormatError(
                        f"{path}: no frame at {times_s[wanted]:.4f} s; the nearest is at {before[0]:.4f} s. The video "
                        "is shorter than the episodes in it, or not at their rate"
                    )
                frames[wanted] = _pixels(path, before[1], height, width)
                wanted += 1
            if picture is None or wanted == len(times_s):
                break
            before = (time_s, picture)
    if wanted < len(times_s):
        raise FormatError(f"{path}: no frame could be decoded from {times_s[wanted]:.4f} s on")
    return frames


@contextmanager
def open_mp4(path: Path, max_pixels: int = 8192 * 8192) -> Iterator[tuple[Any, Any]]:
    """The container and its first video stream. Only MP4 is looked for: a playlist in disguise would name other files.

    Raises:
        FormatError: If it is missing or broken, also if that shows only while it is read.
    """
    import av
    from av.error import FFmpegError

    regular_file(path, "the video", MAX_VIDEO_BYTES)
    try:
        # FFmpeg itself refuses a stream that declares more pixels, before it takes memory.
        with av.open(str(path.absolute()), format="mp4", options={"max_pixels": str(max_pixels)}) as container:
            if not container.streams.video:
                raise FormatError(f"{path} has no video stream")
            yield container, container.streams.video[0]
    except (FFmpegError, ValueError, MemoryError, EOFError) as error:
        raise FormatError(f"{path} is not a readable MP4 video: {error!s:.200}") from error


def _with_end(pictures: Iterable[Any]) -> Iterator[Any]:
    yield from (picture for picture in pictures if picture.pts is not None)
    yield None


def _nearer(time_s: float, before_s: float, after_s: float) -> bool:
    """Whether the frame before is at least as near as the one after."""
    return time_s - before_s <= after_s - time_s


def _pixels(path: Path, picture: Any, height: int, width: int) -> np.ndarray:
    if (picture.height, picture.width) != (height, width):
        raise FormatError(
            f"{path}: the video has {picture.height}x{picture.width} pixels, info.json says {height}x{width}"
        )
    return picture.to_ndarray(format="rgb24")

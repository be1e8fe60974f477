"""Frames into one MP4 file, the same bytes for the same frames."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from foreact.datasets.formats.base import FormatError

_SAME_BYTES = "threads=1:no-mbtree=1:bframes=0"
"""With x264's macroblock tree the same frames may give other bytes: 40 times the same 160x120 film gave 6 files."""


def write_mp4(path: Path, images: np.ndarray, rate_hz: float, crf: int = 18) -> None:
    """Encode (T, H, W, 3) uint8 frames as H.264 in 4:2:0, and make the file durable.

    Raises:
        FormatError: If this FFmpeg has no H.264 encoder.
    """
    import av
    from av.error import FFmpegError

    height, width = images.shape[1:3]
    pad = ((0, height % 2), (0, width % 2), (0, 0))
    try:
        with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as container:
            stream: Any = container.add_stream("libx264", rate=Fraction(rate_hz).limit_denominator(100_000))
            stream.height, stream.width, stream.pix_fmt = height + height % 2, width + width % 2, "yuv420p"
            stream.codec_context.thread_count = 1
            stream.options = {"crf": str(crf), "preset": "fast", "x264-params": _SAME_BYTES}
            for frame in images:
                picture = av.VideoFrame.from_ndarray(np.pad(frame, pad, mode="edge"), format="rgb24")
                container.mux(stream.encode(picture))
            container.mux(stream.encode(None))
    except (FFmpegError, ValueError) as error:
        raise FormatError(f"{path} cannot be encoded as H.264: {error}") from error
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)

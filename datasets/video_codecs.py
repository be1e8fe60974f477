"""Video codecs through PyAV (FFmpeg), in short groups so that a random frame costs few decodes.

One blob is one packet. The first frame of a group is a key frame that carries all headers and after which no frame
refers to an earlier one; there are no B-frames, so packets come in the order of frames. So a run of groups, or of the
beginnings of groups, is decoded in one go.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np

from foreact.datasets.codec_base import BadFrame, Blob, FrameEncoder, GroupDecoder, check_size
from foreact.datasets.scheduling import scheduled_as_before
from foreact.vla.errors import ConfigError


class _PacketEncoder:
    """One encoder of FFmpeg over the frames of an episode."""

    def __init__(self, codec: VideoCodec, height: int, width: int):
        import av

        os.environ.setdefault("SVT_LOG", "1")  # else SVT-AV1 prints its settings for every episode
        self._av = av
        self._height, self._width = height, width
        context = av.CodecContext.create(codec.ffmpeg_encoder, "w")
        assert isinstance(context, av.VideoCodecContext)
        context.height, context.width = height + height % 2, width + width % 2  # chroma is halved: sides must be even
        context.pix_fmt = codec.pixel_format
        context.framerate = Fraction(30)
        context.gop_size = codec.group
        context.max_b_frames = 0
        context.thread_count = 1
        context.options = dict(codec.encoder_options())
        with scheduled_as_before():
            context.open(strict=False)
        self._context = context
        self._blobs: list[bytes] = []
        self._count = 0

    def add(self, frame: np.ndarray) -> None:
        pad = ((0, self._height % 2), (0, self._width % 2), (0, 0))
        picture = self._av.VideoFrame.from_ndarray(np.pad(frame, pad, mode="edge"), format="rgb24")
        picture.pts = self._count
        self._count += 1
        self._blobs += [bytes(packet) for packet in self._context.encode(picture)]

    def finish(self) -> list[bytes]:
        self._blobs += [bytes(packet) for packet in self._context.encode(None)]
        if len(self._blobs) != self._count:
            raise RuntimeError(f"the encoder gave {len(self._blobs)} packets for {self._count} frames")
        return self._blobs


@dataclass(frozen=True)
class VideoCodec(GroupDecoder):
    """Base of the video codecs."""

    name: ClassVar[str]
    ffmpeg_encoder: ClassVar[str]
    ffmpeg_decoder: ClassVar[str]

    @property
    def group(self) -> int:
        """Frames from one key frame to the next."""
        return 2

    @property
    def spec(self) -> str:
        return f"{self.name}:" + ",".join(f"{f.name}={getattr(self, f.name)}" for f in fields(self))

    @property
    def pixel_format(self) -> str:
        """Pixel format of the stream, in FFmpeg's words."""
        return "yuv420p"

    def encoder_options(self) -> Mapping[str, str]:
        """Options of the FFmpeg encoder."""
        raise NotImplementedError

    def encoder(self, height: int, width: int) -> FrameEncoder:
        return _PacketEncoder(self, height, width)

    def needs(self, frames: Sequence[int]) -> list[int]:
        lasts = {t - t % self.group: t for t in frames}
        return [t for first, last in lasts.items() for t in range(first, last + 1)]

    def decode_into(self, blobs: Mapping[int, Blob], out: Mapping[int, np.ndarray], height: int, width: int) -> None:
        import av
        from av.error import FFmpegError
        from av.video.reformatter import VideoReformatter

        check_size(height, width)
        # A decoder that has seen RGB takes the next stream for RGB too: one for each kind of pixels.
        key = (self.ffmpeg_decoder, self.pixel_format, height, width)
        kept = _decoders.kept.pop(key, None)
        context, converter = kept or (self._decoder(height, width), VideoReformatter())
        frames = iter(blobs)
        missing = len(blobs)
        try:
            for packet in (*(av.Packet(bytes(blob)) for blob in blobs.values()), None):
                for picture in context.decode(packet):
                    missing -= 1
                    if missing < 0:
                        break
                    if (picture.height, picture.width) != (height + height % 2, width + width % 2):
                        raise BadFrame(
                            f"the video has {picture.height}x{picture.width} pixels, expected {height}x{width}"
                        )
                    into = out.get(next(frames))
                    if into is not None:
                        _to_rgb(converter, picture, into)
        except FFmpegError as error:
            raise BadFrame(f"not a {self.name} packet: {error}") from error
        if missing:
            raise BadFrame(f"{len(blobs)} {self.name} packets gave {len(blobs) - missing} frames")
        context.flush_buffers()
        _decoders.kept[key] = context, converter  # only now: a decoder that met bad bytes is not used again

    def _decoder(self, height: int, width: int) -> Any:
        import av

        context: Any = av.CodecContext.create(self.ffmpeg_decoder, "r")
        context.thread_count = 1
        # FFmpeg itself refuses a stream that declares more pixels, before it takes memory; it counts padding too.
        context.options = {"max_pixels": str((height + 128) * (width + 128))}
        return context


class _Decoders(threading.local):
    """The open decoders and colour converters of a thread: new ones for each group would double the time."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str, int, int], tuple[Any, Any]] = {}


_decoders = _Decoders()


def _to_rgb(converter: Any, picture: Any, out: np.ndarray) -> None:
    """A picture of FFmpeg into (H, W, 3), which may be a row or column smaller."""
    height, width = out.shape[:2]
    plane = converter.reformat(picture, format="rgb24", threads=1).planes[0]
    rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
    out[...] = rows[:height, : 3 * width].reshape(height, width, 3)


@dataclass(frozen=True)
class H264Codec(VideoCodec):
    """H.264 by x264."""

    name: ClassVar[str] = "h264"
    ffmpeg_decoder: ClassVar[str] = "h264"
    crf: int = 18
    subsampling: str = "444"
    """444 or 420 of luminance and colours; "rgb" codes red, green and blue themselves: quicker to show, more bytes."""
    group: int = 2  # type: ignore[assignment]  # pyright: ignore[reportIncompatibleMethodOverride]
    fast: int = 0
    """1: coded so that decoding is quicker (CAVLC, no deblocking), for a tenth more bytes."""

    def __post_init__(self) -> None:
        if not 0 <= self.crf <= 51 or self.subsampling not in ("444", "420", "rgb"):
            raise ConfigError(
                f"H.264: expected crf 0 to 51 and subsampling 444, 420 or rgb, found {self.crf} and "
                f"{self.subsampling!r}"
            )
        if not 1 <= self.group <= 250 or self.fast not in (0, 1):
            raise ConfigError(f"H.264: expected group 1 to 250 and fast 0 or 1, found {self.group} and {self.fast}")

    @property
    def spec(self) -> str:
        # options that came later are left out at their defaults: older versions read such episodes
        defaults = {"group": 2, "fast": 0}
        options = {f.name: getattr(self, f.name) for f in fields(self)}
        return f"{self.name}:" + ",".join(f"{k}={v}" for k, v in options.items() if v != defaults.get(k))

    @property
    def pixel_format(self) -> str:
        return "rgb24" if self.subsampling == "rgb" else f"yuv{self.subsampling}p"

    @property
    def ffmpeg_encoder(self) -> str:  # type: ignore[override]  # pyright: ignore[reportIncompatibleVariableOverride]
        """libx264rgb is x264 without the conversion to luminance and colours."""
        return "libx264rgb" if self.subsampling == "rgb" else "libx264"

    def encoder_options(self) -> Mapping[str, str]:
        tune = "zerolatency,fastdecode" if self.fast else "zerolatency"
        return {"crf": str(self.crf), "preset": "fast", "tune": tune, "x264-params": "scenecut=0:threads=1"}


@dataclass(frozen=True)
class Av1Codec(VideoCodec):
    """AV1 by SVT-AV1."""

    name: ClassVar[str] = "av1"
    ffmpeg_encoder: ClassVar[str] = "libsvtav1"
    ffmpeg_decoder: ClassVar[str] = "libdav1d"
    crf: int = 20
    preset: int = 8

    def __post_init__(self) -> None:
        if not 1 <= self.crf <= 63 or not 0 <= self.preset <= 13:
            raise ConfigError(f"AV1: expected crf 1 to 63 and preset 0 to 13, found {self.crf} and {self.preset}")

    def encoder_options(self) -> Mapping[str, str]:
        params = "pred-struct=1:keyint=2:lp=1:scd=0:lookahead=0"
        return {"crf": str(self.crf), "preset": str(self.preset), "svtav1-params": params}

"""Still-picture codecs: each frame by itself, so that any frame is read without the others."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from foreact.datasets.codec_base import BadFrame, Blob, FrameEncoder, GroupDecoder, check_size
from foreact.datasets.zstandard import compress, decompress
from foreact.vla.errors import ConfigError


class _Stills:
    """The encoder of a codec that encodes each frame alone."""

    def __init__(self, encode: Callable[[np.ndarray], bytes]):
        self._encode = encode
        self._blobs: list[bytes] = []

    def add(self, frame: np.ndarray) -> None:
        self._blobs.append(self._encode(frame))

    def finish(self) -> list[bytes]:
        return self._blobs


@dataclass(frozen=True)
class StillCodec(GroupDecoder):
    """Base of the codecs that treat each frame as a picture of its own."""

    name: ClassVar[str]
    group: ClassVar[int] = 1

    @property
    def spec(self) -> str:
        options = ",".join(f"{f.name}={getattr(self, f.name)}" for f in fields(self))
        return f"{self.name}:{options}" if options else self.name

    def encoder(self, height: int, width: int) -> FrameEncoder:
        return _Stills(self.encode_frame)

    def needs(self, frames: Sequence[int]) -> list[int]:
        return list(frames)

    def decode_into(self, blobs: Mapping[int, Blob], out: Mapping[int, np.ndarray], height: int, width: int) -> None:
        check_size(height, width)
        for t, blob in blobs.items():
            self.decode_frame(blob, out[t])

    def encode_frame(self, frame: np.ndarray) -> bytes:
        """One (H, W, 3) uint8 frame to bytes."""
        raise NotImplementedError

    def decode_frame(self, blob: Blob, out: np.ndarray) -> None:
        """Bytes into one (H, W, 3) uint8 frame of exactly that size, C-contiguous."""
        raise NotImplementedError


@dataclass(frozen=True)
class RawCodec(StillCodec):
    """No compression."""

    name: ClassVar[str] = "raw"

    def encode_frame(self, frame: np.ndarray) -> bytes:
        return frame.tobytes()

    def decode_frame(self, blob: Blob, out: np.ndarray) -> None:
        if len(blob) != out.size:
            raise BadFrame(f"expected {out.size} bytes, found {len(blob)}")
        out.reshape(-1)[:] = np.frombuffer(blob, np.uint8)


@dataclass(frozen=True)
class ZstdCodec(StillCodec):
    """Lossless, each frame by Zstandard."""

    name: ClassVar[str] = "zstd"
    level: int = 3

    def encode_frame(self, frame: np.ndarray) -> bytes:
        return compress(frame, self.level)

    def decode_frame(self, blob: Blob, out: np.ndarray) -> None:
        decompress(blob, out)


@dataclass(frozen=True)
class JpegCodec(StillCodec):
    """JPEG by libjpeg-turbo (simplejpeg)."""

    name: ClassVar[str] = "jpeg"
    quality: int = 95
    subsampling: str = "444"

    def __post_init__(self) -> None:
        if not 1 <= self.quality <= 100 or self.subsampling not in ("444", "422", "420"):
            raise ConfigError(
                f"JPEG: expected quality 1 to 100 and subsampling 444, 422 or 420, found {self.quality} and "
                f"{self.subsampling!r}"
            )

    def encode_frame(self, frame: np.ndarray) -> bytes:
        import simplejpeg

        return simplejpeg.encode_jpeg(np.ascontiguousarray(frame), self.quality, "RGB", self.subsampling, fastdct=False)

    def decode_frame(self, blob: Blob, out: np.ndarray) -> None:
        import simplejpeg

        try:
            found = simplejpeg.decode_jpeg_header(blob)[:2]
            if found != out.shape[:2]:
                raise BadFrame(
                    f"the JPEG header says {found[0]}x{found[1]} pixels, expected {out.shape[0]}x{out.shape[1]}"
                )
            simplejpeg.decode_jpeg(blob, "RGB", fastdct=False, fastupsample=False, buffer=out)
        except ValueError as error:
            raise (error if isinstance(error, BadFrame) else BadFrame(f"not a JPEG picture: {error}")) from error


@dataclass(frozen=True)
class PillowCodec(StillCodec):
    """A picture format that Pillow writes."""

    _format: ClassVar[str]

    def _options(self) -> dict[str, Any]:
        return {}

    def encode_frame(self, frame: np.ndarray) -> bytes:
        out = io.BytesIO()
        Image.fromarray(frame).save(out, self._format, **self._options())
        return out.getvalue()

    def decode_frame(self, blob: Blob, out: np.ndarray) -> None:
        height, width = out.shape[:2]
        try:
            with Image.open(io.BytesIO(blob), formats=[self._format]) as picture:
                if picture.size != (width, height):
                    raise BadFrame(
                        f"the {self._format} header says {picture.size[1]}x{picture.size[0]} pixels, "
                        f"expected {height}x{width}"
                    )
                out[...] = np.asarray(picture.convert("RGB"))
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise BadFrame(f"not a {self._format} picture: {error}") from error


@dataclass(frozen=True)
class PngCodec(PillowCodec):
    """Lossless PNG."""

    name: ClassVar[str] = "png"
    _format: ClassVar[str] = "PNG"
    level: int = 3

    def _options(self) -> dict[str, Any]:
        return {"compress_level": self.level}


@dataclass(frozen=True)
class WebpCodec(PillowCodec):
    """WebP; quality 100 is lossless. Slow to encode: for archives, not for recording."""

    name: ClassVar[str] = "webp"
    _format: ClassVar[str] = "WEBP"
    quality: int = 90

    def _options(self) -> dict[str, Any]:
        return {"quality": self.quality, "lossless": self.quality >= 100, "method": 4}

"""Still-picture codecs: each frame by itself, so that any frame is read without the others."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from foreact.datasets.codec_base import BadFrame, Blob, FrameEncoder, check_size
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
class StillCodec:
    """Base of the codecs that treat each frame as a picture of its own."""

    name: ClassVar[str]
    group: ClassVar[int] = 1

    @property
    def spec(self) -> str:
        options = ",".join(f"{f.name}={getattr(self, f.name)}" for f in fields(self))
        return f"{self.name}:{options}" if options else self.name

    def encoder(self, height: int, width: int) -> FrameEncoder:
        return _Stills(self.encode_frame)

    def decode(self, blobs: Sequence[Blob], height: int, width: int) -> list[np.ndarray]:
        check_size(height, width)
        return [self.decode_frame(blob, height, width) for blob in blobs]

    def encode_frame(self, frame: np.ndarray) -> bytes:
        """One (H, W, 3) uint8 frame to bytes."""
        raise NotImplementedError

    def decode_frame(self, blob: Blob, height: int, width: int) -> np.ndarray:
        """Bytes to one frame of exactly that size."""
        raise NotImplementedError


@dataclass(frozen=True)
class RawCodec(StillCodec):
    """No compression."""

    name: ClassVar[str] = "raw"

    def encode_frame(self, frame: np.ndarray) -> bytes:
        return frame.tobytes()

    def decode_frame(self, blob: Blob, height: int, width: int) -> np.ndarray:
        if len(blob) != height * width * 3:
            raise BadFrame(f"expected {height * width * 3} bytes, found {len(blob)}")
        return np.frombuffer(blob, np.uint8).reshape(height, width, 3)


@dataclass(frozen=True)
class ZstdCodec(StillCodec):
    """Lossless, each frame by Zstandard."""

    name: ClassVar[str] = "zstd"
    level: int = 3

    def encode_frame(self, frame: np.ndarray) -> bytes:
        from numcodecs import Zstd

        return bytes(Zstd(level=self.level).encode(np.ascontiguousarray(frame)))

    def decode_frame(self, blob: Blob, height: int, width: int) -> np.ndarray:
        from numcodecs import Zstd

        size = height * width * 3
        if (found := _zstd_content_size(bytes(blob[:18]))) != size:
            raise BadFrame(f"not a Zstandard frame of {size} bytes; its header says {found}")
        out = np.empty((height, width, 3), np.uint8)
        try:
            Zstd().decode(bytes(blob), out)
        except (RuntimeError, ValueError) as error:
            raise BadFrame(f"not a Zstandard frame: {error}") from error
        return out


def _zstd_content_size(header: bytes) -> int | None:
    """The size that a Zstandard frame declares to unpack to, or None. Source: RFC 8878, section 3.1.1.1."""
    if len(header) < 5 or header[:4] != b"\x28\xb5\x2f\xfd":
        return None
    descriptor = header[4]
    single_segment = descriptor >> 5 & 1
    size_bytes = (single_segment, 2, 4, 8)[descriptor >> 6]
    at = 5 + (1 - single_segment) + (0, 1, 2, 4)[descriptor & 3]
    if not size_bytes or len(header) < at + size_bytes:
        return None
    return int.from_bytes(header[at : at + size_bytes], "little") + (256 if size_bytes == 2 else 0)


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

    def decode_frame(self, blob: Blob, height: int, width: int) -> np.ndarray:
        import simplejpeg

        try:
            found = simplejpeg.decode_jpeg_header(blob)[:2]
            if found != (height, width):
                raise BadFrame(f"the JPEG header says {found[0]}x{found[1]} pixels, expected {height}x{width}")
            return simplejpeg.decode_jpeg(blob, "RGB", fastdct=False, fastupsample=False)
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

    def decode_frame(self, blob: Blob, height: int, width: int) -> np.ndarray:
        try:
            with Image.open(io.BytesIO(blob), formats=[self._format]) as picture:
                if picture.size != (width, height):
                    raise BadFrame(
                        f"the {self._format} header says {picture.size[1]}x{picture.size[0]} pixels, "
                        f"expected {height}x{width}"
                    )
                return np.asarray(picture.convert("RGB"))
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

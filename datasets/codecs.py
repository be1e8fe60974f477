"""Image codecs by name.

A codec is named by a short text such as "jpeg", "jpeg:quality=95,subsampling=444" or a preset ("fast", "exact",
"balanced", "small"), which is stored with every episode. The choice of presets is measured in docs/codecs.md and
docs/data-speed.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, cast

from foreact.datasets.codec_base import FrameCodec
from foreact.datasets.delta_codec import DeltaCodec
from foreact.datasets.still_codecs import JpegCodec, PngCodec, RawCodec, WebpCodec, ZstdCodec
from foreact.datasets.video_codecs import Av1Codec, H264Codec
from foreact.vla.errors import ConfigError, did_you_mean

PRESETS: Mapping[str, str] = {
    "fast": "jpeg:quality=95,subsampling=444",
    "exact": "delta:level=3,group=10",
    "balanced": "h264:crf=20,subsampling=rgb,group=5,fast=1",
    "small": "h264:crf=18,subsampling=444,group=10,fast=1",
}
"""Names for the measured compromises: see docs/codecs.md."""

_ALL = (RawCodec, ZstdCodec, DeltaCodec, JpegCodec, PngCodec, WebpCodec, H264Codec, Av1Codec)
_CODECS: dict[str, Any] = {codec.name: codec for codec in _ALL}


def codec_from_spec(spec: str) -> FrameCodec:
    """The codec that a text names: "jpeg", "jpeg:quality=90,subsampling=420", "fast".

    Raises:
        ConfigError: If the codec or one of its options is unknown.
    """
    name, _, options = PRESETS.get(spec, spec).partition(":")
    known = _CODECS
    if name not in known:
        raise ConfigError(f"no image codec {name!r}; {did_you_mean(name, [*known, *PRESETS])}")
    types = {f.name: type(f.default) for f in fields(known[name])}
    values: dict[str, Any] = {}
    for option in filter(None, options.split(",")):
        key, _, value = option.partition("=")
        if key not in types:
            raise ConfigError(f"image codec {name!r} has no option {key!r}; {did_you_mean(key, types)}")
        try:
            values[key] = types[key](value)
        except ValueError as error:
            raise ConfigError(f"image codec {name!r}: {key} must be {types[key].__name__}, found {value!r}") from error
    return cast(FrameCodec, known[name](**values))

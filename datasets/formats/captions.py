"""Which part of which video shows what: our own tables, narrations of Ego4D, labels of Something-Something v2."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foreact.datasets.formats.base import FormatError
from foreact.datasets.formats.limits import MAX_JSON_BYTES, parse_json, regular_file, short

NAMES = ("captions.csv", "captions.json")
_EGO4D_TAG = re.compile(r"^\s*#\w+\s+|\s*#unsure\b", re.IGNORECASE)
_MAX_CLIPS = 5_000_000


@dataclass(frozen=True)
class Clip:
    """A part of a video and what it shows."""

    path: str
    """Relative to the dataset; without an ending if the captions do not name one."""
    caption: str
    start_s: float = 0.0
    end_s: float | None = None


def read_captions(path: Path, clip_s: float) -> tuple[list[Clip], str]:
    """The clips of a captions file, and which kind of file it is.

    Args:
        path: CSV, or JSON of one of three kinds.
        clip_s: Length of a clip of Ego4D [s], whose narrations have one time only: the clip is centred on it.

    Raises:
        FormatError: If it is of no such kind, or a row is wrong.
    """
    data = regular_file(path, "the captions", MAX_JSON_BYTES).read_bytes()
    if path.suffix.lower() == ".csv":
        kind, rows = "table", _table(_csv_rows(data, path), path)
    else:
        found = parse_json(data, f"the captions {path}")
        if isinstance(found, list) and all(isinstance(row, dict) for row in found):
            labels = bool(found) and "label" in found[0] and "path" not in found[0]
            kind = "Something-Something v2" if labels else "table"
            rows = _labels(found, path) if labels else _table(found, path)
        elif isinstance(found, dict):
            kind, rows = "Ego4D", _narrations(found.get("videos", found), path, clip_s)
        else:
            raise FormatError(f"the captions {path} are neither a list of rows nor narrations by video")
    clips = []
    for clip in rows:
        clips.append(clip)
        if len(clips) > _MAX_CLIPS:
            raise FormatError(f"the captions {path} have more than {_MAX_CLIPS:,} clips")
    if not clips:
        raise FormatError(f"the captions {path} name no clip")
    return clips, kind


def _csv_rows(data: bytes, path: Path) -> list[dict[str, str]]:
    try:
        reader = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True)
        rows = list(reader)
    except (csv.Error, UnicodeDecodeError) as error:
        raise FormatError(f"the captions {path} are not a CSV file in UTF-8: {error}") from error
    known = set(reader.fieldnames or ())
    if not {"path", "caption"} <= known:
        raise FormatError(f"the captions {path} have the columns {sorted(map(str, known))}; expected path, caption")
    return rows


def _table(rows: list[Any], path: Path) -> Iterator[Clip]:
    for number, row in enumerate(rows, 1):
        what = f"the captions {path}, row {number}"
        if not isinstance(row.get("path"), str) or not isinstance(row.get("caption"), str):
            raise FormatError(f"{what}: expected path and caption, found {row!r:.120}")
        start, end = _time(row.get("start_s"), what), _time(row.get("end_s"), what)
        if end is not None and end <= (start or 0.0):
            raise FormatError(f"{what}: end_s {end:g} is not after start_s {start or 0:g}")
        yield Clip(row["path"], short(row["caption"]), start or 0.0, end)


def _labels(rows: list[Any], path: Path) -> Iterator[Clip]:
    for number, row in enumerate(rows, 1):
        identifier, label = row.get("id"), row.get("label")
        if not isinstance(label, str) or not re.fullmatch(r"[0-9]{1,12}", str(identifier)):
            raise FormatError(f"the captions {path}, row {number}: expected id and label, found {row!r:.120}")
        yield Clip(str(identifier), short(label))


def _narrations(videos: Any, path: Path, clip_s: float) -> Iterator[Clip]:
    if not isinstance(videos, dict):
        raise FormatError(f"the captions {path} have no narrations by video")
    for uid, video in sorted(videos.items()):
        if not isinstance(video, dict) or not re.fullmatch(r"[A-Za-z0-9_-]{1,80}", uid):
            raise FormatError(f"the captions {path}: {uid!r:.80} is not a video of Ego4D")
        for key in sorted(video):
            part = video[key]
            listed = part.get("narrations", []) if key.startswith("narration_pass") and isinstance(part, dict) else []
            for narration in listed:
                what = f"the captions {path}, video {uid}"
                if not isinstance(narration, dict) or "narration_text" not in narration:
                    raise FormatError(f"{what}: expected narration_text, found {narration!r:.120}")
                time = _time(narration.get("timestamp_sec"), what)
                text = short(_EGO4D_TAG.sub("", str(narration["narration_text"])))
                if time is not None and text:
                    start = max(0.0, time - clip_s / 2)
                    yield Clip(uid, text, start, start + clip_s)


def _time(value: Any, what: str) -> float | None:
    if value is None or value == "":
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, bool) or not 0 <= number < 1e6:
        raise FormatError(f"{what}: expected a time in seconds, found {value!r:.40}")
    return number

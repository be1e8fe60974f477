"""`meta/info.json` of a LeRobot dataset: what is in it, where its files lie, and the limits on what it may declare.

Everything in it is somebody else's word: paths must stay in the folder, sizes are checked before memory is taken.

Source of the layout: LeRobot (huggingface/lerobot, Apache-2.0), `src/lerobot/datasets/utils.py`, versions v2.0 to v3.0.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from foreact.datasets.formats.base import FormatError
from foreact.datasets.formats.limits import MAX_SIDE, check_image_size, check_shape, read_json

INFO = "meta/info.json"
DEFAULT_COLUMNS = ("timestamp", "frame_index", "episode_index", "index", "task_index")
"""Columns that LeRobot fills by itself in every dataset."""

MAX_DECODED_BYTES = 16 << 30
"""Largest episode, decoded: about a minute of four cameras of 640x480 at 60 Hz is 13 GB."""

_PLACE = re.compile(r"\{([a-z_]+)(?::0([1-9])d)?\}")


class Feature(BaseModel):
    """One column, or one camera."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    dtype: str
    shape: tuple[int, ...]
    names: Any = None
    info: dict[str, Any] | None = None
    video_info: dict[str, Any] | None = None

    @property
    def is_camera(self) -> bool:
        """Whether it holds pictures."""
        return self.dtype in ("video", "image")

    @property
    def is_depth(self) -> bool:
        """Whether the pictures are depth maps, by any of the names this has had."""
        marks = {**(self.video_info or {}), **(self.info or {})}
        return bool(marks.get("is_depth_map") or marks.get("video.is_depth_map"))

    @property
    def picture_size(self) -> tuple[int, int, int]:
        """(height, width, channels); LeRobot allows channels first or last, `names` tells."""
        if len(self.shape) != 3:
            return (0, 0, 0)
        first, middle, last = self.shape
        names = self.names if isinstance(self.names, list) else []
        if (names and str(names[0]).startswith("channel")) or (not names and first in (1, 3) and last not in (1, 3)):
            return (middle, last, first)
        return (first, middle, last)

    @property
    def size(self) -> int:
        """Numbers per frame."""
        return math.prod(self.shape)


class Info(BaseModel):
    """What `info.json` says; fields that are not named here are not needed for reading."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    codebase_version: str
    fps: float
    features: dict[str, Feature]
    total_episodes: int
    total_frames: int
    chunks_size: int = 1000
    data_path: str
    video_path: str | None = None
    robot_type: str | None = None

    @property
    def cameras(self) -> dict[str, Feature]:
        """Key -> feature of everything that is a picture, depth maps too."""
        return {key: feature for key, feature in self.features.items() if feature.is_camera}


def read_info(root: Path) -> Info:
    """Read and check `meta/info.json`.

    Raises:
        FormatError: If it is missing, broken, or declares what cannot be.
    """
    path = root / INFO
    raw = read_json(path, "the description of the dataset")
    try:
        info = Info.model_validate(raw)
    except ValidationError as error:
        lines = [f"  {'.'.join(map(str, e['loc'])) or '(top)'}: {e['msg']}" for e in error.errors()[:8]]
        raise FormatError(f"{path} does not describe a LeRobot dataset:\n" + "\n".join(lines)) from error
    if not 0 < info.fps <= 10_000 or info.chunks_size < 1 or info.total_episodes < 0:
        raise FormatError(
            f"{path}: expected a rate of 0 to 10000 fps, a positive chunks_size and no negative counts, found fps "
            f"{info.fps}, chunks_size {info.chunks_size}, total_episodes {info.total_episodes}"
        )
    for key, feature in info.features.items():
        check_shape(f"{path}: a frame of {key!r}", feature.shape, 8, 8 * MAX_SIDE * MAX_SIDE)
        if feature.is_camera:
            check_image_size(f"{path}: a picture of {key!r}", *feature.picture_size[:2])
    return info


def file_path(root: Path, template: str, **values: int | str) -> Path:
    """Fill a path template of `info.json`, such as "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet".

    `str.format` is not used, because a template could reach into objects with it.

    Raises:
        FormatError: If the template names anything else, or the path leaves the folder.
    """

    def fill(match: re.Match[str]) -> str:
        name, width = match.groups()
        if name not in values:
            raise FormatError(f"{root / INFO}: the path {template!r:.200} has {{{name}}}; known: {sorted(values)}")
        return f"{values[name]:0{width}d}" if width and isinstance(values[name], int) else str(values[name])

    filled = _PLACE.sub(fill, template)
    parts = filled.split("/")
    if any(c in filled for c in "{}\\\0") or any(part in ("", ".", "..") for part in parts) or ":" in parts[0]:
        raise FormatError(
            f"{root / INFO}: the path {template!r:.200} gives {filled!r:.200}, which is not a plain path inside the "
            "dataset; only files inside it are read"
        )
    return root.joinpath(*parts)


def check_links(root: Path, path: Path) -> Path:
    """Return `path` if it really lies in the dataset; the cache of the Hugging Face hub links snapshots to its blobs.

    Raises:
        FormatError: If a link leads out.
    """
    place = root.resolve()
    allowed = [place, place.parent.parent / "blobs"] if place.parent.name == "snapshots" else [place]
    if not any(path.resolve().is_relative_to(folder) for folder in allowed):
        raise FormatError(f"{path} is a link that leads out of {root}; copy the file instead")
    return path


def version_of(path: Path) -> str | None:
    """`codebase_version` of the dataset in a folder, such as "v3.0"; None if it is not a LeRobot dataset."""
    try:
        raw = read_json(path / INFO)
    except (FormatError, OSError, ValueError):
        return None
    version = raw.get("codebase_version") if isinstance(raw, dict) and "features" in raw else None
    return version if isinstance(version, str) else None

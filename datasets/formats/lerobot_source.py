"""Reading LeRobot datasets: what versions 2.0 to 3.0 have in common. Where files lie is up to the version."""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from foreact.datasets.episode import EpisodeData, Segment
from foreact.datasets.formats.base import FormatError
from foreact.datasets.formats.lerobot_arrow import EpisodeRows, numbers
from foreact.datasets.formats.lerobot_fields import ACTION, EXTRAS, IMAGES, STATE, Mapped, described, foreign
from foreact.datasets.formats.lerobot_info import MAX_DECODED_BYTES, Info, check_links, read_info, version_of
from foreact.datasets.formats.lerobot_side import Side, SideEpisode, read_side
from foreact.datasets.formats.lerobot_video import decode_mp4
from foreact.datasets.formats.limits import MAX_FRAMES, check_bytes, read_json, short
from foreact.vla.contract import Contract
from foreact.vla.errors import did_you_mean

MODALITY = "meta/modality.json"
_IRREGULAR_S = 1e-3


@dataclass(frozen=True)
class Entry:
    """Where the parts of an episode lie."""

    index: int
    length: int
    data: Path
    videos: Mapping[str, tuple[Path, float]]
    """Key of a camera -> its file, and the time in it [s] at which the episode begins."""


class LeRobotSource(ABC):
    """A LeRobot dataset on this disk; see `foreact.datasets.formats.base.Source`.

    Args:
        path: Its folder, with `meta/info.json`.
        contract: What a person says it holds; by default what can be known from the dataset, or, if ForeAct wrote it,
            the contract it was written with.

    Raises:
        FormatError: If it is damaged, of another version, or not what the contract says.
        ConfigError: If pyarrow is not installed.
    """

    format: ClassVar[str]
    versions: ClassVar[tuple[str, ...]]
    """Beginnings of `codebase_version`."""
    OPTIONS: ClassVar[dict[str, str]] = {}

    def __init__(self, path: Path, contract: Contract | None = None):
        self.path = Path(path)
        info = read_info(self.path)
        if not info.codebase_version.startswith(self.versions):
            raise FormatError(
                f"{self.path} is a LeRobot dataset of version {info.codebase_version!r}; {self.format} reads "
                f"{' and '.join(self.versions)}"
            )
        self._info = info
        self._entries = self.read_entries(info)
        if len(self._entries) != info.total_episodes:
            raise FormatError(
                f"{self.path}: info.json counts {info.total_episodes} episodes, their metadata {len(self._entries)}; "
                "the dataset is incomplete (was its writer closed by finalize()?)"
            )
        self._tasks = self.read_tasks()
        self._rows = EpisodeRows()
        side, ignored = read_side(self.path, [entry.length for entry in self._entries])
        mapped = _ours(info, side, self.path) if side else foreign(info, self._slices(), str(self.path))
        self._mapped = described(mapped, contract, str(self.path)) if contract is not None else mapped
        self._own = side.episodes if side else ()
        self._number = {name: i for i, name in enumerate(self.names())}
        self.contract = self._mapped.contract
        self.frames: int = sum(entry.length for entry in self._entries)
        self._notes: dict[str, None] = dict.fromkeys(([ignored] if ignored else []) + self._mapped.notes)

    @classmethod
    def recognise(cls, path: Path) -> bool:
        """Whether `path` is a dataset of this version, by its description alone."""
        return (version_of(Path(path)) or "").startswith(cls.versions)

    @property
    def notes(self) -> Sequence[str]:
        """What was assumed and left out, so far: some of it shows only when an episode is read."""
        return list(self._notes)

    def names(self) -> Sequence[str]:
        """Names of episodes: those ForeAct gave them, else "episode_000000" and so on."""
        return [e.name for e in self._own] or [f"episode_{entry.index:06d}" for entry in self._entries]

    def read(self, name: str) -> EpisodeData:
        """One episode, complete.

        Raises:
            FormatError: If it is damaged; the file is named.
        """
        if name not in self._number:
            raise FormatError(f"{self.path} has no episode {name!r}; {did_you_mean(name, self._number)}")
        entry = self._entries[self._number[name]]
        own = self._own[self._number[name]] if self._own else None
        where = f"{entry.data}, episode {entry.index}"
        keys = [key for key in (self._mapped.state, self._mapped.action) if key] + list(self._mapped.extras.values())
        pictures = [key for key in self._mapped.cameras.values() if self._info.features[key].dtype == "image"]
        columns = ["timestamp", "frame_index", "task_index", *keys]
        for file in (entry.data, *(file for file, _ in entry.videos.values())):
            check_links(self.path, file)
        table = self._rows.read(entry.data, entry.index, columns, entry.length)
        frame_index = numbers(table, "frame_index", (), where)
        if not np.array_equal(frame_index, np.arange(entry.length)):
            raise FormatError(f"{where}: frame_index must count 0 to {entry.length - 1}, found {frame_index[:8]}...")
        times_s = numbers(table, "timestamp", (), where).astype(np.float64)
        if not np.isfinite(times_s).all() or (np.diff(times_s) <= 0).any() or times_s[0] < 0:
            raise FormatError(f"{where}: the column timestamp must rise from 0 on")
        shapes = {camera.name: (camera.height, camera.width) for camera in self.contract.cameras}
        total = sum(h * w * 3 for h, w in shapes.values()) * entry.length
        check_bytes(f"{where}: its pictures", total, MAX_DECODED_BYTES)
        images = {}
        for camera, key in self._mapped.cameras.items():
            if key in pictures:
                cells = self._rows.cells(entry.data, entry.index, key)
                images[camera] = _stills(cells, entry.length, *shapes[camera], f"{where}, {key}")
            else:
                file, start_s = entry.videos[key]
                images[camera] = decode_mp4(file, start_s + times_s, *shapes[camera], self._info.fps)
        episode = EpisodeData(
            images=images,
            state=self._vector(table, self._mapped.state, where),
            action=self._vector(table, self._mapped.action, where),
            extras=self._extras(table, own, times_s, where),
            meta={**(own.meta if own else {"episode_index": entry.index}), "source": self._source(entry)},
            name=name,
        )
        if own:
            episode.instruction, episode.segments = own.instruction, own.make_segments()
        else:
            self._language(episode, numbers(table, "task_index", (), where), where)
        return episode

    @abstractmethod
    def read_entries(self, info: Info) -> list[Entry]:
        """Where the episodes lie, in order."""

    @abstractmethod
    def read_tasks(self) -> dict[int, str]:
        """The sentences by number."""

    def _source(self, entry: Entry) -> str:
        return f"{self.format}:{self.path.name}#{entry.index}"

    def _slices(self) -> Mapping[str, Any]:
        if not (self.path / MODALITY).exists():
            return {}
        found = read_json(self.path / MODALITY, "the names of ranges of state and action")
        return found if isinstance(found, dict) else {}

    def _vector(self, table: Any, key: str | None, where: str) -> np.ndarray | None:
        if key is None:
            return None
        feature = self._info.features[key]
        values = numbers(table, key, feature.shape, where)
        values = values.reshape(len(values), -1).astype(np.float32)
        bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
        if len(bad):
            raise FormatError(f"{where}: frame {bad[0]} of {key!r} is not finite: {values[bad[0]]!s:.100}")
        if feature.dtype != "float32":
            self._notes[f"{key} is {feature.dtype} and was rounded to float32"] = None
        return values

    def _extras(self, table: Any, own: SideEpisode | None, times_s: np.ndarray, where: str) -> dict[str, np.ndarray]:
        extras: dict[str, np.ndarray] = {}
        for name, key in self._mapped.extras.items():
            feature = self._info.features[key]
            if own and name not in own.extras:
                continue
            values = numbers(table, key, feature.shape, where)
            if not np.isfinite(values).all():
                self._notes[f"left out: {key} of episodes where it is not finite"] = None
                continue
            values = values.astype(np.float32 if feature.dtype == "float32" else np.float64)
            if own:
                values = values.reshape(len(values), *own.extras[name])
            elif feature.shape == (1,):
                values = values[:, 0]
            extras[name] = values
        late_s = np.abs(times_s - np.arange(len(times_s)) / self._info.fps).max()
        if not own and late_s > _IRREGULAR_S:
            extras["timestamp"] = times_s
            self._notes["some frames were not taken at the stated rate: their times are the extra 'timestamp'"] = None
        return extras

    def _language(self, episode: EpisodeData, task_index: np.ndarray, where: str) -> None:
        unknown = sorted(set(task_index.tolist()) - set(self._tasks))
        if unknown:
            raise FormatError(f"{where}: tasks {unknown[:5]} are not among the {len(self._tasks)} tasks of the dataset")
        texts = {number: short(self._tasks[number], where) for number in set(task_index.tolist())}
        if any(" ".join(self._tasks[number].split()) != text for number, text in texts.items()):
            self._notes["tasks of more than 512 bytes are cut"] = None
        order = list(dict.fromkeys(task_index.tolist()))
        episode.instruction = short("; ".join(texts[number] for number in order))
        if len(order) > 1:
            edges = [0, *(np.flatnonzero(np.diff(task_index)) + 1).tolist(), len(task_index)]
            episode.segments = [
                Segment(start=a, end=b, instruction=texts[int(task_index[a])])
                for a, b in zip(edges[:-1], edges[1:], strict=True)
            ]
            self._notes["an episode with several tasks has a segment for each, and all as its instruction"] = None


def make_tasks(rows: Iterable[tuple[Any, Any]], path: Path) -> dict[int, str]:
    """Check (number, sentence) pairs.

    Raises:
        FormatError: If one is not a number and a text, or a number comes twice.
    """
    tasks: dict[int, str] = {}
    for number, text in rows:
        if not isinstance(number, int) or not isinstance(text, str) or number in tasks:
            raise FormatError(f"{path}: expected one text for each task number, found {number!r:.50}: {text!r:.80}")
        tasks[number] = text
    return tasks


def check_entries(entries: list[Entry], path: Path) -> list[Entry]:
    """Sort entries and check that they are episodes 0, 1, 2, ... of possible lengths.

    Raises:
        FormatError: If not.
    """
    entries = sorted(entries, key=lambda entry: entry.index)
    for number, entry in enumerate(entries):
        if entry.index != number or not 0 < entry.length <= MAX_FRAMES:
            raise FormatError(
                f"{path}: expected episode {number} with 1 to {MAX_FRAMES} frames, found episode {entry.index} with "
                f"{entry.length}"
            )
    return entries


def _ours(info: Info, side: Side, path: Path) -> Mapped:
    """The mapping of a dataset that ForeAct wrote.

    Raises:
        FormatError: If its features are not those that were written.
    """
    cameras = {c.name: IMAGES + c.name for c in side.contract.cameras if IMAGES + c.name in info.features}
    names = [key.removeprefix(EXTRAS) for key in info.features if key.startswith(EXTRAS)]
    problems = [
        f"{IMAGES}{c.name} has the shape {info.features[IMAGES + c.name].shape}, expected {(c.height, c.width, 3)}"
        for c in side.contract.cameras
        if c.name in cameras and info.features[IMAGES + c.name].shape != (c.height, c.width, 3)
    ]
    for key, size in ((STATE, side.contract.state_size), (ACTION, side.contract.action_size)):
        if key in info.features and info.features[key].shape != (size,):
            problems.append(f"{key} has the shape {info.features[key].shape}, expected {(size,)}")
    for episode in side.episodes:
        for name, shape in episode.extras.items():
            feature = info.features.get(EXTRAS + name)
            if feature is None or feature.size != int(np.prod(shape, dtype=np.int64)):
                problems.append(f"{EXTRAS}{name} of episode {episode.name} should have the shape {shape}")
    if problems or not cameras:
        lines = "\n".join(f"  - {line}" for line in problems[:10] or ["no camera of the contract is there"])
        raise FormatError(f"{path}: meta/foreact.json does not fit info.json:\n{lines}")
    return Mapped(
        side.contract,
        cameras,
        STATE if STATE in info.features else None,
        ACTION if ACTION in info.features else None,
        {name: EXTRAS + name for name in names},
    )


def _stills(cells: Iterable[Any], length: int, height: int, width: int, where: str) -> np.ndarray:
    """Pictures inside a column, as (T, height, width, 3) uint8."""
    frames = np.empty((length, height, width, 3), np.uint8)
    for t, row in enumerate(cells):
        data = row.get("bytes") if isinstance(row, dict) else row
        if not isinstance(data, bytes):
            raise FormatError(f"{where}: frame {t} is not in the file, only a name is ({row!r:.100})")
        try:
            with Image.open(io.BytesIO(data), formats=["PNG", "JPEG"]) as picture:
                if picture.size != (width, height):
                    raise FormatError(
                        f"{where}: frame {t} has {picture.size[1]}x{picture.size[0]} pixels, expected {height}x{width}"
                    )
                frames[t] = np.asarray(picture.convert("RGB"))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise FormatError(f"{where}: frame {t} is not a PNG or JPEG picture: {error!s:.100}") from error
    return frames

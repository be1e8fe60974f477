"""Writing LeRobot datasets: what versions 2.1 and 3.0 have in common, that is, everything but where files lie."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from foreact.datasets.codecs import codec_from_spec
from foreact.datasets.episode import EpisodeData
from foreact.datasets.formats.base import FormatError
from foreact.datasets.formats.lerobot_fields import ACTION, EXTRAS, IMAGES, STATE, number_names
from foreact.datasets.formats.lerobot_info import DEFAULT_COLUMNS
from foreact.datasets.formats.lerobot_side import SIDE, SideEpisode, read_side, side_bytes
from foreact.datasets.formats.lerobot_staging import DATA, RECORD, STATS, Staging
from foreact.datasets.formats.lerobot_stats import from_lists, merge_stats, picture_stats, to_lists, vector_stats
from foreact.datasets.formats.lerobot_table import Column, episode_parquet
from foreact.datasets.formats.lerobot_video import describe_mp4, encode_mp4
from foreact.datasets.formats.limits import read_json
from foreact.datasets.layout import check_name
from foreact.datasets.still_codecs import PngCodec
from foreact.datasets.video_codecs import VideoCodec
from foreact.vla.contract import Contract
from foreact.vla.errors import ConfigError

_IMAGE_NAMES = ["height", "width", "channels"]
_LANGUAGES = ("segments", "episode")


class LeRobotSink(ABC):
    """A LeRobot dataset being written; see `foreact.datasets.formats.base.Sink` and `lerobot_staging`.

    Args:
        path: Its folder, which appears when it is complete.
        contract: What is written.
        codec: "av1" or "h264" for videos (lossy), "png" for pictures (lossless), with options as for stores.
        language: What a frame's task is: "segments", the sentence of the segment it lies in (the last one begun, else
            the episode's); "episode", always the episode's.

    Raises:
        FormatError: If the rate is no whole number, or something else is at `path`.
        ConfigError: If an option is unknown, or pyarrow is not installed.
    """

    format: ClassVar[str]
    OPTIONS: ClassVar[dict[str, str]] = {
        "codec": "av1 (default), h264: videos; png: lossless pictures. With options, see docs/codecs.md",
        "language": "a frame's task: segments (default), or always the instruction of the episode",
    }

    def __init__(self, path: Path, contract: Contract, codec: str = "av1", language: str = "segments", **sizes: int):
        self.path = Path(path)
        self.contract = contract
        found = codec_from_spec(codec)
        if not isinstance(found, VideoCodec | PngCodec):
            raise ConfigError(f"LeRobot holds videos (codec=av1, codec=h264) or pictures (codec=png), not {codec!r}")
        self._codec = found
        if language not in _LANGUAGES:
            raise ConfigError(f"language must be one of {', '.join(_LANGUAGES)}, found {language!r}")
        self._language = language
        if contract.rate_hz != int(contract.rate_hz):
            raise FormatError(f"LeRobot's rate is a whole number of frames a second, the contract's {contract.rate_hz}")
        self.fps = int(contract.rate_hz)
        for camera in contract.cameras:
            check_name(camera.name, "camera name")
        options = {"codec": found.spec, "language": language, **sizes}
        self._staging = Staging(
            self.path, {"format": self.format, "contract": contract.model_dump(mode="json"), "options": options}
        )
        self._records = [] if self._staging.complete else self._staging.records()
        self._names = self._finished_names() if self._staging.complete else {r["side"]["name"] for r in self._records}
        self._tasks: dict[str, int] = {}
        for record in self._records:
            self._learn(record["tasks"])

    @property
    def notes(self) -> Sequence[str]:
        """What could not be held."""
        notes = []
        if isinstance(self._codec, VideoCodec):
            notes.append(f"pictures are lossy videos ({self._codec.spec}); codec=png keeps every bit")
        dropped = sorted({name for record in self._records for name in record["dropped"]})
        notes += [f"left out: {name} (LeRobot has the same columns in all episodes)" for name in dropped]
        if any(record["side"]["segments"] for record in self._records) and self._language == "segments":
            notes.append(f"frames of segments have the segment's sentence as their task; {SIDE} has them all")
        notes.append(f"names, meta data and units are in {SIDE}, which LeRobot ignores and does not keep when editing")
        return notes

    def has(self, name: str) -> bool:
        """Whether that episode is written."""
        return name in self._names

    def write(self, name: str, episode: EpisodeData) -> None:
        """Write one episode, whole or not at all.

        Raises:
            FormatError: If it does not fit the contract, or has not the parts that the first episode has.
        """
        check_name(name)
        if self._staging.complete:
            raise FormatError(f"{self.path} is complete; write episode {name} and the others to another path")
        if self.has(name):
            raise FormatError(f"{self.path}: episode {name!r} is written already")
        number = len(self._records)
        parts, dropped = self._parts(name, episode)
        texts = self._texts(episode)
        tasks = list(dict.fromkeys(texts))
        self._learn(tasks)
        start = self._records[-1]["stop"] if self._records else 0
        t = np.arange(len(episode))
        columns = [Column(IMAGES + camera, episode.images[camera], "image") for camera in parts["cameras"]]
        columns += [Column(STATE, episode.state)] if parts["state"] else []
        columns += [Column(ACTION, episode.action)] if parts["action"] else []
        for extra, (dtype, _) in parts["extras"].items():
            columns.append(Column(EXTRAS + extra, episode.extras[extra].astype(dtype).reshape(len(episode), -1)))
        defaults = ((t / self.fps).astype(np.float32), t, np.full_like(t, number), start + t)
        task_index = np.array([self._tasks[text] for text in texts])
        columns += [Column(key, value) for key, value in zip(DEFAULT_COLUMNS, (*defaults, task_index), strict=True)]
        stats = {c.key: picture_stats(c.values) if c.kind == "image" else vector_stats(c.values) for c in columns}
        files = {}
        if isinstance(self._codec, VideoCodec):
            for camera in parts["cameras"]:
                files[f"{camera}.mp4"] = encode_mp4(episode.images[camera], self.fps, self._codec)
            columns = [c for c in columns if c.kind != "image"]
        files[DATA] = episode_parquet(columns, None if isinstance(self._codec, VideoCodec) else self._codec)
        side = SideEpisode(
            name=name,
            length=len(episode),
            instruction=episode.instruction,
            segments=tuple((s.start, s.end, s.instruction) for s in episode.segments),
            meta=dict(episode.meta),
            extras={extra: episode.extras[extra].shape[1:] for extra in parts["extras"]},
        )
        record = {
            "side": side.model_dump(mode="json"),
            "stop": start + len(episode),
            "tasks": tasks,
            "parts": parts,
            "dropped": dropped,
        }
        files[STATS] = json.dumps(to_lists(stats)).encode()
        files[RECORD] = json.dumps(record).encode()
        self._staging.add(number, files)
        self._records.append(json.loads(files[RECORD]))
        self._names.add(name)

    def finish(self) -> None:
        """Assemble the dataset and move it to its place.

        Raises:
            FormatError: If there is no episode.
        """
        if self._staging.complete:
            return
        if not self._records:
            raise FormatError(f"{self.path}: no episode was written; LeRobot cannot open an empty dataset")
        folder = self._staging.begin_dataset()
        video_info = self.assemble(folder)
        info = self.info() | {"features": self._features(video_info)}
        write_json(folder / "meta/info.json", info)
        episodes = [SideEpisode.model_validate(record["side"]) for record in self._records]
        (folder / SIDE).write_bytes(side_bytes(self.contract, episodes))
        self._staging.publish()

    @abstractmethod
    def assemble(self, folder: Path) -> dict[str, dict[str, Any]]:
        """Write everything but info.json into `folder`; return the description of each camera's videos."""

    @abstractmethod
    def info(self) -> dict[str, Any]:
        """info.json without the features."""

    @property
    def video_keys(self) -> dict[str, str]:
        """Camera -> key of the feature, of cameras that are videos."""
        if not isinstance(self._codec, VideoCodec) or not self._records:
            return {}
        return {camera: IMAGES + camera for camera in self._records[0]["parts"]["cameras"]}

    def describe(self, path: Path) -> dict[str, Any]:
        """What LeRobot records about a video, from one of the files."""
        return describe_mp4(path, self.fps)

    def total_stats(self) -> dict[str, Any]:
        """Statistics of the whole, as JSON values."""
        return to_lists(merge_stats(from_lists(self._staging.stats(n)) for n in range(len(self._records))))

    def _features(self, video_info: Mapping[str, Any]) -> dict[str, Any]:
        parts = self._records[0]["parts"]
        features: dict[str, Any] = {}
        for name in parts["cameras"]:
            camera, key = self.contract.camera(name), IMAGES + name
            kind = "video" if key in self.video_keys.values() else "image"
            features[key] = {"dtype": kind, "shape": [camera.height, camera.width, 3], "names": _IMAGE_NAMES}
            features[key] |= {"info": video_info[key]} if kind == "video" else {}
        for key, fields in ((STATE, self.contract.state), (ACTION, self.contract.action)):
            if parts["state" if key == STATE else "action"]:
                names = number_names(fields)
                features[key] = {"dtype": "float32", "shape": [len(names)], "names": names}
        for name, (dtype, size) in parts["extras"].items():
            features[EXTRAS + name] = {"dtype": dtype, "shape": [size], "names": None}
        for key in DEFAULT_COLUMNS:
            features[key] = {"dtype": "float32" if key == "timestamp" else "int64", "shape": [1], "names": None}
        return features

    def _parts(self, name: str, episode: EpisodeData) -> tuple[dict[str, Any], list[str]]:
        """What of an episode is written (the parts of the first one), and the names of what is not."""
        self._check(name, episode)
        found = {
            "cameras": [camera.name for camera in self.contract.cameras if camera.name in episode.images],
            "state": episode.state is not None,
            "action": episode.action is not None,
            "extras": {
                key: ["float64" if value.dtype == np.float64 else "float32", int(np.prod(value.shape[1:]))]
                for key, value in sorted(episode.extras.items())
                if value.size
            },
        }
        first = self._records[0]["parts"] if self._records else found
        missing = [f"camera {c}" for c in first["cameras"] if c not in found["cameras"]]
        missing += [key for key in ("state", "action") if first[key] and not found[key]]
        for key, kind in first["extras"].items():
            if found["extras"].get(key) != kind:
                missing.append(f"extra {key} ({kind[1]} numbers of {kind[0]}, found {found['extras'].get(key)})")
        if missing:
            raise FormatError(
                f"episode {name} has no {', no '.join(missing)}; the first episode has, and LeRobot has the same "
                "columns in all episodes: convert such episodes into datasets of their own"
            )
        dropped = [f"camera {c}" for c in found["cameras"] if c not in first["cameras"]]
        dropped += [key for key in ("state", "action") if found[key] and not first[key]]
        dropped += [f"extra {key}" for key in episode.extras if key not in first["extras"]]
        return first, dropped

    def _check(self, name: str, episode: EpisodeData) -> None:
        lengths = {k: len(v) for k, v in {**episode.images, **episode.extras}.items()}
        lengths |= {k: len(v) for k, v in (("state", episode.state), ("action", episode.action)) if v is not None}
        if len(set(lengths.values())) != 1 or not len(episode) or not episode.images:
            raise FormatError(f"episode {name}: expected pictures, and as many frames of everything, found {lengths}")
        for camera, frames in episode.images.items():
            spec = self.contract.camera(camera)
            if frames.shape[1:] != (spec.height, spec.width, 3) or frames.dtype != np.uint8:
                raise FormatError(
                    f"episode {name}: camera {camera} must be uint8 {(spec.height, spec.width, 3)}, found "
                    f"{frames.dtype} {frames.shape[1:]}"
                )
        for key, value, size in (
            ("state", episode.state, self.contract.state_size),
            ("action", episode.action, self.contract.action_size),
        ):
            if value is not None and (value.shape[1:] != (size,) or not size):
                raise FormatError(f"episode {name}: {key} has the shape {value.shape}, the contract {size} numbers")
        for key in episode.extras:
            check_name(key, "name of an extra")
        for segment in episode.segments:
            if not 0 <= segment.start < segment.end <= len(episode):
                raise FormatError(f"episode {name}: {segment} does not lie in its {len(episode)} frames")
        for value in episode.meta.values():
            scalar = value is None or isinstance(value, str | bool | int | float)
            if not scalar or (isinstance(value, float) and not math.isfinite(value)):
                raise FormatError(
                    f"episode {name}: meta holds texts, finite numbers, booleans and None, not {value!r:.80}"
                )

    def _texts(self, episode: EpisodeData) -> list[str]:
        """The task of each frame."""
        texts = [episode.instruction] * len(episode)
        if self._language == "segments":
            for segment in sorted(episode.segments, key=lambda s: (s.start, -s.end)):
                texts[segment.start : segment.end] = [segment.instruction] * (segment.end - segment.start)
        return texts

    def _learn(self, tasks: Sequence[str]) -> None:
        for text in tasks:
            self._tasks.setdefault(text, len(self._tasks))

    def _finished_names(self) -> set[str]:
        raw = read_json(self.path / SIDE, "ForeAct's own part")
        side, _ = read_side(self.path, [e["length"] for e in raw["episodes"]])
        if side is None or side.contract != self.contract:
            raise FormatError(f"{self.path} is a complete dataset of another contract; write to another path")
        return {episode.name for episode in side.episodes}


def write_json(path: Path, value: Any) -> None:
    """Write JSON as LeRobot does: indented, in the order given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=4, ensure_ascii=False) + "\n", "utf-8")

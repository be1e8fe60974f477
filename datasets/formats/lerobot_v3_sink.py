"""LeRobot datasets v3.0 as a sink: episodes are joined into files of about 100 MB (data) and 200 MB (video)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from foreact.datasets.formats.lerobot_info import file_path
from foreact.datasets.formats.lerobot_sink import LeRobotSink, write_json
from foreact.datasets.formats.lerobot_staging import DATA
from foreact.datasets.formats.lerobot_table import join_parquet, write_episodes, write_tasks
from foreact.datasets.formats.lerobot_video import join_mp4
from foreact.vla.contract import Contract
from foreact.vla.errors import ConfigError

CHUNK_FILES = 1000
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
EPISODES_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"


class LeRobotV3Sink(LeRobotSink):
    """A LeRobot dataset of version 3.0; see `LeRobotSink`.

    Args:
        data_mb: A data file is closed before it gets larger than this [MiB].
        video_mb: A video file is closed before it gets larger than this [MiB].
    """

    format: ClassVar[str] = "lerobot-v3"
    OPTIONS: ClassVar[dict[str, str]] = LeRobotSink.OPTIONS | {
        "data_mb": "size of data files in MiB (100)",
        "video_mb": "size of video files in MiB (200)",
    }

    def __init__(
        self,
        path: Path,
        contract: Contract,
        codec: str = "av1",
        language: str = "segments",
        data_mb: str | int = 100,
        video_mb: str | int = 200,
    ):
        sizes = {"data_mb": _positive("data_mb", data_mb), "video_mb": _positive("video_mb", video_mb)}
        super().__init__(path, contract, codec, language, **sizes)
        self._bytes = {key: value << 20 for key, value in sizes.items()}
        self._sizes = sizes

    def info(self) -> dict[str, Any]:
        """info.json without the features."""
        return {
            "codebase_version": "v3.0",
            "fps": self.fps,
            "features": {},
            "total_episodes": len(self._records),
            "total_frames": self._records[-1]["stop"],
            "total_tasks": len(self._tasks),
            "chunks_size": CHUNK_FILES,
            "data_files_size_in_mb": self._sizes["data_mb"],
            "video_files_size_in_mb": self._sizes["video_mb"],
            "data_path": DATA_PATH,
            "video_path": VIDEO_PATH if self.video_keys else None,
            "robot_type": self.contract.embodiment,
            "splits": {"train": f"0:{len(self._records)}"},
        }

    def assemble(self, folder: Path) -> dict[str, dict[str, Any]]:
        """Join the episodes; write tasks, episodes and statistics."""
        rows = [self._row(number) for number in range(len(self._records))]
        for file, episodes in self._groups(DATA, self._bytes["data_mb"]):
            join_parquet([self._staging.episode(n) / DATA for n in episodes], file_path(folder, DATA_PATH, **file))
            for n in episodes:
                rows[n] |= {f"data/{key}": value for key, value in file.items()}
        videos = {}
        for camera, key in self.video_keys.items():
            for file, episodes in self._groups(f"{camera}.mp4", self._bytes["video_mb"]):
                out = file_path(folder, VIDEO_PATH, video_key=key, **file)
                out.parent.mkdir(parents=True, exist_ok=True)
                parts = [(self._staging.episode(n) / f"{camera}.mp4", self._length(n)) for n in episodes]
                join_mp4(parts, out, self.fps)
                start = 0
                for n in episodes:
                    rows[n] |= {f"videos/{key}/{name}": value for name, value in file.items()}
                    rows[n][f"videos/{key}/from_timestamp"] = start / self.fps
                    start += self._length(n)
                    rows[n][f"videos/{key}/to_timestamp"] = start / self.fps
                videos.setdefault(key, self.describe(out))
        where = {"chunk_index": 0, "file_index": 0}
        for row in rows:
            row |= {f"meta/episodes/{key}": value for key, value in where.items()}
        write_episodes(self._with_stats(rows), file_path(folder, EPISODES_PATH, **where))
        write_tasks(self._tasks, folder / "meta/tasks.parquet")
        write_json(folder / "meta/stats.json", self.total_stats())
        return videos

    def _row(self, number: int) -> dict[str, Any]:
        record = self._records[number]
        return {
            "episode_index": number,
            "tasks": record["tasks"],
            "length": self._length(number),
            "dataset_from_index": record["stop"] - self._length(number),
            "dataset_to_index": record["stop"],
        }

    def _with_stats(self, rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for number, row in enumerate(rows):
            stats = self._staging.stats(number)
            yield row | {f"stats/{key}/{name}": v for key, part in stats.items() for name, v in part.items()}

    def _length(self, number: int) -> int:
        return self._records[number]["side"]["length"]

    def _groups(self, name: str, limit_bytes: int) -> Iterator[tuple[dict[str, int], list[int]]]:
        """Which episodes share a file: as many as fit into the limit, at least one."""
        group: list[int] = []
        size, count = 0, 0
        for number in range(len(self._records)):
            more = (self._staging.episode(number) / name).stat().st_size
            if group and size + more > limit_bytes:
                yield _place(count), group
                group, size, count = [], 0, count + 1
            group.append(number)
            size += more
        yield _place(count), group


def _place(count: int) -> dict[str, int]:
    return {"chunk_index": count // CHUNK_FILES, "file_index": count % CHUNK_FILES}


def _positive(key: str, value: str | int) -> int:
    try:
        number = int(value)
    except ValueError:
        number = 0
    if not 0 < number <= 1 << 20:
        raise ConfigError(f"{key} must be a whole number of MiB from 1 on, found {value!r}")
    return number

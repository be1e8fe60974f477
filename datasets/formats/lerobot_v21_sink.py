"""LeRobot datasets v2.1 as a sink, with `meta/modality.json` as GR00T reads it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

from foreact.datasets.formats.lerobot_fields import ACTION, IMAGES, STATE
from foreact.datasets.formats.lerobot_info import file_path
from foreact.datasets.formats.lerobot_sink import LeRobotSink, write_json
from foreact.datasets.formats.lerobot_staging import DATA, link_or_copy
from foreact.datasets.formats.lerobot_stats import QUANTILES
from foreact.vla.contract import Field

CHUNK_EPISODES = 1000
DATA_PATH = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
VIDEO_PATH = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"


class LeRobotV21Sink(LeRobotSink):
    """A LeRobot dataset of version 2.1; see `LeRobotSink`."""

    format: ClassVar[str] = "lerobot-v2.1"

    def __init__(self, path: Path, contract: Any, codec: str = "av1", language: str = "segments"):
        super().__init__(path, contract, codec, language)

    def info(self) -> dict[str, Any]:
        """info.json without the features."""
        count = len(self._records)
        return {
            "codebase_version": "v2.1",
            "robot_type": self.contract.embodiment,
            "total_episodes": count,
            "total_frames": self._records[-1]["stop"],
            "total_tasks": len(self._tasks),
            "total_videos": count * len(self.video_keys),
            "total_chunks": (count - 1) // CHUNK_EPISODES + 1,
            "chunks_size": CHUNK_EPISODES,
            "fps": self.fps,
            "splits": {"train": f"0:{count}"},
            "data_path": DATA_PATH,
            "video_path": VIDEO_PATH if self.video_keys else None,
            "features": {},
        }

    def assemble(self, folder: Path) -> dict[str, dict[str, Any]]:
        """Put the files of the episodes in place; write tasks, episodes, statistics and modality.json."""
        videos = {}
        for number in range(len(self._records)):
            staged = self._staging.episode(number)
            numbers = {"episode_chunk": number // CHUNK_EPISODES, "episode_index": number}
            link_or_copy(staged / DATA, file_path(folder, DATA_PATH, **numbers))
            for camera, key in self.video_keys.items():
                out = file_path(folder, VIDEO_PATH, video_key=key, **numbers)
                link_or_copy(staged / f"{camera}.mp4", out)
                if key not in videos:
                    videos[key] = self.describe(out)
        _write_lines(folder / "meta/tasks.jsonl", ({"task_index": n, "task": text} for text, n in self._tasks.items()))
        _write_lines(
            folder / "meta/episodes.jsonl",
            (
                {"episode_index": n, "tasks": record["tasks"], "length": record["side"]["length"]}
                for n, record in enumerate(self._records)
            ),
        )
        _write_lines(
            folder / "meta/episodes_stats.jsonl",
            ({"episode_index": n, "stats": self._stats(n)} for n in range(len(self._records))),
        )
        write_json(folder / "meta/modality.json", self._modality())
        return videos

    def _stats(self, number: int) -> dict[str, Any]:
        """Statistics of an episode; version 2.1 knows no quantiles."""
        stats = self._staging.stats(number)
        return {key: {k: v for k, v in part.items() if k not in QUANTILES} for key, part in stats.items()}

    def _modality(self) -> dict[str, Any]:
        """Names for ranges of the vectors and for cameras. Source: NVIDIA/Isaac-GR00T, data_preparation.md."""
        parts = self._records[0]["parts"]
        return {
            "state": _ranges(self.contract.state, STATE) if parts["state"] else {},
            "action": _ranges(self.contract.action, ACTION) if parts["action"] else {},
            "video": {camera: {"original_key": IMAGES + camera} for camera in parts["cameras"]},
            "annotation": {"human.task_description": {"original_key": "task_index"}},
        }


def _ranges(fields: Iterable[Field], key: str) -> dict[str, Any]:
    ranges, start = {}, 0
    for field in fields:
        ranges[field.name] = {"start": start, "end": start + field.size, "original_key": key}
        start += field.size
    return ranges


def _write_lines(path: Path, rows: Iterable[Any]) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)

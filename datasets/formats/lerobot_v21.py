"""LeRobot datasets v2.1 (and v2.0) as a source: a Parquet file per episode, an MP4 file per episode and camera."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from foreact.datasets.formats.base import FormatError
from foreact.datasets.formats.lerobot_info import Info, file_path
from foreact.datasets.formats.lerobot_source import Entry, LeRobotSource, check_entries, make_tasks
from foreact.datasets.formats.limits import MAX_ENTRIES, MAX_JSON_BYTES, MAX_TEXT_BYTES, parse_json, regular_file

EPISODES = "meta/episodes.jsonl"
TASKS = "meta/tasks.jsonl"


class LeRobotV21Source(LeRobotSource):
    """A LeRobot dataset of version 2.0 or 2.1, GR00T's flavour included."""

    format: ClassVar[str] = "lerobot-v2.1"
    versions: ClassVar[tuple[str, ...]] = ("v2.0", "v2.1")

    def read_entries(self, info: Info) -> list[Entry]:
        """Where the episodes lie, from `meta/episodes.jsonl`."""
        path = self.path / EPISODES
        entries = []
        for row in _lines(path):
            index, length = row.get("episode_index"), row.get("length")
            if type(index) is not int or type(length) is not int or index < 0:
                raise FormatError(f"{path}: expected episode_index and length, found {row!r:.200}")
            chunk = index // info.chunks_size
            videos = {}
            for key, feature in info.cameras.items():
                if feature.dtype == "video" and not feature.is_depth:
                    if not info.video_path:
                        raise FormatError(f"{self.path}: info.json has videos ({key}) but no video_path")
                    numbers = {"episode_chunk": chunk, "episode_index": index}
                    videos[key] = (file_path(self.path, info.video_path, video_key=key, **numbers), 0.0)
            data = file_path(self.path, info.data_path, episode_chunk=chunk, episode_index=index)
            entries.append(Entry(index, length, data, videos))
        return check_entries(entries, path)

    def read_tasks(self) -> dict[int, str]:
        """The sentences by number, from `meta/tasks.jsonl`."""
        path = self.path / TASKS
        return make_tasks(((row.get("task_index"), row.get("task")) for row in _lines(path)), path)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file with one JSON object per line."""
    regular_file(path, "the table", MAX_JSON_BYTES * 4)
    with open(path, "rb") as file:
        for number in range(1, MAX_ENTRIES + 2):
            line = file.readline(MAX_TEXT_BYTES + 1)
            if not line:
                return
            if len(line) > MAX_TEXT_BYTES or number > MAX_ENTRIES:
                raise FormatError(f"{path}, line {number}: longer than anything LeRobot writes")
            if line.strip():
                row = parse_json(line, f"{path}, line {number}")
                if not isinstance(row, dict):
                    raise FormatError(f"{path}, line {number}: expected an object, found {row!r:.100}")
                yield row

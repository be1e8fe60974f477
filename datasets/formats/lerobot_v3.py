"""LeRobot datasets v3.0 as a source: many episodes per Parquet and MP4 file, found through `meta/episodes`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from foreact.datasets.formats.base import FormatError
from foreact.datasets.formats.lerobot_arrow import explained, read_table
from foreact.datasets.formats.lerobot_info import Info, file_path
from foreact.datasets.formats.lerobot_source import Entry, LeRobotSource, check_entries, make_tasks
from foreact.datasets.formats.limits import MAX_ENTRIES

EPISODES = "meta/episodes"
TASKS = "meta/tasks.parquet"


class LeRobotV3Source(LeRobotSource):
    """A LeRobot dataset of version 3.0."""

    format: ClassVar[str] = "lerobot-v3"
    versions: ClassVar[tuple[str, ...]] = ("v3.",)

    def read_entries(self, info: Info) -> list[Entry]:
        """Where the episodes lie, from `meta/episodes/*/*.parquet`."""
        paths = sorted((self.path / EPISODES).glob("*/*.parquet"))
        entries: list[Entry] = []
        for path in paths:
            table = read_table(path, skip="stats/")
            if len(entries) + table.num_rows > MAX_ENTRIES:
                raise FormatError(f"{path}: more than {MAX_ENTRIES} episodes are not read")
            with explained(path):
                rows = table.to_pylist()
            entries += [self._entry(info, row, f"{path}, row {number}") for number, row in enumerate(rows)]
        return check_entries(entries, self.path / EPISODES)

    def read_tasks(self) -> dict[int, str]:
        """The sentences by number, from `meta/tasks.parquet`: they are the index of a pandas table."""
        path = self.path / TASKS
        if not path.exists() and not self._entries:
            return {}
        table = read_table(path)
        texts = [name for name in table.column_names if name != "task_index"]
        if "task_index" not in table.column_names or len(texts) != 1:
            raise FormatError(f"{path}: expected the columns task_index and task, found {table.column_names}")
        with explained(path):
            return make_tasks(zip(table["task_index"].to_pylist(), table[texts[0]].to_pylist(), strict=True), path)

    def _entry(self, info: Info, row: Mapping[str, Any], where: str) -> Entry:
        def whole(key: str) -> int:
            value = row.get(key)
            if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 40:
                raise FormatError(f"{where}: {key!r} must be a count, found {value!r:.50}")
            return value

        videos = {}
        for key, feature in info.cameras.items():
            if feature.dtype != "video" or feature.is_depth:
                continue
            start_s = row.get(f"videos/{key}/from_timestamp")
            if not isinstance(start_s, float | int) or not 0 <= start_s < 1e7:
                raise FormatError(f"{where}: 'videos/{key}/from_timestamp' must be a time, found {start_s!r:.50}")
            numbers = {f"{part}_index": whole(f"videos/{key}/{part}_index") for part in ("chunk", "file")}
            if not info.video_path:
                raise FormatError(f"{self.path}: info.json has videos ({key}) but no video_path")
            videos[key] = (file_path(self.path, info.video_path, video_key=key, **numbers), float(start_s))
        numbers = {f"{part}_index": whole(f"data/{part}_index") for part in ("chunk", "file")}
        data = file_path(self.path, info.data_path, **numbers)
        return Entry(whole("episode_index"), whole("length"), data, videos)

"""Where a LeRobot dataset is put together: episodes in folders of their own, then the whole in one rename.

```
<path>.partial/
  sink.json                 format, contract and options: only the same conversion may go on
  episodes/000000/          one finished episode: episode.json, stats.json, data.parquet, <camera>.mp4
  dataset/                  what finish() is assembling
```
A kill leaves finished episodes, which the next run finds; the dataset appears at `path` complete or not at all.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foreact.datasets.durable import fsync_folder, remove, stage_name, write_durably, write_tree
from foreact.datasets.formats.base import FormatError
from foreact.datasets.formats.lerobot_side import SIDE
from foreact.datasets.formats.limits import read_json

RECORD = "episode.json"
STATS = "stats.json"
DATA = "data.parquet"


class Staging:
    """The folder beside a dataset that is being written.

    Args:
        path: Where the dataset will be.
        identity: What names the conversion; JSON values.

    Raises:
        FormatError: If something else is at `path`, or was begun there.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any]):
        self.path = path
        self.folder = path.parent / f"{path.name}.partial"
        self.complete = (path / SIDE).is_file()
        """Whether the dataset is there already."""
        if self.complete:
            remove(self.folder)
            return
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise FormatError(f"{path} is there already and is not a dataset that ForeAct wrote; write to another path")
        known = self.folder / "sink.json"
        if known.exists():
            found = read_json(known, "the description of an unfinished conversion")
            if found != json.loads(json.dumps(identity)):
                raise FormatError(
                    f"{self.folder} holds an unfinished conversion with another contract or other options; finish it "
                    "with those, remove it, or write to another path"
                )
        else:
            remove(self.folder)
            (self.folder / "episodes").mkdir(parents=True)
            part = self.folder / stage_name("sink.json")
            write_durably(part, json.dumps(identity, indent=1).encode())
            part.replace(known)
            fsync_folder(self.folder)
        for entry in (self.folder / "episodes").iterdir():
            if "~" in entry.name:  # a write that did not end
                remove(entry)

    def episode(self, number: int) -> Path:
        """The folder of an episode."""
        return self.folder / "episodes" / f"{number:06d}"

    def records(self) -> list[dict[str, Any]]:
        """`episode.json` of every finished episode, in order."""
        found: list[dict[str, Any]] = []
        while (self.episode(len(found)) / RECORD).exists():
            found.append(json.loads((self.episode(len(found)) / RECORD).read_text()))
        return found

    def stats(self, number: int) -> dict[str, Any]:
        """`stats.json` of a finished episode."""
        return json.loads((self.episode(number) / STATS).read_text())

    def add(self, number: int, files: Mapping[str, bytes]) -> None:
        """Write an episode, whole or not at all."""
        target = self.episode(number)
        staged = target.with_name(stage_name(target.name))
        try:
            write_tree(staged, files)
            os.rename(staged, target)
        finally:
            remove(staged)
        fsync_folder(target.parent)

    def begin_dataset(self) -> Path:
        """An empty folder to assemble the dataset in."""
        folder = self.folder / "dataset"
        remove(folder)
        (folder / "meta").mkdir(parents=True)
        return folder

    def publish(self) -> None:
        """Make the assembled dataset durable and move it to its place."""
        folder = self.folder / "dataset"
        for parent, _, names in os.walk(folder, topdown=False):
            for name in names:
                _fsync_file(Path(parent) / name)
            fsync_folder(Path(parent))
        os.replace(folder, self.path)  # an empty folder at `path` may be replaced
        fsync_folder(self.path.parent)
        self.complete = True
        remove(self.folder)


def link_or_copy(source: Path, target: Path) -> None:
    """A second name for a file, or a copy where the file system has no links."""
    import shutil

    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _fsync_file(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())

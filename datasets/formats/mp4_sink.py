"""MP4 and JSON out: films that any player shows, numbers that any language reads."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from foreact.datasets.durable import fsync_folder, remove, stage_name, sweep, write_durably
from foreact.datasets.episode import EpisodeData
from foreact.datasets.formats.base import FormatError
from foreact.datasets.formats.encode_mp4 import write_mp4
from foreact.datasets.formats.guess import natural
from foreact.datasets.layout import check_name
from foreact.vla.contract import Contract

VERSION = 1


class Mp4Sink:
    """`videos/<episode>/<camera>.mp4`, `episodes/<episode>.json`, `dataset.json`, and `captions.csv` of all videos."""

    format = "mp4"
    OPTIONS = {"crf": "quality of H.264, 1 (best) to 51; default 18"}
    notes: Sequence[str] = (
        "videos are H.264 in 4:2:0, which loses colour detail, and have even sides (an odd one is padded by its edge)",
    )

    def __init__(self, path: Path, contract: Contract, *, crf: str = "18"):
        self.path, self.contract = path, contract
        self._crf = natural(crf, "crf", 51)
        for folder in ("videos", "episodes", ".staging"):
            (path / folder).mkdir(parents=True, exist_ok=True)
        sweep(path / ".staging")
        self._names: list[str] = []

    def has(self, name: str) -> bool:
        """Whether the episode was written by an earlier, interrupted run: its JSON is its last file."""
        found = (self.path / "episodes" / f"{check_name(name)}.json").is_file()
        if found and name not in self._names:
            self._names.append(name)
        return found

    def write(self, name: str, episode: EpisodeData) -> None:
        """Write the videos of one episode, then its numbers."""
        staged = self.path / ".staging" / stage_name(check_name(name))
        final = self.path / "videos" / name
        try:
            staged.mkdir()
            for camera, images in episode.images.items():
                write_mp4(staged / f"{camera}.mp4", images, self.contract.rate_hz, self._crf)
            fsync_folder(staged)
            remove(final)  # of a run that was killed before the JSON was written
            staged.rename(final)
        finally:
            remove(staged)
        fsync_folder(final.parent)
        self._put(self.path / "episodes" / f"{name}.json", self._numbers(name, episode))
        self._names.append(name)

    def finish(self) -> None:
        """Write the list of episodes and the captions."""
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(["path", "caption"])
        for name in self._names:
            found = json.loads((self.path / "episodes" / f"{name}.json").read_bytes())
            for camera in found["cameras"]:
                writer.writerow([f"videos/{name}/{camera}.mp4", found["instruction"]])
        self._put(self.path / "captions.csv", table.getvalue().encode())
        whole = {
            "format": "foreact-mp4",
            "version": VERSION,
            "contract": self.contract.model_dump(mode="json"),
            "episodes": self._names,
        }
        self._put(self.path / "dataset.json", _json(whole))
        remove(self.path / ".staging")

    def _numbers(self, name: str, episode: EpisodeData) -> bytes:
        arrays = {"state": episode.state, "action": episode.action}
        for key, value in {**arrays, **episode.extras}.items():
            if value is not None and not np.isfinite(value).all():
                raise FormatError(f"episode {name}: {key} holds a number that is not finite, which JSON cannot hold")
        return _json(
            {
                "name": name,
                "length": len(episode),
                "rate_hz": self.contract.rate_hz,
                "instruction": episode.instruction,
                "segments": [{"start": s.start, "end": s.end, "instruction": s.instruction} for s in episode.segments],
                "meta": episode.meta,
                "cameras": {camera: list(images.shape[1:3]) for camera, images in episode.images.items()},
                **{key: None if value is None else value.tolist() for key, value in arrays.items()},
                "extras": {key: value.tolist() for key, value in episode.extras.items()},
            }
        )

    def _put(self, path: Path, data: bytes) -> None:
        part = self.path / ".staging" / stage_name(path.name)
        write_durably(part, data)
        part.replace(path)
        fsync_folder(path.parent)


def _json(value: Any) -> bytes:
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode() + b"\n"

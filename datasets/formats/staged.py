"""Sinks that end in one step: episodes are kept as files of their own until all are there, then put together.

A kill leaves the finished files; the next run goes on behind them. Their numbers hold the order.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from foreact.datasets.durable import fsync_folder, remove, stage_name, sweep
from foreact.datasets.formats.base import FormatError
from foreact.datasets.layout import check_name

_FILE = re.compile(r"(\d{9})~(.+)")


class Staged:
    """Finished files of a conversion in `folder`, in the order in which they were added.

    Args:
        folder: Made when missing.
        suffix: Ending of each file, such as ".hdf5".
    """

    def __init__(self, folder: Path, suffix: str):
        self.folder, self._suffix = folder, suffix
        folder.mkdir(parents=True, exist_ok=True)
        self._temporary = folder / "tmp"
        self._temporary.mkdir(exist_ok=True)
        sweep(self._temporary)
        self._files: dict[str, Path] = {}
        for path in sorted(folder.iterdir()):
            match = _FILE.fullmatch(path.name.removesuffix(suffix)) if path.name.endswith(suffix) else None
            if match is not None:
                self._files[match[2]] = path

    def __contains__(self, name: str) -> bool:
        return name in self._files

    @property
    def files(self) -> dict[str, Path]:
        """Episode -> its file, in order."""
        return dict(self._files)

    def add(self, name: str, write: Callable[[Path], None]) -> None:
        """Let `write` make a file at the path it is given, and keep it, whole or not at all.

        Raises:
            FormatError: If there is one of that name.
        """
        check_name(name)
        if name in self._files:
            raise FormatError(f"{self.folder} already has an episode {name!r}")
        part = self._temporary / stage_name(name)
        try:
            write(part)
            final = self.folder / f"{len(self._files):09d}~{name}{self._suffix}"
            _fsync(part)
            part.replace(final)
        finally:
            remove(part)
        fsync_folder(self.folder)
        self._files[name] = final

    def scratch(self, name: str) -> Path:
        """A path for putting the whole together; swept when this process is gone."""
        return self._temporary / stage_name(name)

    def clear(self) -> None:
        """Remove everything: the whole is in place."""
        remove(self.folder)


def _fsync(path: Path) -> None:
    import os

    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def put_in_place(part: Path, final: Path) -> None:
    """Make a finished file or folder durable and give it its name.

    Raises:
        FormatError: If the name is taken.
    """
    if final.exists():
        raise FormatError(f"{final} is there already; convert to another path")
    for path in [part, *part.rglob("*")] if part.is_dir() else [part]:
        _fsync(path)
    part.rename(final)
    fsync_folder(final.parent)

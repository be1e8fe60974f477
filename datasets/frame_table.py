"""Tables with a row for every frame of a store, made once and kept in files: pictures at a network's size, numbers.

A table is a plain `.npy` file, (frames of all episodes, *row), read through the page cache (`mmap`), and a sealed
`.json` beside it with the store's hash and the CRC-32 of every row. The folder is only a cache: it may be deleted at
any time, also while a training reads it.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import os
import re
import threading
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from foreact.datasets.durable import fsync_folder, remove, replace_durably, stage_name, sweep
from foreact.datasets.layout import STAGING, StoreError, unusable
from foreact.datasets.progress_bar import progress_bar
from foreact.datasets.sealed import BrokenSeal, seal, unseal
from foreact.datasets.space import NoSpace, free_bytes
from foreact.datasets.store import Store
from foreact.vla.errors import ConfigError

FOLDER = "cache"
"""Where a store keeps its tables."""
_FORMAT, _VERSION = "foreact-frame-table", 1
_PIECE_BYTES = 32 * 2**20
"""So much of an episode is made at once, by each thread."""

Fill = Callable[[int, int, np.ndarray], None]
"""(episode, first frame, out (N, *row)): put rows of the frames first ... first + N - 1 into `out`."""


@dataclass(frozen=True, kw_only=True)
class TableSpec:
    """What a table holds; all but `fill`, and the store's hash, is in its file."""

    name: str
    """Of its files, without the store's hash: letters, digits and ". _ - %"."""
    row: tuple[int, ...]
    """Shape of a row."""
    dtype: np.dtype
    fill: Fill
    episodes: np.ndarray
    """(episodes of the store,) bool: those that have such rows."""
    about: dict[str, Any] = field(default_factory=dict)
    """What else the rows depend on, as JSON."""

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return int(np.prod(self.row, dtype=np.int64)) * self.dtype.itemsize


class FrameTable:
    """An open table; threads may share it."""

    def __init__(self, file: Path, rows: np.ndarray, crc32: np.ndarray):
        self.file = file
        self.rows = rows
        """(frames, *row); unchecked, see `take`."""
        self._crc32 = crc32
        self._checked = np.zeros(len(crc32), bool)

    def take(self, numbers: np.ndarray, out: np.ndarray) -> None:
        """Put rows (N,) into out (N, *row), C-contiguous. A row's checksum is compared when it is first read.

        Raises:
            StoreError: If one is wrong.
        """
        np.take(self.rows, numbers, axis=0, out=out, mode="clip")
        for at in np.flatnonzero(~self._checked[numbers]).tolist():
            if zlib.crc32(out[at]) != self._crc32[numbers[at]]:
                raise StoreError(
                    f"{self.file} is damaged: row {numbers[at]} is not what was written. Delete it; it is made again "
                    "from the store's episodes."
                )
        self._checked[numbers] = True


def open_table(
    store: Store, spec: TableSpec, folder: Path | None = None, threads: int = 2, note: Callable[[str], None] = print
) -> FrameTable:
    """The table of a store, made now if its files are not there, damaged, or of another state of the store.

    Of several processes that ask at once, one makes it and the others wait.

    Args:
        store: Whose frames.
        spec: What it holds.
        folder: Where it is kept; None: in the store. Tables of other states of the store are removed only there.
        threads: Threads that make it.
        note: Called with a sentence when a table is made again, or an old one removed.

    Raises:
        NoSpace: If the disk has no room for it.
        ConfigError: If the store is in an object storage, and no folder is named.
        StoreError: If it cannot be written, or an episode is damaged.
    """
    place = folder or _own_folder(store)
    head = {
        "format": _FORMAT, "version": _VERSION, "store": store.hash, "table": spec.name, "dtype": spec.dtype.str,
        "shape": [int(store.index.lengths.sum()), *spec.row], "about": spec.about,
    }  # fmt: skip
    file = place / f"{spec.name}-{store.hash}.npy"
    found = _open(file, head)
    if isinstance(found, FrameTable):
        return found
    try:
        (place / STAGING).mkdir(parents=True, exist_ok=True)
        with _only_maker(place):
            found = _open(file, head)  # another process may have made it meanwhile
            if isinstance(found, str):
                if found:
                    note(f"made again: {found}")
                sweep(place / STAGING)
                _make(store, spec, file, head, threads)
                if folder is None:
                    _remove_old(file, spec.name, note)
                found = _open(file, head)
    except OSError as error:
        remedy = "Check the disk, or name a folder that can be written with data.cache_folder."
        raise unusable(error, f"the table {file} could not be written", remedy) from error
    if isinstance(found, str):
        raise StoreError(f"{file} was written and cannot be read: {found}. Check the disk.")
    return found


def first_rows(store: Store) -> np.ndarray:
    """(episodes,) int64: the row of each episode's first frame."""
    return np.cumsum(store.index.lengths) - store.index.lengths


def _own_folder(store: Store) -> Path:
    if not store.path.is_dir():
        raise ConfigError(
            f"{store.address} is not on this machine, so nothing can be kept in it: name a folder with "
            "data.cache_folder=DIR"
        )
    return store.path / FOLDER


def _open(file: Path, head: dict[str, Any]) -> FrameTable | str:
    """The table, or why it is none; empty if there is none."""
    try:
        content = unseal(_seal_file(file).read_bytes())
        crc32 = np.frombuffer(base64.b64decode(content.pop("crc32")), "<u4")
        if content != head:
            return f"{file} is another table"
        rows = np.load(file, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        return ""
    except (OSError, BrokenSeal, ValueError, KeyError) as error:
        return f"{file} is damaged ({error})"
    size = int(rows.offset) + rows.nbytes if isinstance(rows, np.memmap) else 0
    if rows.dtype.str != head["dtype"] or list(rows.shape) != head["shape"] or file.stat().st_size != size:
        return f"{file} is damaged (not its size or type)"
    if len(crc32) != len(rows):
        return f"{file} is damaged ({len(crc32)} checksums of {len(rows)} rows)"
    return FrameTable(file, np.asarray(rows), crc32)


def _seal_file(file: Path) -> Path:
    return file.with_suffix(".json")


def _make(store: Store, spec: TableSpec, file: Path, head: dict[str, Any], threads: int) -> None:
    shape = tuple(head["shape"])
    needed = shape[0] * (spec.row_bytes + 6)
    free = free_bytes(file.parent)
    if free is not None and needed > 0.98 * free:
        raise NoSpace(
            f"{file} would take {needed / 1e9:,.1f} GB, its disk has {free / 1e9:,.1f} GB free: make room, name a "
            "folder on another disk with data.cache_folder, or do without (data.cache=none, data.features=live)"
        )
    crc32 = np.zeros(shape[0], "<u4")
    staging = file.parent / STAGING
    staged = staging / stage_name(file.name)
    try:
        with open(staged, "wb") as written, progress_bar(f"{store.path.name}: {spec.name}") as progress:
            header = {"descr": spec.dtype.str, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(written, header)
            written.flush()
            _write_rows(store, spec, written, crc32, threads, progress)
            os.fsync(written.fileno())
        os.replace(staged, file)
    finally:
        remove(staged)
    fsync_folder(file.parent)
    content = seal({**head, "crc32": base64.b64encode(crc32.tobytes()).decode()})
    replace_durably(_seal_file(file), content, staging)


def _write_rows(
    store: Store, spec: TableSpec, written: IO[bytes], crc32: np.ndarray, threads: int,
    progress: Callable[[int, int], None],
) -> None:  # fmt: skip
    start, descriptor = written.tell(), written.fileno()
    base, lengths = first_rows(store).tolist(), store.index.lengths.tolist()
    at_once = max(1, _PIECE_BYTES // max(1, spec.row_bytes))
    os.ftruncate(descriptor, start + len(crc32) * spec.row_bytes)  # episodes without such rows are holes

    def pieces() -> Iterator[tuple[int, int, int]]:
        for episode in np.flatnonzero(spec.episodes).tolist():
            for first in range(0, lengths[episode], at_once):
                yield episode, first, min(at_once, lengths[episode] - first)

    def write(piece: tuple[int, int, int]) -> int:
        episode, first, count = piece
        out = np.zeros((count, *spec.row), spec.dtype)
        spec.fill(episode, first, out)
        row = base[episode] + first
        for number in range(count):
            crc32[row + number] = zlib.crc32(out[number])
        # Not through a mapping: where the disk is full after all, that would be a signal and no error.
        data, at = out.data.cast("B"), start + row * spec.row_bytes
        while data:
            done = os.pwrite(descriptor, data, at)
            data, at = data[done:], at + done
        return count

    done, total = 0, int(sum(lengths[e] for e in np.flatnonzero(spec.episodes)))
    with ThreadPoolExecutor(max_workers=max(1, threads), thread_name_prefix="table") as pool:
        ahead = pieces()
        waiting = [pool.submit(write, piece) for piece in _some(ahead, 2 * threads)]
        while waiting:
            done += waiting.pop(0).result()
            waiting += [pool.submit(write, piece) for piece in _some(ahead, 1)]
            progress(done, total)


def _some(items: Iterator[Any], count: int) -> list[Any]:
    return [item for _, item in zip(range(count), items, strict=False)]


_IN_THIS_PROCESS = threading.Lock()


@contextlib.contextmanager
def _only_maker(place: Path) -> Iterator[None]:
    """One at a time makes tables in a folder. Where the file system knows no locks, all do: the bytes are the same."""
    with _IN_THIS_PROCESS, open(place / ".lock", "ab") as file:
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _remove_old(file: Path, name: str, note: Callable[[str], None]) -> None:
    """Remove the tables of that name which other states of the store left in its own folder."""
    old = re.compile(re.escape(name) + r"-[0-9a-f]{16}\.(npy|json)")
    for path in sorted(file.parent.iterdir()):
        if old.fullmatch(path.name) and path.stem != file.stem:
            with contextlib.suppress(OSError):
                size = path.stat().st_size
                path.unlink()
                if path.suffix == ".npy":
                    note(f"removed {path} ({size / 1e9:.1f} GB), of a state that the store had before")

"""Moves finished episodes into packs; a kill at any instant loses nothing and doubles nothing.

Order of events: ZIP and manifest are written aside, made durable, and read back against the episodes' own manifests;
the folder of the two is renamed into place (from here on the episodes count as packed, and episode folders of the same
names are ignored); the episode folders are removed. A later run removes those that a kill left.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foreact.datasets.durable import fsync_folder, remove, stage_name, sweep, write_durably
from foreact.datasets.index import load_index
from foreact.datasets.layout import (
    EPISODES,
    LOCK_FILE,
    MANIFEST,
    PACKS,
    STAGING,
    DamagedEpisode,
    StoreError,
    staging_folder,
    unusable,
)
from foreact.datasets.packs import PACK_FILE, PACK_FORMAT, PACK_VERSION, PackFile
from foreact.datasets.reader import EpisodeReader, folder_getter
from foreact.datasets.recorder import new_name
from foreact.datasets.root import read_root
from foreact.datasets.sealed import seal
from foreact.datasets.table import EpisodeInfo

PACK_BYTES = 256 * 2**20
_MAX_FILE = 2**31  # larger files would need ZIP64 headers, which `PackFile` does not read
_EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class PackReport:
    """What `pack_store` did."""

    packs: int
    episodes: int
    bytes: int
    cleaned: int
    """Leftovers of killed runs that were removed."""
    skipped: list[str]
    """Episodes that keep their folders because a file of theirs is too large for a pack."""


def pack_store(
    path: Path, pack_bytes: int = PACK_BYTES, progress: Callable[[int, int], None] | None = None
) -> PackReport:
    """Pack all episodes that have folders of their own. Recorders and readers may go on meanwhile.

    Args:
        path: Folder of the store.
        pack_bytes: A pack is closed when it has reached this size [bytes].
        progress: Called with the bytes packed so far and in all.

    Raises:
        StoreError: If another process is packing this store, or something in it is damaged. Nothing is lost: what was
            packed before is packed, the rest keeps its folders.
    """
    read_root(path)
    try:
        return _pack_store(path, pack_bytes, progress)
    except OSError as error:
        remedy = "Nothing is lost: episodes are in packs or in their folders. Check the disk and pack again."
        raise unusable(error, f"packing {path} stopped", remedy) from error


def _pack_store(path: Path, pack_bytes: int, progress: Callable[[int, int], None] | None) -> PackReport:
    with _only_packer(path):
        cleaned = sweep(path / STAGING) + _clean(path)
        index = load_index(path)
        if index.damaged:
            raise StoreError("nothing was packed:\n" + "\n".join(index.damaged.values()))
        loose = [info for info in index.table if info.pack is None]
        skipped = {i.name for i in loose if _largest_file(path / EPISODES / i.name) >= _MAX_FILE}
        loose = [info for info in loose if info.name not in skipped]
        total, packed, packs = sum(info.bytes for info in loose), 0, 0
        for batch in _batches(loose, pack_bytes):
            _write_pack(path, [info.name for info in batch])
            packs += 1
            packed += sum(info.bytes for info in batch)
            if progress is not None:
                progress(packed, total)
        load_index(path)
    return PackReport(packs, len(loose), packed, cleaned, sorted(skipped))


def _batches(infos: list[EpisodeInfo], pack_bytes: int) -> Iterator[list[EpisodeInfo]]:
    batch: list[EpisodeInfo] = []
    for info in infos:
        batch.append(info)
        if sum(i.bytes for i in batch) >= pack_bytes:
            yield batch
            batch = []
    if batch:
        yield batch


def _write_pack(store: Path, names: list[str]) -> None:
    (store / PACKS).mkdir(exist_ok=True)
    fsync_folder(store)
    pack = new_name()
    staged = staging_folder(store) / stage_name(pack)
    try:
        staged.mkdir()
        entries = _write_zip(store, names, staged / PACK_FILE)
        with open(staged / PACK_FILE, "rb") as file:
            zip_sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        manifest = {
            "format": PACK_FORMAT,
            "version": PACK_VERSION,
            "size": (staged / PACK_FILE).stat().st_size,
            "zip_sha256": zip_sha256,
            "count": len(entries),
            "frames": sum(entry["header"]["length"] for entry in entries),
            "episodes": entries,
        }
        write_durably(staged / MANIFEST, seal(manifest))
        fsync_folder(staged)
        _check_pack(store, staged / PACK_FILE, entries)
        os.rename(staged, store / PACKS / pack)  # from here on the episodes are packed
    finally:
        remove(staged)
    fsync_folder(store / PACKS)
    for name in names:
        _remove_folder(store, name)


def _write_zip(store: Path, names: list[str], path: Path) -> list[dict[str, Any]]:
    entries = []
    with open(path, "wb") as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for name in names:
                folder = store / EPISODES / name
                reader = EpisodeReader(name, folder_getter(folder), folder)
                offset = file.tell()
                for inside in [*sorted(reader.files), MANIFEST]:
                    archive.writestr(zipfile.ZipInfo(f"{name}/{inside}", _EPOCH), (folder / inside).read_bytes())
                own = {"name": name, "bytes": reader.bytes, "sha256": reader.sha256}
                place = {"offset": offset, "span": file.tell() - offset}
                entries.append({**own, **place, "header": reader.header.to_json()})
        file.flush()
        os.fsync(file.fileno())
    return entries


def _check_pack(store: Path, file: Path, entries: list[dict[str, Any]]) -> None:
    """Read every file of a new pack back and compare it with its episode's manifest.

    Raises:
        DamagedEpisode: Naming what differs: an original was damaged, or the disk is.
    """
    packed = PackFile(file)
    for entry in entries:
        get = packed.getter(entry["name"], entry["offset"], entry["span"])
        reader = EpisodeReader(entry["name"], get, store / EPISODES / entry["name"])
        problems = reader.check_files()
        if problems or reader.sha256 != entry["sha256"]:
            raise DamagedEpisode(
                f"episode {entry['name']} was not packed: " + "; ".join(problems or ["its manifest changed"])
            )


def _clean(store: Path) -> int:
    """Remove the folders of episodes that are packed, left by a killed run."""
    packed = [i.name for i in load_index(store).table if i.pack is not None and (store / EPISODES / i.name).is_dir()]
    for name in packed:
        _remove_folder(store, name)
    return len(packed)


def _remove_folder(store: Path, name: str) -> None:
    """Take the folder away at once, then delete it."""
    aside = staging_folder(store) / stage_name(name)
    os.rename(store / EPISODES / name, aside)
    remove(aside)


def _largest_file(folder: Path) -> int:
    return max((p.stat().st_size for p in folder.rglob("*") if p.is_file()), default=0)


@contextlib.contextmanager
def _only_packer(store: Path) -> Iterator[None]:
    with open(store / LOCK_FILE, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StoreError(f"another process is packing {store}; wait until it is done") from error
        yield

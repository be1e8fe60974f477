"""Builds the table of episodes from the episodes and packs themselves; `index.bin` only saves doing it twice."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from foreact.datasets.columns import decode_columns, encode_columns
from foreact.datasets.durable import remove, replace_durably
from foreact.datasets.layout import (
    EPISODES,
    INDEX_FILE,
    MANIFEST,
    OLD_INDEX_FILE,
    PACKS,
    NewerFormat,
    StoreError,
    staging_folder,
    unusable,
)
from foreact.datasets.packs import pack_infos, pack_names
from foreact.datasets.reader import EpisodeReader, folder_getter
from foreact.datasets.table import EpisodeInfo, EpisodeTable
from foreact.datasets.table_merge import merge_table

INDEX_VERSION = 2
INDEX_FORMAT = "foreact-index"
_TRIES = 100


class OutdatedIndex(ValueError):
    """An index of another version than this ForeAct's; it is rebuilt."""


@dataclass
class Index:
    """The episodes of a store at one moment."""

    table: EpisodeTable
    damaged: dict[str, str] = field(default_factory=dict)
    """Episode or pack that could not be read -> why."""


def load_index(store: Path, *, use_cache: bool = True) -> Index:
    """Find all episodes; packed ones win over folders of the same name (left by a kill while packing).

    Raises:
        NewerFormat: If a later ForeAct wrote an episode or a pack.
        StoreError: If the folder cannot be read.
    """
    try:
        return _load_index(store, use_cache)
    except OSError as error:
        what = f"the episodes of the store {store} could not be listed"
        raise unusable(error, what, "Check the disk and the permissions, and try again.") from error


def _load_index(store: Path, use_cache: bool) -> Index:
    for _ in range(_TRIES):
        found = _try_load_index(store, use_cache)
        if found is not None:
            return found
    raise StoreError(f"the episodes of the store {store} went away while they were listed, {_TRIES} times; try again")


def _try_load_index(store: Path, use_cache: bool) -> Index | None:
    """The episodes; None if one left its folder meanwhile: only another look at the packs tells where it went."""
    # Folders first: an episode that is packed between the two looks is then seen twice, and never not at all.
    folders = {entry.name: _stamp(Path(entry.path)) for entry in _episode_folders(store)}
    packs = {pack: _stamp(store / PACKS / pack / MANIFEST) for pack in pack_names(store)}
    cached = _read_cache(store) if use_cache else None
    if cached is not None and cached["packs"] == packs and cached["folders"] == folders:
        return Index(cached["table"])
    old = cached["table"] if cached else EpisodeTable()
    known_packs = {p for p, stamp in packs.items() if cached and cached["packs"].get(p) == stamp}
    known_folders = {n for n, stamp in folders.items() if cached and cached["folders"].get(n) == stamp}

    damaged: dict[str, str] = {}
    fresh: dict[str, EpisodeInfo] = {}
    for pack in sorted(packs.keys() - known_packs):
        try:
            fresh |= {info.name: info for info in pack_infos(store, pack)}
        except NewerFormat:
            raise
        except StoreError as error:
            damaged[f"{PACKS}/{pack}"] = str(error)
            del packs[pack]
    keep = np.array([*(pack in known_packs for pack in old.shared["packs"]), False])[old.arrays["pack"]]
    for row in np.flatnonzero(old.arrays["pack"] < 0):
        keep[row] = old.name(int(row)) in known_folders
    for name in fresh:
        if (row := old.number(name)) is not None:
            keep[row] = False
    for name in sorted(folders.keys() - fresh.keys()):
        row = old.number(name)
        if row is not None and keep[row]:
            continue
        try:
            fresh[name] = folder_info(store, name)
        except NewerFormat:
            raise
        except StoreError as error:
            if not (store / EPISODES / name).is_dir():
                return None
            damaged[f"{EPISODES}/{name}"] = str(error)
            del folders[name]
    table = merge_table(old, keep, fresh.values())
    _write_cache(store, encode_index(packs, folders, table))
    return Index(table, damaged)


def folder_info(store: Path, name: str) -> EpisodeInfo:
    """The row of an episode that has a folder of its own.

    Raises:
        DamagedEpisode: If its manifest or metadata are damaged.
    """
    folder = store / EPISODES / name
    reader = EpisodeReader(name, folder_getter(folder), folder)
    return EpisodeInfo(**vars(reader.header), name=name, bytes=reader.bytes, sha256=reader.sha256)


def _episode_folders(store: Path) -> list[os.DirEntry[str]]:
    folder = store / EPISODES
    return [entry for entry in os.scandir(folder) if entry.is_dir()] if folder.is_dir() else []


def _stamp(path: Path) -> list[int]:
    try:
        status = path.stat()
    except FileNotFoundError:
        return []
    return [status.st_ino, status.st_mtime_ns]


def encode_index(packs: Mapping[str, list[int]], folders: Mapping[str, list[int]], table: EpisodeTable) -> bytes:
    """The index file: the table, and what it was made of (pack or episode folder -> inode and time of change)."""
    header = {
        "format": INDEX_FORMAT,
        "version": INDEX_VERSION,
        "rows": len(table),
        "packs": packs,
        "folders": folders,
        "shared": table.shared,
    }
    return b"".join(encode_columns(header, table.arrays))


def decode_index(data: bytes) -> dict[str, Any]:
    """`packs`, `folders` and `table` of an index file.

    Raises:
        BrokenSeal: If any byte is wrong, missing or added.
        OutdatedIndex: If it is of another version.
        ValueError, KeyError, TypeError: If it is not an index.
    """
    header, arrays = decode_columns(data)
    if header.get("format") != INDEX_FORMAT or header.get("version") != INDEX_VERSION:
        raise OutdatedIndex(f"it has format {header.get('format')!r}, version {header.get('version')!r}")
    table = EpisodeTable.from_columns(header["shared"], arrays)
    return {"packs": header["packs"], "folders": header["folders"], "table": table}


def _read_cache(store: Path) -> dict[str, Any] | None:
    try:
        return decode_index((store / INDEX_FILE).read_bytes())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _write_cache(store: Path, data: bytes) -> None:
    with contextlib.suppress(OSError):  # a store on a read-only disk is read without its cache
        replace_durably(store / INDEX_FILE, data, staging_folder(store))
        remove(store / OLD_INDEX_FILE)

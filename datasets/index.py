"""Builds the table of episodes from the episodes and packs themselves; `index.json` only saves doing it twice."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from foreact.datasets.durable import replace_durably
from foreact.datasets.layout import EPISODES, INDEX_FILE, MANIFEST, PACKS, NewerFormat, StoreError, staging_folder
from foreact.datasets.packs import pack_infos, pack_names
from foreact.datasets.reader import EpisodeReader, folder_getter
from foreact.datasets.sealed import BrokenSeal, seal, unseal
from foreact.datasets.table import EpisodeInfo, EpisodeTable

INDEX_VERSION = 1


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
    """
    packs = {pack: _stamp(store / PACKS / pack / MANIFEST) for pack in pack_names(store)}
    folders = {entry.name: _stamp(Path(entry.path)) for entry in _episode_folders(store)}
    cached = _read_cache(store) if use_cache else None
    if cached is not None and cached["packs"] == packs and cached["folders"] == folders:
        return Index(EpisodeTable.from_json(cached["table"]))
    old = EpisodeTable.from_json(cached["table"]) if cached else EpisodeTable()
    known_packs = {p for p, stamp in packs.items() if cached and cached["packs"].get(p) == stamp}
    known_folders = {n for n, stamp in folders.items() if cached and cached["folders"].get(n) == stamp}

    damaged: dict[str, str] = {}
    found: dict[str, EpisodeInfo] = {i.name: i for i in old if i.pack is not None and i.pack in known_packs}
    for pack in sorted(packs.keys() - known_packs):
        try:
            found |= {info.name: info for info in pack_infos(store, pack)}
        except NewerFormat:
            raise
        except StoreError as error:
            damaged[f"{PACKS}/{pack}"] = str(error)
            del packs[pack]
    packed = set(found)
    found |= {i.name: i for i in old if i.pack is None and i.name in known_folders and i.name not in packed}
    for name in sorted(folders.keys() - found.keys()):
        try:
            found[name] = folder_info(store, name)
        except NewerFormat:
            raise
        except StoreError as error:
            if (store / EPISODES / name).is_dir():  # else it was packed meanwhile: not damaged, found next time
                damaged[f"{EPISODES}/{name}"] = str(error)
            del folders[name]
    table = EpisodeTable(found.values())
    _write_cache(store, {"packs": packs, "folders": folders, "table": table.to_json()})
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


def _read_cache(store: Path) -> dict[str, Any] | None:
    try:
        cached = unseal((store / INDEX_FILE).read_bytes())
    except (OSError, BrokenSeal, ValueError):
        return None
    return cached if cached.get("version") == INDEX_VERSION else None


def _write_cache(store: Path, content: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):  # a store on a read-only disk is read without its cache
        data = seal({"format": "foreact-index", "version": INDEX_VERSION, **content})
        replace_durably(store / INDEX_FILE, data, staging_folder(store))

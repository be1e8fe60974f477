"""Compares every byte of a store with its checksums and names each file that differs."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from foreact.datasets.index import OutdatedIndex, decode_index, load_index
from foreact.datasets.layout import EPISODES, INDEX_FILE, MANIFEST, PACKS, ROOT_FILE, STAGING, NoStore, StoreError
from foreact.datasets.packs import PACK_FILE, PackFile, pack_infos, read_pack_manifest
from foreact.datasets.reader import EpisodeReader, folder_getter
from foreact.datasets.root import read_root
from foreact.vla.contract import Contract


@dataclass
class VerifyReport:
    """What `verify_store` found."""

    problems: list[str] = field(default_factory=list)
    """One sentence per damaged, missing or unknown file; empty if all is well."""
    notes: list[str] = field(default_factory=list)
    """What is untidy but harmless."""
    episodes: int = 0
    bytes: int = 0
    """Of all files of these episodes."""
    seconds: float = 0.0

    @property
    def mb_per_s(self) -> float:
        """How fast the bytes were read and compared [MB/s]."""
        return self.bytes / 1e6 / max(self.seconds, 1e-9)


def verify_store(path: Path, decode: bool = False, progress: Callable[[int, int], None] | None = None) -> VerifyReport:
    """Read everything.

    Args:
        path: Folder of the store.
        decode: Also decode every frame, which finds what was recorded wrongly and not only what changed since.
        progress: Called with the number of folders and packs done so far and in all.

    Raises:
        NoStore: If there is none.
    """
    if not (path / ROOT_FILE).is_file():
        read_root(path)  # explains
    began = time.perf_counter()
    report = VerifyReport()
    contract: Contract | None = None
    try:
        contract = read_root(path)
    except NoStore:
        raise
    except StoreError as error:
        report.problems.append(str(error))
    folders = sorted((path / EPISODES).iterdir()) if (path / EPISODES).is_dir() else []
    packs = sorted((path / PACKS).iterdir()) if (path / PACKS).is_dir() else []
    packed: set[str] = set()
    for number, item in enumerate([*packs, *folders], 1):
        if item.parent.name == PACKS:
            packed |= _verify_pack(path, item, contract, decode, report)
        elif item.name in packed:
            report.notes.append(f"{item}: is in a pack as well (a killed `data pack`); `foreact data pack` removes it")
        else:
            _verify_folder(item, contract, decode, report)
        if progress is not None:
            progress(number, len(packs) + len(folders))
    _verify_rest(path, report)
    report.seconds = time.perf_counter() - began
    return report


def _verify_folder(folder: Path, contract: Contract | None, decode: bool, report: VerifyReport) -> None:
    if not folder.is_dir():
        if os.path.lexists(folder):
            report.problems.append(f"{folder}: not an episode; move it out of the store")
        else:
            _unless_gone(folder, [f"{folder} is gone"], report)
        return
    try:
        reader = EpisodeReader(folder.name, folder_getter(folder), folder, _sizes(contract))
    except StoreError as error:
        _unless_gone(folder, [str(error)], report)
        return
    present = {str(p.relative_to(folder)): p for p in folder.rglob("*") if not p.is_dir()}
    expected = {*reader.files, MANIFEST}
    report.problems += [f"{present[name]}: not part of the episode" for name in sorted(present.keys() - expected)]
    problems = reader.check_files()
    if _unless_gone(folder, problems, report):
        _add(reader, [] if problems else _check_content(reader, contract, decode), report)


def _unless_gone(folder: Path, problems: list[str], report: VerifyReport) -> bool:
    """Report problems of an episode, unless its folder went away meanwhile; whether it is still there."""
    if problems and not folder.is_dir():
        report.notes.append(f"{folder}: was packed or removed while it was looked at; verify again to check it")
        return False
    report.problems += problems
    return True


def _verify_pack(store: Path, folder: Path, contract: Contract | None, decode: bool, report: VerifyReport) -> set[str]:
    if not folder.is_dir():
        report.problems.append(f"{folder}: not a pack; move it out of the store")
        return set()
    path = folder / PACK_FILE
    strange = sorted({p.name for p in folder.iterdir()} - {PACK_FILE, MANIFEST})
    report.problems += [f"{folder / name}: not part of the pack" for name in strange]
    try:
        manifest = read_pack_manifest(store, folder.name)
        infos = pack_infos(store, folder.name)
        packed = PackFile(path)
    except StoreError as error:
        report.problems.append(str(error))
        return set()
    intact = len(packed.data) == manifest["size"] and hashlib.sha256(packed.data).hexdigest() == manifest["zip_sha256"]
    if not intact:
        report.problems.append(f"{path}: its size or SHA-256 is not the one in the manifest")
    for info in infos:
        try:
            get = packed.getter(info.name, info.offset, info.span)
            reader = EpisodeReader(info.name, get, path / info.name, _sizes(contract))
        except StoreError as error:
            report.problems.append(str(error))
            continue
        problems = [] if intact else reader.check_files()
        _add(reader, problems or _check_content(reader, contract, decode), report)
    return {info.name for info in infos}


def _sizes(contract: Contract | None) -> dict[str, tuple[int, int]] | None:
    return contract and {camera.name: (camera.height, camera.width) for camera in contract.cameras}


def _add(reader: EpisodeReader, problems: list[str], report: VerifyReport) -> None:
    report.problems += problems
    report.episodes += 1
    report.bytes += reader.bytes


def _check_content(reader: EpisodeReader, contract: Contract | None, decode: bool) -> list[str]:
    """Whether intact bytes mean what the contract and the header say."""
    header, problems = reader.header, []
    if contract is not None:
        for key, has, size in (
            ("state", header.has_state, contract.state_size),
            ("action", header.has_action, contract.action_size),
        ):
            if has and reader.shape(key) != (header.length, size):
                problems.append(
                    f"episode {reader.name}: {key} has shape {reader.shape(key)}, not {header.length, size}"
                )
    if decode:
        try:
            for camera in header.cameras:
                reader.images(camera, np.arange(header.length))
        except StoreError as error:
            problems.append(str(error))
    return problems


def _verify_rest(path: Path, report: VerifyReport) -> None:
    index = path / INDEX_FILE
    if index.is_file():
        try:
            cached = decode_index(index.read_bytes())["table"]
            found = load_index(path, use_cache=False).table
            if not report.problems and cached != found:
                gone = sorted(set(cached.names) - set(found.names))
                known = f" It knew {len(gone)} episodes that are gone: {', '.join(gone[:20])}." if gone else ""
                report.notes.append(f"{index}: out of date; it is rebuilt when the store is opened.{known}")
        except OutdatedIndex as error:
            report.notes.append(f"{index}: {error}; it is rebuilt when the store is opened")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            report.problems.append(f"{index}: {error}; delete it, it is rebuilt when the store is opened")
    leftovers = list((path / STAGING).iterdir()) if (path / STAGING).is_dir() else []
    if leftovers:
        report.notes.append(f"{path / STAGING}: {len(leftovers)} unfinished writes; the next recorder sweeps dead ones")

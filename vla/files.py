"""Folders that appear whole or not at all, with a manifest that finds any damage.

A folder is written under a temporary name, `manifest.json` (sizes and SHA-256 of all files) last; everything is synced
to disk, then one rename puts it in its place: a kill or a power cut at any instant leaves the old state.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from foreact.vla.errors import ForeActError

MANIFEST = "manifest.json"
MANIFEST_FORMAT = 1
_STAGE = ".stage-"
_OLD = ".stage-old-"
_AGAIN = "copy the folder again or use an older checkpoint"


class DamagedFolder(ForeActError):
    """A folder lacks a file, or a file is not what its manifest says."""


def write_folder(folder: Path, files: Mapping[str, bytes | Callable[[Path], None]]) -> None:
    """Write `files` (relative name -> content, or a function that writes the given path) as `folder`, atomically.

    An existing folder of that name is replaced.

    Raises:
        ForeActError: If the disk is full or cannot be written; what was there before stays.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    stage = folder.parent / f"{_STAGE}{folder.name}-{os.getpid()}"
    shutil.rmtree(stage, ignore_errors=True)
    try:
        stage.mkdir()
        entries: dict[str, dict] = {}
        for name, content in files.items():
            path = stage / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content) if isinstance(content, bytes) else content(path)
            path.chmod(0o644)
            entries[name] = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
        manifest = {"format": MANIFEST_FORMAT, "files": entries}
        (stage / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
        for path in [*stage.rglob("*"), stage]:
            sync(path)
        if not folder.exists():
            stage.rename(folder)
        elif not _exchange(stage, folder):
            old = folder.parent / f"{_OLD}{folder.name}"
            shutil.rmtree(old, ignore_errors=True)
            folder.rename(old)  # a kill between these two renames: `sweep` brings the old folder back
            stage.rename(folder)
            stage = old
        sync(folder.parent)
        shutil.rmtree(stage, ignore_errors=True)
    except OSError as error:
        shutil.rmtree(stage, ignore_errors=True)
        raise ForeActError(f"could not write {folder}: {error}; what was there before is unchanged") from error


def _exchange(one: Path, other: Path) -> bool:
    """Let two folders change names in one step (Linux's renameat2); False where the system cannot."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return rename is not None and rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0


def sync(path: Path) -> None:
    """Wait until a file or a folder is on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sweep(parent: Path) -> None:
    """Remove what a killed `write_folder` left behind, and bring back what it was about to replace."""
    for path in parent.glob(f"{_OLD}*"):
        folder = parent / path.name.removeprefix(_OLD)
        if not folder.exists():
            path.rename(folder)
    for path in parent.glob(f"{_STAGE}*"):
        shutil.rmtree(path, ignore_errors=True)


def drop_unfinished_line(path: Path) -> None:
    """Cut off what a kill or a full disk left of a last line; for whoever goes on writing the file, and nobody else."""
    if not path.exists():
        return
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole != len(data):
        with path.open("r+b") as file:
            file.truncate(whole)


def verify_folder(folder: Path) -> list[str]:
    """Check every file against the manifest; returns their names.

    Raises:
        DamagedFolder: If the folder, its manifest or a file is missing, or a file differs.
    """
    path = folder / MANIFEST
    if not path.is_file():
        what = "has no manifest.json" if folder.is_dir() else "does not exist"
        raise DamagedFolder(f"{folder} {what}; expected a folder that `foreact train` wrote")
    try:
        manifest = json.loads(path.read_text())
        found, entries = manifest["format"], dict(manifest["files"])
        expected = {str(name): (int(entry["bytes"]), str(entry["sha256"])) for name, entry in entries.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedFolder(
            f"{path} is damaged: {error!r}; copy the folder again or use an older checkpoint"
        ) from error
    if found != MANIFEST_FORMAT:
        raise DamagedFolder(
            f"{path} has format {found!r}; this ForeAct reads {MANIFEST_FORMAT}: use a matching release"
        )
    for name, (size, digest) in expected.items():
        file = folder / name
        if ".." in Path(name).parts or Path(name).is_absolute():
            raise DamagedFolder(f"{path} names {name!r}, which is outside of the folder")
        if not file.is_file():
            raise DamagedFolder(f"{folder} lacks {name}; {_AGAIN}")
        if file.stat().st_size != size:
            raise DamagedFolder(f"{file} has {file.stat().st_size} bytes, {size} were written; {_AGAIN}")
        if sha256_of(file) != digest:
            raise DamagedFolder(
                f"{file} is damaged (its SHA-256 differs); copy the folder again or use an older checkpoint"
            )
    return sorted(expected)

"""Writing that survives a kill or a power cut: write aside, fsync, rename, fsync the folder."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

_FSYNC_THREADS = 8
_STALE_AFTER_S = 24 * 3600.0


def fsync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    _fsync(folder)


def _fsync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_durably(path: Path, data: bytes | memoryview) -> None:
    """Write one new file and make its bytes durable (its name only after `fsync_folder`)."""
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def replace_durably(path: Path, data: bytes, staging: Path) -> None:
    """Replace a file so that a reader, or a kill at any instant, meets the old or the new bytes, never a mixture."""
    part = staging / stage_name(path.name)
    write_durably(part, data)
    os.replace(part, path)
    fsync_folder(path.parent)


def write_tree(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files (relative path -> bytes) into a new folder, durably."""
    folder.mkdir()
    folders = {folder}
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        folders.update(parent for parent in path.parents if folder in parent.parents)
    # Together: the journal of the file system then commits once for many of them.
    with ThreadPoolExecutor(max_workers=_FSYNC_THREADS) as pool:
        list(pool.map(_fsync, [*(folder / name for name in files), *folders]))


def stage_name(name: str) -> str:
    """A name that tells who is writing: `<name>~<host>~<pid>~<random>`."""
    return f"{name}~{socket.gethostname()}~{os.getpid()}~{secrets.token_hex(4)}"


def sweep(staging: Path) -> int:
    """Remove what dead writers of this host left behind, and anything a day old; return how many.

    What cannot be looked at or removed stays for the next time: leftovers stand in nobody's way.
    """
    swept = 0
    try:
        entries = list(staging.iterdir()) if staging.is_dir() else []
    except OSError:
        return 0
    for entry in entries:
        parts = entry.name.split("~")
        try:
            ours = len(parts) == 4 and parts[1] == socket.gethostname()
            dead = ours and not _alive(int(parts[2]))
            if dead or time.time() - entry.stat().st_mtime > _STALE_AFTER_S:
                remove(entry)
                swept += 1
        except (OSError, ValueError):
            continue
    return swept


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there; a link is removed itself, never followed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return not _ended(pid)


def _ended(pid: int) -> bool:
    """Whether a process has ended and only waits for its parent to notice (Linux; elsewhere unknown: False)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in ("Z", "X")
    except (OSError, IndexError):
        return False

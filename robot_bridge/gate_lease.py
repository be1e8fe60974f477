"""At most one armed bridge per robot on this computer: a lock on a file that the kernel drops when its holder dies."""

from __future__ import annotations

import fcntl
import os
import re
import stat
import tempfile
from pathlib import Path

from foreact.vla.errors import ForeActError


class LeaseError(ForeActError):
    """The lease file cannot be used."""


def runtime_folder() -> Path:
    """The user's runtime directory, or one of the user's own in the temporary folder.

    Raises:
        LeaseError: If somebody else owns it or may write to it.
    """
    base = os.environ.get("XDG_RUNTIME_DIR", "")
    folder = Path(base) / "foreact" if base else Path(tempfile.gettempdir()) / f"foreact-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, parents=False, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise LeaseError(f"cannot use {folder} for the lease: {error}; set XDG_RUNTIME_DIR") from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise LeaseError(f"{folder} must be a folder that only you can write to; remove it or set XDG_RUNTIME_DIR")
    return folder


class ArmLease:
    """The right to arm one robot.

    Args:
        name: Says which: the same for every bridge that could command it.
        folder: Where the file lies; None: `runtime_folder`.
    """

    def __init__(self, name: str, folder: Path | None = None):
        safe = re.sub(r"[^A-Za-z0-9_.-]", "_", name)[:100] or "robot"
        self.path = (folder or runtime_folder()) / f"{safe.lstrip('.') or 'robot'}.lease"
        self._file: int | None = None

    @property
    def held(self) -> bool:
        """Whether it is ours."""
        return self._file is not None

    def acquire(self) -> str:
        """Take it; returns at once: "" if it is ours now, else who has it or what is in the way."""
        if self.held:
            return ""
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            file = os.open(self.path, flags, 0o600)
        except OSError as error:
            return f"the lease {self.path} cannot be opened: {error}"
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.read(file, 32).decode("ascii", "replace").strip()
            os.close(file)
            return f"another bridge (process {holder or 'unknown'}) is armed for this robot; its lease is {self.path}"
        try:
            os.ftruncate(file, 0)
            os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            os.close(file)
            return f"the lease {self.path} cannot be written: {error}; make room there, or set XDG_RUNTIME_DIR"
        self._file = file
        return ""

    def release(self) -> None:
        """Give it back."""
        if self._file is not None:
            os.close(self._file)  # the lock goes with it
            self._file = None

"""A disk that fails: the k-th call to the file system raises, writes less than asked, or is slow.

It wraps `open` (and reads, writes and flushes of what it gives) and the functions of `os` that the store uses, for
paths under one folder; everything else, pytest's own files among it, is left alone.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

_OS = ("open", "mkdir", "rename", "replace", "link", "unlink", "scandir", "listdir", "fsync", "stat")
_READ = ("read", "readinto", "readline")
_WRITE = ("write", "flush")


class FaultyDisk:
    """Counts the calls that concern `folder`, and fails one of them.

    Args:
        monkeypatch: Undoes the patches.
        folder: Only calls with paths in it are counted; `fsync`, which has none, is counted while the disk is armed.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path):
        self.folder = str(folder)
        self.calls: list[str] = []
        """What was called while armed, in order."""
        self.failed: str | None = None
        """The call that failed, if it came to that."""
        self._at: int | None = None
        self._errno = 0
        self._sticky = False
        self._only: frozenset[str] = frozenset()
        self._slow_fsync_s = 0.0
        self._armed = False
        self._lock = threading.Lock()
        real_open = builtins.open

        def faulty_open(file: Any, mode: str = "r", *rest: Any, **more: Any) -> Any:
            if not self._concerns(file):
                return real_open(file, mode, *rest, **more)
            self._call("open", file)
            return _FaultyFile(real_open(file, mode, *rest, **more), self, file)

        monkeypatch.setattr(builtins, "open", faulty_open)
        monkeypatch.setattr(io, "open", faulty_open)
        for name in _OS:
            monkeypatch.setattr(os, name, self._wrap(name, getattr(os, name)))

    def arm(
        self, at: int | None = None, code: int = errno.EIO, sticky: bool = False, only: tuple[str, ...] = ()
    ) -> None:
        """Count from now on, and fail call number `at` (from 0; None: none) with the error `code`.

        Args:
            at: Which call; with `only`, counted among those.
            code: Of `errno`; 0 makes a read give half of what there is.
            sticky: Every call after it fails as well.
            only: Names of calls to count, such as "rename".
        """
        self.calls, self.failed = [], None
        self._at, self._errno, self._sticky, self._only, self._armed = at, code, sticky, frozenset(only), True

    def disarm(self) -> None:
        """Work as a disk should."""
        self._armed = False

    def slow_fsync(self, seconds: float) -> None:
        """Let every fsync take that much longer."""
        self._slow_fsync_s = seconds

    def _concerns(self, path: Any) -> bool:
        return self._armed and isinstance(path, str | os.PathLike) and str(path).startswith(self.folder)

    def _call(self, name: str, path: Any) -> bool:
        """Whether this call reads short; raises if it fails."""
        with self._lock:
            if not self._armed or self._only and name not in self._only:
                return False
            number = len(self.calls)
            self.calls.append(f"{name} {path}")
            if self._at is None or number != self._at and not (self._sticky and number > self._at):
                return False
            self.failed = self.failed or self.calls[-1]
        if self._errno == 0:
            return name in _READ
        raise OSError(self._errno, os.strerror(self._errno), str(path))

    def _wrap(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **more: Any) -> Any:
            path = args[0] if args else None
            if name == "fsync":  # a real one only adds time: no test cuts the power
                if self._armed:
                    time.sleep(self._slow_fsync_s)
                    self._call(name, f"file number {path}")
                return None
            if self._concerns(path):
                self._call(name, path)
            return real(*args, **more)

        return wrapped


class _FaultyFile:
    def __init__(self, real: Any, disk: FaultyDisk, path: Any):
        self._real, self._disk, self._path = real, disk, path

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._real, name)
        if name not in (*_READ, *_WRITE):
            return found

        def call(*args: Any) -> Any:
            if not self._disk._call(name, self._path):
                return found(*args)
            data = found(*args)
            return data[: len(data) // 2] if isinstance(data, bytes) else data // 2

        return call

    def __enter__(self) -> _FaultyFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._real.close()

    def __iter__(self) -> Any:
        return iter(self._real)

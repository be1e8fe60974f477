"""A disk whose power can fail: it writes down what a program does to files, and makes every state that may be left.

Follows ALICE (T. S. Pillai et al., "All File Systems Are Not Created Equal", OSDI 2014) and SQLite's crash tests: only
what was synced is sure. Bytes of a file are sure after an fsync of the file, names in a folder (made, renamed, removed)
after an fsync of the folder; everything else may be there or not, each for itself and in any combination. A rename is
one step, whether it crosses folders or not, as journals make it.
"""

from __future__ import annotations

import builtins
import io
import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = 0
Entry = tuple[int, str, int | None]
"""Folder, name, what it names from now on (None: nothing)."""


@dataclass(frozen=True)
class Data:
    """Bytes written into a file."""

    file: int
    offset: int
    data: bytes


@dataclass(frozen=True)
class Entries:
    """Names that change together."""

    kind: str
    changes: tuple[Entry, ...]


@dataclass(frozen=True)
class Sync:
    """Makes sure what was done before to one file or folder."""

    node: int


@dataclass(frozen=True)
class Said:
    """The program told its user something, such as that an episode is safe."""

    what: str


Event = Data | Entries | Sync | Said


class OpLog:
    """Writes down what happens to files below `base` (an empty folder) while it is in force.

    Args:
        monkeypatch: Undoes the patches.
        base: Sure to be there; nothing in it is.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, base: Path):
        self.base = str(base)
        self.events: list[Event] = []
        self._live: dict[int, dict[str, int]] = {ROOT: {}}
        self._nodes = 1
        self._lock = threading.RLock()
        real_open = builtins.open

        def logged_open(file: Any, mode: str = "r", *rest: Any, **more: Any) -> Any:
            if not self._concerns(file) or not set(mode) & set("wax+"):
                return real_open(file, mode, *rest, **more)
            with self._lock:
                opened = real_open(file, mode, *rest, **more)
                folder, name = self._place(file)
                if name not in self._live[folder]:
                    self._enter("create", (folder, name, self._new()))
                return _LoggedFile(opened, self, self._live[folder][name])

        monkeypatch.setattr(builtins, "open", logged_open)
        monkeypatch.setattr(io, "open", logged_open)
        for name in ("mkdir", "rename", "replace", "link", "unlink", "fsync"):
            monkeypatch.setattr(os, name, self._logged(getattr(os, name), getattr(self, f"_{name}")))
        monkeypatch.setattr(shutil, "rmtree", self._logged(shutil.rmtree, self._rmtree))

    def say(self, what: str) -> None:
        """Write down that the user was told something."""
        with self._lock:
            self.events.append(Said(what))

    def wrote(self, file: int, offset: int, data: bytes) -> None:
        """Write down bytes of a file."""
        with self._lock:
            self.events.append(Data(file, offset, data))

    def _logged(self, real: Callable[..., Any], log: Callable[..., None]) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            if more.get("dir_fd") is not None or not (isinstance(args[0], int) or self._concerns(args[0])):
                return real(*args, **more)
            with self._lock:
                before = self._node_of(args[0]) if isinstance(args[0], int) else None
                result = real(*args, **more)
                log(*(args if before is None else (before,)))
                return result

        return call

    def _mkdir(self, path: Any, *_: Any) -> None:
        node = self._new()
        self._live[node] = {}
        self._enter("mkdir", (*self._place(path), node))

    def _rename(self, source: Any, target: Any) -> None:
        (a, a_name), (b, b_name) = self._place(source), self._place(target)
        self._enter("rename", (a, a_name, None), (b, b_name, self._live[a][a_name]))

    _replace = _rename

    def _link(self, source: Any, target: Any) -> None:
        a, a_name = self._place(source)
        self._enter("link", (*self._place(target), self._live[a][a_name]))

    def _unlink(self, path: Any) -> None:
        self._enter("unlink", (*self._place(path), None))

    def _rmtree(self, path: Any, *_: Any) -> None:
        folder, name = self._place(path)
        self._empty(self._live[folder][name])
        self._enter("rmdir", (folder, name, None))

    def _empty(self, folder: int) -> None:
        for name, node in list(self._live[folder].items()):
            if node in self._live:
                self._empty(node)
            self._enter("unlink", (folder, name, None))

    def _fsync(self, node: int) -> None:
        self.events.append(Sync(node))

    def _enter(self, kind: str, *changes: Entry) -> None:
        self.events.append(Entries(kind, changes))
        apply_entries(self._live, changes)

    def _new(self) -> int:
        self._nodes += 1
        return self._nodes

    def _concerns(self, path: Any) -> bool:
        return isinstance(path, str | os.PathLike) and str(path).startswith(self.base + os.sep)

    def _place(self, path: Any) -> tuple[int, str]:
        *folders, name = os.path.relpath(path, self.base).split(os.sep)
        at = ROOT
        for folder in folders:
            at = self._live[at][folder]
        return at, name

    def _node_of(self, descriptor: int) -> int | None:
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        if path == self.base or not path.startswith(self.base):
            return ROOT
        folder, name = self._place(path)
        return self._live[folder][name]


class _LoggedFile:
    def __init__(self, real: Any, log: OpLog, node: int):
        self._real, self._log, self._node = real, log, node

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def write(self, data: Any) -> int:
        if isinstance(data, str):
            raise AssertionError("a store writes bytes")
        self._log.wrote(self._node, self._real.tell(), bytes(data))
        return self._real.write(data)

    def __enter__(self) -> _LoggedFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._real.close()


def apply_entries(folders: dict[int, dict[str, int]], changes: tuple[Entry, ...]) -> None:
    """Change names, all at once."""
    for folder, name, node in changes:
        if node is None:
            folders.setdefault(folder, {}).pop(name, None)
        else:
            folders.setdefault(folder, {})[name] = node


def sure(events: list[Event]) -> set[int]:
    """Numbers of the events that no power cut after the last of them can undo."""
    found: set[int] = set()
    open_by_node: dict[int, list[int]] = {}
    for number, event in enumerate(events):
        if isinstance(event, Data):
            open_by_node.setdefault(event.file, []).append(number)
        elif isinstance(event, Entries):
            for folder, _, _ in event.changes:
                open_by_node.setdefault(folder, []).append(number)
        elif isinstance(event, Sync):
            found.update(open_by_node.pop(event.node, ()))
    return found


Image = dict[str, bytes | None]
"""Path -> bytes of a file, or None for a folder."""


def after_power_loss(events: list[Event], keep: Callable[[int], bool]) -> Image:
    """What is on the disk when the power fails after these events.

    Args:
        events: What was done, in order.
        keep: Whether the event of that number, which is not sure, made it to the disk all the same.
    """
    kept = sure(events)
    folders: dict[int, dict[str, int]] = {ROOT: {}}
    data: dict[int, bytearray] = {}
    is_folder = {node for e in events if isinstance(e, Entries) and e.kind == "mkdir" for *_, node in e.changes}
    for number, event in enumerate(events):
        if isinstance(event, Sync | Said) or not (number in kept or keep(number)):
            continue
        if isinstance(event, Entries):
            apply_entries(folders, event.changes)
            continue
        held = data.setdefault(event.file, bytearray())
        held.extend(bytes(max(0, event.offset - len(held))))  # a hole: bytes before it were lost
        held[event.offset : event.offset + len(event.data)] = event.data
    image: Image = {}

    def walk(folder: int, prefix: str) -> None:
        for name, node in folders.get(folder, {}).items():
            if node in is_folder:
                image[prefix + name] = None
                walk(node, f"{prefix}{name}/")
            else:
                image[prefix + name] = bytes(data.get(node, b""))

    walk(ROOT, "")
    return image


def make(image: Image, base: Path) -> None:
    """Write a state of the disk into an empty folder."""
    base.mkdir()
    for name, content in sorted(image.items()):
        path = base / name
        if content is None:
            path.mkdir(exist_ok=True)
        else:
            path.write_bytes(content)

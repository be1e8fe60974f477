"""Budgets for data that others made: what a file declares is checked before memory is taken or a path is followed.

A foreign dataset may be damaged, or made to do damage. Every reader of `foreact.datasets.formats` asks here first.
"""

from __future__ import annotations

import json
import math
import os
import stat
import zipfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from foreact.datasets.formats.base import FormatError

MAX_SIDE = 8192
"""Pixels per side of an image."""
MAX_FRAMES = 200_000
"""Frames per episode: almost two hours at 30 Hz."""
MAX_EPISODE_BYTES = 4 << 30
"""Decoded size of one episode."""
MAX_JSON_BYTES = 256 << 20
MAX_TEXT_BYTES = 1 << 20
MAX_ENTRIES = 5_000_000
"""Files in an archive, episodes in a dataset."""
MAX_DEPTH = 32
MAX_INSTRUCTION_BYTES = 512


def check_bytes(what: str, n_bytes: int, budget: int = MAX_EPISODE_BYTES) -> int:
    """Return `n_bytes` if it is within the budget.

    Raises:
        FormatError: If it is negative or beyond; `what` is named.
    """
    if not 0 <= n_bytes <= budget:
        raise FormatError(f"{what} declares {n_bytes:,} bytes; at most {budget:,} are read. Split it, or repair it.")
    return n_bytes


def check_shape(what: str, shape: Iterable[int], itemsize: int = 1, budget: int = MAX_EPISODE_BYTES) -> tuple[int, ...]:
    """Return a declared shape as a tuple if an array of it fits the budget.

    Raises:
        FormatError: If a length is not a natural number or the whole is beyond the budget.
    """
    found = tuple(shape)
    if len(found) > 8 or any(isinstance(n, bool) or not isinstance(n, int) or n < 0 for n in found):
        raise FormatError(f"{what} declares the shape {found!r:.200}, which is not one of an array")
    check_bytes(what, math.prod(found) * itemsize, budget)
    return found


def check_image_size(what: str, height: int, width: int) -> tuple[int, int]:
    """Return (height, width) if a picture of that size may be decoded.

    Raises:
        FormatError: If it is empty or too large.
    """
    if not (0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE):
        raise FormatError(f"{what} is {height}x{width} pixels; 1 to {MAX_SIDE} per side are read")
    return height, width


def inside(root: Path, relative: object, what: str) -> Path:
    """The path of a file that a dataset names, if it lies in the dataset, links included.

    Raises:
        FormatError: If the name is not a relative path, or leads out of `root`.
    """
    if not isinstance(relative, str) or not relative or "\0" in relative or "\\" in relative or "//" in relative:
        raise FormatError(f"{what}: expected a path relative to {root}, found {relative!r:.200}")
    pure = PurePosixPath(relative)
    if pure.is_absolute() or ".." in pure.parts:
        raise FormatError(f"{what}: {relative!r:.200} leads out of {root}; only files inside the dataset are read")
    path = root / pure
    if not path.resolve().is_relative_to(root.resolve()):
        raise FormatError(f"{what}: {relative!r:.200} is a link that leads out of {root}; copy the file instead")
    return path


def regular_file(path: Path, what: str, budget: int) -> Path:
    """`path` if it is an ordinary file of at most `budget` bytes (no pipe, device or folder).

    Raises:
        FormatError: If it is missing, something else, or larger.
    """
    try:
        status = os.stat(path)
    except OSError as error:
        raise FormatError(f"{what} {path} cannot be read: {error.strerror or error}") from error
    if not stat.S_ISREG(status.st_mode):
        raise FormatError(f"{what} {path} is not an ordinary file")
    check_bytes(f"{what} {path}", status.st_size, budget)
    return path


def read_json(path: Path, what: str = "the JSON file", budget: int = MAX_JSON_BYTES) -> Any:
    """Parse a JSON file.

    Raises:
        FormatError: If it is missing, too large, nested too deeply, or not JSON.
    """
    data = regular_file(path, what, budget).read_bytes()
    return parse_json(data, f"{what} {path}")


def parse_json(data: bytes | str, what: str, budget: int = MAX_JSON_BYTES) -> Any:
    """Parse JSON text; numbers that are not finite are refused.

    Raises:
        FormatError: As `read_json`.
    """
    check_bytes(what, len(data), budget)

    def not_finite(text: str) -> Any:
        raise FormatError(f"{what} holds {text}, which is not a number of JSON")

    try:
        return json.loads(data, parse_constant=not_finite)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise FormatError(f"{what} is not JSON: {error!r:.200}") from error


def read_yaml(path: Path, what: str) -> Any:
    """Parse a small YAML file: no tags of Python, no aliases (which can grow without bounds), no deep nesting.

    Raises:
        FormatError: If it is missing, not YAML, or does any of this.
    """
    import yaml

    text = regular_file(path, what, MAX_TEXT_BYTES).read_bytes()
    depth = 0
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                raise FormatError(f"{what} {path} uses a YAML alias (*{event.anchor}); write the value out")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise FormatError(f"{what} {path} is nested deeper than {MAX_DEPTH} levels")
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise FormatError(f"{what} {path} is not YAML: {error!s:.300}") from error


def open_zip(path: Path, what: str, *, max_total: int, max_entry: int) -> zipfile.ZipFile:
    """Open a ZIP whose entries are all ordinary files with safe, unique names and bounded sizes.

    Raises:
        FormatError: If it is not a ZIP, or an entry escapes, is a link, is encrypted, doubles another, or is too large.
    """
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise FormatError(f"{what} {path} is not a ZIP: {error}") from error
    try:
        _check_entries(archive, f"{what} {path}", max_total, max_entry)
    except BaseException:
        archive.close()
        raise
    return archive


def _check_entries(archive: zipfile.ZipFile, what: str, max_total: int, max_entry: int) -> None:
    seen: set[str] = set()
    total = 0
    entries = archive.infolist()
    if len(entries) > MAX_ENTRIES:
        raise FormatError(f"{what} has {len(entries):,} entries; at most {MAX_ENTRIES:,} are read")
    for entry in entries:
        name = entry.filename
        pure = PurePosixPath(name)
        if pure.is_absolute() or ".." in pure.parts or "\\" in name or ":" in name or not name:
            raise FormatError(f"{what} has an entry {name!r:.200} that would leave its folder")
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise FormatError(f"{what} has an entry {name!r:.200} that is a link or a device")
        if entry.flag_bits & 1:
            raise FormatError(f"{what} has an encrypted entry {name!r:.200}")
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise FormatError(f"{what}: {name!r:.200} is neither stored nor deflated")
        if name in seen:
            raise FormatError(f"{what} has two entries named {name!r:.200}")
        seen.add(name)
        check_bytes(f"{what}, entry {name!r:.200},", entry.file_size, max_entry)
        total += entry.file_size
        check_bytes(what, total, max_total)


def read_entry(archive: zipfile.ZipFile, name: str, what: str) -> bytes:
    """The bytes of one entry, its CRC checked.

    Raises:
        FormatError: If it is missing or damaged, or has more bytes than it declares.
    """
    try:
        with archive.open(name) as entry:
            size = archive.getinfo(name).file_size
            data = entry.read(size + 1)
    except KeyError as error:
        raise FormatError(f"{what} has no {name!r}") from error
    except Exception as error:  # zlib, bz2 and lzma each have errors of their own
        raise FormatError(f"{what}: {name!r} is damaged: {error}") from error
    if len(data) != size:
        raise FormatError(f"{what}: {name!r} holds {len(data):,} bytes, {size:,} were declared")
    return data


def short(text: object, what: str = "") -> str:
    """An instruction as a store takes it: white space joined, at most 512 bytes.

    Raises:
        FormatError: If it is not a text.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    if not isinstance(text, str):
        raise FormatError(f"{what or 'an instruction'}: expected a text, found {text!r:.80}")
    joined = " ".join(text.encode("utf-8", "replace").decode("utf-8").split())
    return joined.encode()[:MAX_INSTRUCTION_BYTES].decode("utf-8", "ignore")

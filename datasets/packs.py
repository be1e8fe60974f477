"""Packs: a folder with many episodes in one uncompressed ZIP file, and a sealed manifest.

A ZIP, so that any tool can take an episode out again (`unzip`, or Zarr's ZipStore); its entries are
`<episode>/<file>`, those of one episode in one run. The manifest names offset and length of each run: reading an
episode takes no directory of the whole ZIP, only the local headers in that run.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from foreact.datasets.arrays import EpisodeHeader
from foreact.datasets.layout import MANIFEST, PACKS, DamagedEpisode, StoreError, check_version, unusable
from foreact.datasets.sealed import BrokenSeal, unseal
from foreact.datasets.table import EpisodeInfo

PACK_VERSION = 1
PACK_FORMAT = "foreact-pack"
PACK_FILE = "episodes.zip"

_LOCAL_HEADER = struct.Struct("<4s5H3I2H")
_STORED = 0


def pack_names(store: Path) -> list[str]:
    """Names of all packs."""
    folder = store / PACKS
    return sorted(p.name for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []


def read_pack_manifest(store: Path, pack: str) -> dict[str, Any]:
    """The manifest of a pack.

    Raises:
        StoreError: If it is damaged.
        NewerFormat: If a later ForeAct wrote it.
    """
    path = store / PACKS / pack / MANIFEST
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise StoreError(f"{path} is missing; restore the pack from a copy, or move its folder away") from error
    except OSError as error:
        what = f"the pack {pack} could not be read"
        raise unusable(error, what, "Check the disk and the permissions, and try again.") from error
    return parse_pack_manifest(data, path)


def parse_pack_manifest(data: bytes, path: Path | str) -> dict[str, Any]:
    """The manifest of a pack from its bytes; `path` names it in messages.

    Raises:
        StoreError, NewerFormat: As `read_pack_manifest`.
    """
    try:
        manifest = unseal(data)
    except (BrokenSeal, ValueError) as error:
        raise StoreError(
            f"{path} is damaged: {error}. The episodes may not be: `unzip {PACK_FILE}` beside it gives their "
            "folders back, to be moved under `episodes/`."
        ) from error
    check_version(manifest.get("version"), f"the pack {path}", PACK_VERSION)
    return manifest


def pack_infos(store: Path, pack: str) -> list[EpisodeInfo]:
    """The rows of a pack's episodes.

    Raises:
        StoreError, NewerFormat: As `read_pack_manifest`.
    """
    return manifest_infos(read_pack_manifest(store, pack), pack)


def manifest_infos(manifest: dict[str, Any], pack: str) -> list[EpisodeInfo]:
    """The rows of the episodes in a pack's manifest.

    Raises:
        StoreError: If it is not what ForeAct writes.
        NewerFormat: If a later ForeAct wrote an episode.
    """
    infos = []
    try:
        for entry in manifest["episodes"]:
            header = EpisodeHeader.from_json(entry["header"], f"episode {entry['name']} in pack {pack}")
            own = {key: entry[key] for key in ("name", "bytes", "sha256", "offset", "span")}
            if len(bytes.fromhex(own["sha256"])) != 32:
                raise ValueError(f"{own['sha256']!r:.80} is not a SHA-256")
            infos.append(EpisodeInfo(**vars(header), **own, pack=pack))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StoreError(f"the manifest of pack {pack} is not what ForeAct writes ({error!r:.200})") from error
    return infos


def packed_names(store: Path) -> frozenset[str]:
    """Names of all episodes in packs."""
    return frozenset(e["name"] for pack in pack_names(store) for e in read_pack_manifest(store, pack)["episodes"])


class PackFile:
    """The ZIP file of a pack, mapped into memory; safe to share between threads.

    Raises:
        StoreError: If it is missing or empty.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            with open(self.path, "rb") as file:
                self.data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except (FileNotFoundError, ValueError) as error:
            raise StoreError(f"{self.path} is missing or empty; restore the pack from a copy") from error
        except OSError as error:
            what = f"the pack {self.path} could not be read"
            raise unusable(error, what, "Check the disk and the permissions, and try again.") from error

    def getter(self, episode: str, offset: int, span: int) -> Callable[[str], memoryview]:
        """`get` for `EpisodeReader`: path inside the episode -> bytes.

        Raises:
            DamagedEpisode: If the run is not a run of this episode's ZIP entries.
        """
        entries = self._entries(episode, offset, span)

        def get(name: str) -> memoryview:
            start, size = entries[name]
            return self.data[start : start + size]

        return get

    def _entries(self, episode: str, offset: int, span: int) -> dict[str, tuple[int, int]]:
        entries: dict[str, tuple[int, int]] = {}
        at, end = offset, offset + span
        prefix = f"{episode}/".encode()
        while at < end:
            data_at = at + _LOCAL_HEADER.size
            if data_at > min(end, len(self.data)):
                raise self._damaged(episode)
            magic, _, flags, method, _, _, _, size, full_size, name_size, extra_size = _LOCAL_HEADER.unpack(
                self.data[at:data_at]
            )
            name = bytes(self.data[data_at : data_at + name_size])
            at = data_at + name_size + extra_size
            plain = magic == b"PK\x03\x04" and method == _STORED and size == full_size and not flags & 0x09
            if not plain or not name.startswith(prefix) or at + size > min(end, len(self.data)):
                raise self._damaged(episode)
            entries[name[len(prefix) :].decode("utf-8", "replace")] = (at, size)
            at += size
        return entries

    def _damaged(self, episode: str) -> DamagedEpisode:
        return DamagedEpisode(
            f"episode {episode} in {self.path} is damaged: its ZIP entries are not where the manifest says. "
            "Run `foreact data verify` on the store, then restore the pack."
        )

"""Opens a packed store in an object storage, and its episodes by the byte ranges that are needed.

An episode takes one request: the end of its run of ZIP entries, where its manifest and metadata lie. The manifest says
where everything else is. A window then takes one request per array it needs, and per stretch of neighbouring frames.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

from foreact.datasets.index import Index, decode_index
from foreact.datasets.layout import (
    EPISODES,
    INDEX_FILE,
    MANIFEST,
    PACKS,
    ROOT_FILE,
    DamagedEpisode,
    NewerFormat,
    NoStore,
    StoreError,
)
from foreact.datasets.packs import PACK_FILE, manifest_infos, parse_pack_manifest
from foreact.datasets.reader import EpisodeReader
from foreact.datasets.remote import RemoteFiles
from foreact.datasets.root import parse_root
from foreact.datasets.sealed import BrokenSeal, digest, unseal
from foreact.datasets.table import EpisodeInfo, EpisodeTable
from foreact.vla.contract import Contract

_TAIL = 64 * 1024
_LOCAL_HEADER_SIZE = 30
_THREADS = 16


def open_remote(files: RemoteFiles) -> tuple[Contract, Index]:
    """The contract and the packed episodes of the store at `files`.

    Raises:
        NoStore: If there is none.
        NewerFormat: If a later ForeAct wrote it.
        StoreError: If its root file is damaged, or the storage cannot be reached.
    """
    root = files.get(ROOT_FILE)
    packs = files.names(PACKS)  # asked even if there is no root: a storage tells a missing bucket only here
    if root is None:
        raise NoStore(
            f"no trajectory store here: {files.url} has no {ROOT_FILE}. Check the bucket and the folder, or upload a "
            "store that `foreact data pack` has packed."
        )
    contract = parse_root(root, f"{files.url}/{ROOT_FILE}")
    loose = files.names(EPISODES)
    index = _uploaded_index(files, packs) or _index_of_packs(files, packs)
    if loose:
        index.damaged[EPISODES] = (
            f"{files.url}/{EPISODES}: {len(loose)} episodes that are not packed; run `foreact data pack` on the store "
            "before it is uploaded"
        )
    return contract, index


def _uploaded_index(files: RemoteFiles, packs: list[str]) -> Index | None:
    """The index that was uploaded with the store, if it lists exactly these packs (a pack never changes)."""
    data = files.get(INDEX_FILE)
    if data is None:
        return None
    try:
        found = decode_index(data)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    table: EpisodeTable = found["table"]
    whole = sorted(found["packs"]) == packs and (table.arrays["pack"] >= 0).all()
    return Index(table) if whole else None


def _index_of_packs(files: RemoteFiles, packs: list[str]) -> Index:
    index = Index(EpisodeTable())
    rows: dict[str, EpisodeInfo] = {}

    def infos(pack: str) -> list[EpisodeInfo]:
        key = f"{PACKS}/{pack}/{MANIFEST}"
        data = files.get(key)
        if data is None:
            raise StoreError(f"{files.url}/{key} is missing; upload the pack again")
        return manifest_infos(parse_pack_manifest(data, f"{files.url}/{key}"), pack)

    with ThreadPoolExecutor(_THREADS) as pool:
        for pack, future in [(pack, pool.submit(infos, pack)) for pack in packs]:
            try:
                rows |= {info.name: info for info in future.result()}
            except NewerFormat:
                raise
            except StoreError as error:
                index.damaged[f"{PACKS}/{pack}"] = str(error)
    index.table = EpisodeTable(rows.values())
    return index


def open_remote_episode(
    files: RemoteFiles, info: EpisodeInfo, sizes: Mapping[str, tuple[int, int]] | None = None
) -> EpisodeReader:
    """The episode of that row.

    Raises:
        DamagedEpisode: If its pack is not what its manifest says.
        StoreError: If the storage cannot be reached.
    """
    get, part = _getters(files, info)
    return EpisodeReader(info.name, get, f"{files.url}/{PACKS}/{info.pack}/{PACK_FILE}", sizes, part)


def _getters(
    files: RemoteFiles, info: EpisodeInfo
) -> tuple[Callable[[str], memoryview], Callable[[str, int, int], memoryview]]:
    key, end = f"{PACKS}/{info.pack}/{PACK_FILE}", info.offset + info.span

    def fetch(start: int, stop: int) -> memoryview:
        data = files.get(key, start, stop)
        if data is None:
            raise StoreError(f"{files.url}/{key} is missing; upload the pack again")
        return memoryview(data)

    tail_at, tail = end, memoryview(b"")
    manifest_at: int | None = None
    for size in (_TAIL, 16 * _TAIL, info.span):
        if manifest_at is None and end - size < tail_at and tail_at > info.offset:
            tail_at = max(info.offset, end - size)
            tail = fetch(tail_at, end)
            manifest_at = _manifest_place(bytes(tail), info.name)
    if manifest_at is None:
        raise _damaged(files, key, info)
    entries = _places(bytes(tail[manifest_at:]), tail_at + manifest_at, info)
    if entries is None:
        raise _damaged(files, key, info)

    def part(name: str, start: int, stop: int) -> memoryview:
        at, size = entries[name]
        if not 0 <= start <= stop <= size:
            raise KeyError(name)
        if at + start >= tail_at:
            return tail[at + start - tail_at : at + stop - tail_at]
        return fetch(at + start, at + stop)

    return lambda name: part(name, 0, entries[name][1]), part


def _manifest_place(tail: bytes, episode: str) -> int | None:
    """Where the manifest's bytes begin: behind the last ZIP header in the run, which is its own."""
    name = f"{episode}/{MANIFEST}".encode()
    at = tail.rfind(name)
    header = tail[max(0, at - _LOCAL_HEADER_SIZE) : max(0, at)]
    if len(header) != _LOCAL_HEADER_SIZE or header[:4] != b"PK\x03\x04":
        return None
    return at + len(name) + struct.unpack("<H", header[-2:])[0]


def _places(raw: bytes, manifest_at: int, info: EpisodeInfo) -> dict[str, tuple[int, int]] | None:
    """File -> (offset in the pack, size), by the manifest's list; None if that is not the run of this episode."""
    try:
        manifest = unseal(raw)
        sizes = {name: int(size) for name, (size, _) in manifest["files"].items()}
    except (BrokenSeal, ValueError, KeyError, TypeError, AttributeError):
        return None
    entries: dict[str, tuple[int, int]] = {}
    at = info.offset
    for name, size in [*sorted(sizes.items()), (MANIFEST, len(raw))]:
        at += _LOCAL_HEADER_SIZE + len(f"{info.name}/{name}".encode())
        entries[name] = (at, size)
        at += size
    right = digest(raw) == info.sha256 and entries[MANIFEST][0] == manifest_at and at == info.offset + info.span
    return entries if right and min(sizes.values(), default=0) >= 0 else None


def _damaged(files: RemoteFiles, key: str, info: EpisodeInfo) -> DamagedEpisode:
    return DamagedEpisode(
        f"episode {info.name} in {files.url}/{key} is damaged: it is not where, or not what, the manifest of the pack "
        "says. Run `foreact data verify` on the store it was uploaded from, and upload the pack again."
    )

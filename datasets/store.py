"""The trajectory store: open it, look at its episodes, read their frames."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foreact.datasets.episode import EpisodeData
from foreact.datasets.index import Index, load_index
from foreact.datasets.layout import EPISODES, PACKS, StoreError
from foreact.datasets.packs import PACK_FILE, PackFile
from foreact.datasets.reader import EpisodeReader, Frames, folder_getter
from foreact.datasets.root import read_root
from foreact.datasets.table import EpisodeInfo, EpisodeTable
from foreact.vla.contract import Contract
from foreact.vla.errors import did_you_mean

if TYPE_CHECKING:
    from foreact.datasets.remote import RemoteFiles

_OPEN_EPISODES = 256
_OPEN_PACKS = 64


class Store:
    """Episodes as they were when the store was opened; may be pickled and used from several threads.

    Use `Store.open`.
    """

    def __init__(self, path: Path, contract: Contract, index: Index, files: RemoteFiles | None = None):
        self.path = path
        self.contract = contract
        self._files = files
        self._index = index
        self._make_caches()

    @classmethod
    def open(cls, path: Path | str | RemoteFiles) -> Store:
        """Open the store at `path`. Damaged episodes are left out with a warning and listed in `damaged`.

        Args:
            path: A folder, or the address of packs in an object storage, such as "s3://bucket/folder"; for settings
                that the environment does not hold, a `RemoteFiles`.

        Raises:
            NoStore: If there is none.
            NewerFormat: If a later ForeAct wrote it.
            StoreError: If its root file is damaged, or the storage cannot be reached.
        """
        from foreact.datasets.remote import RemoteFiles, as_url
        from foreact.datasets.remote_open import open_remote

        url = path if isinstance(path, RemoteFiles) else as_url(path)
        files = RemoteFiles.at(url) if isinstance(url, str) else url
        if files is None:
            path = Path(path)  # pyright: ignore[reportArgumentType]
            contract, index = read_root(path), load_index(path)
        else:
            path = Path(files.url)
            contract, index = open_remote(files)
        for reason in index.damaged.values():
            warnings.warn(f"left out: {reason}", stacklevel=2)
        return cls(path, contract, index, files)

    @property
    def address(self) -> str:
        """Where it is: `path`, or the URL as it was given (a path has only one of its slashes)."""
        return self._files.url if self._files else str(self.path)

    @property
    def index(self) -> EpisodeTable:
        """All episodes, sorted by name: `store.index[3].instruction`, `store.index.lengths`."""
        return self._index.table

    @property
    def damaged(self) -> dict[str, str]:
        """Episodes and packs that could not be read -> why."""
        return self._index.damaged

    @property
    def hash(self) -> str:
        """16 hex digits that name the contract and the contents of all episodes, packed or not."""
        text = "\n".join([self.contract.hash, *self.index.sha256s])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def __len__(self) -> int:
        return len(self.index)

    def read(
        self,
        episode: int | str,
        frames: Frames = None,
        cameras: Iterable[str] | None = None,
        resize: Mapping[str, tuple[int, int]] | None = None,
        extras: bool = True,
    ) -> EpisodeData:
        """Read an episode, or some of its frames; only those are decoded.

        Args:
            episode: Number or name.
            frames: A slice, or an array of frame numbers in any order, or None for all.
            cameras: Which to decode; None for all, () for none.
            resize: camera -> (height, width) in pixels, by `foreact.vla.images.resize_frame`.
            extras: Whether to read the extras too.

        Raises:
            StoreError: If there is no such episode, camera or frame.
            DamagedEpisode: If a checksum is wrong; the episode is named.
        """
        return self.reader(episode).read(frames, cameras, resize, extras)

    def reader(self, episode: int | str) -> EpisodeReader:
        """The open episode of that number or name; the last few hundred are kept open.

        Raises:
            StoreError, DamagedEpisode: As `read`.
        """
        number = self._number(episode)
        try:
            return self._reader(number)
        except StoreError:
            if self._files is not None:
                raise
            # It may have been packed since this store was opened: look again, by name.
            name = self.index[number].name
            table = load_index(self.path).table
            moved = table.number(name)
            if moved is None or table[moved].pack is None or table[moved].pack == self.index[number].pack:
                raise
            return self._open(table[moved])

    def _number(self, episode: int | str) -> int:
        if isinstance(episode, str):
            number = self.index.number(episode)
            if number is None:
                near = did_you_mean(episode, self.index.near(episode)).split("; ")[1:]
                raise StoreError("; ".join([f"the store {self.address} has no episode {episode!r}", *near]))
            return number
        if not 0 <= episode < len(self):
            raise StoreError(f"the store {self.address} has {len(self)} episodes; asked for number {episode}")
        return int(episode)

    def _open(self, info: EpisodeInfo) -> EpisodeReader:
        if self._files is not None:
            from foreact.datasets.remote_open import open_remote_episode

            return open_remote_episode(self._files, info, self._sizes)
        if info.pack is None:
            folder = self.path / EPISODES / info.name
            return EpisodeReader(info.name, self._moving_getter(info, folder), folder, self._sizes)
        pack = self._pack(info.pack)
        return EpisodeReader(info.name, pack.getter(info.name, info.offset, info.span), pack.path, self._sizes)

    def _moving_getter(self, info: EpisodeInfo, folder: Path) -> Callable[[str], memoryview]:
        """`get` for an episode in a folder, which follows it into a pack if it is packed while it is read."""
        get = folder_getter(folder)

        def follow(name: str) -> memoryview:
            nonlocal get
            try:
                return get(name)
            except FileNotFoundError:
                table = load_index(self.path).table if not folder.is_dir() else self.index
                row = table.number(info.name)
                if row is None or table[row].pack is None or table[row].sha256 != info.sha256:
                    raise
                moved = table[row]
                get = self._pack(moved.pack).getter(moved.name, moved.offset, moved.span)
                return get(name)

        return follow

    def _make_caches(self) -> None:
        self._sizes = {camera.name: (camera.height, camera.width) for camera in self.contract.cameras}
        self._pack = lru_cache(_OPEN_PACKS)(lambda pack: PackFile(self.path / PACKS / pack / PACK_FILE))
        self._reader = lru_cache(_OPEN_EPISODES)(lambda number: self._open(self.index[number]))

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "contract": self.contract, "_index": self._index, "_files": self._files}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._make_caches()

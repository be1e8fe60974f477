"""Trajectory stores as source and sink of a conversion."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

from foreact.datasets.durable import sweep
from foreact.datasets.episode import EpisodeData
from foreact.datasets.formats.base import FormatError
from foreact.datasets.layout import ROOT_FILE, STAGING, EpisodeExists
from foreact.datasets.recorder import Recorder
from foreact.datasets.store import Store
from foreact.vla.contract import Contract


class StoreSource:
    """The episodes of a store."""

    format = "foreact"
    OPTIONS: dict[str, str] = {}

    def __init__(self, path: Path, contract: Contract | None = None):
        self.path = Path(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the damaged become notes
            self._store = Store.open(self.path)
        self.contract = self._store.contract
        if contract is not None and contract.hash != self.contract.hash:
            raise FormatError(f"the store {path} has a contract of its own; leave --contract out")
        self.notes: Sequence[str] = [f"left out: {reason}" for reason in self._store.damaged.values()]
        self.frames: int | None = int(sum(self._store.index.lengths))

    @staticmethod
    def recognise(path: Path) -> bool:
        """Whether a store begins here."""
        return (path / ROOT_FILE).is_file()

    def names(self) -> Sequence[str]:
        """Episode names, sorted."""
        return list(self._store.index.names)

    def read(self, name: str) -> EpisodeData:
        """One episode, complete.

        Raises:
            DamagedEpisode: If a checksum is wrong.
        """
        return self._store.read(name)


class StoreSink:
    """A store that is being filled; episodes may come from several processes and in any order."""

    format = "foreact"
    OPTIONS = {"codec": "image codec or preset, see docs/codecs.md"}
    any_order = True
    """Episodes do not depend on those before: they may be written by several processes."""

    def __init__(self, path: Path, contract: Contract, codec: str = "fast"):
        self._recorder = Recorder(path, contract, codec)
        self.notes: Sequence[str] = []

    def has(self, name: str) -> bool:
        """Whether the episode is in the store, packed or not."""
        return self._recorder.has(name)

    def write(self, name: str, episode: EpisodeData) -> None:
        """Write one episode, whole or not at all."""
        try:
            self._recorder.write(episode, name=name)
        except EpisodeExists:  # another process of the same conversion was faster; it wrote the same bytes
            return

    def finish(self) -> None:
        """Every episode is complete by itself; what processes that were killed left aside is swept."""
        sweep(self._recorder.path / STAGING)

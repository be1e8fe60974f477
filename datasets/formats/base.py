"""What a converter is made of: a source of episodes, and a sink for them.

Every foreign format is read by a `Source` and written by a `Sink`; `convert.py` connects any of them with a store. A
format says in `notes` what it assumed and what it cannot hold: nothing is dropped silently.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from foreact.datasets.episode import EpisodeData
from foreact.vla.contract import Contract
from foreact.vla.errors import ForeActError


class FormatError(ForeActError):
    """A foreign dataset is damaged, is not of the format it seems to be, or holds what cannot be converted."""


@runtime_checkable
class Source(Protocol):
    """A foreign dataset, opened: cheap to open, episodes are read one at a time."""

    path: Path
    contract: Contract
    """What the episodes hold. Units and frames that the format does not record are named "unknown"."""

    @property
    def format(self) -> str:
        """Such as "lerobot-v3"; the names of formats are listed by `foreact data convert --formats`."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """One sentence per assumption and per thing that is left out, for people."""
        ...

    def names(self) -> Sequence[str]:
        """Episode names, unique, safe as names in a store, the same at every opening."""
        ...

    def read(self, name: str) -> EpisodeData:
        """One episode, complete; its `meta["source"]` says where it comes from.

        Raises:
            FormatError: If it is damaged; the file and the place in it are named.
        """
        ...


@runtime_checkable
class Sink(Protocol):
    """A foreign dataset that is being written. A kill at any time leaves either no dataset or one that can be gone on
    with; the same episodes in the same order give the same bytes."""

    @property
    def format(self) -> str:
        """As `Source.format`."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """What the format cannot hold and was dropped, one sentence each."""
        ...

    def has(self, name: str) -> bool:
        """Whether an episode of that name is written already (by an earlier, interrupted run)."""
        ...

    def write(self, name: str, episode: EpisodeData) -> None:
        """Write one episode; episodes come in the same order in every run."""
        ...

    def finish(self) -> None:
        """Write what belongs to the whole (metadata, statistics); after this the dataset is complete."""
        ...

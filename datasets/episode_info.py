"""What the table of a store knows of each episode."""

from __future__ import annotations

from dataclasses import dataclass

from foreact.datasets.arrays import EpisodeHeader


@dataclass(frozen=True, kw_only=True)
class EpisodeInfo(EpisodeHeader):
    """One row: what is known of an episode without opening it."""

    name: str
    bytes: int
    """Size of its files."""
    sha256: str
    """Names its whole contents: the digest of its manifest."""
    pack: str | None = None
    """The pack it lies in; None if it has a folder of its own."""
    offset: int = 0
    """Where its run of ZIP entries begins in the pack [bytes]."""
    span: int = 0
    """Length of that run [bytes]."""

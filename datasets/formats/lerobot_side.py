"""`meta/foreact.json`: what LeRobot's files cannot hold, beside them, so that the way back is exact.

LeRobot ignores the file. It is used only while it describes the same episodes: whoever edits the dataset with
LeRobot's tools gets a dataset that is read like any other.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from foreact.datasets.episode import Segment
from foreact.datasets.formats.base import FormatError
from foreact.datasets.formats.limits import read_json
from foreact.datasets.layout import InvalidEpisode, check_name
from foreact.vla.contract import Contract

SIDE = "meta/foreact.json"
VERSION = 1


class SideEpisode(BaseModel):
    """One episode, beyond what LeRobot holds of it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    length: int
    instruction: str
    segments: tuple[tuple[int, int, str], ...] = ()
    meta: dict[str, Any] = {}
    extras: dict[str, tuple[int, ...]] = {}
    """Name -> shape of one frame's value; LeRobot's columns are flat."""

    def make_segments(self) -> list[Segment]:
        """The segments as our type."""
        return [Segment(start=start, end=end, instruction=text) for start, end, text in self.segments]


class Side(BaseModel):
    """The whole file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    foreact: int
    contract: Contract
    episodes: tuple[SideEpisode, ...]


def side_bytes(contract: Contract, episodes: Sequence[SideEpisode]) -> bytes:
    """The file, the same for the same contents; one line per episode."""
    rows = ",\n".join(json.dumps(episode.model_dump(mode="json"), ensure_ascii=False) for episode in episodes)
    head = json.dumps({"foreact": VERSION, "contract": contract.model_dump(mode="json")}, ensure_ascii=False)
    return f'{head[:-1]}, "episodes": [\n{rows}\n]}}\n'.encode()


def read_side(root: Path, lengths: Sequence[int]) -> tuple[Side | None, str]:
    """The file if it is there and describes episodes of these lengths; else None, and a sentence if it was ignored.

    Raises:
        FormatError: If it is there and damaged.
    """
    path = root / SIDE
    if not path.exists():
        return None, ""
    raw = read_json(path, "ForeAct's own part")
    if isinstance(raw, dict) and raw.get("foreact") != VERSION:
        return None, f"{SIDE} is of version {raw.get('foreact')!r}, this ForeAct reads {VERSION}: read without it"
    try:
        side = Side.model_validate(raw)
        for episode in side.episodes:
            check_name(episode.name)
    except (ValidationError, InvalidEpisode) as error:
        raise FormatError(
            f"{path} is damaged: {error!s:.300}. Remove it to read the dataset like any other of LeRobot's."
        ) from error
    if [episode.length for episode in side.episodes] != list(lengths):
        return None, f"{SIDE} describes other episodes (was the dataset edited with LeRobot?): read without it"
    if len({episode.name for episode in side.episodes}) != len(side.episodes):
        raise FormatError(f"{path} is damaged: two episodes have one name")
    return side, ""

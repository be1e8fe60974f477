"""What foreign formats have no place for, as JSON that travels inside them: so ours -> theirs -> ours loses nothing.

Formats with named arrays (robomimic, diffusion_policy) keep images and state fields under keys that their own readers
use; the JSON says which key is which camera or field, and holds contract, instruction, segments and meta.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from foreact.datasets.episode import EpisodeData, Segment
from foreact.datasets.formats.base import FormatError
from foreact.datasets.formats.limits import check_image_size, short
from foreact.datasets.formats.names import safe_name, unique_names
from foreact.vla.contract import Contract

VERSION = 1
_MAX_VECTOR = 100_000


@dataclass(frozen=True)
class KeyMap:
    """Key of the foreign dataset for each camera, and for each field of the state in the contract's order."""

    cameras: Mapping[str, str]
    state: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {"cameras": dict(self.cameras), "state": list(self.state)}


def key_map(contract: Contract, camera_suffix: str = "", taken: tuple[str, ...] = ()) -> KeyMap:
    """Keys for a contract: the names of cameras (with a suffix) and of state fields, made safe and unique."""
    cameras = [f"{safe_name(camera.name)}{camera_suffix}" for camera in contract.cameras]
    keys = unique_names([*taken, *cameras, *(f.name for f in contract.state)])[len(taken) :]
    names = [camera.name for camera in contract.cameras]
    return KeyMap(dict(zip(names, keys, strict=False)), tuple(keys[len(names) :]))


def state_columns(contract: Contract) -> list[slice]:
    """Where each field lies in the state vector."""
    found, start = [], 0
    for field in contract.state:
        found.append(slice(start, start + field.size))
        start += field.size
    return found


def dataset_json(contract: Contract, keys: KeyMap) -> dict[str, Any]:
    """What is written once per dataset."""
    return {"version": VERSION, "contract": contract.model_dump(mode="json"), "keys": keys.to_json()}


def parse_dataset(value: Any, what: str) -> tuple[Contract, KeyMap]:
    """Read what `dataset_json` gave.

    Raises:
        FormatError: If it is not that.
    """
    try:
        if value["version"] != VERSION:
            raise FormatError(f"{what} is from a later ForeAct (version {value['version']!r}); install a newer one")
        contract = Contract.model_validate(value["contract"])
        keys = KeyMap(
            {str(k): _key(v, what) for k, v in value["keys"]["cameras"].items()},
            tuple(_key(v, what) for v in value["keys"]["state"]),
        )
    except (KeyError, TypeError, AttributeError, ValidationError) as error:
        raise FormatError(f"{what} is not what ForeAct writes: {error!r:.200}") from error
    if {c.name for c in contract.cameras} != set(keys.cameras) or len(contract.state) != len(keys.state):
        raise FormatError(f"{what}: its keys are not those of its contract")
    check_contract(contract, what)
    return contract, keys


def check_contract(contract: Contract, what: str) -> Contract:
    """Return a contract out of a foreign file if its sizes are within bounds.

    Raises:
        FormatError: If an image or a vector is too large.
    """
    for camera in contract.cameras:
        check_image_size(f"{what}: camera {camera.name!r:.80}", camera.height, camera.width)
    if contract.state_size > _MAX_VECTOR or contract.action_size > _MAX_VECTOR:
        raise FormatError(f"{what}: a vector of more than {_MAX_VECTOR} numbers in the contract")
    return contract


def _key(value: Any, what: str) -> str:
    if not isinstance(value, str) or safe_name(value, 140) != value:
        raise FormatError(f"{what}: {value!r:.80} is not a key")
    return value


def episode_json(name: str, episode: EpisodeData) -> dict[str, Any]:
    """What is written once per episode."""
    return {
        "name": name,
        "instruction": episode.instruction,
        "segments": [[s.start, s.end, s.instruction] for s in episode.segments],
        "meta": dict(episode.meta),
    }


def parse_episode(value: Any, length: int, what: str) -> EpisodeData:
    """Read what `episode_json` gave, as an episode without arrays.

    Raises:
        FormatError: If it is not that.
    """
    try:
        segments = [
            Segment(start=_number(a), end=_number(b), instruction=short(text)) for a, b, text in value["segments"]
        ]
        meta = dict(value["meta"])
        name, instruction = value["name"], short(value["instruction"])
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(f"{what} is not what ForeAct writes: {error!r:.200}") from error
    for segment in segments:
        if not 0 <= segment.start < segment.end <= length:
            raise FormatError(f"{what}: the segment [{segment.start}, {segment.end}) is not in its {length} frames")
    for key, item in meta.items():
        bad = isinstance(item, float) and not math.isfinite(item)
        if not isinstance(key, str) or bad or not (item is None or isinstance(item, str | bool | int | float)):
            raise FormatError(f"{what}: meta holds {key!r:.80}: {item!r:.80}, not a scalar")
    if not isinstance(name, str) or safe_name(name, 120) != name:
        raise FormatError(f"{what}: {name!r:.80} is not an episode name")
    return EpisodeData(images={}, instruction=instruction, segments=segments, meta=meta, name=name)


def _number(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"not a frame number: {value!r:.80}")
    return value

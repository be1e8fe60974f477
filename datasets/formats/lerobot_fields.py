"""LeRobot's features and our contract: which column is the state, which camera is which, what numbers are called."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from foreact.datasets.formats.base import FormatError
from foreact.datasets.formats.lerobot_info import DEFAULT_COLUMNS, Feature, Info
from foreact.datasets.formats.names import safe_name, unique_names
from foreact.vla.contract import Camera, Contract, Field

STATE = "observation.state"
ACTION = "action"
IMAGES = "observation.images."
EXTRAS = "extras."
"""Prefix of our extras as columns. LeRobot gives a policy what begins with "observation" or "action": not these."""


@dataclass
class Mapped:
    """Where the parts of an episode lie in the features of a dataset."""

    contract: Contract
    cameras: dict[str, str] = field(default_factory=dict)
    """Camera -> key of the feature."""
    state: str | None = None
    action: str | None = None
    extras: dict[str, str] = field(default_factory=dict)
    """Name of the extra -> key of the feature."""
    notes: list[str] = field(default_factory=list)


def foreign(info: Info, slices: Mapping[str, Any], where: str) -> Mapped:
    """Map a dataset that we did not write.

    Args:
        info: Its description.
        slices: `meta/modality.json` of GR00T, if there is one: names for ranges of the state and of the action.
        where: Its path, for messages.

    Raises:
        FormatError: If it has no pictures that a store could hold.
    """
    notes: list[str] = []
    cameras: dict[str, str] = {}
    sizes: list[Camera] = []
    usable = []
    for key, feature in info.cameras.items():
        if feature.is_depth or feature.picture_size[2] != 3:
            notes.append(f"left out: {key} (not RGB; a store holds 8-bit colour only)")
        else:
            usable.append(key)
    for name, key in zip(unique_names(map(_camera_name, usable)), usable, strict=True):
        height, width, _ = info.features[key].picture_size
        cameras[name] = key
        sizes.append(Camera(name=name, height=height, width=width))
    if not cameras:
        raise FormatError(f"{where} has no camera in colour; a trajectory store needs at least one")
    rest = []
    for key, feature in info.features.items():
        if key in (STATE, ACTION, *DEFAULT_COLUMNS) or feature.is_camera:
            continue
        if _is_number(feature):
            rest.append(key)
        else:
            notes.append(f"left out: {key} (dtype {feature.dtype}; a store holds numbers and pictures)")
    fields: dict[str, tuple[Field, ...]] = {}
    for key, kind in ((STATE, "state"), (ACTION, "action")):
        feature = info.features.get(key)
        if feature is None or not feature.size or not _is_number(feature):
            notes.append(f"no {kind}: the dataset has no numbers named {key!r}")
            continue
        fields[kind] = _fields(kind, feature, slices.get(kind))
    if fields:
        notes.append(
            "units and frames of state and action are unknown: LeRobot does not record them. Describe them in a "
            "contract to use the data with another embodiment's"
        )
    if any(info.features[key].dtype not in ("float32", "float64") for key in rest):
        notes.append("integers and booleans become float64 extras")
    return Mapped(
        contract=Contract(
            embodiment=info.robot_type or "unknown",
            rate_hz=info.fps,
            cameras=tuple(sizes),
            state=fields.get("state", ()),
            action=fields.get("action", ()),
        ),
        cameras=cameras,
        state=STATE if "state" in fields else None,
        action=ACTION if "action" in fields else None,
        extras=dict(zip(unique_names(rest), rest, strict=True)),
        notes=notes,
    )


def described(mapped: Mapped, contract: Contract, where: str) -> Mapped:
    """The same mapping under a contract that a person wrote for the dataset.

    Raises:
        FormatError: If the dataset is not what the contract says.
    """
    found, problems = mapped.contract, []
    have = {camera.name: camera for camera in found.cameras}
    for camera in contract.cameras:
        if camera.name not in have:
            problems.append(f"camera {camera.name!r} is not in it; it has {sorted(have)}")
        elif camera != have[camera.name]:
            size = have[camera.name]
            problems.append(
                f"camera {camera.name!r} has {size.height}x{size.width} pixels, the contract says "
                f"{camera.height}x{camera.width}"
            )
    for kind, size, wanted in (
        ("state", found.state_size, contract.state_size),
        ("action", found.action_size, contract.action_size),
    ):
        if size != wanted:
            problems.append(f"the {kind} has {size} numbers, the contract {wanted}")
    if abs(found.rate_hz - contract.rate_hz) > 1e-6:
        problems.append(f"its rate is {found.rate_hz} Hz, the contract says {contract.rate_hz}")
    if problems:
        raise FormatError(f"{where} is not what the contract describes:\n" + "\n".join(f"  - {p}" for p in problems))
    kept = {camera.name: mapped.cameras[camera.name] for camera in contract.cameras}
    notes = [note for note in mapped.notes if not note.startswith("units and frames")]
    notes += [f"left out: camera {name} (not in the contract)" for name in sorted(set(mapped.cameras) - set(kept))]
    return Mapped(contract, kept, mapped.state, mapped.action, mapped.extras, notes)


def number_names(fields: tuple[Field, ...]) -> list[str]:
    """One name per number, as LeRobot wants them: "tcp_pos_0", "tcp_pos_1", ..., "gripper"."""
    return [f.name if f.size == 1 else f"{f.name}_{i}" for f in fields for i in range(f.size)]


def _fields(kind: str, feature: Feature, slices: Any) -> tuple[Field, ...]:
    named = _sliced(STATE if kind == "state" else ACTION, feature.size, slices) or _named(feature)
    if named is None:
        return (Field(name=kind, size=feature.size, unit="unknown"),)
    names = unique_names(name for name, _ in named)
    return tuple(Field(name=name, size=size, unit="unknown") for name, (_, size) in zip(names, named, strict=True))


def _sliced(key: str, size: int, slices: Any) -> list[tuple[str, int]] | None:
    """Names and sizes from modality.json, if its ranges cover the vector exactly."""
    if not isinstance(slices, Mapping):
        return None
    parts = []
    for name, part in slices.items():
        ends = [part.get("start"), part.get("end")] if isinstance(part, Mapping) else []
        if not ends or not all(isinstance(end, int) for end in ends) or part.get("original_key", key) != key:
            return None
        parts.append((*ends, str(name)))
    at = 0
    for start, end, _ in sorted(parts):
        if start != at or end <= start:
            return None
        at = end
    return [(name, end - start) for start, end, name in sorted(parts)] if at == size else None


def _named(feature: Feature) -> list[tuple[str, int]] | None:
    """One name per number from `names`, a list or a list in a mapping such as {"motors": [...]}; None if it has not."""
    names = feature.names
    if isinstance(names, Mapping):
        lists = [value for value in names.values() if isinstance(value, list)]
        names = [name for value in lists for name in value] if lists else list(names)
    if not isinstance(names, list) or len(names) != feature.size or len(feature.shape) != 1:
        return None
    return [(str(name), 1) for name in names]


def _camera_name(key: str) -> str:
    for prefix in (IMAGES, "observation.image.", "observation."):
        key = key.removeprefix(prefix)
    return safe_name(key)


def _is_number(feature: Feature) -> bool:
    return feature.dtype.startswith(("float", "int", "uint", "bool"))

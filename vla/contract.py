"""The contract: one typed, versioned description of an embodiment, compared at every border.

A store, a checkpoint, an environment and a robot each carry one. `hash` is identity; a border asks whether what is
required is a subset of what is offered (`adapt`), and the adapters it needs (resize, select, reorder) are printed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from pathlib import Path
from typing import Literal

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, PositiveFloat, PositiveInt, ValidationError, model_validator

from foreact.vla.errors import ForeActError, did_you_mean

CONTRACT_VERSION = 1


class ContractError(ForeActError):
    """A contract file is not a valid contract."""


class ContractMismatch(ForeActError):
    """What one side requires is not offered by the other."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Camera(_Part):
    """One camera: frames are (height, width, 3) uint8 RGB, row 0 on top."""

    name: str
    height: PositiveInt
    width: PositiveInt
    encoding: Literal["rgb8"] = "rgb8"


class Field(_Part):
    """A named slice of the state or the action vector."""

    name: str
    size: PositiveInt
    unit: str
    """SI unit of one component, or of 1.0 when scaled: "m", "rad", "0.02 m"; "1" for pure numbers."""
    frame: str = ""
    """Coordinate frame the numbers are expressed in: "world", "base", "tcp"; empty for joint values."""
    low: float | None = None
    high: float | None = None
    rotation: Literal["euler_xyz", "quat_xyzw", "rotvec", "rot6d"] | None = None
    """Rotation representation; euler_xyz is extrinsic x-y-z (roll, pitch, yaw)."""
    relative: bool = False
    """True when the numbers are increments to the current target."""

    @property
    def is_gripper(self) -> bool:
        """Whether it is about a gripper alone: one number with "gripper" in its name."""
        return self.size == 1 and "gripper" in self.name


class Contract(_Part):
    """Everything two parts must agree on before data may cross between them."""

    version: Literal[1] = CONTRACT_VERSION
    embodiment: str
    """Robot model and tool, such as "panda_long_finger"."""
    rate_hz: PositiveFloat
    """Control and recording rate."""
    cameras: tuple[Camera, ...]
    state: tuple[Field, ...] = ()
    action: tuple[Field, ...] = ()
    gripper: Literal["+1 open, -1 close", "-1 open, +1 close", "none"] = "none"

    @model_validator(mode="after")
    def _names_are_unique(self) -> Contract:
        for part in (self.cameras, self.state, self.action):
            names = [item.name for item in part]
            if len(names) != len(set(names)):
                raise ValueError(f"names must be unique, found {names}")
        return self

    @property
    def hash(self) -> str:
        """The first 16 hex digits of the SHA-256 of the canonical JSON form."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def state_size(self) -> int:
        """Length of the state vector: the fields of `state`, concatenated in order."""
        return sum(field.size for field in self.state)

    @property
    def action_size(self) -> int:
        """Length of the action vector: the fields of `action`, concatenated in order."""
        return sum(field.size for field in self.action)

    def camera(self, name: str) -> Camera:
        """The camera of that name.

        Raises:
            ContractMismatch: If there is none.
        """
        for camera in self.cameras:
            if camera.name == name:
                return camera
        raise ContractMismatch(f"no camera {name!r}; {did_you_mean(name, [c.name for c in self.cameras])}")

    def renamed(self, rename: Rename) -> Contract:
        """The same contract under our names. What bears one of our names without being meant is called "their NAME".

        Raises:
            ContractMismatch: If it has no camera or field of a name that is mapped, or two names are mapped to one.
        """
        return self.model_copy(
            update={
                kind: tuple(
                    item.model_copy(update={"name": name})
                    for item, name in zip(getattr(self, kind), names, strict=True)
                )
                for kind in ("cameras", "state", "action")
                for names in [_our_names(kind, [item.name for item in getattr(self, kind)], getattr(rename, kind))]
            }
        )

    def to_yaml(self) -> str:
        """The contract as YAML text, readable by `from_yaml`."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)

    @classmethod
    def from_yaml(cls, text: str, source: str = "contract") -> Contract:
        """Parse YAML text.

        Raises:
            ContractError: If the text is not a contract of a known version; `source` is named.
        """
        try:
            data = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ContractError(f"{source} is not YAML: {error}") from error
        if not isinstance(data, dict):
            raise ContractError(f"{source}: expected a mapping with 'version', 'embodiment', ..., found {data!r:.80}")
        if data.get("version") != CONTRACT_VERSION:
            raise ContractError(
                f"{source}: contract version {data.get('version')!r}; this ForeAct reads version {CONTRACT_VERSION}"
            )
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            lines = [f"  {'.'.join(map(str, e['loc'])) or '(top)'}: {e['msg']}" for e in error.errors()]
            raise ContractError(f"{source} is not a valid contract:\n" + "\n".join(lines)) from error

    @classmethod
    def load(cls, path: Path) -> Contract:
        """Read a contract file.

        Raises:
            ContractError: If the file is missing or not a contract.
        """
        if not path.is_file():
            raise ContractError(f"no contract at {path}")
        return cls.from_yaml(path.read_text(), source=str(path))


@dataclass(frozen=True)
class Rename:
    """Names on both sides, "ours: theirs", where they differ."""

    cameras: Mapping[str, str] = dataclass_field(default_factory=dict)
    state: Mapping[str, str] = dataclass_field(default_factory=dict)
    action: Mapping[str, str] = dataclass_field(default_factory=dict)

    def notes(self) -> list[str]:
        """One sentence per name."""
        words = (("camera", self.cameras), ("state field", self.state), ("action field", self.action))
        return [
            f"{word} {ours} is their {theirs}"
            for word, names in words
            for ours, theirs in names.items()
            if ours != theirs
        ]


def _our_names(kind: str, theirs: list[str], names: Mapping[str, str]) -> list[str]:
    word = {"cameras": "camera", "state": "state field", "action": "action field"}[kind]
    for ours, mapped in names.items():
        if mapped not in theirs:
            raise ContractMismatch(f"no {word} {mapped!r} to call {ours!r}; {did_you_mean(mapped, theirs)}")
    by_theirs = {mapped: ours for ours, mapped in names.items()}
    if len(by_theirs) != len(names):
        twice = sorted({mapped for mapped in names.values() if list(names.values()).count(mapped) > 1})
        raise ContractMismatch(f"{word} {twice[0]!r} is mapped to two names; each can have one")
    return [by_theirs.get(name, f"their {name}" if name in names else name) for name in theirs]


class Adapter(_Part):
    """What must be done to `offered` data so that it satisfies `required`, found by `adapt`."""

    resize: dict[str, tuple[int, int]]
    """Required (height, width) of each required camera."""
    state_index: tuple[int, ...]
    """Positions in the offered state vector, in the required order."""
    action_index: tuple[int, ...]
    """Positions in the offered action vector, in the required order."""
    notes: tuple[str, ...]
    """One sentence per adaptation, to be printed once."""

    def state(self, state: np.ndarray) -> np.ndarray:
        """Offered state (..., S_offered) to required state (..., S_required)."""
        return state[..., list(self.state_index)]


def _field_differences(kind: str, required: Field, offered: Field) -> list[str]:
    pairs = [
        (key, getattr(required, key), getattr(offered, key)) for key in Field.model_fields if key not in ("low", "high")
    ]
    found = [f"{kind} field {required.name!r}: {key} required {a!r}, offered {b!r}" for key, a, b in pairs if a != b]
    for key, beyond in (("low", lambda a, b: a < b), ("high", lambda a, b: a > b)):
        a, b = getattr(required, key), getattr(offered, key)
        if kind == "action" and a is not None and (b is None or beyond(a, b)):
            found.append(f"action field {required.name!r}: {key} required {a}, offered {b}")
    return found


def _index(kind: str, required: tuple[Field, ...], offered: tuple[Field, ...], problems: list[str]) -> tuple[int, ...]:
    starts = dict(zip((f.name for f in offered), np.cumsum([0, *(f.size for f in offered)]), strict=False))
    by_name = {f.name: f for f in offered}
    index: list[int] = []
    for field in required:
        if field.name not in by_name:
            problems.append(f"{kind} field {field.name!r} is missing; {did_you_mean(field.name, by_name)}")
            continue
        problems.extend(_field_differences(kind, field, by_name[field.name]))
        index.extend(range(int(starts[field.name]), int(starts[field.name]) + field.size))
    return tuple(index)


def adapt(
    required: Contract, offered: Contract, *, required_by: str, offered_by: str, rename: Rename | None = None
) -> Adapter:
    """Find how offered data can satisfy what is required.

    Args:
        required: The contract of the side that consumes (a policy, a training run).
        offered: The contract of the side that provides (a store, an environment, a robot).
        required_by: Name of the consumer for messages, such as "checkpoint runs/a".
        offered_by: Name of the provider for messages.
        rename: What the offered cameras and fields are called on the required side, where the names differ.

    Raises:
        ContractMismatch: With one line per difference that no adapter can bridge.
    """
    problems: list[str] = []
    notes = rename.notes() if rename else []
    if rename is not None:
        offered = offered.renamed(rename)
    for key in ("embodiment", "rate_hz", "gripper"):
        a, b = getattr(required, key), getattr(offered, key)
        if a != b and not (key == "gripper" and a == "none"):
            problems.append(f"{key}: required {a!r}, offered {b!r}")
    cameras = {c.name: c for c in offered.cameras}
    resize: dict[str, tuple[int, int]] = {}
    for camera in required.cameras:
        found = cameras.get(camera.name)
        if found is None:
            problems.append(f"camera {camera.name!r} is missing; {did_you_mean(camera.name, cameras)}")
            continue
        resize[camera.name] = (camera.height, camera.width)
        if (found.height, found.width) != (camera.height, camera.width):
            notes.append(
                f"resize {camera.name} from {found.height}x{found.width} to {camera.height}x{camera.width} pixels"
            )
    state_index = _index("state", required.state, offered.state, problems)
    action_index = _index("action", required.action, offered.action, problems)
    if problems:
        lines = "\n".join(f"  - {line}" for line in problems)
        raise ContractMismatch(
            f"{required_by} does not fit {offered_by}:\n{lines}\n"
            "Use a checkpoint that was trained for this embodiment, or data recorded with it."
        )
    if state_index != tuple(range(offered.state_size)):
        notes.append(f"state: take {len(state_index)} of {offered.state_size} numbers")
    if required.action and action_index != tuple(range(offered.action_size)):
        notes.append("action: fields in another order")
    return Adapter(resize=resize, state_index=state_index, action_index=action_index, notes=tuple(notes))

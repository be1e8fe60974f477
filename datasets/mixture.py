"""The settings of one store in a mixture, checked strictly: `data.stores` of `foreact train` is a list of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

import yaml

from foreact.vla.errors import ConfigError, did_you_mean


@dataclass(frozen=True, kw_only=True)
class StorePart:
    """How one store takes part in a mixture. Maps of names read "ours: theirs"."""

    path: str
    """Folder, or address in an object storage."""
    weight: float | None = None
    """Its proportion among the windows; give it for all stores or for none (then their numbers of windows)."""
    cameras: Mapping[str, str] = field(default_factory=dict)
    """Camera of the policy -> camera of this store, where the names differ."""
    state: Mapping[str, str] = field(default_factory=dict)
    """State field of the policy -> state field of this store."""
    action: Mapping[str, str] = field(default_factory=dict)
    """Action field of the policy -> action field of this store."""
    use_state: Sequence[str] | None = None
    """State fields (ours) to take from this store; the others are filled with the mean of the rest. Null: all."""
    use_action: Sequence[str] | None = None
    """Action fields (ours) to learn from this store; the others are masked out of the loss. Null: all."""
    embodiment: Literal["same", "any"] = "same"
    """"any": take it although another robot recorded it."""
    rate: Literal["refuse", "resample"] = "refuse"
    """What to do where its rate differs: see `foreact.datasets.resampling`."""
    normalise: Literal["shared", "own"] = "shared"
    """"own": bring its state and actions to the spread of the first robot store: `foreact.datasets.mixture_numbers`."""
    language: Literal["keep", "drop"] = "keep"
    """"drop": its windows have no sentence."""
    split: str | None = None
    """Only episodes whose `meta["split"]` is this."""
    episodes: Sequence[str] | None = None
    """Only episodes whose name matches one of these patterns, such as "D-*"."""

    @classmethod
    def from_setting(cls, value: object, where: str) -> StorePart:
        """A path, or a mapping with any of the keys above.

        Args:
            value: What the configuration says.
            where: Its place there, for messages, such as "data.stores[1]".

        Raises:
            ConfigError: If a key is unknown or a value is of another type or out of range; the key is named.
        """
        if isinstance(value, str):
            value = {"path": value}
        if not isinstance(value, Mapping):
            raise ConfigError(
                f"{where} must be a path or a mapping such as {{path: data/desk_d, weight: 2}}, found {value!r}"
            )
        types = get_type_hints(cls)
        for name in value:
            if name not in types:
                raise ConfigError(f"{where}.{name} is unknown; {did_you_mean(str(name), types)}")
        if not isinstance(value.get("path"), str) or not value["path"]:
            raise ConfigError(f"{where}.path must name a store, found {value.get('path')!r}")
        return cls(**{name: _checked(name, types[name], given, f"{where}.{name}") for name, given in value.items()})

    def changes(self) -> str:
        """All settings that change what is read and are not at their defaults, in one line; empty if there is none."""
        defaults = asdict(StorePart(path=""))
        said = []
        for name, value in asdict(self).items():
            if name != "path" and value != defaults[name]:
                text = ",".join(f"{a}:{b}" for a, b in sorted(value.items())) if isinstance(value, Mapping) else value
                said.append(f"{name}={','.join(text) if isinstance(text, (list, tuple)) else text}")
        return " ".join(said)


def read_stores(file: Path) -> list[Any]:
    """The entries of `data.stores` in a YAML file: a list of them, alone or under the key "stores".

    Raises:
        ConfigError: If there is no such file, or it holds something else.
    """
    try:
        found = yaml.safe_load(file.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"data.stores: the file {file} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"data.stores: {file} is not YAML: {error}") from error
    if isinstance(found, dict) and set(found) == {"stores"}:
        found = found["stores"]
    if not isinstance(found, list):
        raise ConfigError(f"data.stores: {file} must hold a list of stores, found {found!r:.80}")
    return found


def parse_stores(settings: Mapping[str, Any]) -> list[StorePart]:
    """The stores of a training run: `data.stores` (a list), or the shorthand `data.path` with `data.weights`.

    Raises:
        ConfigError: If a setting is wrong; it is named.
    """
    stores, weights = settings.get("stores"), settings.get("weights")
    if stores is not None:
        if not isinstance(stores, list) or not stores:
            raise ConfigError(f"data.stores must be a list of stores or a YAML file with one, found {stores!r}")
        if weights is not None:
            raise ConfigError("data.weights belongs to data.path; in data.stores each store has its own weight")
        parts = [StorePart.from_setting(value, f"data.stores[{i}]") for i, value in enumerate(stores)]
    else:
        path = settings["path"]
        paths = path if isinstance(path, list) else [path]
        if not paths:
            raise ConfigError("data.path must name at least one store, found []")
        many = isinstance(path, list)
        parts = [StorePart.from_setting(p, f"data.path[{i}]" if many else "data.path") for i, p in enumerate(paths)]
        if weights is not None:
            parts = _with_weights(parts, weights)
    given = [part.weight is not None for part in parts]
    if any(given) and not all(given):
        without = [part.path for part in parts if part.weight is None]
        raise ConfigError(f"give a weight to every store or to none; there is none for {', '.join(without)}")
    return parts


def _with_weights(parts: list[StorePart], weights: object) -> list[StorePart]:
    if not isinstance(weights, list) or len(weights) != len(parts):
        raise ConfigError(f"data.weights: expected {len(parts)} positive numbers, found {weights!r}")
    if any(part.weight is not None for part in parts):
        raise ConfigError("a store has a weight of its own and data.weights is given too; use one of them")
    checked = [_checked("weight", float, weight, f"data.weights[{i}]") for i, weight in enumerate(weights)]
    return [StorePart(**{**_values(part), "weight": weight}) for part, weight in zip(parts, checked, strict=True)]


def _values(part: StorePart) -> dict[str, Any]:
    return {f.name: getattr(part, f.name) for f in fields(part)}


def _checked(name: str, kind: Any, value: object, where: str) -> Any:
    """The value, if it is of the type that `StorePart` says."""
    choices = [choice for choice in get_args(kind) if isinstance(choice, str)]
    if choices:
        if value not in choices:
            raise ConfigError(f"{where}: {value!r} is unknown; {did_you_mean(str(value), choices)}")
        return value
    if name == "weight":
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.0 < value < math.inf:
            raise ConfigError(f"{where} must be a positive number, found {value!r}")
        return float(value)
    if name in ("cameras", "state", "action"):
        if not isinstance(value, Mapping) or not all(isinstance(s, str) for pair in value.items() for s in pair):
            raise ConfigError(
                f"{where} must map our names to theirs, such as {{rgb_static: front_cam}}, found {value!r}"
            )
        return dict(value)
    if value is None and name != "path":
        return None
    if name in ("use_state", "use_action", "episodes"):
        if not isinstance(value, (list, tuple)) or not all(isinstance(s, str) for s in value):
            raise ConfigError(f"{where} must be a list of names, found {value!r}")
        if len(set(value)) != len(value):
            raise ConfigError(f"{where} names something twice: {list(value)}")
        return tuple(value)
    if not isinstance(value, str):
        raise ConfigError(f"{where} must be a text, found {value!r}")
    return value

"""What differs between a run and its continuation: each difference must be allowed by name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from foreact.vla.errors import ConfigError

FREE = {
    *("max_steps", "max_minutes", "log_every", "validate_every", "validate_batches", "save_every", "keep"),
    *("tensorboard", "wandb", "device", "threads", "workers", "accumulate", "shard", "recompute"),
    "compile",
}
"""Trainer settings that change how long, how fast and how loud a run is, but not what its steps compute (up to
rounding; `max_steps` moves the end of the learning rate's schedule, as whoever asks for more steps expects)."""
_LEAVES = ("shift_pixels",)
"""Settings that may be a number or a mapping: compared as one value."""
PLACES = {
    *("policy.vision_folder", "policy.text_folder"),
    *("data.path", "data.stores", "data.cache", "data.cache_folder", "data.kind"),
}
"""Where things lie: what lies there is compared by its hash."""


def comparable(info: Mapping[str, Any]) -> dict[str, Any]:
    """Name -> value of everything that must stay: data and contract hashes, settings as dotted names, the version."""
    settings = dict(info["provenance"].get("settings") or {})
    values = {
        "data": info["identity"]["data"],
        "contract": info["identity"]["contract"],
        "code": (info["provenance"].get("code") or {}).get("foreact"),
    }
    for name, value in _flat(info["trainer"]):
        if name.split(".")[0] not in FREE:
            values[f"trainer.{name}"] = value
    for group in ("policy", "data"):
        for name, value in _flat(settings.get(group) or {}):
            if f"{group}.{name}" not in PLACES:
                values[f"{group}.{name}"] = value
    return values


def check_unchanged(before: Mapping[str, Any], now: Mapping[str, Any], allowed: Iterable[str], where: str) -> list[str]:
    """Compare what a checkpoint was trained with and what is asked for now; returns the allowed differences.

    Args:
        before: `info` of the checkpoint.
        now: The same of this run.
        allowed: Names that may differ; a name allows all below it ("trainer.augment").
        where: The checkpoint, for the message.

    Raises:
        ConfigError: If something else differs, or an allowed name does not exist.
    """
    old, new = comparable(before), comparable(now)
    # What may always change need not be allowed, and naming it is no mistake.
    always = {*(f"trainer.{name}" for name in FREE), *PLACES}
    allowed = [name for name in allowed if name not in always]
    unknown = [name for name in allowed if not any(_covers(name, key) for key in {*old, *new, *before["identity"]})]
    if unknown:
        raise ConfigError(f"allow_changed: no setting {unknown[0]!r}; name settings as they are called, or data, code")
    # A setting that only one of the two knows came or went with a release; releases are compared by "code".
    differing = [key for key in old if key in new and _plain(old[key]) != _plain(new[key])]
    refused = [key for key in differing if not any(_covers(name, key) for name in allowed)]
    if refused:
        lines = "\n".join(f"  - {key}: {_change(old[key], new[key])}" for key in refused)
        raise ConfigError(
            f"{where} was trained with other settings:\n{lines}\nResume with the same, or go on with the new ones on "
            f"purpose with allow_changed=[{','.join(refused)}], or start in another folder with init_from."
        )
    return [f"{key}: {_change(old[key], new[key])}" for key in differing]


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and name not in _LEAVES:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _covers(name: str, key: str) -> bool:
    return key == name or key.startswith(f"{name}.")


def _change(old: Any, new: Any) -> str:
    """Both values; of lists as long as each other only the items that differ."""
    old, new = _plain(old), _plain(new)
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = [(a, b) for a, b in zip(old, new, strict=True) if a != b]
        old, new = [a for a, _ in pairs], [b for _, b in pairs]
    return f"was {_short(old)}, now {_short(new)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 400 else f"{text[:397]}..."

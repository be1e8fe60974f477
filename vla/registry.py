"""Policies by name. A checkpoint names its policy; only names listed here, or installed packages' entry points in the
group "foreact.policies", can be loaded: no import path ever comes out of a file."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from foreact.vla.errors import ConfigError, ForeActError, did_you_mean

if TYPE_CHECKING:
    from foreact.vla.trainable import TrainablePolicy

GROUP = "foreact.policies"

_BUILT_IN = {
    "foreact": ("foreact.policies.gr1.foreact", "ForeAct"),
    "gr1_published": ("foreact.policies.gr1.published", "PublishedGR1"),
}
"""Name -> (module, class), imported when asked for."""
_REMOVED = {
    "gr1": "its successor is 'foreact': take checkpoints/foreact_desk, or train one on the same data "
    "(`foreact train experiment=finetune data.path=...`); its weights do not fit",
}
"""Name -> what to do about a checkpoint that still names it."""


def policy_names() -> list[str]:
    """All names that `policy_class` knows."""
    return sorted({*_BUILT_IN, *(entry.name for entry in entry_points(group=GROUP))})


def policy_class(name: str) -> type[TrainablePolicy]:
    """The policy class registered under `name`.

    Raises:
        ConfigError: If the name is unknown.
        ForeActError: If an installed package's policy cannot be imported.
    """
    if name in _BUILT_IN:
        module, attribute = _BUILT_IN[name]
        return getattr(import_module(module), attribute)
    for entry in entry_points(group=GROUP):
        if entry.name == name:
            try:
                return entry.load()
            except Exception as error:
                raise ForeActError(f"policy {name!r} ({entry.value}) cannot be imported: {error!r}") from error
    if name in _REMOVED:
        raise ConfigError(f"the policy {name!r} is no longer part of ForeAct; {_REMOVED[name]}")
    raise ConfigError(f"no policy {name!r}; {did_you_mean(name, policy_names())}")

"""From the plain values of a config.json to a policy's dataclass of settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from foreact.vla.errors import ConfigError, did_you_mean


def checked(kind: type, values: Mapping) -> dict[str, Any]:
    """`values` as settings of the dataclass `kind`, whose fields all have defaults of the types that are expected.

    Raises:
        ConfigError: If a name is unknown or a value has the wrong type.
    """
    known = {field.name: type(field.default) for field in fields(kind)}
    for name, value in values.items():
        if name not in known:
            raise ConfigError(f"policy setting {name!r} is unknown; {did_you_mean(name, known)}")
        expected = (int, float) if known[name] is float else (known[name],)
        if not isinstance(value, expected) or (isinstance(value, bool) and known[name] is not bool):
            raise ConfigError(f"policy.{name} must be {known[name].__name__}, found {value!r}")
    return dict(values)

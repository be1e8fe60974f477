"""Hydra for our commands: compose a config from `configs/` and overrides, with errors for people."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from foreact.vla.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from hydra.errors import MissingConfigException

REPLACED = ("policy.cameras",)
"""Mappings keyed by names of somebody's data: given as a whole, they replace the default instead of joining it."""


def compose(name: str, overrides: list[str]) -> dict[str, Any]:
    """Compose `configs/<name>.yaml` with command-line overrides (`key=value`, `group=option`, `+new.key=value`).

    Raises:
        ConfigError: If an override names an unknown key or cannot be parsed, in one readable message.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_module
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    parser = OverridesParser.create()
    for override in overrides:
        try:
            parser.parse_override(override)
        except HydraException as error:
            raise ConfigError(
                f"{name}: cannot read {override!r}: {_first_line(error)}. "
                "Expected key=value, such as seed=1, tasks=[a,b] or trainer.max_steps=100"
            ) from error
    try:
        with initialize_config_module("foreact.configs", version_base="1.3"):
            plain = OmegaConf.to_container(hydra_compose(name, _replacing(overrides)), resolve=True)
            assert isinstance(plain, dict)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(f"{name}: {_explain(name, overrides, error)}") from error
    plain.pop("hydra", None)
    return {str(key): value for key, value in plain.items()}


def _replacing(overrides: list[str]) -> list[str]:
    """With `key={...}` as Hydra's pair `~key`, `+key={...}` for the keys in `REPLACED`."""
    out: list[str] = []
    for word in overrides:
        key, _, value = word.partition("=")
        out += [f"~{key}", f"+{word}"] if key in REPLACED and value.lstrip().startswith("{") else [word]
    return out


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _explain(name: str, overrides: list[str], error: Exception) -> str:
    """The unknown key with the nearest known one, or else what Hydra says, in one line."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_module
    from hydra.errors import HydraException, MissingConfigException
    from omegaconf import OmegaConf

    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return f"no config {error.missing_cfg_file!r}; {did_you_mean(error.missing_cfg_file, _options(error))}"
    settings = [word for word in overrides if "=" in word and not word.startswith(("+", "~"))]
    try:
        with initialize_config_module("foreact.configs", version_base="1.3"):
            known = list(_keys(OmegaConf.to_container(hydra_compose(name, []))))
    except HydraException:
        return _first_line(error)
    for word in settings:
        key = word.split("=", 1)[0]
        if f"'{key}'" in str(error) and key not in known:
            # A hundred names help nobody: show those of the same group as the key, or as the nearest name.
            group = (difflib.get_close_matches(key, known, n=1) or [key])[0].rpartition(".")[0]
            return f"no setting {key!r}; {did_you_mean(key, [k for k in known if k.rpartition('.')[0] == group])}"
    return _first_line(error)


def _options(error: MissingConfigException) -> list[str]:
    """The configs that exist beside the missing one."""
    group = str(error.missing_cfg_file).rpartition("/")[0]
    return [f"{group}/{option}" for option in error.options or ()]


def _keys(config: Any, prefix: str = "") -> Iterator[str]:
    """All settings of a config as dotted names."""
    for key, value in config.items():
        if prefix == "" and key == "hydra":
            continue
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _keys(value, f"{prefix}{key}.")

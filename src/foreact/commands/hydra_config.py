"""Hydra for our commands: compose a config from `configs/` and overrides, with errors for people."""

from __future__ import annotations

from typing import Any

from foreact.vla.errors import ConfigError


def compose(name: str, overrides: list[str]) -> dict[str, Any]:
    """Compose `configs/<name>.yaml` with command-line overrides (`key=value`, `group=option`, `+new.key=value`).

    Raises:
        ConfigError: If an override names an unknown key or cannot be parsed, in one readable message.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_module
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        with initialize_config_module("foreact.configs", version_base="1.3"):
            config = hydra_compose(name, overrides)
            plain = OmegaConf.to_container(config, resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        # Hydra appends advice about its own debug flags after the first lines; the cause comes first.
        lines = [line for line in str(error.__cause__ or error).splitlines() if line.strip()]
        top = [line for line in str(error).splitlines() if line.strip()]
        text = "\n  ".join(dict.fromkeys([*top[:2], *lines[:3]]))
        raise ConfigError(f"{name}: {text}\n  see the keys in configs/{name}.yaml") from error
    assert isinstance(plain, dict)
    plain.pop("hydra", None)
    return {str(key): value for key, value in plain.items()}

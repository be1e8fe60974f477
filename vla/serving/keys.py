"""What things are called in requests: by our contract's names, or as other clients and servers call them.

Our names: `image/<camera>`, `state` (all fields) or `state/<field>`, `prompt`, and `actions` in the reply. openpi's
examples (Physical-Intelligence/openpi, `src/openpi/policies/libero_policy.py`) say `observation/image`,
`observation/wrist_image`, `observation/state`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from foreact.vla.contract import Contract
from foreact.vla.errors import ConfigError, did_you_mean

_OPENPI_CAMERAS = ("observation/image", "observation/wrist_image")


def our_keys(contract: Contract) -> list[str]:
    """Every name that a request or a reply of this contract may have under our own names."""
    cameras = [f"image/{camera.name}" for camera in contract.cameras]
    return [*cameras, "state", *(f"state/{field.name}" for field in contract.state), "prompt", "actions"]


def openpi_keys(contract: Contract) -> dict[str, str]:
    """Ours -> what openpi's examples say: the first camera is `observation/image`, the second the wrist's."""
    names = [f"image/{camera.name}" for camera in contract.cameras[: len(_OPENPI_CAMERAS)]]
    return {**dict(zip(names, _OPENPI_CAMERAS, strict=False)), "state": "observation/state"}


def parse_keys(words: Sequence[str]) -> dict[str, str]:
    """`OURS=THEIRS` words as a mapping ours -> theirs.

    Raises:
        ConfigError: If a word is not of that form.
    """
    pairs = [word.partition("=") for word in words]
    for word, (ours, _, theirs) in zip(words, pairs, strict=True):
        if not ours or not theirs:
            raise ConfigError(f"key {word!r}: expected OURS=THEIRS, such as state=observation/state")
    return {ours: theirs for ours, _, theirs in pairs}


def check_keys(keys: Mapping[str, str], contract: Contract) -> dict[str, str]:
    """The mapping ours -> theirs, if every name of ours is one.

    Raises:
        ConfigError: If one is not, or two names of ours are one of theirs.
    """
    known = our_keys(contract)
    for ours in keys:
        if ours not in known:
            raise ConfigError(f"no key {ours!r} to rename; {did_you_mean(ours, known)}")
    twice = {theirs for theirs in keys.values() if list(keys.values()).count(theirs) > 1}
    if twice:
        raise ConfigError(f"{sorted(twice)[0]!r} is the name of two keys; each needs one of its own")
    return dict(keys)


def to_ours(message: Mapping[Any, Any], keys: Mapping[str, str]) -> dict[Any, Any]:
    """A message with their names replaced by ours; one of ours that is there already stays."""
    found = dict(message)
    for ours, theirs in keys.items():
        if theirs in found and ours not in found:
            found[ours] = found.pop(theirs)
    return found

"""Observations and actions as GR00T names and shapes them, from and to our requests and replies.

Two layouts are known (NVIDIA/Isaac-GR00T, Apache-2.0, `getting_started/policy.md` and `gr00t/policy/gr00t_policy.py`):
nested, `{"video": {camera: (B, T, H, W, 3)}, "state": {field: (B, T, D)}, "language": {"task": [[text]]}}` with
`{field: (B, K, D)}` as the action; and flat, with keys `video.<camera>`, `state.<field>`,
`annotation.human.task_description`, and `action.<field>`. Flat arrays may lack the axis B, and so will the action then.

Of T steps the last one is looked at: our actors keep the history themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from foreact.vla.contract import Contract
from foreact.vla.serving.requests import BadRequest

PROMPT = "annotation.human.task_description"
_OPTIONS = ("kind", "foresight", "anchor", "gripper_command", "sequence", "step", "instruction_id")
"""What ForeAct adds, in `options`, besides `slot`."""


@dataclass(frozen=True)
class Layout:
    """How a client wrote its observation, and so wants its action."""

    nested: bool
    batched: bool


def to_request(observation: Any, options: Any) -> tuple[dict[str, Any], Layout]:
    """One of our messages from theirs.

    Raises:
        BadRequest: If the observation is not of a known layout.
    """
    if not isinstance(observation, Mapping):
        raise BadRequest("get_action needs data with an 'observation', a map")
    if options is not None and not isinstance(options, Mapping):
        raise BadRequest(f"options must be a map or nothing, found {type(options).__name__}")
    nested = isinstance(observation.get("state"), Mapping)
    found, language = _flat(observation) if nested else (dict(observation), _annotation(observation))
    cameras = {k.removeprefix("video."): v for k, v in found.items() if isinstance(k, str) and k.startswith("video.")}
    fields = {k.removeprefix("state."): v for k, v in found.items() if isinstance(k, str) and k.startswith("state.")}
    axes = {f"video.{name}": (_axes(value), 5) for name, value in cameras.items()}
    axes |= {f"state.{name}": (_axes(value), 3) for name, value in fields.items()}
    if "state" in found and not nested:  # ours: all fields at once
        axes["state"] = (_axes(found["state"]), 3)
    batched = any(n == most for n, most in axes.values())
    for name, (n, most) in axes.items():
        if not (n == most or n in (most - 1, most - 2) and not batched):
            raise BadRequest(f"{name} has {n} axes; expected {most} (B, T, ...) everywhere, or {most - 1} (T, ...)")
    message: dict[str, Any] = {f"image/{name}": _last(value, 5) for name, value in cameras.items()}
    message |= {f"state/{name}": _last(value, 3) for name, value in fields.items()}
    if "state" in axes:
        message["state"] = _last(found["state"], 3)
    sizes = {len(value) for value in message.values()}
    if len(sizes) != 1:
        raise BadRequest(f"arrays of {sorted(sizes)} rows in one observation; expected one number of them")
    (n,) = sizes
    options = options or {}
    message |= {key: options[key] for key in _OPTIONS if key in options}
    slot = options.get("slot")
    message["slot"] = list(range(n)) if slot is None else slot if isinstance(slot, list | np.ndarray) else [slot]
    message["prompt"] = _sentences(language, n)
    return message, Layout(nested, batched)


def from_reply(reply: Mapping[str, Any], contract: Contract, layout: Layout) -> tuple[dict[str, Any], dict[str, Any]]:
    """Their (action, info) from one of our replies; info has all that is not an action."""
    info: dict[str, Any] = {key: value for key, value in reply.items() if key != "actions"}
    if "actions" not in reply:
        return {}, info
    actions = np.asarray(reply["actions"]) if layout.batched else np.asarray(reply["actions"])[0]
    action, at = {}, 0
    for field in contract.action:
        name = field.name if layout.nested else f"action.{field.name}"
        action[name] = np.ascontiguousarray(actions[..., at : at + field.size])
        at += field.size
    return action, {**info, "action_fields": [field.name for field in contract.action]}


def join_actions(action: Mapping[str, Any], fields: Sequence[str]) -> np.ndarray:
    """(..., K, A) from the parts of an action, in the order of `fields`.

    Raises:
        BadRequest: If one is missing, or they are of different lengths.
    """
    parts = []
    for name in fields:
        found = action.get(f"action.{name}", action.get(name))
        if not isinstance(found, np.ndarray) or found.dtype.kind not in "fiu" or found.ndim < 2:
            raise BadRequest(
                f"no action field {name!r} of numbers (..., K, D); there are {', '.join(map(str, action))}"
            )
        parts.append(found)
    if not parts or len({part.shape[:-1] for part in parts}) != 1:
        raise BadRequest(f"action fields of different shapes: {[part.shape for part in parts]}")
    return np.concatenate(parts, axis=-1)


def modality_config(contract: Contract, chunk: int) -> dict[str, Any]:
    """What `get_modality_config` tells: names, and which steps of time they are for."""

    def config(names: Sequence[str], steps: int) -> dict[str, Any]:
        found = {"delta_indices": list(range(steps)), "modality_keys": list(names)}
        return {"__ModalityConfig_class__": True, "as_json": found}

    groups = {
        "video": config([camera.name for camera in contract.cameras], 1),
        "state": config([field.name for field in contract.state], 1),
        "action": config([field.name for field in contract.action], chunk),
        "language": config([PROMPT], 1),
    }
    return {name: group for name, group in groups.items() if group["as_json"]["modality_keys"]}


def _flat(observation: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
    found: dict[str, Any] = {}
    for group in ("video", "state"):
        part = observation.get(group, {})
        if not isinstance(part, Mapping):
            raise BadRequest(f"{group} must be a map of arrays, found {type(part).__name__}")
        found |= {f"{group}.{name}": value for name, value in part.items()}
    language = observation.get("language")
    if not isinstance(language, Mapping) or len(language) != 1:
        raise BadRequest("language must be a map with one entry, the instruction")
    return found, next(iter(language.values()))


def _annotation(observation: Mapping[str, Any]) -> Any:
    found = [value for key, value in observation.items() if isinstance(key, str) and key.startswith("annotation.")]
    if len(found) != 1:
        raise BadRequest(f"expected one instruction, {PROMPT!r}; found {len(found)}")
    return found[0]


def _axes(value: Any) -> int:
    if not isinstance(value, np.ndarray) or 0 in value.shape:
        raise BadRequest(f"expected arrays with something in them, found {type(value).__name__}")
    return value.ndim


def _last(value: np.ndarray, axes: int) -> np.ndarray:
    """(B, T, ...), (T, ...) or (...) to (B, ...) of the last step."""
    return value[(None,) * (axes - value.ndim)][:, -1]


def _sentences(language: Any, n: int) -> list[Any]:
    """One sentence per row, from a text, a list of texts, or a list of lists of one text."""
    if isinstance(language, str):
        return [language] * n
    if not isinstance(language, list):
        raise BadRequest(f"the instruction must be a text or a list of texts, found {type(language).__name__}")
    texts = [text[-1] if isinstance(text, list) and text else text for text in language]
    return texts * n if len(texts) == 1 else texts

"""What a client asks, checked: a message becomes a `Request`, whatever it holds; nothing of it is trusted.

Shape legend: N slots (robots) of one request, H x W pixels, S state size, J arm joints.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from foreact.vla.contract import Camera, Contract
from foreact.vla.errors import ForeActError
from foreact.vla.images import resize_frames
from foreact.vla.serving.keys import to_ours

MAX_SLOTS = 64
"""Robots or environments of one client."""
MAX_INSTRUCTION_BYTES = 512
MAX_SIDE = 4096
"""Pixels per side of a picture."""
MAX_JOINTS = 32
_ECHOED = ("sequence", "step", "instruction_id")
_KINDS = ("plan", "observe", "reset")


class BadRequest(ForeActError):
    """A request is not what the policy's contract describes."""


@dataclass(frozen=True, kw_only=True)
class Anchor:
    """Where the arm was told to be at the step of an observation: relative actions go on from there."""

    joint_position: np.ndarray
    """(J,) float64 [rad]: the targets commanded at that step, not what was measured."""
    gripper_command: float
    """+1 open, -1 close."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """One question to a policy."""

    kind: Literal["plan", "observe", "reset"]
    slots: tuple[int, ...]
    """(N,) the client's own numbers; of a reset without any: empty, which means all."""
    batched: bool
    """Whether arrays have a first axis N, in the request and in the reply."""
    images: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Camera -> (N, H, W, 3) uint8 in the contract's sizes; empty in an observation that no plan will look at."""
    state: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    """(N, S) float32."""
    instructions: tuple[str, ...] = ()
    """(N,)."""
    foresight: bool = False
    anchor: Anchor | None = None
    echo: Mapping[str, int] = field(default_factory=dict)
    """Numbers that the reply repeats."""


def read_request(message: Any, contract: Contract, keys: Mapping[str, str]) -> Request:
    """Check a message.

    Args:
        message: What `unpack_openpi` gave, or the same made of another dialect.
        contract: The policy's.
        keys: Ours -> theirs; see `foreact.vla.serving.keys`.

    Raises:
        BadRequest: With a sentence about what is missing or not as it should be.
    """
    if not isinstance(message, Mapping):
        raise BadRequest(f"a request is a map of names, found {type(message).__name__}")
    message = to_ours(message, keys)
    kind = message.get("kind", "plan")
    if kind not in _KINDS:
        raise BadRequest(f"kind {kind!r:.40}; known: {', '.join(_KINDS)}")
    slots, batched = _slots(message, kind)
    echo = {name: _integer(name, message[name]) for name in _ECHOED if name in message}
    if kind == "reset":
        return Request(kind=kind, slots=slots, batched=batched, echo=echo)
    n = len(slots)
    blind = kind == "observe" and not any(f"image/{camera.name}" in message for camera in contract.cameras)
    return Request(
        kind=kind,
        slots=slots,
        batched=batched,
        images={} if blind else {c.name: _image(message, c, n, batched) for c in contract.cameras},
        state=_state(message, contract, n, batched),
        instructions=_instructions(message.get("prompt"), n, batched),
        foresight=_flag("foresight", message.get("foresight", False)),
        anchor=_anchor(message) if "anchor" in message else None,
        echo=echo,
    )


def check_instruction(text: Any) -> str:
    """A sentence for the policy: at most 512 bytes; nothing else is ever done with it.

    Raises:
        BadRequest: If it is not.
    """
    if not isinstance(text, str):
        raise BadRequest(f"the instruction (prompt) must be a text, found {type(text).__name__}")
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise BadRequest("the instruction is not a text of whole characters") from error
    if size > MAX_INSTRUCTION_BYTES:
        raise BadRequest(f"the instruction has {size} bytes; at most {MAX_INSTRUCTION_BYTES} are heard")
    return text


def _slots(message: Mapping[str, Any], kind: str) -> tuple[tuple[int, ...], bool]:
    given = message.get("slot")
    if given is None:
        return ((), True) if kind == "reset" else ((0,), False)
    batched = isinstance(given, list | np.ndarray)
    if batched and (np.ndim(given) != 1 or not 1 <= len(given) <= MAX_SLOTS):
        raise BadRequest(f"slot must be a number or a list of 1 to {MAX_SLOTS} numbers")
    slots = tuple(_integer("slot", slot) for slot in (given if batched else (given,)))
    if len(set(slots)) != len(slots):
        raise BadRequest("slot names one robot twice")
    return slots, batched


def _integer(name: str, value: Any) -> int:
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer) or not 0 <= value < 1 << 53:
        raise BadRequest(f"{name} must be a natural number, found {value!r:.40}")
    return int(value)


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool | np.bool_):
        raise BadRequest(f"{name} must be true or false, found {value!r:.40}")
    return bool(value)


def _number(name: str, value: Any) -> float:
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.reshape(())[()]
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.integer | np.floating):
        raise BadRequest(f"{name} must be a number, found {value!r:.40}")
    try:
        number = float(value)
    except OverflowError as error:
        raise BadRequest(f"{name} is beyond all numbers") from error
    if not math.isfinite(number):
        raise BadRequest(f"{name} is {number}")
    return number


def _rows(name: str, value: Any, n: int, size: int, batched: bool) -> np.ndarray:
    """Numbers as (n, size) float32."""
    if isinstance(value, list):
        try:
            value = np.array(value, np.float64)
        except (TypeError, ValueError, OverflowError) as error:
            raise BadRequest(f"{name} is not an array of numbers") from error
    expected = (n, size) if batched else (size,)
    if isinstance(value, int | float | np.number) and expected == (1,):
        value = np.array([_number(name, value)])
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiu":
        what = value.dtype if isinstance(value, np.ndarray) else type(value).__name__
        raise BadRequest(f"{name}: expected numbers {expected}, found {what}")
    if value.shape != expected:
        raise BadRequest(f"{name}: expected the shape {expected}, found {value.shape}")
    with np.errstate(over="ignore"):
        rows = value.astype(np.float32).reshape(n, size)
    if not np.isfinite(rows).all():
        raise BadRequest(f"{name} holds numbers that are not finite")
    return rows


def _state(message: Mapping[str, Any], contract: Contract, n: int, batched: bool) -> np.ndarray:
    if "state" in message:
        return _rows("state", message["state"], n, contract.state_size, batched)
    missing = [f.name for f in contract.state if f"state/{f.name}" not in message]
    if missing:
        fields = ", ".join(f"{f.name} ({f.size})" for f in contract.state)
        raise BadRequest(f"no state: expected 'state' with {contract.state_size} numbers: {fields}")
    parts = [_rows(f"state/{f.name}", message[f"state/{f.name}"], n, f.size, batched) for f in contract.state]
    return np.concatenate([np.zeros((n, 0), np.float32), *parts], axis=1)


def _image(message: Mapping[str, Any], camera: Camera, n: int, batched: bool) -> np.ndarray:
    """One camera as (n, height, width, 3) uint8 in the contract's size."""
    key = f"image/{camera.name}"
    found = message.get(key)
    if found is None:
        raise BadRequest(f"no {key!r}: the policy looks at this camera, {camera.height} x {camera.width} pixels")
    axes = 4 if batched else 3
    if not isinstance(found, np.ndarray) or found.ndim != axes or (batched and found.shape[0] != n):
        what = found.shape if isinstance(found, np.ndarray) else type(found).__name__
        raise BadRequest(f"{key}: expected {'(N, H, W, 3)' if batched else '(H, W, 3)'} with N = {n}, found {what}")
    if found.shape[-1] != 3 and found.shape[-3] == 3:  # as datasets for PyTorch keep them
        found = np.moveaxis(found, -3, -1)
    if found.shape[-1] != 3 or not all(1 <= side <= MAX_SIDE for side in found.shape[-3:-1]):
        raise BadRequest(f"{key}: expected 3 colours and at most {MAX_SIDE} pixels per side, found {found.shape}")
    if found.dtype.kind == "f":  # as openpi: 0 to 1
        if not np.isfinite(found).all() or found.min() < 0 or found.max() > 1:
            raise BadRequest(f"{key}: colours of type {found.dtype} must be from 0 to 1")
        found = (255 * found).astype(np.uint8)
    if found.dtype != np.uint8:
        raise BadRequest(f"{key}: expected uint8 colours, found {found.dtype}")
    frames = np.ascontiguousarray(found).reshape(n, *found.shape[-3:])
    return resize_frames(frames, camera.height, camera.width)


def _instructions(prompt: Any, n: int, batched: bool) -> tuple[str, ...]:
    given = prompt if batched and isinstance(prompt, list) else [prompt] * n
    if len(given) != n:
        raise BadRequest(f"expected {n} instructions (prompt), found {len(given)}")
    return tuple(check_instruction(text) for text in given)


def _anchor(message: Mapping[str, Any]) -> Anchor:
    joints = message["anchor"]
    if not isinstance(joints, np.ndarray) or joints.ndim != 1 or joints.dtype.kind != "f":
        raise BadRequest("anchor must be an array of joint positions [rad]")
    if not 1 <= len(joints) <= MAX_JOINTS or not np.isfinite(joints).all():
        raise BadRequest(f"anchor must be 1 to {MAX_JOINTS} finite joint positions [rad]")
    gripper = _number("gripper_command", message.get("gripper_command", 1.0))
    return Anchor(joint_position=joints.astype(np.float64), gripper_command=gripper)

"""An actor somewhere else: a policy server, of ForeAct or of others, judged and run like any policy here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from foreact.vla.contract import Contract
from foreact.vla.errors import ConfigError
from foreact.vla.images import resize_frames
from foreact.vla.policy import Observation, Plan
from foreact.vla.serving.client import ClientSettings, PolicyClient, PolicyServerError, connect
from foreact.vla.serving.keys import check_keys, openpi_keys
from foreact.vla.serving.requests import MAX_SLOTS, check_instruction
from foreact.vla.serving.wire import MAX_MESSAGE_BYTES

_ROOM = MAX_MESSAGE_BYTES * 3 // 4


@dataclass(frozen=True, kw_only=True)
class Foreign:
    """How to ask a server that is not ForeAct's; it does not say what it needs."""

    contract: Contract | None = None
    """What it needs; None: what the simulator or the robot offers."""
    keys: Mapping[str, str] = field(default_factory=dict)
    """Ours -> theirs where openpi's own names do not do; see `foreact.vla.serving.keys`."""
    image_size: int | None = None
    """Pixels per side of the square pictures that it takes; None: as the contract says."""
    execute_steps: int | None = None
    """Actions of a plan executed before the next; None: as a ForeAct says, or all that come. Also for ForeAct."""


class RemoteActor:
    """Implements `foreact.vla.policy.Actor` over a connection. A ForeAct server keeps the history of every slot; others
    are asked one slot at a time about the present alone, and get no history.

    Args:
        client: Connected, and not one that connects again by itself: a new connection has forgotten all slots.
        offered: What the simulator or the robot offers; used for servers that have no contract of their own.
        foreign: For servers of others.

    Raises:
        ForeActError: If the server's contract cannot be read, or the settings do not fit.
    """

    looks_back: tuple[int, ...]
    """As `Actor`; there is none if the server's actor does not say."""

    def __init__(self, client: PolicyClient, offered: Contract, foreign: Foreign | None = None):
        self._client = client
        told = client.metadata
        self.ours = told.get("server") == "foreact"
        """Whether the server is ForeAct's."""
        foreign = foreign or Foreign()
        if self.ours:
            self.contract = Contract.from_yaml(str(told.get("contract")), source="the policy server's contract")
            self.execute_steps = foreign.execute_steps or _natural(told, "execute_steps")
            if self.execute_steps > _natural(told, "chunk"):
                raise ConfigError(
                    f"execute_steps must be 1 to {told['chunk']} (the server's chunk), found {self.execute_steps}"
                )
            if "looks_back" in told:
                self.looks_back = tuple(int(n) for n in told["looks_back"])
            self._keys: dict[str, str] = {}
        else:
            self.contract = foreign.contract or offered
            self._keys = {**openpi_keys(self.contract), **check_keys(foreign.keys, self.contract)}
            self.execute_steps = foreign.execute_steps or 1
            self.looks_back = ()
        self._steps, self._size = foreign.execute_steps, foreign.image_size

    @property
    def checkpoint(self) -> str:
        """SHA-256 of what the server runs; empty if it does not say."""
        return str(self._client.metadata.get("checkpoint", ""))

    def reset(self, slots: Sequence[int]) -> None:
        """Have these slots forgotten."""
        if self.ours and slots:
            self._client.infer({"kind": "reset", "slot": [int(slot) for slot in slots]})

    def observe(self, observation: Observation) -> None:
        """Have a control step noted."""
        if self.ours:
            for rows in self._parts(observation):
                self._client.infer({"kind": "observe", **self._batch(observation, rows)})

    def plan(self, observation: Observation, *, foresight: bool = False) -> Plan:
        """Have a plan made.

        Raises:
            PolicyServerError: If the server is gone, refuses, or its reply is not a plan.
        """
        for text in observation.instruction:
            check_instruction(text)
        if not self.ours:
            rows = [self._ask_foreign(observation, row) for row in range(len(observation.slots))]
            return Plan(actions=np.stack(rows))
        replies = [
            self._client.infer({"kind": "plan", "foresight": foresight, **self._batch(observation, rows)})
            for rows in self._parts(observation)
        ]
        actions = np.concatenate([_numbers(reply, "actions", 3) for reply in replies])
        names = [f"foresight/{camera.name}" for camera in self.contract.cameras]
        frames = None
        if foresight and all(name in reply for reply in replies for name in names):
            frames = {
                name.removeprefix("foresight/"): np.concatenate([np.asarray(reply[name]) for reply in replies])
                for name in names
            }
        steps = _natural(replies[0], "foresight_steps") if frames else 0
        return Plan(actions=actions.astype(np.float32), foresight=frames, foresight_steps=steps)

    def close(self) -> None:
        """Hang up."""
        self._client.close()

    # --- inside

    def _parts(self, observation: Observation) -> Iterator[slice]:
        """Rows in messages that are not too large."""
        n = len(observation.slots)
        each = sum(image.nbytes for image in observation.images.values()) // n + observation.state.nbytes // n + 1024
        size = int(max(1, min(MAX_SLOTS, _ROOM // each)))
        for start in range(0, n, size):
            yield slice(start, start + size)

    def _batch(self, observation: Observation, rows: slice) -> dict[str, Any]:
        return {
            "slot": [int(slot) for slot in observation.slots[rows]],
            **{f"image/{name}": image[rows] for name, image in observation.images.items()},
            "state": np.asarray(observation.state[rows], np.float32),
            "prompt": list(observation.instruction[rows]),
        }

    def _ask_foreign(self, observation: Observation, row: int) -> np.ndarray:
        """(K, A) actions for one slot."""
        request: dict[str, Any] = {"prompt": observation.instruction[row]}
        for name, image in observation.images.items():
            frames = image[row : row + 1]
            if self._size is not None:
                frames = resize_frames(frames, self._size, self._size)
            request[f"image/{name}"] = frames[0]
        request["state"] = np.asarray(observation.state[row], np.float32)
        at = 0
        for part in self.contract.state:
            if f"state/{part.name}" in self._keys:
                request[f"state/{part.name}"] = request["state"][at : at + part.size]
            at += part.size
        if any(name.startswith("state/") for name in self._keys):
            del request["state"]
        reply = self._client.infer({self._keys.get(name, name): value for name, value in request.items()})
        actions = _numbers(reply, self._keys.get("actions", "actions"), 2)
        if self._steps is None:
            self.execute_steps = len(actions)
        return actions


def connect_actor(url: str, offered: Contract, settings: ClientSettings, foreign: Foreign | None = None) -> RemoteActor:
    """A remote actor for a URL; see `foreact.vla.serving.client.connect`.

    Raises:
        ForeActError: If nobody answers there, or what is there does not fit.
    """
    return RemoteActor(connect(url, settings), offered, foreign)


def _natural(told: Mapping[str, Any], name: str) -> int:
    value = told.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise PolicyServerError(f"the policy server says {name} = {value!r:.40}; expected a natural number")
    return value


def _numbers(reply: Mapping[str, Any], name: str, axes: int) -> np.ndarray:
    found = np.asarray(reply.get(name))
    if found.dtype.kind != "f" or found.ndim != axes or found.size == 0:
        known = ", ".join(sorted(map(str, reply))) or "nothing"
        raise PolicyServerError(
            f"the policy server's reply has no {name!r} with {axes} axes of numbers; it has {known:.300}"
        )
    return found

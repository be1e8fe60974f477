"""An actor somewhere else: what a ForeAct server runs, judged and used like any policy here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from foreact.vla.contract import Contract
from foreact.vla.errors import ConfigError
from foreact.vla.policy import Observation, Plan
from foreact.vla.serving.client import ClientSettings, PolicyClient, PolicyServerError, connect
from foreact.vla.serving.foreign import Foreign, ForeignActor, numbers_of
from foreact.vla.serving.requests import MAX_SLOTS, check_instruction
from foreact.vla.serving.wire import MAX_MESSAGE_BYTES

_ROOM = MAX_MESSAGE_BYTES * 3 // 4


class RemoteActor:
    """Implements `foreact.vla.policy.Actor` over one connection, for all slots; the server keeps their histories.

    Args:
        client: Connected, and not one that connects again by itself: a new connection has forgotten all slots.
        execute_steps: Actions of a plan executed before the next; None: as the server says.

    Raises:
        ForeActError: If the server's contract cannot be read, or `execute_steps` is beyond its chunk.
    """

    looks_back: tuple[int, ...]
    """As `Actor`; there is none if the server's actor does not say."""

    def __init__(self, client: PolicyClient, execute_steps: int | None = None):
        self._client, told = client, client.metadata
        self.contract = Contract.from_yaml(str(told.get("contract")), source="the policy server's contract")
        self.execute_steps = execute_steps or _natural(told, "execute_steps")
        if self.execute_steps > _natural(told, "chunk"):
            raise ConfigError(
                f"execute_steps must be 1 to {told['chunk']} (the server's chunk), found {self.execute_steps}"
            )
        if "looks_back" in told:
            self.looks_back = tuple(int(n) for n in told["looks_back"])

    @property
    def checkpoint(self) -> str:
        """SHA-256 of what the server runs; empty if it is no checkpoint."""
        return str(self._client.metadata.get("checkpoint", ""))

    def reset(self, slots: Sequence[int]) -> None:
        """Have these slots forgotten."""
        if slots:
            self._client.infer({"kind": "reset", "slot": [int(slot) for slot in slots]})

    def observe(self, observation: Observation) -> None:
        """Have a control step noted."""
        for rows in _parts(observation):
            self._client.infer({"kind": "observe", **_batch(observation, rows)})

    def plan(self, observation: Observation, *, foresight: bool = False) -> Plan:
        """Have a plan made.

        Raises:
            PolicyServerError: If the server is gone, refuses, or its reply is not a plan.
        """
        for text in observation.instruction:
            check_instruction(text)
        replies = [
            self._client.infer({"kind": "plan", "foresight": foresight, **_batch(observation, rows)})
            for rows in _parts(observation)
        ]
        actions = np.concatenate([numbers_of(reply, "actions", 3) for reply in replies])
        names = [camera.name for camera in self.contract.cameras]
        painted = foresight and all(f"foresight/{name}" in reply for reply in replies for name in names)
        return Plan(
            actions=actions.astype(np.float32),
            foresight={name: _frames(replies, f"foresight/{name}") for name in names} if painted else None,
            foresight_steps=_natural(replies[0], "foresight_steps") if painted else 0,
        )

    def close(self) -> None:
        """Hang up."""
        self._client.close()


def connect_actor(
    url: str, offered: Contract, settings: ClientSettings, foreign: Foreign | None = None
) -> RemoteActor | ForeignActor:
    """The actor behind a URL; see `foreact.vla.serving.client.connect`.

    Args:
        url: Where the server is.
        offered: What the simulator or the robot offers; for servers of others, which have no contract.
        settings: How long to wait.
        foreign: How to ask servers of others; of it, `execute_steps` also counts for ours.

    Raises:
        ForeActError: If nobody answers there, or what is there does not fit.
    """
    foreign = foreign or Foreign()
    client = connect(url, settings)
    try:
        if client.metadata.get("server") == "foreact":
            return RemoteActor(client, foreign.execute_steps)
        return ForeignActor(client, offered, foreign)
    except BaseException:
        client.close()
        raise


def _parts(observation: Observation) -> Iterator[slice]:
    """Rows in messages that are not too large."""
    n = len(observation.slots)
    if n == 0:
        return
    each = sum(image.nbytes for image in observation.images.values()) // n + observation.state.nbytes // n + 1024
    size = int(max(1, min(MAX_SLOTS, _ROOM // each)))
    for start in range(0, n, size):
        yield slice(start, start + size)


def _batch(observation: Observation, rows: slice) -> dict[str, Any]:
    return {
        "slot": [int(slot) for slot in observation.slots[rows]],
        **{f"image/{name}": image[rows] for name, image in observation.images.items()},
        "state": np.asarray(observation.state[rows], np.float32),
        "prompt": list(observation.instruction[rows]),
    }


def _frames(replies: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
    frames = np.concatenate([np.asarray(reply[name]) for reply in replies])
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
        raise PolicyServerError(f"the policy server's {name} is {frames.dtype} {frames.shape}; expected frames")
    return frames


def _natural(told: Mapping[str, Any], name: str) -> int:
    value = told.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise PolicyServerError(f"the policy server says {name} = {value!r:.40}; expected a natural number")
    return value

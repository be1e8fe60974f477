"""An actor behind somebody else's policy server: openpi's, or one of GR00T.

Such a server does not say what it needs, so that is told here. It is asked about the present alone: no slots, no
history, no predicted frames.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from foreact.vla.contract import Contract
from foreact.vla.images import resize_frames
from foreact.vla.policy import Observation, Plan
from foreact.vla.serving.client import PolicyClient, PolicyServerError
from foreact.vla.serving.gr00t_names import PROMPT, join_actions
from foreact.vla.serving.keys import check_keys, openpi_keys
from foreact.vla.serving.requests import BadRequest, check_instruction


@dataclass(frozen=True, kw_only=True)
class Foreign:
    """How to ask a server that is not ForeAct's."""

    contract: Contract | None = None
    """What it needs; None: what the simulator or the robot offers."""
    keys: Mapping[str, str] = field(default_factory=dict)
    """Ours -> theirs, where their names are not those of openpi's examples, or our names in GR00T."""
    image_size: int | None = None
    """Pixels per side of the square pictures that it takes; None: as the contract says."""
    execute_steps: int | None = None
    """Actions of a plan executed before the next; None: all that come."""
    layout: Literal["nested", "flat"] = "nested"
    """Of GR00T's observations: as its policies take them, or with keys such as `video.<camera>`."""


class ForeignActor:
    """Implements `foreact.vla.policy.Actor` over a connection to a server of others.

    openpi's servers answer one request per slot; GR00T's a batch. Where GR00T's policy wants several steps of time, the
    present one is repeated.

    Args:
        client: Connected.
        offered: The contract if `foreign` has none.
        foreign: How to ask.

    Raises:
        ForeActError: If `foreign` renames what is not there.
    """

    looks_back: tuple[int, ...] = ()

    def __init__(self, client: PolicyClient, offered: Contract, foreign: Foreign):
        self._client, self._foreign = client, foreign
        self.contract = foreign.contract or offered
        self.execute_steps = foreign.execute_steps or 1
        self._get_action = getattr(client, "get_action", None)
        """Of a client of GR00T's dialect."""
        defaults = {} if self._get_action else openpi_keys(self.contract)
        self._keys = {**defaults, **check_keys(foreign.keys, self.contract)}
        self._steps: dict[str, int] = {}
        self._prompt = PROMPT
        if self._get_action:
            self._read_modalities()

    @property
    def checkpoint(self) -> str:
        """Nothing: such servers do not say what they run."""
        return ""

    def reset(self, slots: Sequence[int]) -> None:
        """Nothing to forget: it is asked about the present alone."""

    def observe(self, observation: Observation) -> None:
        """Nothing to note."""

    def plan(self, observation: Observation, *, foresight: bool = False) -> Plan:
        """Have a plan made; without predicted frames, which nobody else sends.

        Raises:
            PolicyServerError: If the server is gone, refuses, or its reply is not a plan.
        """
        for text in observation.instruction:
            check_instruction(text)
        if self._get_action:
            actions = self._ask_gr00t(observation)
        else:
            actions = np.stack([self._ask_openpi(observation, row) for row in range(len(observation.slots))])
        if self._foreign.execute_steps is None:
            self.execute_steps = actions.shape[1]
        return Plan(actions=actions.astype(np.float32))

    def close(self) -> None:
        """Hang up."""
        self._client.close()

    # --- inside

    def _images(self, observation: Observation) -> dict[str, np.ndarray]:
        size = self._foreign.image_size
        return {
            f"image/{name}": frames if size is None else resize_frames(frames, size, size)
            for name, frames in observation.images.items()
        }

    def _fields(self, observation: Observation) -> dict[str, np.ndarray]:
        """Each state field (N, size)."""
        ends = np.cumsum([part.size for part in self.contract.state])[:-1]
        parts = np.split(np.asarray(observation.state, np.float32), ends, axis=1) if self.contract.state else []
        return {f"state/{part.name}": rows for part, rows in zip(self.contract.state, parts, strict=True)}

    def _ask_openpi(self, observation: Observation, row: int) -> np.ndarray:
        """(K, A) actions for one slot."""
        fields = {name: rows for name, rows in self._fields(observation).items() if name in self._keys}
        state = fields or {"state": np.asarray(observation.state, np.float32)}
        request = {name: rows[row] for name, rows in {**self._images(observation), **state}.items()}
        request["prompt"] = observation.instruction[row]
        reply = self._client.infer({self._keys.get(name, name): value for name, value in request.items()})
        return numbers_of(reply, self._keys.get("actions", "actions"), 2)

    def _read_modalities(self) -> None:
        """How many steps of time the policy wants, and what it calls the instruction."""
        told = self._client.call("get_modality_config")  # type: ignore[attr-defined]
        for name, group in told.items() if isinstance(told, dict) else ():
            config = group.get("as_json", group) if isinstance(group, dict) else {}
            steps, names = config.get("delta_indices"), config.get("modality_keys")
            if isinstance(steps, list) and 1 <= len(steps) <= 64:
                self._steps[str(name)] = len(steps)
            if name == "language" and isinstance(names, list) and names and isinstance(names[0], str):
                self._prompt = names[0]

    def _ask_gr00t(self, observation: Observation) -> np.ndarray:
        """(N, K, A) actions."""
        flat = self._foreign.layout == "flat"
        prompt = self._keys.get("prompt", self._prompt)
        groups: dict[str, dict[str, Any]] = {"video": {}, "state": {}}
        for name, rows in {**self._images(observation), **self._fields(observation)}.items():
            kind, _, bare = name.partition("/")
            group = "video" if kind == "image" else kind
            repeated = np.repeat(rows[:, None], self._steps.get(group, 1), axis=1)
            groups[group][self._keys.get(name, bare)] = repeated
        asked: dict[str, Any] = (
            {f"{g}.{k}": v for g, part in groups.items() for k, v in part.items()} if flat else groups
        )
        texts = list(observation.instruction)
        asked |= {prompt: texts} if flat else {"language": {prompt: [[text] for text in texts]}}
        assert self._get_action is not None
        action, _ = self._get_action(asked)
        try:
            return numbers_of({"actions": join_actions(action, [f.name for f in self.contract.action])}, "actions", 3)
        except BadRequest as error:
            raise PolicyServerError(f"the policy server's reply: {error}") from error


def numbers_of(reply: Mapping[str, Any], name: str, axes: int) -> np.ndarray:
    """An array of a reply.

    Raises:
        PolicyServerError: If there is none of so many axes.
    """
    found = np.asarray(reply.get(name))
    if found.dtype.kind != "f" or found.ndim != axes or found.size == 0:
        known = ", ".join(sorted(map(str, reply))) or "nothing"
        raise PolicyServerError(
            f"the policy server's reply has no {name!r} with {axes} axes of numbers; it has {known:.300}"
        )
    return found

"""What acts: the interface that everything which judges or runs a policy knows.

Anybody's policy can be an `Actor`. Those of ours are torch modules with a loss (`foreact.vla.trainable`), which
`foreact.vla.runtime.StreamingActor` turns into Actors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from foreact.vla.contract import Contract


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What N robots (or environments) see at one control step; N slots in any mixture of phases."""

    slots: Sequence[int]
    """Identity of each row, shape (N,): an actor keeps its history per slot."""
    images: Mapping[str, np.ndarray]
    """Camera name -> (N, height, width, 3) uint8 RGB, in the sizes of the actor's contract; empty at steps that the
    actor does not look at (see `Actor`)."""
    state: np.ndarray
    """(N, S) float32: the actor's contract state fields, concatenated."""
    instruction: Sequence[str]
    """(N,) sentences."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What an actor intends: an action chunk, and what it expects to see."""

    actions: np.ndarray
    """(N, K, A) float32: the next K actions of each slot, the first to be executed now."""
    foresight: Mapping[str, np.ndarray] | None = None
    """Camera name -> (N, height, width, 3) uint8 RGB predicted `foresight_steps` control steps ahead, if asked for."""
    foresight_steps: int = 0


@runtime_checkable
class Actor(Protocol):
    """Something that acts. Stateless between slots, deterministic given the same observations since `reset`.

    It may also have `looks_back: tuple[int, ...]`: how many control steps before a plan it looks at, besides the step
    of the plan itself. Pictures of other steps are then not drawn, and `observe` may get observations without images.
    """

    contract: Contract
    """What it requires of an environment or a robot."""
    execute_steps: int
    """How many actions of a plan are executed before the next call of `plan`; observations in between are
    passed to `observe`."""

    def reset(self, slots: Sequence[int]) -> None:
        """Forget the history of these slots (a new task begins)."""
        ...

    def observe(self, observation: Observation) -> None:
        """Take note of a control step at which no new plan is needed."""
        ...

    def plan(self, observation: Observation, *, foresight: bool = False) -> Plan:
        """Observe and plan; with `foresight`, also predict frames."""
        ...

"""The scripted experts as an actor, so that one evaluation judges policies and experts alike.

It sees what no policy may: the state of the scene, as contract fields of its own. Which task is meant it reads from
the sentence, like everybody else.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from foreact.sim.embodiment import desk_contract, privileged_fields
from foreact.sim.experts import Expert
from foreact.sim.language import task_of
from foreact.sim.scenes import get_scene
from foreact.vla.policy import Observation, Plan

ROBOT_OBS_DIM = 15


class ExpertActor:
    """Acts by the law of whatever task the instruction names; implements `foreact.vla.policy.Actor`."""

    execute_steps = 1
    looks_back: tuple[int, ...] = ()
    """No step but the present one is looked at."""

    def __init__(self, scene: str) -> None:
        """Args: scene: A, B, C or D; the experts know its numbers."""
        self._scene = get_scene(scene)
        contract = desk_contract()
        self.contract = contract.model_copy(update={"cameras": (), "state": (*contract.state, *privileged_fields())})
        self._experts: dict[int, Expert] = {}

    def reset(self, slots: Sequence[int]) -> None:
        """The next observation of these slots is the first of a task."""
        for slot in slots:
            self._experts.pop(int(slot), None)

    def observe(self, observation: Observation) -> None:
        """Nothing to note: a law looks at the present."""

    def plan(self, observation: Observation, *, foresight: bool = False) -> Plan:
        """One relative Cartesian action (7,) for each slot."""
        rows = []
        for slot, state, instruction in zip(observation.slots, observation.state, observation.instruction, strict=True):
            expert = self._experts.get(int(slot))
            if expert is None:
                expert = self._experts[int(slot)] = Expert(task_of(instruction), self._scene)
            full = np.asarray(state, np.float64)
            rows.append(expert.act(full[:ROBOT_OBS_DIM], full[ROBOT_OBS_DIM:]))
        return Plan(actions=np.stack(rows)[:, None].astype(np.float32))

"""How one actor meets one simulator: the adaptations that need no choice, found before the first rollout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from foreact.sim.desk_suite import DeskSuite
from foreact.sim.suites import Suite, SuiteEnv
from foreact.vla.contract import Adapter, Contract, ContractMismatch, adapt
from foreact.vla.images import resize_frame
from foreact.vla.policy import Observation

Obs = Mapping[str, np.ndarray]
Frames = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Border:
    """One actor in one simulator."""

    suite: Suite
    """The simulator, in the way that the actor speaks."""
    cameras: Mapping[str, tuple[int, int]]
    """The cameras that the actor looks at, in the simulator's sizes (height, width) [px]."""
    adapter: Adapter

    def make_env(self, *, record: bool) -> SuiteEnv:
        """An environment that draws what the actor looks at; all cameras if it is blind and is to be recorded."""
        every = {c.name: (c.height, c.width) for c in self.suite.contract().cameras}
        return self.suite.make_env(cameras=self.cameras or (every if record else None))

    def observation(
        self, slots: Sequence[int], obs: Sequence[Obs], frames: Sequence[Frames], instruction: Sequence[str]
    ) -> Observation:
        """What the actor sees of these slots; where `frames` are empty, it sees no pictures."""
        seen = [camera for camera in self.cameras if all(camera in f for f in frames)]
        images = {c: np.stack([resize_frame(f[c], *self.adapter.resize[c]) for f in frames]) for c in seen}
        state = self.adapter.state(np.stack([full_state(o) for o in obs])).astype(np.float32)
        return Observation(slots=tuple(slots), images=images, state=state, instruction=tuple(instruction))

    def action(self, action: np.ndarray) -> np.ndarray:
        """The actor's action (A,) in the order of the environment."""
        ordered = np.empty_like(action)
        ordered[list(self.adapter.action_index)] = action
        return ordered


def full_state(obs: Obs) -> np.ndarray:
    """All state numbers that a simulator offers: those of the robot, then those of the scene, if it tells."""
    return np.concatenate([obs["robot_obs"], obs["scene_obs"]]) if "scene_obs" in obs else obs["robot_obs"]


def find_border(actor: Contract, suite: Suite, name: str) -> Border:
    """Choose the way to command the simulator that the actor speaks, and the adaptations.

    Args:
        actor: What the actor requires.
        suite: The simulator.
        name: Of the actor, for messages.

    Raises:
        ContractMismatch: With the differences, where the actor does not fit.
    """
    title = f"env={suite.name}"
    if isinstance(suite, DeskSuite):
        desk = suite.for_actor(actor)
        suite, title = desk, f"the desk (action_mode={desk.action_mode})"
    offered = suite.contract()
    adapter = adapt(actor, offered, required_by=name, offered_by=title)
    unknown = [f.name for f in offered.action if f.name not in {w.name for w in actor.action}]
    if unknown:
        found = ", ".join(sorted(f.name for f in actor.action)) or "(none)"
        raise ContractMismatch(f"{name} does not fit {title}: its actions lack {', '.join(unknown)}; found: {found}")
    robot = public_contract(offered).state_size
    notes = [note for note in adapter.notes if not note.startswith("state: take")]
    hidden = sum(index >= robot for index in adapter.state_index)
    if hidden:
        notes.append(f"state: {hidden} of {len(adapter.state_index)} numbers are privileged; no robot could know them")
    elif adapter.state_index != tuple(range(robot)):
        notes.append(f"state: take {len(adapter.state_index)} of {robot} numbers")
    sizes = {c.name: (c.height, c.width) for c in offered.cameras}
    return Border(
        suite=suite,
        cameras={c.name: sizes[c.name] for c in actor.cameras},
        adapter=adapter.model_copy(update={"notes": tuple(notes)}),
    )


def public_contract(contract: Contract) -> Contract:
    """A simulator's contract without what only a simulator knows: what actors are made for."""
    fields = tuple(field for field in contract.state if not field.name.startswith("scene_"))
    return contract.model_copy(update={"state": fields})

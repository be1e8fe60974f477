"""The desk as one of the simulators that an evaluation can use; see `foreact.sim.suites`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from foreact.sim.embodiment import ACTION_MODES, desk_contract, privileged_fields
from foreact.sim.env import DeskEnv
from foreact.sim.expert_actor import ExpertActor
from foreact.sim.language import instruction_for
from foreact.sim.lights import LightState
from foreact.sim.scenes import get_scene
from foreact.sim.tasks import TASKS
from foreact.vla.contract import Contract
from foreact.vla.policy import Actor


@dataclass
class DeskSuite:
    """CALVIN's play table on MuJoCo: one scene, one way to command the robot."""

    scene: str = "D"
    rules: str = "2022-12"
    action_mode: str = "relative_cartesian"
    """Chosen by `for_actor`."""
    name: str = "desk"
    tasks: tuple[str, ...] = tuple(TASKS)
    max_steps: int = 180

    OPTIONS: ClassVar[tuple[str, ...]] = ("scene", "rules")

    def __post_init__(self) -> None:
        self.rules = str(self.rules)  # a number on a command line, such as rules=2022, is one of these
        get_scene(self.scene)
        LightState(rules=self.rules)

    def contract(self, sizes: Mapping[str, tuple[int, int]] | None = None) -> Contract:
        """What the desk offers: what a robot would know, and the state of the scene, which experts need."""
        contract = desk_contract(sizes, self.action_mode)
        return contract.model_copy(update={"state": (*contract.state, *privileged_fields())})

    def for_actor(self, actor: Contract) -> DeskSuite:
        """The same desk, commanded in the way whose action fields the actor knows best."""
        wanted = {f.name for f in actor.action}
        best = max(ACTION_MODES, key=lambda mode: len(wanted & {f.name for f in ACTION_MODES[mode].fields}))
        return DeskSuite(self.scene, self.rules, best)

    def instruction(self, task: str, language: str, index: int) -> str:
        """Sentence number `index` for a task, in "validation", "training" or "unseen" language."""
        return instruction_for(task, language, index)

    def make_env(self, *, cameras: Mapping[str, tuple[int, int]] | None) -> DeskEnv:
        """A desk that draws these cameras, and only when `frames` is called."""
        return DeskEnv(self.scene, sizes=cameras or None, action_mode=self.action_mode, rules=self.rules, render=False)

    def expert(self) -> Actor:
        """The scripted experts."""
        return ExpertActor(self.scene)

    def versions(self) -> dict[str, str]:
        """Nothing beyond what every evaluation names."""
        return {}

"""Scripted experts: feedback laws (`experts_*.py`) that act only through `DeskEnv.step`."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from foreact.sim.expert_law import PLAIN, Law, MakeLaw, Measured, Style
from foreact.sim.experts_fixtures import FIXTURE_LAWS
from foreact.sim.experts_lift import LIFT_LAWS
from foreact.sim.experts_place import PLACE_LAWS
from foreact.sim.experts_push import PUSH_LAWS
from foreact.sim.experts_push_in import PUSH_IN_LAWS
from foreact.sim.experts_release import first_let_go
from foreact.sim.experts_rotate import ROTATE_LAWS
from foreact.sim.scenes import SceneSpec
from foreact.vla.errors import ConfigError, did_you_mean

POSITION_UNIT_M, ROTATION_UNIT_RAD = 0.02, 0.05
"""What an action component of 1.0 stands for (CALVIN, mees/calvin_env)."""

LAWS: Mapping[str, MakeLaw] = {
    **{task: first_let_go(law) for task, law in {**FIXTURE_LAWS, **PUSH_LAWS, **PUSH_IN_LAWS}.items()},
    **{task: first_let_go(law, only_from_the_air=True) for task, law in {**ROTATE_LAWS, **LIFT_LAWS}.items()},
    **PLACE_LAWS,
}
"""Task name -> law."""


class Expert:
    """Acts by the feedback law of one task.

    The action is proportional to the distance that is left, saturated at `speed`: with a target pose that integrates
    actions and a servo that lags by about one step, gains above 0.5 overshoot.
    """

    def __init__(
        self, task: str, scene: SceneSpec, *, speed: float = 0.9, gain: float = 0.3, style: Style = PLAIN
    ) -> None:
        """Choose the law.

        Args:
            task: Task name.
            scene: The scene it acts in.
            speed: Largest action component, at most 1.
            gain: Share of the remaining distance that one step commands.
            style: The manner, see `Style`.

        Raises:
            ConfigError: If there is no expert for the task.
        """
        if task not in LAWS:
            raise ConfigError(f"no scripted expert for task {task!r}; {did_you_mean(task, LAWS)}")
        self.task = task
        self.scene = scene
        self._law: Law | None = None
        self.speed = speed
        self.gain = gain
        self.style = style

    @property
    def law(self) -> Law | None:
        """The law of the present attempt; None before the first `act`."""
        return self._law

    def reset(self) -> None:
        """Begin anew: the next measurement is the first one."""
        self._law = None

    def act(self, robot_obs: np.ndarray, scene_obs: np.ndarray) -> np.ndarray:
        """The relative Cartesian action (7,) in [-1, 1] for what is measured now."""
        now = Measured.of(robot_obs, scene_obs, self.scene)
        if self._law is None:
            self._law = LAWS[self.task](self.scene, now, self.style)
        goal = self._law(now)
        turn = goal.euler - now.euler
        turn = (turn + math.pi) % (2 * math.pi) - math.pi
        step = self.gain * np.concatenate([(goal.pos - now.tcp) / POSITION_UNIT_M, turn / ROTATION_UNIT_RAD])
        move, spin = step[:3], step[3:]
        # Scale the whole vector, not each component: the path stays straight.
        move = move * min(1.0, self.speed / max(float(np.abs(move).max()), 1e-9))
        spin = spin * min(1.0, self.speed / max(float(np.abs(spin).max()), 1e-9))
        return np.concatenate([move, spin, [goal.gripper]])

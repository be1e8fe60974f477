"""Meta-World (Farama-Foundation/Metaworld, MIT) as a suite: a Sawyer arm and 50 table-top tasks, 80 Hz, four actions.

Meta-World is loaded when the first environment is made; names, sentences and the contract need no package.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import mujoco
import numpy as np

from foreact.sim.adapters.common import Sizes, checked_sizes, checked_task, task_of_instruction
from foreact.sim.adapters.metaworld_language import SENTENCES, TASK_OF
from foreact.sim.suites import SuiteError
from foreact.vla.contract import Camera, Contract, Field
from foreact.vla.errors import ConfigError
from foreact.vla.policy import Actor, Observation, Plan

if TYPE_CHECKING:
    from foreact.sim.adapters.metaworld_env import MetaworldEnv

CAMERAS = ("topview", "corner", "corner2", "corner3", "corner4", "behindGripper", "gripperPOV")
"""Cameras of the scenes. `corner4` stands where LeRobot and others move `corner2` to."""
DEFAULT_SIZES: dict[str, tuple[int, int]] = {"corner2": (480, 480), "gripperPOV": (480, 480)}
RATE_HZ = 80.0
MAX_STEPS = 500
ROBOT_SIZE = 4
"""Length of `robot_obs`; `scene_obs` is Meta-World's own observation (39)."""


def _frame_fields(prefix: str) -> tuple[Field, ...]:
    """One of the two frames in Meta-World's observation. Quaternions are as each task gives them, in no fixed order."""
    return (
        Field(name=f"{prefix}_hand_position", size=3, unit="m", frame="world"),
        Field(name=f"{prefix}_gripper_opening", size=1, unit="0.1 m", low=0.0, high=1.0),
        Field(name=f"{prefix}_object_position", size=3, unit="m", frame="world"),
        Field(name=f"{prefix}_object_quaternion", size=4, unit="1", frame="world"),
        Field(name=f"{prefix}_second_object_position", size=3, unit="m", frame="world"),
        Field(name=f"{prefix}_second_object_quaternion", size=4, unit="1", frame="world"),
    )


def metaworld_contract(sizes: Sizes | None = None) -> Contract:
    """The contract of every Meta-World task.

    Raises:
        ConfigError: If a camera or a size is not possible.
    """
    sizes = checked_sizes(DEFAULT_SIZES if sizes is None else sizes, CAMERAS, "Meta-World")
    return Contract(
        embodiment="sawyer_metaworld",
        rate_hz=RATE_HZ,
        cameras=tuple(Camera(name=name, height=h, width=w) for name, (h, w) in sizes.items()),
        state=(
            Field(name="hand_position", size=3, unit="m", frame="world"),
            Field(name="gripper_opening", size=1, unit="0.1 m", low=0.0, high=1.0),
            *_frame_fields("scene"),
            *_frame_fields("scene_previous"),
            Field(name="scene_goal_position", size=3, unit="m", frame="world"),
        ),
        action=(
            Field(name="delta_position", size=3, unit="0.01 m", frame="world", low=-1, high=1, relative=True),
            Field(name="gripper", size=1, unit="1", low=-1, high=1),
        ),
        gripper="-1 open, +1 close",
    )


class MetaworldExpert:
    """Meta-World's scripted policies. They see objects and goal, and know their task by the sentence."""

    execute_steps = 1
    looks_back: tuple[int, ...] = ()
    """No step but the present one is looked at."""

    def __init__(self) -> None:
        self.contract = metaworld_contract({})
        self._policies: dict[int, Any] = {}

    def reset(self, slots: Sequence[int]) -> None:
        """Start with fresh scripts."""
        for slot in slots:
            self._policies.pop(slot, None)

    def observe(self, observation: Observation) -> None:
        """Nothing to note."""

    def plan(self, observation: Observation, *, foresight: bool = False) -> Plan:
        """One action for each slot, clipped to [-1, 1].

        Raises:
            ConfigError: If an instruction is not one of `SENTENCES`.
        """
        from metaworld.policies import ENV_POLICY_MAP  # type: ignore[import-not-found]

        actions = np.zeros((len(observation.slots), 1, self.contract.action_size), np.float32)
        for row, slot in enumerate(observation.slots):
            if slot not in self._policies:
                task = task_of_instruction(observation.instruction[row], TASK_OF, "Meta-World")
                self._policies[slot] = ENV_POLICY_MAP[task]()
            seen = np.asarray(observation.state[row, ROBOT_SIZE:], np.float64)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # "Constant(s) may be too high": the clip below is what they mean
                action = self._policies[slot].get_action(seen)
            actions[row, 0] = np.clip(action, -1.0, 1.0)
        return Plan(actions=actions)


class MetaworldSuite:
    """Meta-World's 50 tasks, from random starts and goals."""

    OPTIONS = ("cameras", "shadows")
    name = "metaworld"
    tasks = tuple(SENTENCES)
    max_steps = MAX_STEPS

    def __init__(self, *, cameras: Mapping[str, Any] | None = None, shadows: bool = True) -> None:
        """Choose what is seen.

        Args:
            cameras: Camera name -> [height, width] that environments offer; `DEFAULT_SIZES` by default.
            shadows: Draw shadows and reflections, as Meta-World does; without, frames are drawn several times faster.

        Raises:
            ConfigError: If a camera or a size is not possible.
            SuiteError: If the MuJoCo found here is one that Meta-World does not run with.
        """
        self._sizes = checked_sizes(DEFAULT_SIZES if cameras is None else cameras, CAMERAS, "Meta-World")
        if not isinstance(shadows, bool):
            raise ConfigError(f"shadows: expected true or false, found {shadows!r}")
        self._shadows = shadows
        # Meta-World writes rows of 11 numbers into MuJoCo's table of equality constraints.
        if mujoco.mjNEQDATA != 11:
            raise SuiteError(
                f"Meta-World does not run with mujoco {mujoco.__version__}; it needs 3.3.0. Make a virtual "
                "environment of its own for it: pip install '.[metaworld]' in ForeAct's folder"
            )

    def contract(self, sizes: Sizes | None = None) -> Contract:
        """What environments offer, with these cameras or those of the options."""
        return metaworld_contract(self._sizes if sizes is None else sizes)

    def instruction(self, task: str, language: str, index: int) -> str:
        """The sentence of a task; there is one, whatever `language` and `index` are."""
        return SENTENCES[checked_task(task, self.tasks, "Meta-World")]

    def make_env(self, *, cameras: Sizes | None) -> MetaworldEnv:
        """An environment for any task of the suite."""
        from foreact.sim.adapters.metaworld_env import MetaworldEnv

        return MetaworldEnv(sizes=self._sizes if cameras is None else cameras, render=False, shadows=self._shadows)

    def expert(self) -> Actor:
        """The scripted policies that come with Meta-World."""
        return MetaworldExpert()

    def versions(self) -> dict[str, str]:
        """Versions of what results depend on."""
        return {name: version(name) for name in ("metaworld", "mujoco", "gymnasium")}

"""The desk as the body of a robot: joint targets in, one physics step at a time; joints, pictures and a verdict out.

What runs at the other end of a robot's topics drives it (`foreact.robot_bridge.sim_robot`). Physics and servo are those
of `DeskEnv`: 240 Hz, each step closes a tenth of the joint error. At a constant joint speed the arm therefore follows
37.5 ms behind its targets; that lag is in the demonstrations that policies learn from.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mujoco
import numpy as np
from numpy.typing import ArrayLike

from foreact.sim.controller import SUBSTEPS
from foreact.sim.env import DeskEnv
from foreact.sim.language import validation_instruction
from foreact.sim.panda import ARM_JOINTS, FINGER_JOINTS, TIMESTEP_S
from foreact.sim.starts import Start, draw_start
from foreact.sim.urdf import panda_urdf
from foreact.vla.errors import ConfigError, did_you_mean

BLOCK_DAMPING = 1e7
"""Damping of a jammed joint [N m s/rad]: its motor's 200 N m turn it by 20 microradians a second."""


class DeskBody:
    """One desk with one arm. Not for several threads, except `draw_start` and `draw`."""

    joints: tuple[str, ...] = ARM_JOINTS
    period_s: float = TIMESTEP_S
    """One physics step."""

    def __init__(
        self,
        scene: str = "D",
        *,
        sizes: Mapping[str, tuple[int, int]] | None = None,
        seed: int = 0,
        render: bool = True,
    ) -> None:
        """Build the scene, at a random start of `seed`.

        Args:
            scene: One of A, B, C, D.
            sizes: Camera name -> (height, width) [px]; CALVIN's by default.
            seed: Of the start, and of all starts that are drawn later.
            render: Whether there are pictures.
        """
        self._env = DeskEnv(scene, sizes=sizes, render=False)
        self.scene, self.seed = self._env.scene.name, seed
        self.cameras: tuple[str, ...] = tuple(c.name for c in self._env.contract.cameras) if render else ()
        self._draws_from: DeskEnv | None = None
        model = self._env.model
        self._q = [int(model.joint(name).qposadr[0]) for name in ARM_JOINTS]
        self._v = [int(model.joint(name).dofadr[0]) for name in ARM_JOINTS]
        self._fingers = [int(model.joint(name).qposadr[0]) for name in FINGER_JOINTS]
        self._damping = model.dof_damping.copy()
        self._views = [mujoco.MjData(model) for _ in range(3)] if render else []
        self._steps, self._done_after_s = 0, None
        self._happened: tuple[str, ...] = ()
        self.restart(draw_start(self._env, np.random.default_rng([seed, 0]), (), seed=seed))

    def state(self) -> tuple[np.ndarray, np.ndarray, float]:
        """Arm joints (7,) [rad], their speeds (7,) [rad/s], opening of the gripper [m], now."""
        data = self._env.data
        return data.qpos[self._q], data.qvel[self._v], float(data.qpos[self._fingers].sum())

    @property
    def gripper_command(self) -> float:
        """The last one: +1 open, -1 close."""
        return self._env.controller.gripper_command

    def advance(self, q_arm: ArrayLike, gripper: float) -> None:
        """One physics step towards finite joint targets (7,) [rad]; the gripper opens above 0, else it closes."""
        self._env.controller.aim(q_arm, gripper)
        self._env.controller.hold(self._env.data, 1)
        self._steps += 1
        if self._steps % SUBSTEPS == 0:
            self._judge()

    def block(self, joint: int | None) -> None:
        """Hold one arm joint (0 to 6) as if it were jammed, whatever its motor does; None lets all go."""
        damping = self._env.model.dof_damping
        damping[:] = self._damping
        if joint is not None:
            damping[self._v[joint]] = BLOCK_DAMPING

    def urdf(self) -> str:
        """The arm's URDF."""
        return panda_urdf(self._env.model)

    def view(self) -> mujoco.MjData:
        """A copy of this moment, to draw from later and in another thread; overwritten by the next call but two."""
        self._views.append(self._views.pop(0))
        mujoco.mj_copyData(self._views[-1], self._env.model, self._env.data)
        return self._views[-1]

    def draw(self, view: mujoco.MjData | None = None) -> dict[str, np.ndarray]:
        """Camera name -> (H, W, 3) uint8 RGB, of `view` or of now. Always from the same thread."""
        renderer = self._env.renderer()
        return {name: renderer.render(self._env.data if view is None else view, name) for name in self.cameras}

    def draw_start(self, task: str | None, number: int) -> Start:
        """Start `number` of a task (None: any start) under this body's seed: the same each time, on any machine.

        On a desk of its own, so the arm goes on meanwhile; a start with a block in the hand takes seconds.

        Raises:
            UnknownTask, NoStart: If there is none.
        """
        if self._draws_from is None:
            self._draws_from = DeskEnv(self.scene, render=False)
        tasks = (task,) if task else ()
        return draw_start(self._draws_from, np.random.default_rng([self.seed, number]), tasks, seed=number)

    def restart(self, start: Start) -> None:
        """Put arm and scene where a start says, at rest; its first task is judged from now on, if it has one."""
        self._env.set_state(start.robot_obs, start.scene_obs)
        self.begin(start.tasks[0] if start.tasks else None)

    def begin(self, task: str | None, instruction: str = "") -> None:
        """Judge `task` from now on; the scene stays as it is. Without a sentence it is CALVIN's."""
        self._env.begin_task(task, instruction or (validation_instruction(task) if task else ""))
        self._steps, self._done_after_s, self._happened = 0, None, ()

    def judgement(self) -> dict[str, Any]:
        """How the task stands: task, instruction, done, done_after_s (None until then), since_s, happened (tasks)."""
        return {
            "task": self._env.task,
            "instruction": self._env.instruction,
            "done": self._done_after_s is not None,
            "done_after_s": self._done_after_s,
            "since_s": round(self._steps * self.period_s, 6),
            "happened": list(self._happened),
        }

    def diverged(self) -> bool:
        """Whether the physics has blown up since the last restart (MuJoCo then resets itself, as if nothing were)."""
        warnings = self._env.data.warning
        bad = (mujoco.mjtWarning.mjWARN_BADQPOS, mujoco.mjtWarning.mjWARN_BADQVEL, mujoco.mjtWarning.mjWARN_BADQACC)
        return any(warnings[kind].number for kind in bad)

    def mujoco_handles(self) -> tuple[mujoco.MjModel, mujoco.MjData]:
        """Model and state, for MuJoCo's viewer."""
        return self._env.model, self._env.data

    def joint_index(self, name: str) -> int:
        """Place of an arm joint.

        Raises:
            ConfigError: If there is no such joint.
        """
        if name not in self.joints:
            raise ConfigError(f"no arm joint {name!r}; {did_you_mean(name, self.joints)}")
        return self.joints.index(name)

    def close(self) -> None:
        """Free the GL context; from the thread that draws."""
        self._env.close()
        if self._draws_from is not None:
            self._draws_from.close()

    def _judge(self) -> None:
        info = self._env.judge()
        if info["success"] and self._done_after_s is None:
            self._done_after_s = round(self._steps * self.period_s, 6)
            self._happened = tuple(info["tasks_happened"])

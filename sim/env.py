"""The CALVIN-style play table as a gymnasium environment, one instruction at a time.

Protocol after CALVIN (mees/calvin_env, MIT): 240 Hz physics, 30 Hz control, relative Cartesian actions integrated on a
persistent target pose, two cameras, `robot_obs` (15) and `scene_obs` (24) to read and to reset from. Ours: actions are
clipped to [-1, 1], inputs are never changed in place, many environments may live in one process.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import gymnasium as gym
import mujoco
import numpy as np

from foreact.sim.cameras import CameraMetadata, camera_metadata
from foreact.sim.controller import CartesianController
from foreact.sim.desk import add_desk
from foreact.sim.embodiment import desk_contract
from foreact.sim.happened import HappenedTasks
from foreact.sim.lights import LightState
from foreact.sim.panda import add_panda, physics_options
from foreact.sim.rendering import CameraRenderer
from foreact.sim.scene_info import SceneInfo
from foreact.sim.scene_state import ROBOT, read_scene_obs, step_lights, touching, write_scene_obs
from foreact.sim.scenes import get_scene
from foreact.sim.spaces import Obs, action_space, depth_name, observation_space
from foreact.sim.starts import NEUTRAL_ROBOT_OBS, draw_start
from foreact.sim.tasks import TASKS, Task, feasible, get_task
from foreact.vla.contract import Contract
from foreact.vla.errors import ConfigError


class DeskEnv(gym.Env[Obs, np.ndarray]):
    """One play table with one Panda.

    Observation: `rgb_static` and `rgb_gripper` (H, W, 3) uint8 (absent with `render=False`), with `depth=True` also
    `depth_static` and `depth_gripper` (H, W) float32 [m]; `robot_obs` (15,) and `scene_obs` (24,) float64.
    Action: (7,) or (8,) float32 in [-1, 1] or radians, see `ACTION_MODES`.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 30}

    def __init__(
        self,
        scene: str = "D",
        *,
        task: str | None = None,
        sizes: Mapping[str, tuple[int, int]] | None = None,
        action_mode: str = "relative_cartesian",
        rules: str = "2022-12",
        render: bool = True,
        depth: bool = False,
        render_mode: str = "rgb_array",
        max_episode_steps: int | None = None,
    ) -> None:
        """Build the scene.

        Args:
            scene: One of A, B, C, D.
            task: The task that is judged after a `reset` that names none; without either no task is.
            sizes: Camera name -> (height, width) in pixels of the cameras to render; both in CALVIN's sizes by default.
            action_mode: One of `ACTION_MODES`.
            rules: Version of the lamp rules, see `foreact.sim.lights`.
            render: Whether observations hold camera frames.
            depth: Whether they also hold depth images, where they hold frames.
            render_mode: For gymnasium; "rgb_array" only.
            max_episode_steps: Truncate after so many steps; never by default.

        Raises:
            ConfigError: If a camera or the action mode is unknown.
            UnknownScene: If the scene is.
            UnknownTask: If the task is.
        """
        box = action_space(action_mode)
        self.action_space = box
        if render_mode not in self.metadata["render_modes"]:
            raise ConfigError(f"unknown render_mode {render_mode!r}; known: rgb_array")
        self.scene = get_scene(scene)
        self.action_mode = action_mode
        self.render_mode = render_mode
        self.contract: Contract = desk_contract(sizes, action_mode)
        self._sizes = {c.name: (c.height, c.width) for c in self.contract.cameras}
        spec = mujoco.MjSpec()
        spec.modelname = f"desk_{self.scene.name}"
        physics_options(spec)
        add_desk(spec, self.scene)
        add_panda(spec)
        self.model: mujoco.MjModel = spec.compile()
        self.data = mujoco.MjData(self.model)
        self.controller = CartesianController(self.model)
        self._render, self._depth = render, depth
        self._renderer: CameraRenderer | None = None
        self._max_episode_steps = max_episode_steps
        self._steps = 0
        self.rules = rules
        self._lights = LightState(rules=rules)
        self._task: Task | None = None
        self._default_task = get_task(task).name if task else None
        self.instruction = ""
        self._start: SceneInfo | None = None
        self._low, self._high = box.low.astype(np.float64), box.high.astype(np.float64)
        self.observation_space = observation_space(self._sizes if render else {}, depth)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Obs, dict[str, Any]]:
        """Start anew.

        Args:
            seed: Seed of a random start (blocks, fixtures and arm) where no state is given.
            options: `robot_obs` (15,) and `scene_obs` (24,) to start from; `task`, whose success is then reported;
                `instruction`, passed through in `info`.
        """
        super().reset(seed=seed)
        options = dict(options or {})
        unknown = set(options) - {"robot_obs", "scene_obs", "task", "instruction"}
        if unknown:
            raise ConfigError(
                f"unknown reset options {sorted(unknown)}; known: robot_obs, scene_obs, task, instruction"
            )
        robot_obs, scene_obs = options.get("robot_obs"), options.get("scene_obs")
        task = options.get("task", self._default_task)
        if scene_obs is None:
            start = draw_start(self, self.np_random, tasks=(task,) if task else ())
            scene_obs = start.scene_obs
            robot_obs = start.robot_obs if robot_obs is None else robot_obs
        self.set_state(NEUTRAL_ROBOT_OBS if robot_obs is None else robot_obs, scene_obs)
        self.begin_task(task, str(options.get("instruction", "")))
        return self.observe(), self._info()

    def set_state(self, robot_obs: np.ndarray, scene_obs: np.ndarray) -> None:
        """Put robot and scene into a recorded state; velocities are zero.

        Args:
            robot_obs: (15,) as in CALVIN; joints 7-13, width 6 and command 14 are used.
            scene_obs: (24,) as in CALVIN, block slots in the scene's order.
        """
        mujoco.mj_resetData(self.model, self.data)
        self._lights = write_scene_obs(self.model, self.data, scene_obs, self.rules)
        self.controller.reset(self.data, robot_obs)
        mujoco.mj_forward(self.model, self.data)
        self._steps = 0

    def begin_task(self, task: str | None, instruction: str = "") -> None:
        """Judge `task` from this moment on; the scene is left as it is (chains of tasks)."""
        self._task = get_task(task) if task else None
        self.instruction = instruction
        self._start = self.scene_info()

    @property
    def task(self) -> str | None:
        """The task that is judged, see `begin_task`."""
        return self._task.name if self._task else None

    def step(self, action: np.ndarray) -> tuple[Obs, float, bool, bool, dict[str, Any]]:
        """Act for one control step of 1/30 s. Reward is 1 when the asked task has just been done, else 0."""
        info = self.advance(action)
        truncated = self._max_episode_steps is not None and self._steps >= self._max_episode_steps
        return self.observe(), float(info["success"]), info["success"], truncated, info

    def advance(self, action: np.ndarray) -> dict[str, Any]:
        """`step` without looking: act for one control step and return `info`; nothing is rendered.

        For policies that look only when they plan: `advance` for the actions of a plan, then `observe` once.
        """
        action = np.array(action, dtype=np.float64)
        if action.shape != self.action_space.shape or not np.isfinite(action).all():
            raise ConfigError(
                f"action must be {self.action_space.shape} finite numbers, found shape {action.shape}: {action!r:.120}"
            )
        np.minimum(action, self._high, out=action)
        np.maximum(action, self._low, out=action)
        if self.action_mode == "relative_cartesian":
            self.controller.apply_relative(self.data, action)
        elif self.action_mode == "absolute_cartesian":
            self.controller.apply_absolute(self.data, action[:3], action[3:6], action[6])
        elif self.action_mode == "relative_joint":
            self.controller.apply_joint_relative(self.data, action[:7], action[7])
        else:
            self.controller.apply_joint_absolute(self.data, action[:7], action[7])
        return self.judge()

    def judge(self) -> dict[str, Any]:
        """End a control step: lamps follow their switches, oracles look. Returns `info`.

        `advance` does this by itself; it is for who drives `controller` one physics step at a time.
        """
        step_lights(self.model, self.data, self._lights)
        self._steps += 1
        return self._info()

    def observe(self) -> Obs:
        """The observation of this moment: frames (with `render=True`), `robot_obs` and `scene_obs`."""
        frames = self.frames() if self._render else {}
        if self._render and self._depth:
            frames |= {depth_name(camera): image for camera, image in self.depths().items()}
        return {**frames, "robot_obs": self.robot_obs, "scene_obs": self.scene_obs}

    def scene_info(self) -> SceneInfo:
        """What the task oracles look at, now."""
        return SceneInfo.capture(self.model, self.data, self._lights)

    @property
    def robot_obs(self) -> np.ndarray:
        """(15,) float64: TCP position, TCP Euler angles, gripper width, joints, last gripper command."""
        return self.controller.robot_obs(self.data)

    @property
    def scene_obs(self) -> np.ndarray:
        """(24,) float64: slide, drawer, button, switch, bulb, LED, then three block poses in the scene's order."""
        return read_scene_obs(self.model, self.data, self._lights)

    def feasible_tasks(self) -> list[str]:
        """Registered tasks that can be done from here."""
        scene_obs = self.scene_obs
        return [task for task in TASKS if feasible(task, scene_obs, self.scene)]

    def render(self) -> np.ndarray:  # type: ignore[override]
        """The static camera's frame (H, W, 3) uint8."""
        return self.frames()["rgb_static"]

    def frames(self) -> dict[str, np.ndarray]:
        """Camera name -> (H, W, 3) uint8, rendered now."""
        return self.renderer().render_all(self.data)

    def depths(self) -> dict[str, np.ndarray]:
        """Camera name -> (H, W) float32, metres along the optical axis, rendered now."""
        return {name: self.renderer().depth(self.data, name) for name in self._sizes}

    def renderer(self) -> CameraRenderer:
        """What draws the frames; it opens its GL context at the first one."""
        if self._renderer is None:
            self._renderer = CameraRenderer(self.model, self._sizes)
        return self._renderer

    @property
    def renders(self) -> bool:
        """Whether observations hold camera frames."""
        return self._render

    def robot_touches_anything(self) -> bool:
        """Whether any part of the robot is in contact with the scene."""
        return any(ROBOT in pair for pair in touching(self.model, self.data))

    def camera_metadata(self) -> dict[str, CameraMetadata]:
        """Intrinsics and present poses of the cameras that are drawn; see `foreact.sim.cameras`."""
        return camera_metadata(self.model, self.data, self._sizes)

    def close(self) -> None:
        """Free the GL context."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def _info(self) -> dict[str, Any]:
        assert self._start is not None
        now = self.scene_info()
        success = self._task is not None and bool(self._task.reached(self._start, now))
        return {
            "task": self.task,
            "instruction": self.instruction,
            "is_success": success,
            "success": success,
            "tasks_happened": HappenedTasks(self._start, now),
        }


gym.register(
    "foreact/Desk-v0",
    entry_point="foreact.sim.env:DeskEnv",
    vector_entry_point="foreact.sim.vector:DeskVectorEnv",
)

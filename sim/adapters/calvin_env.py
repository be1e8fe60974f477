"""One environment of the original CALVIN simulator, driven as our desk is."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

import gymnasium as gym
import numpy as np

from foreact.sim.adapters.calvin import MAX_STEPS, ROBOT_SIZE, calvin_contract
from foreact.sim.adapters.common import (
    Sizes,
    action_space,
    checked_action,
    checked_reset_options,
    checked_task,
    observation_space,
)
from foreact.sim.language import validation_instruction
from foreact.sim.scenes import get_scene
from foreact.sim.starts import draw_start
from foreact.sim.tasks import TASKS
from foreact.vla.contract import Contract

Obs = dict[str, np.ndarray]


def load_config(root: Path, scene: str, sizes: Sizes, *, egl: bool) -> Any:
    """calvin_env's own configuration (OmegaConf), put together without a dataset folder.

    Args:
        root: The checkout of calvin_env.
        scene: One of A, B, C, D.
        sizes: "rgb_static" and "rgb_gripper" -> (height, width).
        egl: Whether to draw with PyBullet's EGL plugin.
    """
    from omegaconf import OmegaConf

    conf = root / "conf"
    robot = OmegaConf.merge(*(OmegaConf.load(conf / "robot" / f"{n}.yaml") for n in ("panda", "panda_longer_finger")))
    cameras = {}
    for name, (height, width) in sizes.items():
        short = name.removeprefix("rgb_")
        cameras[short] = OmegaConf.load(conf / "cameras" / "cameras" / f"{short}.yaml")
        cameras[short].height, cameras[short].width = height, width
    config = OmegaConf.create(
        {
            "data_path": str(root / "data"),
            "use_vr": False,
            "robot": {k: v for k, v in OmegaConf.to_container(robot).items() if k != "defaults"},  # type: ignore[union-attr]
            "scene": OmegaConf.load(conf / "scene" / f"calvin_scene_{scene}.yaml"),
            "cameras": cameras,
            "env": OmegaConf.load(conf / "env" / "play_table_env.yaml"),
        }
    )
    config.env.use_egl = egl
    config.env.use_scene_info = True
    OmegaConf.resolve(config)
    return config.env


def make_simulator(root: Path, scene: str, sizes: Sizes, *, egl: bool) -> Any:
    """calvin_env's `PlayTableSimEnv`. It draws all its cameras at every step, so they are moved to `drawn_cameras`."""
    logging.getLogger("calvin_env").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the age of gym and of how it uses hydra
        import hydra.utils
        from calvin_env.robot.robot import Robot  # type: ignore[import-not-found]

        Robot.add_base_cylinder = _add_stand
        inner = hydra.utils.instantiate(load_config(root, scene, sizes, egl=egl))
    inner.drawn_cameras, inner.cameras = inner.cameras, []
    return inner


def _add_stand(robot: Any) -> None:
    """The white stand, in the simulator of its robot; calvin_env puts all stands into the first one of a process."""
    import pybullet  # type: ignore[import-not-found]

    x, y, z = (float(v) for v in robot.base_position)
    shape = pybullet.createVisualShape(
        shapeType=pybullet.GEOM_CYLINDER,
        rgbaColor=[1, 1, 1, 1],
        radius=0.13,
        length=z,
        visualFramePosition=[x - 0.05, y, z / 2],
        physicsClientId=robot.cid,
    )
    pybullet.createMultiBody(baseVisualShapeIndex=shape, physicsClientId=robot.cid)


def load_rules(root: Path) -> Any:
    """calvin_env's task oracle (`Tasks`) with its own configuration."""
    from calvin_env.envs.tasks import Tasks  # type: ignore[import-not-found]
    from omegaconf import OmegaConf

    return Tasks(OmegaConf.load(root / "conf" / "tasks" / "new_playtable_tasks.yaml").tasks)


class CalvinEnv(gym.Env[Obs, np.ndarray]):
    """The original play table. Observations, actions and options are those of `DeskEnv`; success is CALVIN's own.

    Observation: `rgb_static`, `rgb_gripper` (absent with `render=False`), `robot_obs` (15,), `scene_obs` (24,) float64.
    Action: (7,) in [-1, 1], the gripper open above 0. Reward: 1 when the asked task has just been done, else 0.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 30}

    def __init__(
        self,
        root: Path,
        scene: str = "D",
        *,
        tasks: Sequence[str] = tuple(TASKS),
        sizes: Sizes | None = None,
        render: bool = True,
        egl: bool = False,
    ) -> None:
        """Load the simulator, which takes some seconds.

        Args:
            root: The checkout of calvin_env.
            scene: One of A, B, C, D.
            tasks: Tasks that may be asked for.
            sizes: Camera name -> (height, width) in pixels; CALVIN's by default.
            render: Whether observations hold frames.
            egl: Whether to draw with PyBullet's EGL plugin.
        """
        from foreact.sim.env import DeskEnv

        self.contract: Contract = calvin_contract(sizes)
        self.render_mode = "rgb_array"
        self.action_space = action_space(self.contract)
        self.observation_space = cast(
            "gym.spaces.Space[Obs]", observation_space(self.contract, ROBOT_SIZE, rendered=render)
        )
        self.scene = get_scene(scene)
        self.task: str | None = None
        self.instruction = ""
        self._tasks = tuple(tasks)
        self._render = render
        self._inner = make_simulator(
            root, self.scene.name, {c.name: (c.height, c.width) for c in self.contract.cameras}, egl=egl
        )
        self._clean = self._inner.p.saveState(physicsClientId=self._inner.cid)
        self._rules = load_rules(root)
        self._desk = DeskEnv(self.scene.name, render=False)  # draws starts; nothing of it is simulated
        self._start_info: Any = None
        self._steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Obs, dict[str, Any]]:
        """Start anew.

        Args:
            seed: From which the start follows: the one our desk draws with it.
            options: `task`, `instruction`; `robot_obs` (15,) and `scene_obs` (24,) to start from instead.

        Raises:
            ConfigError: If an option or the task is unknown.
        """
        super().reset(seed=seed)
        options = checked_reset_options(options, "robot_obs", "scene_obs")
        task = options.get("task")
        if task:
            checked_task(task, self._tasks, "CALVIN")
        robot_obs, scene_obs = options.get("robot_obs"), options.get("scene_obs")
        if robot_obs is None or scene_obs is None:
            start = draw_start(self._desk, self.np_random, tasks=(task,) if task else ())
            robot_obs = start.robot_obs if robot_obs is None else robot_obs
            scene_obs = start.scene_obs if scene_obs is None else scene_obs
        robot_obs = np.array(robot_obs, np.float64)
        self._forget_contacts()
        for button in self._inner.scene.buttons:
            button.prev_is_pressed = False
        # calvin_env remembers the last rollout's gripper command and reports it in the next one.
        self._inner.robot.gripper_action = 1 if robot_obs[14] > 0 else -1
        observed = self._inner.reset(robot_obs=robot_obs, scene_obs=np.array(scene_obs, np.float64))
        self.begin_task(task, str(options.get("instruction") or ""))
        return self._observe(observed), self._info(self._start_info)

    def begin_task(self, task: str | None, instruction: str = "") -> None:
        """Judge `task` from this moment on; the scene is left as it is (chains of tasks)."""
        self.task = checked_task(task, self._tasks, "CALVIN") if task else None
        self.instruction = instruction or (validation_instruction(task) if task else "")
        self._start_info = self._inner.get_info()
        self._steps = 0

    def step(self, action: np.ndarray) -> tuple[Obs, float, bool, bool, dict[str, Any]]:
        """Act for 1/30 s.

        Raises:
            ConfigError: If the action is not seven finite numbers.
        """
        action = checked_action(action, self.contract)
        action[6] = 1.0 if action[6] > 0 else -1.0  # it accepts nothing in between
        observed, _, _, inner_info = self._inner.step(action)
        self._steps += 1
        info = self._info(inner_info)
        done = info["is_success"]
        return self._observe(observed), float(done), done, self._steps >= MAX_STEPS, info

    def frames(self) -> dict[str, np.ndarray]:
        """Camera name -> (height, width, 3) uint8 RGB, rendered now."""
        drawn = {f"rgb_{camera.name}": camera.render()[0] for camera in self._inner.drawn_cameras}
        return {c.name: np.ascontiguousarray(drawn[c.name], dtype=np.uint8) for c in self.contract.cameras}

    def render(self) -> np.ndarray:  # type: ignore[override]
        """The first camera's frame."""
        return next(iter(self.frames().values()))

    def close(self) -> None:
        """Disconnect from PyBullet."""
        self._desk.close()
        if self._inner.ownsPhysicsClient:
            self._inner.p.disconnect(physicsClientId=self._inner.cid)
            self._inner.ownsPhysicsClient = False
            # Its destructor would close the number once more, which may be somebody else's by then.
            self._inner.close = lambda: None

    def _forget_contacts(self) -> None:
        """Part everything for a moment: Bullet keeps the last rollout's contacts, which change this one a little."""
        bullet, client = self._inner.p, self._inner.cid
        bullet.restoreState(self._clean, physicsClientId=client)
        for number, block in enumerate(self._inner.scene.movable_objects):
            bullet.resetBasePositionAndOrientation(
                block.uid, [10.0, number, 10.0], [0, 0, 0, 1], physicsClientId=client
            )
        bullet.performCollisionDetection(physicsClientId=client)

    def _observe(self, observed: dict[str, Any]) -> Obs:
        state = {key: np.array(observed[key], np.float64) for key in ("robot_obs", "scene_obs")}
        return {**(self.frames() if self._render else {}), **state}

    def _info(self, inner_info: Any) -> dict[str, Any]:
        happened = sorted(self._rules.get_task_info(self._start_info, inner_info))
        done = self.task in happened
        return {
            "task": self.task,
            "instruction": self.instruction,
            "is_success": done,
            "success": done,
            "tasks_happened": happened,
        }

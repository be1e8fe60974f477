"""One LIBERO environment for all tasks of a benchmark, started from the states that come with them."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

import gymnasium as gym
import numpy as np

from foreact.sim.adapters.common import (
    Sizes,
    action_space,
    checked_action,
    checked_reset_options,
    checked_task,
    observation_space,
)
from foreact.sim.adapters.libero import ASSETS, MAX_STEPS, configure, libero_contract, package_folder, sentence
from foreact.sim.adapters.libero_states import read_states
from foreact.sim.gl_backend import pick_gl_backend
from foreact.sim.suites import SuiteError
from foreact.vla.contract import Contract

Obs = dict[str, np.ndarray]
SETTLE_STEPS = 10
"""Control steps of doing nothing after a start, in which objects fall into place; part of the usual protocol."""
_NOTHING = np.array([0, 0, 0, 0, 0, 0, -1.0])


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """LIBERO draws from NumPy's global generator; give it a seed, and afterwards back its state."""
    state = np.random.get_state()  # noqa: NPY002
    np.random.seed(seed % 2**32)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(state)  # noqa: NPY002


def make_simulator(benchmark: str, task: str) -> Any:
    """LIBERO's environment of one task, without pictures.

    Raises:
        SuiteError: If meshes are missing.
    """
    configure()
    pick_gl_backend()  # robosuite reads MUJOCO_GL when it is imported
    assets, said = package_folder() / "assets", io.StringIO()
    try:
        with contextlib.redirect_stdout(said), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old packages about the versions that they meet
            from libero.libero import get_assets_path  # type: ignore[import-not-found]
            from libero.libero.envs.env_wrapper import ControlEnv  # type: ignore[import-not-found]

            assets = Path(get_assets_path())
            if not assets.is_dir():
                raise SuiteError(_no_assets(assets, said.getvalue()))
            return ControlEnv(
                bddl_file_name=str(package_folder() / "bddl_files" / benchmark / f"{task}.bddl"),
                use_camera_obs=False,
                has_offscreen_renderer=False,
                ignore_done=True,
            )
    except (ValueError, FileNotFoundError) as error:
        if isinstance(error, ValueError) and "opening file" not in str(error):  # MuJoCo's words for a missing mesh
            raise
        raise SuiteError(f"LIBERO's meshes are incomplete: {error}. {_no_assets(assets)}") from error


def _no_assets(place: Path, said: str = "") -> str:
    last = "".join(f" {line}." for line in said.strip().splitlines()[-1:])
    return (
        f"LIBERO's meshes and textures are expected in {place}.{last} They come from the Hugging Face Hub "
        f"({ASSETS}) at the first use, which needs a connection; or copy the folder libero/libero/assets of "
        "https://github.com/Lifelong-Robot-Learning/LIBERO there."
    )


def rotation_vector(quat_xyzw: np.ndarray) -> np.ndarray:
    """Unit quaternion (4,) to rotation vector (3,) [rad], up to a full turn: w below 0 is beyond half a turn, as in
    robosuite's `quat2axisangle`, from which published policies learnt."""
    sine = float(np.linalg.norm(quat_xyzw[:3]))
    if sine < 1e-12:
        return np.zeros(3)
    return 2.0 * np.arctan2(sine, quat_xyzw[3]) * quat_xyzw[:3] / sine


class LiberoEnv(gym.Env[Obs, np.ndarray]):
    """A Panda at a table, in a kitchen or in a living room; the scene changes with the task.

    Observation: camera frames (absent with `render=False`) and `robot_obs` (19,) float64. Action: (7,) in [-1, 1].
    Reward: 1 on success, else 0. Terminated by success.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 20}

    def __init__(
        self,
        benchmark: str,
        *,
        tasks: Sequence[str],
        sizes: Sizes | None = None,
        render: bool = True,
        mirror: bool = False,
    ) -> None:
        """Nothing is loaded before `reset`.

        Args:
            benchmark: Such as "libero_spatial".
            tasks: Tasks that may be asked for.
            sizes: Camera name -> (height, width) in pixels; both default cameras by default.
            render: Whether observations hold frames.
            mirror: Mirror frames left to right.
        """
        self.contract: Contract = libero_contract(sizes)
        self.render_mode = "rgb_array"
        self.action_space = action_space(self.contract)
        self.observation_space = cast(
            "gym.spaces.Space[Obs]", observation_space(self.contract, self.contract.state_size, rendered=render)
        )
        self.task = tasks[0]
        self.instruction = ""
        self._benchmark, self._tasks = benchmark, tuple(tasks)
        self._render, self._mirror = render, mirror
        self._loaded: str | None = None
        self._inner: Any = None
        self._states: dict[str, np.ndarray] = {}
        self._context: Any = None
        self._steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Obs, dict[str, Any]]:
        """Start anew, and let the objects settle.

        Args:
            seed: Initial state number `seed` modulo how many there are (50), so seeds 0 to 49 are the published ones.
            options: `task` (the last one by default) and `instruction` (the task's sentence by default).

        Raises:
            ConfigError: If an option or the task is unknown.
            SuiteError: If a file of LIBERO is missing.
        """
        super().reset(seed=seed)
        options = checked_reset_options(options)
        self.task = checked_task(options.get("task") or self.task, self._tasks, f"LIBERO's {self._benchmark}")
        self.instruction = str(options.get("instruction") or sentence(self.task))
        number = int(self.np_random.integers(2**31)) if seed is None else seed
        with _seeded(number):
            self._load()
        states = self._states[self.task]
        self._context = None  # robosuite builds its model anew at every reset
        with _seeded(number):
            self._inner.reset()
            observed = self._inner.set_init_state(states[number % len(states)])
            for _ in range(SETTLE_STEPS):
                observed, *_ = self._inner.step(_NOTHING)
        self._steps = 0
        return self._observe(observed), self._info(False)

    def step(self, action: np.ndarray) -> tuple[Obs, float, bool, bool, dict[str, Any]]:
        """Act for 1/20 s.

        Raises:
            ConfigError: If the action is not seven finite numbers.
        """
        observed, reward, _, _ = self._inner.step(checked_action(action, self.contract))
        self._steps += 1
        done = bool(self._inner.check_success())
        truncated = self._steps >= MAX_STEPS[self._benchmark]
        return self._observe(observed), float(reward), done, truncated, self._info(done)

    def frames(self) -> dict[str, np.ndarray]:
        """Camera name -> (height, width, 3) uint8 RGB, rendered now as robosuite does."""
        if self._context is None:
            from robosuite.utils.binding_utils import MjRenderContextOffscreen  # type: ignore[import-not-found]

            self._context = MjRenderContextOffscreen(self._inner.sim, device_id=-1)
            self._context.vopt.geomgroup[0], self._context.vopt.geomgroup[1] = 0, 1  # looks, not collision shapes
        frames = {}
        for camera in self.contract.cameras:
            # rows arrive from the bottom up
            frame = self._inner.sim.render(camera_name=camera.name, height=camera.height, width=camera.width)[::-1]
            frames[camera.name] = np.ascontiguousarray(frame[:, ::-1] if self._mirror else frame)
        return frames

    def render(self) -> np.ndarray:  # type: ignore[override]
        """The first camera's frame."""
        return next(iter(self.frames().values()))

    def close(self) -> None:
        """Free the simulator."""
        self._context = None
        if self._inner is not None:
            self._inner.close()
            self._inner = self._loaded = None

    def _load(self) -> None:
        if self._loaded == self.task:
            return
        self.close()
        self._inner, self._loaded = make_simulator(self._benchmark, self.task), self.task
        if self.task not in self._states:
            self._states[self.task] = read_states(
                package_folder() / "init_files" / self._benchmark / f"{self.task}.pruned_init"
            )

    def _observe(self, observed: Any) -> Obs:
        quat = np.asarray(observed["robot0_eef_quat"], np.float64)
        robot_obs = np.concatenate(
            [
                observed["robot0_eef_pos"],
                quat,
                rotation_vector(quat),
                observed["robot0_gripper_qpos"],
                observed["robot0_joint_pos"],
            ]
        ).astype(np.float64)
        return {**(self.frames() if self._render else {}), "robot_obs": robot_obs}

    def _info(self, done: bool) -> dict[str, Any]:
        return {
            "task": self.task,
            "instruction": self.instruction,
            "is_success": done,
            "success": done,
            "tasks_happened": [self.task] if done else [],
        }

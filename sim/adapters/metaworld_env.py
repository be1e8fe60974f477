"""One Meta-World environment for all its tasks, seeded so that a start is a function of the seed alone."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, ClassVar, cast

import gymnasium as gym
import numpy as np

from foreact.sim.adapters.common import (
    ShadowRenderer,
    Sizes,
    action_space,
    checked_action,
    checked_reset_options,
    checked_task,
    observation_space,
)
from foreact.sim.adapters.metaworld import MAX_STEPS, ROBOT_SIZE, metaworld_contract
from foreact.sim.adapters.metaworld_language import SENTENCES
from foreact.sim.rendering import CameraRenderer
from foreact.vla.contract import Contract

Obs = dict[str, np.ndarray]


def make_task(task: str) -> Any:
    """Meta-World's environment of one task: goal in the observation, start and goal drawn from its own generator.

    The class is made as Meta-World's "-goal-observable" variants are, which would draw their first start from NumPy's
    global generator.
    """
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS  # type: ignore[import-not-found]

    inner = ALL_V3_ENVIRONMENTS[task]()
    inner._partially_observable = False
    del inner.sawyer_observation_space  # cached with a hidden goal
    inner._set_task_called = True
    inner._freeze_rand_vec = False
    inner.seeded_rand_vec = True
    inner.max_path_length = sys.maxsize  # it raises beyond; the length of a rollout is the evaluation's business
    return inner


class MetaworldEnv(gym.Env[Obs, np.ndarray]):
    """A Sawyer arm at a table; the scene changes with the task.

    Observation: camera frames (absent with `render=False`), `robot_obs` (4,) and `scene_obs` (39,) float64.
    Action: (4,) in [-1, 1]. Reward: Meta-World's own, 0 to 10. Terminated by the first success.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 80}

    def __init__(
        self,
        *,
        sizes: Sizes | None = None,
        render: bool = True,
        shadows: bool = True,
        make_inner: Callable[[str], Any] = make_task,
    ) -> None:
        """Nothing is loaded before `reset`.

        Args:
            sizes: Camera name -> (height, width) in pixels; both default cameras by default.
            render: Whether observations hold frames.
            shadows: Draw shadows and reflections, as Meta-World does; without, several times faster.
            make_inner: Task -> Meta-World's environment.

        Raises:
            ConfigError: If a camera or a size is not possible.
        """
        self.contract: Contract = metaworld_contract(sizes)
        self.render_mode = "rgb_array"
        self.action_space = action_space(self.contract)
        self.observation_space = cast(
            "gym.spaces.Space[Obs]", observation_space(self.contract, ROBOT_SIZE, rendered=render)
        )
        self.task = next(iter(SENTENCES))
        self.instruction = ""
        self._sizes = {c.name: (c.height, c.width) for c in self.contract.cameras}
        self._render = render
        self._renderer_class = ShadowRenderer if shadows else CameraRenderer
        self._renderer: CameraRenderer | None = None
        self._make_inner = make_inner
        self._inner: dict[str, Any] = {}
        self._steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Obs, dict[str, Any]]:
        """Start anew.

        Args:
            seed: From which objects' positions and the goal follow; without one, drawn from the last.
            options: `task` (the last one by default) and `instruction` (the task's sentence by default).

        Raises:
            ConfigError: If an option or the task is unknown.
        """
        super().reset(seed=seed)
        options = checked_reset_options(options)
        task = checked_task(options.get("task") or self.task, SENTENCES, "Meta-World")
        if task != self.task:
            self._drop_renderer()
        self.task = task
        self.instruction = str(options.get("instruction") or SENTENCES[task])
        if task not in self._inner:
            self._inner[task] = self._make_inner(task)
        inner = self._inner[task]
        inner.seed(int(self.np_random.integers(2**31)) if seed is None else seed)
        observed, _ = inner.reset()
        self._steps = 0
        return self._observe(observed), self._info(0.0)

    def step(self, action: np.ndarray) -> tuple[Obs, float, bool, bool, dict[str, Any]]:
        """Act for 1/80 s.

        Raises:
            ConfigError: If the action is not four finite numbers.
        """
        action = checked_action(action, self.contract).astype(np.float32)
        observed, reward, _, _, inner_info = self._inner[self.task].step(action)
        self._steps += 1
        info = self._info(float(inner_info["success"]))
        return self._observe(observed), float(reward), info["is_success"], self._steps >= MAX_STEPS, info

    def frames(self) -> dict[str, np.ndarray]:
        """Camera name -> (height, width, 3) uint8 RGB, rendered now."""
        inner = self._inner[self.task]
        if self._renderer is None:
            self._renderer = self._renderer_class(inner.model, self._sizes)
        frames = self._renderer.render_all(inner.data)
        # The corner cameras are mounted upside down.
        return {name: f[::-1, ::-1].copy() if name.startswith("corner") else f for name, f in frames.items()}

    def render(self) -> np.ndarray:  # type: ignore[override]
        """The first camera's frame."""
        return next(iter(self.frames().values()))

    def close(self) -> None:
        """Free the GL context and all scenes."""
        self._drop_renderer()
        self._inner.clear()

    def _drop_renderer(self) -> None:
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def _observe(self, observed: np.ndarray) -> Obs:
        scene = np.array(observed, np.float64)
        return {**(self.frames() if self._render else {}), "robot_obs": scene[:ROBOT_SIZE].copy(), "scene_obs": scene}

    def _info(self, success: float) -> dict[str, Any]:
        done = success > 0
        return {
            "task": self.task,
            "instruction": self.instruction,
            "is_success": done,
            "success": done,
            "tasks_happened": [self.task] if done else [],
        }

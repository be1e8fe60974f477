"""How often the scripted experts succeed: the benchmark's own feasibility check."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from foreact.sim.env import DeskEnv
from foreact.sim.experts import Expert
from foreact.sim.starts import draw_start
from foreact.vla.intervals import wilson

MAX_STEPS = 360
"""Control steps after which an expert has failed, as in CALVIN's evaluation."""


@dataclass
class ExpertResult:
    """What one expert did from `n` random starts of one scene."""

    scene: str
    task: str
    n: int
    successes: int = 0
    steps: list[int] = field(default_factory=list)
    """Control steps of each success."""
    largest_action: float = 0.0
    other_tasks: int = 0
    """Starts after which another task had happened as well."""
    rejected_draws: int = 0
    failed_starts: list[int] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """For JSON: counts, rate with its 95% Wilson interval, median and largest number of steps."""
        row = asdict(self)
        steps = row.pop("steps")
        row.update(
            success_rate=self.successes / self.n,
            ci95=wilson(self.successes, self.n),
            steps_median=float(np.median(steps)) if steps else None,
            steps_max=max(steps, default=None),
        )
        return row


def check_expert(
    env: DeskEnv,
    task: str,
    starts: int,
    *,
    seed: int = 0,
    max_steps: int = MAX_STEPS,
    tick: Callable[[], None] = lambda: None,
) -> ExpertResult:
    """Let the expert of `task` try from `starts` random starts; `tick` is called after each."""
    result = ExpertResult(env.scene.name, task, starts)
    expert = Expert(task, env.scene)
    for index in range(starts):
        start = draw_start(env, np.random.default_rng([seed, index]), (task,), seed=index)
        result.rejected_draws += start.rejected_draws
        obs, info = env.reset(options={"robot_obs": start.robot_obs, "scene_obs": start.scene_obs, "task": task})
        expert.reset()
        for step in range(max_steps):
            action = expert.act(obs["robot_obs"], obs["scene_obs"])
            result.largest_action = max(result.largest_action, float(np.abs(action).max()))
            obs, _, done, _, info = env.step(action)
            if done:
                result.successes += 1
                result.steps.append(step + 1)
                break
        else:
            result.failed_starts.append(index)
        result.other_tasks += any(name != task for name in info["tasks_happened"])
        tick()
    return result

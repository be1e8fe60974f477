"""`foreact sim play`: watch one task being done, in a window or as a film."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foreact.vla.errors import ConfigError, ForeActError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np

    from foreact.sim.env import DeskEnv
    from foreact.sim.rollout import Rollout


class NoDisplay(ForeActError):
    """A window was asked for where there is no display."""


def play(
    *, task: str, scene: str, actor: str, checkpoint: str, seed: int, max_steps: int, out: str, viewer: bool
) -> bool:
    """Do one task from the random start of `seed`, film it, and return whether it succeeded.

    Args:
        task: One of the 34.
        scene: A, B, C or D.
        actor: expert, zero, random or an installed one; ignored with a checkpoint.
        checkpoint: Folder of a trained policy, or empty.
        seed: Of the start.
        max_steps: Control steps of 1/30 s.
        out: The film, .mp4 or .gif; empty: outputs/play/<scene>-<task>-<seed>.mp4.
        viewer: Show it in a window in real time instead of filming.

    Raises:
        ForeActError: If something is unknown, the actor does not fit, or there is no display.
    """
    import numpy as np

    from foreact.commands.evaluate_settings import EvaluateSettings
    from foreact.commands.evaluate_workers import load_actor
    from foreact.sim.border import find_border
    from foreact.sim.desk_suite import DeskSuite
    from foreact.sim.env import DeskEnv
    from foreact.sim.rollout import Job, Lockstep
    from foreact.sim.starts import draw_start
    from foreact.sim.tasks import get_task
    from foreact.vla.video import rollout_frames, write_gif, write_video

    name = get_task(task).name
    path = Path(out or f"outputs/play/{scene}-{name}-{seed}.mp4")
    if path.suffix not in (".mp4", ".gif"):
        raise ConfigError(f"--out {path}: expected a name that ends in .mp4 or .gif")
    who = {"checkpoint": checkpoint} if checkpoint else {"actor": actor}
    settings = EvaluateSettings.parse({**who, "env": {"name": "desk", "scene": scene}})
    suite = DeskSuite(scene)
    judged = load_actor(settings, suite)
    border = find_border(judged.contract, suite, settings.title)
    env = border.make_env(record=not viewer)
    assert isinstance(env, DeskEnv)
    start = draw_start(env, np.random.default_rng([seed, 0]), (name,), seed=seed)
    sentence = suite.instruction(name, "validation", 0)
    job = Job(
        index=0,
        seed=seed,
        start={"robot_obs": start.robot_obs, "scene_obs": start.scene_obs},
        tasks=(name,),
        instructions=(sentence,),
        record=not viewer,
    )
    rollouts = Lockstep(judged, [env], border, max_steps=max_steps, foresight=True).run([job])
    try:
        rollout = _watched(env, rollouts) if viewer else next(rollouts)
    finally:
        env.close()
    attempt = rollout.attempts[0]
    print(f"{settings.name}: {name!r} {'done' if attempt.success else 'not done'} after {attempt.steps} steps")
    if rollout.recording is not None:
        film = rollout_frames(
            rollout.recording.seen,
            rollout.recording.predicted,
            steps_ahead=rollout.recording.steps_ahead,
            rate_hz=judged.contract.rate_hz,
            title=sentence,
            success=attempt.success,
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        (write_gif if path.suffix == ".gif" else write_video)(path, film, judged.contract.rate_hz)
        print(path)
    return attempt.success


def _watched(env: DeskEnv, rollouts: Iterator[Rollout]) -> Rollout:
    """Show every control step in MuJoCo's viewer, no faster than real time."""
    import time

    import mujoco.viewer

    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise NoDisplay(
            "--viewer needs a display, and DISPLAY and WAYLAND_DISPLAY are not set; leave it out for a film"
        )
    step, period = env.step, 1.0 / env.contract.rate_hz
    with mujoco.viewer.launch_passive(env.model, env.data) as window:

        def shown(action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
            began = time.perf_counter()
            result = step(action)
            window.sync()
            time.sleep(max(0.0, period - (time.perf_counter() - began)))
            return result

        env.step = shown  # type: ignore[method-assign]
        try:
            return next(rollouts)
        finally:
            env.step = step  # type: ignore[method-assign]

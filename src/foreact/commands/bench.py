"""`foreact bench`: speed, with the settings it was measured under."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer

app = typer.Typer(
    help="Measure speed.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

_BUSY = 0.4


@app.callback()
def _root() -> None:
    pass


@app.command()
def sim(
    steps: Annotated[int, typer.Option(help="Control steps per measurement.", min=10)] = 300,
    repeats: Annotated[int, typer.Option(help="Measurements; their median is reported.", min=1)] = 3,
    scene: Annotated[str, typer.Option(help="A, B, C or D.")] = "D",
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Control steps per second of one desk: with both cameras, and without pictures."""
    found = measure_sim(steps, repeats, scene)
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        for name, speed in found["steps_per_s"].items():
            low, high = found["range_steps_per_s"][name]
            print(f"{name:28} {speed:7.0f} steps/s   (median of {repeats} x {steps} steps; {low:.0f} - {high:.0f})")
        print(", ".join(f"{key}: {value}" for key, value in found["settings"].items()))
    if found["busy_before"] > _BUSY:
        print(
            f"warning: this machine was busy (load average {100 * found['busy_before']:.0f} % of its cores); "
            "measure again when it is idle",
            file=sys.stderr,
        )


def measure_sim(steps: int, repeats: int, scene: str = "D") -> dict[str, Any]:
    """Medians, ranges and settings; random actions, resets not timed.

    Args:
        steps: Control steps of 1/30 s per measurement.
        repeats: Measurements.
        scene: A, B, C or D.

    Raises:
        ForeActError: If the scene is unknown or nothing can draw here.
    """
    import os
    import statistics
    import time

    os.environ.setdefault("LP_NUM_THREADS", "0")  # llvmpipe draws in the calling thread, as in an evaluation

    import mujoco
    import numpy as np

    from foreact.sim.embodiment import CALVIN_SIZES
    from foreact.sim.env import DeskEnv
    from foreact.sim.gl_backend import pick_gl_backend
    from foreact.sim.system import busy_cores, gl_renderer

    busy = busy_cores()
    pick_gl_backend()
    sizes = " + ".join(f"{w}x{h}" for h, w in CALVIN_SIZES.values())
    speeds: dict[str, list[float]] = {}
    model: Any = None
    for name, render in ((f"both cameras, {sizes}", True), ("without pictures", False)):
        env = DeskEnv(scene, render=render)
        model = env.model
        rng = np.random.default_rng(0)
        env.reset(seed=0)
        for _ in range(repeats + 1):
            actions = rng.uniform(-1, 1, (steps, 7)).astype(np.float32)
            began = time.perf_counter()
            for action in actions:
                env.step(action)
            speeds.setdefault(name, []).append(steps / (time.perf_counter() - began))
            env.reset(seed=0)
        speeds[name] = speeds[name][1:]  # the first one warms up
        env.close()
    visible = int(((model.geom_rgba[:, 3] > 0) & (model.geom_group < 3)).sum())
    return {
        "steps_per_s": {name: statistics.median(values) for name, values in speeds.items()},
        "range_steps_per_s": {name: (min(values), max(values)) for name, values in speeds.items()},
        "settings": {
            "scene": scene,
            "GL renderer": gl_renderer(),
            "visible geoms": visible,
            "multisampling": int(model.vis.quality.offsamples),
            "slices": int(model.vis.quality.numslices),
            "physics steps per control step": round(1 / 30 / model.opt.timestep),
            "MuJoCo": mujoco.__version__,
            "cores": os.cpu_count(),
        },
        "busy_before": busy,
    }

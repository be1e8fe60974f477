"""Measures the desk simulation: speed in one process and in all, memory per environment, what a step's time goes to."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from foreact.commands.bench_busy import busy_share

if TYPE_CHECKING:
    from foreact.sim.env import DeskEnv
    from foreact.sim.vector import DeskVectorEnv

_ADDED = 3
"""How many environments are added to measure the memory of one."""


@dataclass
class Speed:
    """One way to run the desk, measured again and again."""

    per_s: list[float] = field(default_factory=list)
    """Control steps per second of wall time, all environments together."""
    cpu_us: list[float] = field(default_factory=list)
    """Processor time per control step [us], of all processes."""


def measure_sim(steps: int, repeats: int, scene: str = "D", processes: int | None = None) -> dict[str, Any]:
    """Medians and ranges of interleaved measurements, and the settings they belong to.

    Actions are uniform random ones of a third of the range, the same in every measurement; resets are not timed.

    Args:
        steps: Control steps of 1/30 s per measurement and environment.
        repeats: Measurements of each kind, taken in turns so that a busy moment hits all kinds.
        scene: A, B, C or D.
        processes: How many processes, with two environments in each; as many as there are cores by default.

    Raises:
        ForeActError: If the scene is unknown or nothing can draw here.
    """
    os.environ.setdefault("LP_NUM_THREADS", "0")  # llvmpipe draws in the calling thread, as in an evaluation

    from foreact.sim.embodiment import CALVIN_SIZES
    from foreact.sim.env import DeskEnv
    from foreact.sim.gl_backend import pick_gl_backend
    from foreact.sim.vector import DeskVectorEnv

    busy = busy_share()
    pick_gl_backend()
    processes = processes or os.cpu_count() or 1
    actions = np.random.default_rng(0).uniform(-1 / 3, 1 / 3, (steps, 7)).astype(np.float32)
    cameras = "both cameras, " + " + ".join(f"{w}x{h}" for h, w in CALVIN_SIZES.values())
    speeds: dict[str, Speed] = {}
    split: dict[str, list[float]] = {}
    single = {title: DeskEnv(scene, render=render) for title, render in ((cameras, True), ("without pictures", False))}
    many = {
        f"{title}, {processes} processes": DeskVectorEnv(
            2 * processes, num_processes=processes, copy=False, scene=scene, render=render
        )
        for title, render in ((cameras, True), ("without pictures", False))
    }
    try:
        for repeat in range(repeats + 1):  # the first one warms up
            for title, env in single.items():
                found = _time_one(env, actions)
                if repeat:
                    _note(speeds, title, found)
            for title, envs in many.items():
                found = _time_many(envs, actions[: max(10, steps // 2)])
                if repeat:
                    _note(speeds, title, found)
            for part, spent_us in time_split(single[cameras], actions[: max(10, steps // 4)]).items():
                if repeat:
                    split.setdefault(part, []).append(spent_us)
        memory = _memory(many, scene)
        settings = _settings(single[cameras], scene, processes)
    finally:
        for env in (*single.values(), *many.values()):
            env.close()
    return {
        "steps_per_s": {title: statistics.median(s.per_s) for title, s in speeds.items()},
        "range_steps_per_s": {title: (min(s.per_s), max(s.per_s)) for title, s in speeds.items()},
        "cpu_us_per_step": {title: statistics.median(s.cpu_us) for title, s in speeds.items()},
        "split_us": {part: statistics.median(values) for part, values in split.items()},
        "memory_mb": memory,
        "settings": settings,
        "busy_before": busy,
    }


def time_split(env: DeskEnv, actions: np.ndarray) -> dict[str, float]:
    """Wall time [us] of the parts of a control step of `env`, which renders both cameras: medians over the steps."""
    env.reset(seed=0)
    controller, renderer = env.controller, env.renderer()
    clocks: dict[str, _Clock] = {}
    watched = (
        ("physics and servo", controller, "hold", None),
        ("inverse kinematics", controller.ik, "solve", None),
        ("render rgb_static", renderer, "render", "rgb_static"),
        ("render rgb_gripper", renderer, "render", "rgb_gripper"),
        ("whole step", env, "step", None),
    )
    rows = []
    try:
        for part, owner, method, camera in watched:
            clocks[part] = _Clock(getattr(owner, method), camera)
            setattr(owner, method, clocks[part])
        for action in actions:
            env.step(action)
            spent = {part: 1e6 * clock.take_s() for part, clock in clocks.items()}
            whole = spent.pop("whole step")
            rows.append({**spent, "state, oracles, the rest": whole - sum(spent.values()), "whole step": whole})
    finally:
        for _, owner, method, _ in watched:
            vars(owner).pop(method, None)
    return {part: statistics.median(row[part] for row in rows) for part in rows[0]}


class _Clock:
    """Stands in for a method and adds up its time; with `camera` only that of calls for this camera."""

    def __init__(self, method: Callable[..., Any], camera: str | None) -> None:
        self._method, self._camera = method, camera
        self._total_s = 0.0

    def __call__(self, *args: Any) -> Any:
        began = time.perf_counter()
        result = self._method(*args)
        if self._camera is None or self._camera in args:
            self._total_s += time.perf_counter() - began
        return result

    def take_s(self) -> float:
        """The time since this was asked last."""
        total, self._total_s = self._total_s, 0.0
        return total


def _note(speeds: dict[str, Speed], title: str, found: tuple[float, float]) -> None:
    speed = speeds.setdefault(title, Speed())
    speed.per_s.append(found[0])
    speed.cpu_us.append(found[1])


def _time_one(env: DeskEnv, actions: np.ndarray) -> tuple[float, float]:
    """Steps per second and processor time per step [us]."""
    env.reset(seed=0)
    began, cpu = time.perf_counter(), time.process_time()
    for action in actions:
        env.step(action)
    return len(actions) / (time.perf_counter() - began), 1e6 * (time.process_time() - cpu) / len(actions)


def _time_many(envs: DeskVectorEnv, actions: np.ndarray) -> tuple[float, float]:
    envs.reset(seed=0)
    count = len(actions) * envs.num_envs
    batches = [np.tile(action, (envs.num_envs, 1)) for action in actions]
    began, cpu = time.perf_counter(), time.process_time() + sum(map(_cpu_s, envs.process_ids))
    for batch in batches:
        envs.step(batch)
    wall = time.perf_counter() - began
    return count / wall, 1e6 * (time.process_time() + sum(map(_cpu_s, envs.process_ids)) - cpu) / count


def _cpu_s(pid: int) -> float:
    """Processor time [s] of another process so far; 0 where /proc does not tell."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
    except OSError:
        return 0.0
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def pss_mb(pid: int | str = "self") -> float:
    """Memory of a process [MB], shared pages divided among those that share them; nan where /proc does not tell."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8")
    except OSError:
        return float("nan")
    return next(int(line.split()[1]) / 1024 for line in text.splitlines() if line.startswith("Pss:"))


def _memory(many: dict[str, DeskVectorEnv], scene: str) -> dict[str, float]:
    """MB per environment, each with both cameras: added to a process, and in the processes of the first of `many`."""
    from foreact.sim.env import DeskEnv

    envs = next(iter(many.values()))
    shared = sum(map(pss_mb, envs.process_ids)) / envs.num_envs
    before = pss_mb()
    added = [DeskEnv(scene) for _ in range(_ADDED)]
    for env in added:
        env.reset(seed=0)
        env.step(np.zeros(7))
    after = pss_mb()
    for env in added:
        env.close()
    return {
        "one more environment in a process": (after - before) / _ADDED,
        f"per environment, {envs.num_envs} in {len(envs.process_ids)} processes, all included": shared,
    }


def _settings(env: DeskEnv, scene: str, processes: int) -> dict[str, Any]:
    import mujoco

    from foreact.sim.system import cpu_name, gl_renderer

    model = env.model
    return {
        "scene": scene,
        "GL renderer": gl_renderer(),
        "CPU": cpu_name(),
        "cores": os.cpu_count(),
        "processes": processes,
        "visible geoms": int(((model.geom_rgba[:, 3] > 0) & (model.geom_group < 3)).sum()),
        "multisampling": int(model.vis.quality.offsamples),
        "slices": int(model.vis.quality.numslices),
        "physics steps per control step": round(1 / 30 / model.opt.timestep),
        "MuJoCo": mujoco.__version__,
    }

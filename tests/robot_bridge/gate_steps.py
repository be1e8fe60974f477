"""What tests of the gate have in common: a world in motion, and waiting for a state, on a clock that is set by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from foreact.robot_bridge.gate_world import World
from foreact.robot_bridge.limits import load_limits
from foreact.robot_bridge.types import State

PANDA = load_limits("panda")
TICK = 0.01


def world(**settings: Any) -> World:
    """RUNNING, at a random moment of its 100 Hz and 30 Hz rhythms."""
    seed = settings.pop("seed", 0)
    return World(PANDA, seed=seed, **settings).running(0.6 + 0.01 * (seed % 10))


def until(w: World, state: State, within_s: float) -> float:
    """How long it takes to get there; fails if it takes longer than `within_s` and the tick after."""
    began = w.now_s
    while w.gate.state is not state:
        w.tick()
        assert w.now_s - began <= within_s + TICK + 1e-6, f"{w.gate.state}, not {state}: {w.gate.log.last(2)}"
    return w.now_s - began


def comes_to_rest(w: World, within_s: float = 0.3) -> float:
    """How far the tool still goes [m]; fails if the arm is not at rest in time."""
    arm, path, stopped = w.gate.motion.kinematics, [w.controller.setpoint.position], None
    for i in range(round(within_s / TICK)):
        w.tick()
        path.append(w.controller.setpoint.position)
        if stopped is None and np.abs(w.controller.setpoint.velocity).max() <= 0.01:
            stopped = i
    assert stopped is not None and np.abs(w.controller.setpoint.velocity).max() <= 0.01
    points = arm.forward(np.array(path))[0]
    return float(np.linalg.norm(np.diff(points, axis=0), axis=1).sum())


def silence(what: str) -> Callable[[World], None]:
    """A source that stops."""
    return lambda w: w.silent.add(what)

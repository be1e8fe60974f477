"""An arm that something holds: forgiven a few times, then it waits for a person; and one that was moved meanwhile."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gate_steps import PANDA, silence

from foreact.robot_bridge.causes import Cause
from foreact.robot_bridge.gate_world import World
from foreact.robot_bridge.types import State


def pushing(**settings: Any) -> World:
    """A policy that leads on and on, against something that holds the arm."""
    w = World(PANDA, **settings)
    w.plan = lambda step, anchor: anchor + 0.01 * (1 + np.arange(w.rows))[:, None] * np.array([1, 0, 0, 0, 0, 0, 0])
    w.running(0.5)
    w.blocked = True
    w.measured = w.controller.setpoint.position.copy()
    return w


@pytest.mark.fault("B22", n=3, event="the policy pushes on against what holds the arm: FAULT, the command led back")
@pytest.mark.parametrize("limit", [1, 3, 5])
def test_an_arm_that_is_held_again_and_again_waits_for_a_person(limit: int) -> None:
    w = pushing(leash_limit=limit)
    w.run_until(State.FAULT, within_s=40.0)
    assert w.causes(State.HOLD) == [Cause.LEASH] * limit
    assert w.gate.cause is Cause.LEASH and f"{limit} times" in w.gate.log.last(1)[0].message
    np.testing.assert_allclose(w.controller.setpoint.position, w.measured, atol=5e-3)  # nothing leaps when it is let go
    w.gate.disarm(w.now_s)
    w.blocked = False
    w.run(0.3)
    assert w.gate.arm(w.now_s) == []
    w.gate.start(w.now_s, 1)
    w.blocked = True
    w.run_until(State.HOLD, within_s=10.0)  # counted anew
    w.run(0.5)
    assert limit == 1 or w.gate.state is not State.FAULT


def test_it_may_try_for_ever_if_somebody_says_so() -> None:
    w = pushing(leash_limit=0)
    w.run(60.0)
    assert len(w.causes(State.HOLD)) > 10 and w.gate.state is not State.FAULT


def test_touches_that_are_far_apart_are_forgiven() -> None:
    w = pushing(leash_limit=3, leash_window_s=2.0)
    for _ in range(6):
        w.blocked = True
        w.measured = w.controller.setpoint.position.copy()
        w.run_until(State.HOLD, within_s=10.0)
        w.blocked = False
        w.run_until(State.RUNNING, within_s=10.0)
        w.plan = w.wander
        w.run(2.0)
        w.plan = lambda step, anchor: (
            anchor + 0.01 * (1 + np.arange(w.rows))[:, None] * np.array([1, 0, 0, 0, 0, 0, 0])
        )
    assert w.causes(State.FAULT) == []


def test_a_stop_during_the_last_one_ends_in_ready() -> None:
    w = pushing(leash_limit=1)
    w.run_until(State.HOLD, within_s=10.0)
    w.gate.stop(w.now_s, "enough")
    w.run_until(State.READY, within_s=5.0)


@pytest.mark.fault("B22", n=2, event="the arm is pushed away while it holds: no leap back")
@pytest.mark.parametrize(("pushed_rad", "state"), [(0.05, State.RUNNING), (0.3, State.FAULT)])
def test_an_arm_that_was_moved_while_it_stood_does_not_leap_back(pushed_rad: float, state: State) -> None:
    """A little (it gives): the command goes to where it is, slowly. Further than the leash: a person has to look."""
    w = World(PANDA).running(0.5)
    silence("rgb_static")(w)
    w.run_until(State.HOLD, within_s=2.0)
    w.run(0.15)
    w.blocked = True  # it is where it was pushed
    w.measured = w.measured + np.array([pushed_rad, 0, 0, 0, 0, 0, 0])
    w.silent.clear()
    before = len(w.sent)
    w.run_until(state, within_s=5.0)
    moved = [t for t in w.sent[before:] if t.observed_s is not None]
    if state is State.FAULT:
        assert w.gate.cause in (Cause.START_POSE, Cause.CAMERA_STALE) and moved == []
    else:
        first = moved[0].position[0] if moved else w.controller.setpoint.position
        assert np.abs(first - w.measured).max() < 0.01

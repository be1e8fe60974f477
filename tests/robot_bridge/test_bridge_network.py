"""A network that loses, delays and overtakes, to the robot and to the policy: it costs time and does no harm."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from bridge_chain import World

from foreact.robot_bridge.causes import Cause
from foreact.robot_bridge.lossy import Network
from foreact.robot_bridge.types import State

GOOD = Network()
NETWORKS = {
    "1 % lost": Network(loss=0.01),
    "5 % lost": Network(loss=0.05),
    "30 % lost": Network(loss=0.3),
    "50 ms": Network(delay_s=0.05),
    "500 ms": Network(delay_s=0.5),
    "10 % lost, 10 ms and up to 40 ms more": Network(loss=0.1, delay_s=0.01, jitter_s=0.04),
    "10 % overtaken, 10 % twice": Network(reorder=0.1, held_s=0.1, duplicate=0.1),
    "30 % lost, 50 ms and up to 450 ms more": Network(loss=0.3, delay_s=0.05, jitter_s=0.45),
}


def unsafe(world: World, since_s: float) -> str:
    """What the arm did that it must never do; "" if nothing."""
    arm, part = world.arm, world.gate.settings.speed_fraction
    after = [m for m in world.moves if m[0] > since_s]
    # the arm's servo overshoots its command by a little
    if max(speed for _, speed, _ in after) > 1.1 * part * max(arm.velocity):
        return "too fast"
    tool = np.array([p for _, _, p in after])
    if np.abs(np.diff(tool, axis=0)).max() / world.body.period_s > 1.2 * arm.tcp_speed_m_s:
        return "the tool is too fast"
    if (tool < np.array(arm.workspace_low_base) - 0.01).any() or (
        tool > np.array(arm.workspace_high_base) + 0.01
    ).any():
        return "out of the workspace"
    # what comes after its own end is refused, as a controller should
    return "; ".join(alarm for alarm in world.robot.alarms if "in the past" not in alarm)


def minutes(world: World, seconds: float) -> tuple[float, Counter[str]]:
    """Go on for so long; an operator arms again after a FAULT. Part of the time that it ran, and its stops by cause."""
    running, began, causes = 0, world.now_s, Counter()
    before, last_try = world.state, -np.inf
    while world.now_s - began < seconds:
        world.step()
        running += world.state is State.RUNNING
        if world.state is not before and world.state in (State.HOLD, State.FAULT):
            causes[str(world.gate.cause)] += 1
        before = world.state
        if world.state in (State.FAULT, State.DISARMED, State.READY) and world.now_s - last_try > 1.0:
            last_try = world.now_s
            world.bridge.command("arm", False, world.now_s)
            if world.bridge.command("arm", True, world.now_s)[0]:
                world.link.say(f"at {world.now_s:.1f}")
    return running * 0.01 / seconds, causes


def through(network: Network, folder: Path, seconds: float) -> tuple[float, Counter[str]]:
    world = World(folder, sweep=0.1, network=GOOD)
    assert world.channels is not None
    world.go(seconds=1.0)
    since = world.now_s
    world.channels.network = network
    ran, causes = minutes(world, seconds)
    assert unsafe(world, since) == ""
    # nothing gets through any more: the arm stops by itself, wherever it is
    world.channels.network = Network(loss=1.0)
    world.run(network.delay_s + network.jitter_s + network.held_s)
    assert world.rest_after(world.now_s, 1.0)[0] <= 0.3
    assert world.state is not State.RUNNING
    world.close()
    return ran, causes


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.fault("B27", n=1, event=f"8 s of network: {n}")) for n in NETWORKS]
)
def test_a_bad_network_costs_time_and_nothing_else(name: str, tmp_path: Path) -> None:
    ran, causes = through(NETWORKS[name], tmp_path, 8.0)
    if name in ("50 ms", "500 ms", "30 % lost, 50 ms and up to 450 ms more"):
        # joint states are older than 20 ms all the time
        assert ran < 0.05
        assert causes[Cause.JOINTS_STALE] >= 1
    if name == "1 % lost":
        assert ran > 0.5


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.fault("B27", n=1, event=f"600 s of network: {n}")) for n in NETWORKS]
)
def test_ten_minutes_of_a_bad_network(name: str, tmp_path: Path) -> None:
    ran, causes = through(NETWORKS[name], tmp_path, 600.0)
    print(f"{name}: ran {ran:.0%} of the time, stops {dict(causes)}")


def slow(rng: np.random.Generator) -> Callable[[], float]:
    return lambda: float(rng.uniform(0.05, 0.5))


def stuck(rng: np.random.Generator) -> Callable[[], float]:
    return lambda: float(rng.choice([0.05, 2.0], p=[0.9, 0.1]))


@pytest.mark.fault("B12", n=2, event="20 s of plans that take 0.05 to 0.5 s, or 2 s now and then (whole chain)")
@pytest.mark.parametrize("how", [slow, stuck])
def test_plans_that_come_when_they_like_cost_time_and_nothing_else(how: Callable, tmp_path: Path) -> None:
    world = World(tmp_path, sweep=0.1)
    world.go(seconds=1.0)
    since = world.now_s
    world.policy.latency_s = how(np.random.default_rng(12))
    ran, causes = minutes(world, 20.0)
    assert unsafe(world, since) == ""
    assert 0.05 < ran < 1.0
    assert set(causes) <= {Cause.LATE_INFERENCE, Cause.EXHAUSTED, Cause.DISCONTINUITY}, causes
    assert causes[Cause.LATE_INFERENCE] >= 1

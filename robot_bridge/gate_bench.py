"""What a tick of the gate costs: the whole of it, everything healthy, RUNNING, two cameras, 100 joint states a second.

Timed is what the gate does in one tick: the joint state that came, the clock, the policy's sign of life, a picture or a
chunk where one came, `tick`, and so every third message for the controller. Not timed: transports, the policy, and the
robot, which a `TrajectoryController` stands for.
"""

from __future__ import annotations

import gc
import time
import tracemalloc
from dataclasses import dataclass

import numpy as np

from foreact.robot_bridge.gate import Gate
from foreact.robot_bridge.gate_world import World
from foreact.robot_bridge.limits import load_limits
from foreact.robot_bridge.real_time import no_long_pauses
from foreact.robot_bridge.types import State
from foreact.vla.errors import ForeActError

GOAL_P99_S = 0.2e-3


@dataclass(frozen=True)
class GateCost:
    """Of `ticks` ticks."""

    robot: str
    ticks: int
    tick_p50_s: float
    tick_p99_s: float
    tick_p999_s: float
    tick_max_s: float
    """`Gate.tick` alone."""
    cpu_p50_s: float
    cpu_p99_s: float
    """`Gate.tick` by the processor time of its thread: what it costs where nobody else wants the processor."""
    whole_p50_s: float
    whole_p99_s: float
    """With what came in that tick."""
    growth_bytes: int
    """More memory held at the end of the second half than at its begin, by Python's own count."""

    def lines(self) -> list[str]:
        """For people."""
        return [
            f"{self.robot}: {self.ticks:,} ticks, RUNNING",
            f"  Gate.tick   p50 {1e6 * self.tick_p50_s:.0f} us, p99 {1e6 * self.tick_p99_s:.0f} us, "
            f"p99.9 {1e6 * self.tick_p999_s:.0f} us, max {1e3 * self.tick_max_s:.2f} ms "
            f"(goal: p99 below {1e6 * GOAL_P99_S:.0f} us)",
            f"  processor   p50 {1e6 * self.cpu_p50_s:.0f} us, p99 {1e6 * self.cpu_p99_s:.0f} us",
            f"  with inputs p50 {1e6 * self.whole_p50_s:.0f} us, p99 {1e6 * self.whole_p99_s:.0f} us",
            f"  memory held after the second half: {self.growth_bytes:+,} bytes",
        ]


class _Timed:
    """A gate whose methods add up the time that is spent in them."""

    def __init__(self, gate: Gate):
        self._gate = gate
        self.spent_s = self.tick_s = self.cpu_s = 0.0

    def __getattr__(self, name: str):
        found = getattr(self._gate, name)
        if not name.startswith("on_") and name != "tick":
            return found

        def timed(*args):
            cpu, began = time.thread_time(), time.perf_counter()
            out = found(*args)
            took, cpu = time.perf_counter() - began, time.thread_time() - cpu
            self.spent_s += took
            if name == "tick":
                self.tick_s, self.cpu_s = took, cpu
            return out

        return timed


def bench_gate(ticks: int = 20_000, robot: str = "panda") -> GateCost:
    """Measure on this machine.

    Raises:
        ForeActError: If the gate does not stay RUNNING, so that nothing was measured.
    """
    world = World(load_limits(robot)).running()
    gate = world.gate
    timed = _Timed(gate)
    world.gate = timed  # type: ignore[assignment]
    world.run(1.0)
    tick_s, cpu_s, whole_s = np.empty((3, ticks))
    with no_long_pauses():  # as the bridge ticks
        for i in range(ticks):
            timed.spent_s = 0.0
            world.tick()
            tick_s[i], cpu_s[i], whole_s[i] = timed.tick_s, timed.cpu_s, timed.spent_s
            if i % 100 == 0:
                world.sent.clear()
    if gate.state is not State.RUNNING:
        raise ForeActError(f"the gate is {gate.state.value} at the end of the benchmark: {gate.log.last(2)}")
    return GateCost(
        robot=robot,
        ticks=ticks,
        tick_p50_s=float(np.quantile(tick_s, 0.5)),
        tick_p99_s=float(np.quantile(tick_s, 0.99)),
        tick_p999_s=float(np.quantile(tick_s, 0.999)),
        tick_max_s=float(tick_s.max()),
        cpu_p50_s=float(np.quantile(cpu_s, 0.5)),
        cpu_p99_s=float(np.quantile(cpu_s, 0.99)),
        whole_p50_s=float(np.quantile(whole_s, 0.5)),
        whole_p99_s=float(np.quantile(whole_s, 0.99)),
        growth_bytes=allocation_growth(robot, max(100, ticks // 10)),
    )


def allocation_growth(robot: str, ticks: int) -> int:
    """Bytes held more after 2 `ticks` ticks than after the first `ticks` of them."""
    world = World(load_limits(robot)).running()
    tracemalloc.start()
    try:
        held = []
        for _ in range(3):
            for _ in range(ticks):
                world.tick()
            world.sent.clear()
            gc.collect()
            held.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    return held[2] - held[1]

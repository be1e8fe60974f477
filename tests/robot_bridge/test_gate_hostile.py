"""A policy that sends anything at all, at any time, while everything else fails at random: what is published stays
within every limit, and nothing moves when nothing may. Judged by a controller's spline and backward differences, not by
the gate's own numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from foreact.robot_bridge.causes import Cause
from foreact.robot_bridge.gate_world import START_Q, World
from foreact.robot_bridge.limits import RobotLimits, load_limits
from foreact.robot_bridge.types import ActionChunk, RobotMode, State, Trajectory

DT = 0.01


MESSAGE = ("non-finite", "malformed", "position", "stated velocity", "stated accel")
"""What each message is judged by; "velocity" and "accel" are those of the controller's setpoints on a grid of ticks."""


class Judge:
    """Watches all that is published, and the controller's setpoints on the 100 Hz grid."""

    def __init__(self, world: World):
        self.world, self.limits = world, world.limits
        self.low, self.high = np.array(self.limits.position_low), np.array(self.limits.position_high)
        self.v, self.a = 0.25 * np.array(self.limits.velocity), np.array(self.limits.acceleration)
        self.q: list[np.ndarray] = []
        self.violations: dict[str, int] = dict.fromkeys((*MESSAGE, "velocity", "accel"), 0)
        self.published = 0
        world.on_sent = self.sent

    def sent(self, t: Trajectory) -> None:
        """Every number of every message."""
        self.published += 1
        arrays = (t.time_from_start_s, t.position, t.velocity, t.acceleration)
        n, points = len(self.low), len(t.time_from_start_s)
        self.violations["non-finite"] += not all(np.isfinite(x).all() for x in arrays)
        well = all(x.shape == (points, n) and x.dtype == np.float64 for x in arrays[1:]) and (
            points >= 1
            and t.time_from_start_s[0] > 0
            and (np.diff(t.time_from_start_s) > 0).all()
            and t.time_from_start_s[-1] <= self.limits.stop_s + 1e-9
            and not t.velocity[-1].any()
            and not t.acceleration[-1].any()
        )
        self.violations["malformed"] += not well
        self.violations["position"] += bool((t.position < self.low).any() or (t.position > self.high).any())
        self.violations["stated velocity"] += bool((np.abs(t.velocity) > self.v + 1e-9).any())
        self.violations["stated accel"] += bool((np.abs(t.acceleration) > self.a + 1e-9).any())

    def look(self) -> None:
        """One setpoint, after each tick."""
        self.q.append(self.world.controller.setpoint.position)
        if len(self.q) >= 5000:
            self.settle()

    def settle(self) -> None:
        """Differences of what was collected."""
        q = np.array(self.q)
        v = np.diff(q, axis=0) / DT
        a = np.diff(v, axis=0) / DT
        self.violations["non-finite"] += int((~np.isfinite(q)).sum())
        self.violations["position"] += int(((q < self.low) | (q > self.high)).sum())
        # The setpoint on the grid lies up to 1e-6 rad beside the plan, where a message joins the one before it.
        self.violations["velocity"] += int((np.abs(v) > self.v + 1e-4).sum())
        self.violations["accel"] += int((np.abs(a) > self.a + 1e-2).sum())
        self.q = self.q[-2:]


def hostile_chunk(w: World, rng: np.random.Generator) -> object:
    """One of everything that a broken or hostile policy could send; a third of them look perfectly well."""
    good = w.chunk()
    rows, n = good.joint_position, good.joint_position.shape[1]
    k = len(rows)
    kind = int(rng.integers(24))
    change: dict[str, Any] = {}
    if kind == 0:
        change = {
            "joint_position": np.where(rng.random(rows.shape) < 0.05, rng.choice([np.nan, np.inf, -np.inf]), rows)
        }
    elif kind == 1:
        change = {"joint_position": rng.normal(0.0, 10.0 ** rng.integers(-3, 300), rows.shape)}
    elif kind == 2:
        change = {"joint_position": rows[:, : int(rng.integers(0, n))]}
    elif kind == 3:
        change = {"joint_position": (0.0 * rows).astype(rng.choice(["f4", "f2", "i8", "c16", "O", "U8"]))}
    elif kind == 4:
        change = {"joint_position": rows + rng.choice([-1, 1], n) * rng.uniform(0, 0.3)}
    elif kind == 5:
        change = {"joint_position": rows + np.cumsum(rng.normal(0, 0.05, rows.shape), axis=0)}
    elif kind == 6:
        change = {"joint_position": rows + rng.choice([-0.099, 0.099], rows.shape)}
    elif kind == 7:
        change = {"gripper": rng.choice([np.nan, 1e308, -1e308, 0.0], k)}
    elif kind == 8:
        change = {"sequence": int(rng.integers(-(2**62), 2**62))}
    elif kind == 9:
        change = {"step": good.step + int(rng.integers(-200, 200))}
    elif kind == 10:
        change = {"observed_s": w.now_s + rng.normal(0, 1.0)}
    elif kind == 11:
        change = {"instruction_id": int(rng.integers(0, 5))}
    elif kind == 12:
        return [None, "x", 7, rows, {"joint_position": rows}, object(), b""][int(rng.integers(7))]
    elif kind == 13:
        repeats = int(rng.integers(1, 1200))
        change = {"joint_position": np.repeat(rows[:1], repeats, axis=0), "gripper": np.ones(repeats)}
    elif kind == 14:
        limits = w.limits
        change = {
            "joint_position": np.clip(rows + 0.05 * rng.normal(size=n), limits.position_low, limits.position_high)
        }
    elif kind == 15:
        change = {"joint_position": rows[::-1].copy()}
    return replace(good, **change)


def rearm(w: World) -> None:
    """What an operator would do after a FAULT: put everything right, arm, start."""
    w.silent.clear()
    w.frozen.clear()
    w.blocked, w.reports = False, w.healthy_graph()
    w.gate.disarm(w.now_s)
    w.gate.on_mode(RobotMode.OK, w.now_s)
    w.run(0.3)
    if w.gate.arm(w.now_s):  # it stands where motion may not begin: somebody leads it back
        q = np.array(START_Q[len(w.limits.joints)])
        w.controller.hold(q)
        w.measured = q
        w.run(1.2)
        assert w.gate.arm(w.now_s) == []
    w.gate.start(w.now_s, w.instruction_id)


def attack(limits: RobotLimits, chunks: int, seed: int, event: Callable[[World, np.random.Generator], None] | None):
    """Send so many chunks, one per tick at most, and judge."""
    w = World(limits, seed=seed)
    rng = np.random.default_rng(seed)
    w.running(0.3)
    judge = Judge(w)
    sent = running = 0
    while sent < chunks:
        if rng.random() < 0.5:
            w.gate.on_chunk(hostile_chunk(w, rng), w.now_s)
            sent += 1
        if event is not None:
            event(w, rng)
        before, published = w.gate.state, judge.published
        w.tick()
        judge.look()
        running += w.gate.state is State.RUNNING
        if w.gate.state in (State.FAULT, State.DISARMED):
            assert before is not w.gate.state or judge.published == published  # nothing is sent there
            if rng.random() < 0.1:
                judge.settle()
                judge.q.clear()
                rearm(w)
        if w.ticks % 500 == 0:
            w.sent.clear()
    judge.settle()
    return w, judge, running


ROBOTS = ("panda", "fr3", "ur5e")


@pytest.mark.fault("B1", n=10_500, event="hostile chunks")
@pytest.mark.parametrize("name", ROBOTS)
def test_hostile_chunks(name: str) -> None:
    w, judge, running = attack(load_limits(name), 3500, 1, None)
    assert judge.violations == dict.fromkeys(judge.violations, 0)
    assert running > 1000 and judge.published > 1000
    causes = {Cause(c) for c in w.gate.log.counts}
    assert {Cause.CHUNK_BAD, Cause.DISCONTINUITY, Cause.OUT_OF_RANGE} <= causes


@pytest.mark.slow
@pytest.mark.fault("B1", n=1_000_000, event="hostile chunks")
@pytest.mark.parametrize("seed", range(10))
def test_a_million_hostile_chunks(seed: int) -> None:
    _, judge, running = attack(load_limits(ROBOTS[seed % 3]), 100_000, 100 + seed, None)
    assert judge.violations == dict.fromkeys(judge.violations, 0)
    assert running > 30_000


def random_event(w: World, rng: np.random.Generator) -> None:
    """Now and then something breaks, or is put right."""
    if rng.random() > 0.03:
        return
    kind = int(rng.integers(14))
    sources = ["joints", "policy", "clock", "graph", "gripper", "rgb_static", "rgb_gripper", "chunks"]
    if kind < 3:
        w.silent.add(str(rng.choice(sources)))
    elif kind < 7:
        w.silent.clear()
        w.frozen.clear()
        w.blocked = False
    elif kind == 7:
        w.frozen.add("rgb_static")
    elif kind == 8:
        w.blocked = True
    elif kind == 9:
        w.epoch_s += float(rng.choice([1.0, -1.0, 3600.0]))
    elif kind == 10:
        w.gate.on_mode(RobotMode(str(rng.choice(list(RobotMode)))), w.now_s)
    elif kind == 11:
        w.instruction_id += 1
        w.gate.on_instruction(w.instruction_id, w.now_s)
    elif kind == 12:
        w.gate.stop(w.now_s, "chance")
        w.gate.start(w.now_s, w.instruction_id)
    else:
        w.now_s += float(rng.choice([0.02, 0.04, 0.1, 5.0]))


@pytest.mark.fault("B2", n=6000, event="hostile chunks among random failures of everything else")
@pytest.mark.parametrize("name", ROBOTS)
def test_hostile_chunks_among_random_failures(name: str) -> None:
    w, judge, running = attack(load_limits(name), 2000, 2, random_event)
    judge_message_only(judge)
    assert running > 300 and len(w.gate.log.counts) > 10


def judge_message_only(judge: Judge) -> None:
    """The grid is uneven where the clock leapt, so differences there say nothing; every message is still judged."""
    assert {name: judge.violations[name] for name in MESSAGE} == dict.fromkeys(MESSAGE, 0)


@pytest.mark.slow
@pytest.mark.fault("B2", n=200_000, event="hostile chunks among random failures of everything else")
@pytest.mark.parametrize("seed", range(10))
def test_many_hostile_chunks_among_random_failures(seed: int) -> None:
    _, judge, _ = attack(load_limits(ROBOTS[seed % 3]), 20_000, 200 + seed, random_event)
    judge_message_only(judge)


@pytest.mark.fault("B9", n=60, event="nothing moves without being armed and started")
@pytest.mark.parametrize("state", [State.DISARMED, State.READY, State.FAULT])
def test_nothing_moves_without_being_told(state: State) -> None:
    for seed in range(20):
        w = World(load_limits("panda"), seed=seed)
        if state is State.DISARMED:
            w.prepare()
        elif state is State.READY:
            w.armed()
        else:
            w.running(0.3)
            w.gate.on_mode(RobotMode.REFLEX, w.now_s)
            w.controller.hold(w.measured)
        rng, sent, where = np.random.default_rng(seed), len(w.sent), w.measured.copy()
        for _ in range(50):
            w.gate.on_chunk(hostile_chunk(w, rng), w.now_s)
            w.tick()
        assert len(w.sent) == sent and np.array_equal(w.measured, where)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    rows=hnp.arrays(
        np.float64, st.tuples(st.integers(0, 12), st.integers(5, 8)),
        elements=st.floats(allow_nan=True, allow_infinity=True, width=64),
    ),
    near=st.booleans(),
    sequence=st.integers(-5, 2**63),
    step=st.integers(-100, 100),
    age_s=st.floats(-1.0, 1.0),
    gripper=st.floats(allow_nan=True),
)  # fmt: skip
@pytest.mark.fault("B1", n=150, event="chunks that Hypothesis thinks of")
def test_chunks_that_hypothesis_thinks_of(
    rows: np.ndarray, near: bool, sequence: int, step: int, age_s: float, gripper: float
) -> None:
    w = _running_world()
    judge = Judge(w)
    if near and rows.shape[1] == 7:
        with np.errstate(all="ignore"):
            rows = w.measured + np.remainder(rows, 0.1)
    chunk = ActionChunk(
        sequence=sequence, instruction_id=w.instruction_id, observed_s=w.now_s - age_s, step=w.gate.step + step,
        joint_position=rows, gripper=np.full(len(rows), gripper),
    )  # fmt: skip
    w.gate.on_chunk(chunk, w.now_s)
    for _ in range(20):
        w.tick()
        judge.look()
    judge.settle()
    assert judge.violations == dict.fromkeys(judge.violations, 0)


_SHARED: list[World] = []


def _running_world() -> World:
    """One world for all examples, put right again where the one before broke it."""
    if not _SHARED:
        _SHARED.append(World(load_limits("panda")).running(0.3))
    w = _SHARED[0]
    if w.gate.state is not State.RUNNING:
        rearm(w)
        w.run(0.3)
    return w

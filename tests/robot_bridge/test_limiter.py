"""The limiter's motion, checked from outside: on its grid by backward differences, and at 1 kHz after the spline of a
JointTrajectoryController that gets its messages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from foreact.robot_bridge.gate_world import START_Q, as_message
from foreact.robot_bridge.kinematics import Kinematics
from foreact.robot_bridge.limiter import Limiter
from foreact.robot_bridge.limiter_brake import Brake
from foreact.robot_bridge.limits import RobotLimits, load_limits
from foreact.robot_bridge.trajectory_controller import TrajectoryController
from foreact.vla.errors import ConfigError

ROBOTS = ("panda", "fr3", "ur5e")
DT = 0.01
FRACTION = 0.25


def start(limits: RobotLimits) -> np.ndarray:
    """Joints (N,) to begin at."""
    return np.array(START_Q[len(limits.joints)])


Wish = Callable[[int, Limiter], tuple[np.ndarray, np.ndarray]]


def hostile(limits: RobotLimits, seed: int) -> Wish:
    """Targets that no policy should send: far, leaping, racing, shaking, and now and then a good one."""
    rng, n = np.random.default_rng(seed), len(limits.joints)
    low, high = np.array(limits.position_low), np.array(limits.position_high)
    state: dict[str, Any] = {"mode": 0, "target": start(limits), "rate": np.zeros(n)}

    def wish(tick: int, limiter: Limiter) -> tuple[np.ndarray, np.ndarray]:
        here = np.array(limiter.state(limiter.frontier)[0])
        if tick % 40 == 0:
            state["mode"] = int(rng.integers(6))
            state["target"] = rng.uniform(low - 1, high + 1) if state["mode"] == 0 else here
            rates = {1: rng.normal(0, 3, n), 2: FRACTION * np.array(limits.velocity) * rng.choice([-1, 1], n)}
            state["rate"] = rates.get(state["mode"], np.zeros(n))
        if state["mode"] == 3:
            return here + rng.normal(0, 0.3, n), rng.normal(0, 1, n)
        if state["mode"] == 4:
            return here + rng.choice([-0.09, 0.09], n), rng.choice([-1e6, 1e6], n)
        state["target"] = state["target"] + DT * state["rate"]
        return state["target"], state["rate"]

    return wish


def drive(limiter: Limiter, wish: Wish, ticks: int, *, seed: int = 0, pauses: bool = True) -> np.ndarray:
    """(ticks, N) the command on its grid, while targets come in every tick but for some pauses."""
    rng = np.random.default_rng(seed)
    out, asleep = [], 0
    for tick in range(ticks):
        now = tick * DT
        if pauses and asleep == 0 and rng.random() < 0.01:
            asleep = int(rng.integers(1, 40))
        if asleep:
            asleep -= 1
        else:
            limiter.catch_up(now)
            for _ in range(limiter.missing(now)):
                target, rate = wish(tick, limiter)
                limiter.extend(target.tolist(), rate.tolist())
        out.append(limiter.state(tick)[0])
    return np.array(out)


def excess(limits: RobotLimits, q: np.ndarray) -> dict[str, float]:
    """By how much backward differences of a 100 Hz stream (T, N) go beyond position, velocity, acceleration limits."""
    v = np.diff(q, axis=0) / DT
    a = np.diff(v, axis=0) / DT
    return {
        "position": max((np.array(limits.position_low) - q).max(), (q - np.array(limits.position_high)).max()),
        "velocity": (np.abs(v) - FRACTION * np.array(limits.velocity)).max(),
        "acceleration": (np.abs(a) - np.array(limits.acceleration)).max(),
    }


def tool_rates(limits: RobotLimits, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Speed (T - 1,) [m/s] and turn rate (T - 1,) [rad/s] of the tool along a 100 Hz stream (T, N)."""
    p, r = Kinematics(limits).forward(q)
    turn = np.einsum("tij,tik->tjk", r[:-1], r[1:])
    cos = np.clip((np.trace(turn, axis1=1, axis2=2) - 1) / 2, -1, 1)
    return np.linalg.norm(np.diff(p, axis=0), axis=1) / DT, np.arccos(cos) / DT


@pytest.mark.fault("B2", n=18_000, event="hostile targets at the limiter")
@pytest.mark.parametrize("name", ROBOTS)
def test_stream_keeps_position_velocity_and_acceleration(name: str) -> None:
    limits = load_limits(name)
    for seed in range(2):
        limiter = Limiter(limits)
        limiter.reset(start(limits), 0.0)
        q = drive(limiter, hostile(limits, seed), 3000, seed=seed)
        assert np.isfinite(q).all()
        assert np.ptp(q, axis=0).min() > 0.05  # it did move
        assert all(value <= 1e-9 for value in excess(limits, q).values()), excess(limits, q)


@pytest.mark.fault("B4", n=18_000, event="tool speed under hostile targets")
@pytest.mark.parametrize("name", ROBOTS)
def test_tool_stays_below_its_caps_and_in_its_box(name: str) -> None:
    limits = load_limits(name)
    low, high = np.array(limits.workspace_low_base), np.array(limits.workspace_high_base)
    for seed in range(2):
        limiter = Limiter(limits)
        limiter.reset(start(limits), 0.0)
        q = drive(limiter, hostile(limits, 100 + seed), 3000, seed=seed)
        speed, turn = tool_rates(limits, q)
        assert speed.max() <= 0.25 and turn.max() <= 1.0
        assert max(speed.max() / 0.25, turn.max()) > 0.9  # the caps were reached, not avoided
        p = Kinematics(limits).forward(q)[0]
        assert (p >= low - 1e-3).all() and (p <= high + 1e-3).all()


@pytest.mark.slow
@pytest.mark.fault("B4", n=300_000, event="tool speed under hostile targets")
@pytest.mark.parametrize("name", ROBOTS)
def test_tool_stays_below_its_caps_for_long(name: str) -> None:
    limits = load_limits(name)
    for seed in range(5):
        limiter = Limiter(limits)
        limiter.reset(start(limits), 0.0)
        q = drive(limiter, hostile(limits, 1000 + seed), 20_000, seed=seed)
        speed, turn = tool_rates(limits, q)
        assert speed.max() <= 0.25 and turn.max() <= 1.0
        assert all(value <= 1e-9 for value in excess(limits, q).values()), excess(limits, q)


def through_controller(
    limits: RobotLimits, wish: Wish, ticks: int, *, every: int = 2, late_s: float = 0.0, dies_at: int | None = None
) -> np.ndarray:
    """(10 ticks, 3, N): position, velocity, acceleration at 1 kHz of a controller that gets the messages."""
    limiter, begin_s = Limiter(limits), 5.0  # not 0: a stamp of 0 means "on arrival"
    limiter.reset(start(limits), begin_s)
    controller = TrajectoryController(limits.joints, start(limits))
    out, post = [], []
    for ms in range(10 * ticks):
        now = begin_s + ms * 1e-3
        if ms % 10 == 0 and (dies_at is None or ms // 10 < dies_at):
            limiter.catch_up(now)
            for _ in range(limiter.missing(now)):
                limiter.extend(*(x.tolist() for x in wish(ms // 10, limiter)))
            if (ms // 10) % every == 0:
                post.append((now + late_s, as_message(limits, limiter.trajectory(now))))
        while post and post[0][0] <= now + 1e-9:
            assert controller.receive(post.pop(0)[1], now) == ""
        s = controller.update(now)
        out.append((s.position, s.velocity, s.acceleration))
    return np.array(out)


@pytest.mark.fault("B3", n=24_000, event="jerk at 1 kHz after the controller's spline")
@pytest.mark.parametrize("name", ROBOTS)
@pytest.mark.parametrize("late_s", [0.0, 0.018])
def test_jerk_at_1_khz_stays_below_the_vendors(name: str, late_s: float) -> None:
    limits = load_limits(name)
    stream = through_controller(limits, hostile(limits, 7), 400, late_s=late_s)
    q = stream[:, 0]
    v = np.diff(q, axis=0) / 1e-3
    a = np.diff(v, axis=0) / 1e-3
    jerk = np.diff(a, axis=0) / 1e-3
    assert np.ptp(q, axis=0).max() > 0.05
    assert (np.abs(v) <= FRACTION * np.array(limits.velocity) + 1e-6).all()
    assert (np.abs(a) <= np.array(limits.acceleration) + 1e-4).all()
    # three differences of doubles near 3 rad lose 1e-15 / 1e-9
    assert (np.abs(jerk) <= np.array(limits.jerk) + 0.01).all(), (np.abs(jerk) / np.array(limits.jerk)).max(axis=0)
    # what the controller says of its own derivatives is the same motion
    np.testing.assert_allclose(stream[1:-1, 1], (q[2:] - q[:-2]) / 2e-3, atol=2e-3)


@pytest.mark.parametrize("name", ROBOTS)
def test_controller_follows_exactly_the_planned_motion(name: str) -> None:
    limits = load_limits(name)
    limiter = Limiter(limits)
    limiter.reset(start(limits), 0.0)
    plan = drive(limiter, hostile(limits, 3), 300, pauses=False)
    heard = through_controller(limits, hostile(limits, 3), 300)[::10, 0]
    # A message is joined a millisecond before the point where its first segment begins: hence not 1e-12.
    np.testing.assert_allclose(heard[:-10], plan[:-10], atol=1e-6)


@pytest.mark.fault("B8", n=60, event="nothing more is sent, at a random moment")
@pytest.mark.parametrize("name", ROBOTS)
def test_when_nothing_comes_any_more_the_arm_stops(name: str) -> None:
    limits = load_limits(name)
    rng = np.random.default_rng(5)
    for trial in range(20):
        dies = int(rng.integers(30, 80))
        stream = through_controller(limits, hostile(limits, 50 + trial), dies + 25, dies_at=dies)
        last_sent_ms = 10 * ((dies - 1) // 2 * 2)
        assert np.abs(stream[last_sent_ms + 200 :, 1]).max() <= 1e-9
        p = Kinematics(limits).forward(stream[last_sent_ms:, 0])[0]
        assert np.linalg.norm(np.diff(p, axis=0), axis=1).sum() <= 0.05


@pytest.mark.parametrize("name", ROBOTS)
def test_every_message_begins_on_the_last_and_ends_at_rest(name: str) -> None:
    limits = load_limits(name)
    limiter, wish = Limiter(limits), hostile(limits, 11)
    limiter.reset(start(limits), 0.0)
    low, high = np.array(limits.position_low), np.array(limits.position_high)
    for tick in range(500):
        now = tick * DT
        limiter.catch_up(now)
        for _ in range(limiter.missing(now)):
            limiter.extend(*(x.tolist() for x in wish(tick, limiter)))
        sent = limiter.trajectory(now + 0.003 * (tick % 3), observed_s=1.0)
        times = sent.time_from_start_s
        assert (np.diff(times) > 0).all() and times[0] > 0 and times[-1] <= limits.stop_s + 1e-9
        assert not sent.velocity[-1].any() and not sent.acceleration[-1].any()
        assert ((sent.position >= low) & (sent.position <= high)).all()
        first = round((sent.start_s + times[0]) / DT)
        np.testing.assert_allclose(sent.position[0], limiter.state(first)[0], atol=0)
        assert len(times) <= 14 and sent.observed_s == 1.0


def test_a_good_target_is_followed_closely() -> None:
    limits = load_limits("panda")
    limiter = Limiter(limits)
    limiter.reset(start(limits), 0.0)
    path = start(limits) + 0.1 * np.sin(np.arange(2000)[:, None] * DT * np.linspace(0.6, 1.2, 7)) * np.array(
        [1, -1, 1, -1, 1, -1, 1]
    )

    def wish(tick: int, _: Limiter) -> tuple[np.ndarray, np.ndarray]:
        i = min(tick + limiter.lead_ticks, 1998)
        return path[i], (path[i + 1] - path[i]) / DT

    q = drive(limiter, wish, 1500, pauses=False)
    assert np.abs(q[100:] - path[100:1500]).max() < 0.002
    assert limiter.clipped == ""


def test_full_scale_relative_actions_of_calvin_at_the_default_speed() -> None:
    """0.02 m a step at 30 Hz, stretched four times, is 0.15 m/s along one axis: it is followed, not clipped."""
    limits = load_limits("panda")
    arm, limiter = Kinematics(limits), Limiter(limits)
    q = start(limits)
    limiter.reset(q, 0.0)
    way = [q]
    for _ in range(150):
        q = q + np.linalg.pinv(arm.jacobian(q)) @ np.array([0, 0.15 * DT, 0, 0, 0, 0])
        way.append(q)
    path = np.array(way)

    def wish(tick: int, _: Limiter) -> tuple[np.ndarray, np.ndarray]:
        i = min(tick + limiter.lead_ticks, len(path) - 2)
        return path[i], (path[i + 1] - path[i]) / DT

    moved = drive(limiter, wish, 140, pauses=False)
    speed, _ = tool_rates(limits, moved)
    assert 0.14 < speed[60:].mean() < 0.16
    assert np.abs(moved[60:] - path[60:140]).max() < 0.01


def test_joint_limit_is_approached_and_kept() -> None:
    limits = load_limits("panda")
    limiter = Limiter(limits)
    limiter.reset(start(limits), 0.0)
    beyond = start(limits) + np.array([0, 0, 0, 0, 9.0, 0, 0])
    q = drive(limiter, lambda *_: (beyond, np.zeros(7)), 1200, pauses=False)
    assert limiter.clipped == "joint limit"
    assert q[-1, 4] == pytest.approx(2.8973 - 0.1, abs=1e-3) and q[:, 4].max() <= 2.7973 + 1e-9


def test_box_is_approached_and_kept() -> None:
    limits = load_limits("panda")
    arm, limiter = Kinematics(limits), Limiter(limits)
    limiter.reset(start(limits), 0.0)
    clips = set()

    def down(_: int, limiter: Limiter) -> tuple[np.ndarray, np.ndarray]:
        clips.add(limiter.clipped)
        q = np.array(limiter.state(limiter.frontier)[0])
        rate = np.linalg.pinv(arm.jacobian(q)) @ np.array([0, 0, -0.2, 0, 0, 0])
        return q + 0.05 * rate, rate

    p = arm.forward(drive(limiter, down, 900, pauses=False))[0]
    assert "workspace" in clips
    assert 0.0 <= p[:, 2].min() < 0.02


def test_outside_the_box_it_may_only_come_back() -> None:
    limits = load_limits("panda").changed(workspace_low_base=(0.5, -0.8, 0.0))
    arm, limiter = Kinematics(limits), Limiter(limits)
    limiter.reset(start(limits), 0.0)
    x = arm.forward(start(limits))[0][0]
    assert x < 0.5  # it begins outside
    column = np.linalg.pinv(arm.jacobian(start(limits))) @ np.array([1, 0, 0, 0, 0, 0])
    out = drive(limiter, lambda *_: (start(limits) - 0.05 * column, np.zeros(7)), 100, pauses=False)
    assert arm.forward(out[-1])[0][0] > x - 0.002 and limiter.clipped == "workspace"
    limiter.reset(out[-1], 0.0)
    back = drive(limiter, lambda *_: (start(limits) + 0.05 * column, np.zeros(7)), 100, pauses=False)
    assert arm.forward(back[-1])[0][0] > x + 0.02


def test_brake_is_what_its_equations_say() -> None:
    brake = Brake(0.01, 0.16)
    rng = np.random.default_rng(0)
    for _ in range(50):
        q, v, a = rng.normal(size=(3, 7))
        m = brake.ticks
        found = brake.points(q.tolist(), v.tolist(), a.tolist())
        fine = np.linspace(0.0, 1.0, 2001)[:, None]
        speed = v * (2 * fine**3 - 3 * fine**2 + 1) + a * 0.16 * (fine**3 - 2 * fine**2 + fine)
        way = q + np.concatenate([np.zeros((1, 7)), np.cumsum((speed[1:] + speed[:-1]) / 2, axis=0)]) * 0.16 / 2000
        at = np.arange(1, m + 1) * 2000 // m
        np.testing.assert_allclose(found[:m], way[at], atol=1e-7)
        np.testing.assert_allclose(found[m : 2 * m], speed[at], atol=1e-12)
        np.testing.assert_allclose(found[2 * m + 4], np.gradient(speed, 0.16 / 2000, axis=0)[at[4]], atol=1e-3)
        np.testing.assert_allclose(found[m - 1], q + v * 0.16 / 2 + a * 0.16**2 / 12, atol=1e-12)
        assert not found[2 * m - 1].any() and not found[3 * m - 1].any()
        np.testing.assert_allclose(found[2 * m], brake.first_acceleration(v.tolist(), a.tolist()), atol=1e-12)


def test_numbers_that_leave_no_time_to_stop_are_refused() -> None:
    with pytest.raises(ConfigError, match="to stop in"):
        Limiter(load_limits("panda").changed(stop_s=0.05))
    with pytest.raises(ConfigError, match="no room"):
        Limiter(load_limits("panda"), soft_margin_rad=2.0)


def test_a_joint_too_fast_to_stop_in_time_is_slowed() -> None:
    limits = load_limits("panda")
    fast = Limiter(limits, speed_fraction=1.0)
    assert fast.velocity[1] == pytest.approx(7.5 * 0.16 / 1.5) and fast.velocity[1] < limits.velocity[1]

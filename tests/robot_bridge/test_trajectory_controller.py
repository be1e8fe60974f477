"""The native controller's interpolation against spline equations from elsewhere, and what it does with bad messages."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.interpolate import BPoly, CubicHermiteSpline

from foreact.robot_bridge.robot_side import ReceivedTrajectory
from foreact.robot_bridge.trajectory_controller import TrajectoryController
from foreact.robot_bridge.trajectory_spline import Knot, interpolate

JOINTS = ("a", "b", "c")
START = np.array([0.1, -0.2, 0.3])


def message(points: int = 4, *, degree: int = 5, seed: int = 0, stamp_s: float = 0.0) -> ReceivedTrajectory:
    """A random trajectory that ends at rest."""
    rng = np.random.default_rng(seed)
    times = np.cumsum(rng.uniform(0.02, 0.2, points))
    rows = [rng.normal(size=(points, 3)) for _ in range(3)]
    rows[1][-1] = rows[2][-1] = 0.0
    return ReceivedTrajectory(
        joints=JOINTS,
        stamp_s=stamp_s,
        time_from_start_s=times,
        position=rows[0],
        velocity=rows[1] if degree >= 3 else None,
        acceleration=rows[2] if degree >= 5 else None,
        received_s=0.0,
    )


def controller(**settings) -> TrajectoryController:
    return TrajectoryController(JOINTS, START, **settings)


def reference(m: ReceivedTrajectory, start_s: float, degree: int):
    """The whole way from rest at START, by SciPy."""
    times = start_s + np.concatenate([[0.0], m.time_from_start_s])
    zero = np.zeros((1, 3))
    position = np.concatenate([START[None], m.position])
    if degree == 1:
        return BPoly.from_derivatives(times, position[:, None, :])
    assert m.velocity is not None
    velocity = np.concatenate([zero, m.velocity])
    if degree == 3:
        return CubicHermiteSpline(times, position, velocity)
    assert m.acceleration is not None
    return BPoly.from_derivatives(times, np.stack([position, velocity, np.concatenate([zero, m.acceleration])], axis=1))


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("degree", [1, 3, 5])
def test_setpoints_are_those_of_scipys_splines(degree: int, seed: int) -> None:
    c, m = controller(), message(degree=degree, seed=seed)
    assert c.receive(m, 7.0) == ""
    spline = reference(m, 7.0, degree)
    for time_s in np.arange(7.0, 7.0 + m.time_from_start_s[-1], 1.0 / 240.0):
        found = c.update(time_s)
        np.testing.assert_allclose(found.position, spline(time_s), atol=1e-11)
        np.testing.assert_allclose(found.velocity, spline(time_s, 1), atol=1e-8)
        np.testing.assert_allclose(found.acceleration, spline(time_s, 2) if degree > 1 else 0.0, atol=1e-5)


@pytest.mark.parametrize("degree", [3, 5])
def test_a_segment_meets_its_conditions_by_a_linear_solve(degree: int) -> None:
    rng = np.random.default_rng(degree)
    ends = rng.normal(size=(2, 3, 3))  # end, derivative, joint
    t = np.array([1.3, 2.1])
    orders = (degree + 1) // 2
    rows = [
        [(np.polynomial.Polynomial.basis(k).deriv(d))(u) for k in range(degree + 1)] for u in t for d in range(orders)
    ]
    coefficients = np.linalg.solve(np.array(rows), ends[:, :orders].reshape(2 * orders, 3))
    a, b = (Knot(t[i], *ends[i, :orders]) for i in (0, 1))
    for time_s in np.linspace(t[0], t[1], 9):
        expected = [np.polynomial.Polynomial(coefficients[:, j])(time_s) for j in range(3)]
        np.testing.assert_allclose(interpolate(a, b, time_s).position, expected, atol=1e-9)


def test_beyond_its_ends_a_segment_stays_there() -> None:
    one = np.ones(1)
    a, b = Knot(1.0, 0.0 * one, one, one), Knot(2.0, one, -one, one)
    assert interpolate(a, b, 0.5).position == 0.0
    assert interpolate(a, b, 2.5).position == 1.0


def test_a_segment_without_duration_stays_at_its_beginning() -> None:
    a, b = Knot(1.0, np.ones(1), np.ones(1)), Knot(1.0, 2 * np.ones(1), np.ones(1))
    found = interpolate(a, b, 1.0)
    assert (found.position, found.velocity, found.acceleration) == (1.0, 1.0, 0.0)


def test_accelerations_without_velocities_give_zeros_as_in_the_source() -> None:
    c = controller()
    assert c.receive(replace(message(), velocity=None), 0.0) == ""
    c.update(0.0)  # from the setpoint, whose velocity is known, to a point that has none
    assert not c.update(0.01).position.any()


def test_holds_the_last_point_for_ever() -> None:
    c, m = controller(), message()
    c.receive(m, 0.0)
    for time_s in np.arange(0.0, 100.0, 0.5):
        c.update(time_s)
    np.testing.assert_array_equal(c.setpoint.position, m.position[-1])
    assert not c.setpoint.velocity.any()
    assert not c.setpoint.acceleration.any()


def test_nothing_received_holds_the_start() -> None:
    c = controller()
    assert c.update(3.0).position.tolist() == START.tolist()


def test_joints_are_taken_by_name() -> None:
    m = message()
    assert m.velocity is not None and m.acceleration is not None
    turned = replace(
        m,
        joints=("c", "a", "b"),
        position=m.position[:, [2, 0, 1]],
        velocity=m.velocity[:, [2, 0, 1]],
        acceleration=m.acceleration[:, [2, 0, 1]],
    )
    one, other = controller(), controller()
    one.receive(m, 0.0)
    other.receive(turned, 0.0)
    for time_s in np.arange(0.0, 1.0, 0.01):
        np.testing.assert_array_equal(one.update(time_s).position, other.update(time_s).position)


def test_a_replacement_goes_on_from_the_setpoint_without_a_jump_in_position_velocity_or_acceleration() -> None:
    c = controller()
    c.receive(message(seed=1), 0.0)
    c.update(0.0)
    before = c.update(0.1)
    c.receive(message(seed=2), 0.1)
    after = c.update(0.1)
    np.testing.assert_allclose(after.position, before.position, atol=1e-12)
    np.testing.assert_allclose(after.velocity, before.velocity, atol=1e-12)
    np.testing.assert_allclose(after.acceleration, before.acceleration, atol=1e-9)
    assert np.abs(before.velocity).min() > 0.1


def test_without_interpolate_from_desired_state_it_begins_at_the_measured_state() -> None:
    c = controller(interpolate_from_desired_state=False)
    c.receive(message(), 0.0)
    measured = Knot(0.0, START + 0.05, np.full(3, 0.01))
    np.testing.assert_array_equal(c.update(0.0, measured).position, START + 0.05)
    assert c.update(0.0, measured).velocity == pytest.approx(0.01)


def test_points_in_the_past_are_skipped_and_a_late_message_joins_where_it_is_by_now() -> None:
    c, m = controller(), message(stamp_s=50.0)
    now_s = 50.0 + float(m.time_from_start_s[1:3].mean())
    assert c.receive(m, now_s) == ""
    spline = reference(m, 50.0, 5)
    np.testing.assert_allclose(c.update(now_s).position, spline(now_s), atol=1e-10)


def test_a_stamp_in_the_future_bridges_to_the_first_point() -> None:
    c, m = controller(), message(stamp_s=51.0)
    c.receive(m, 50.0)
    np.testing.assert_allclose(c.update(50.0).position, START, atol=1e-12)
    first_s = 51.0 + m.time_from_start_s[0]
    np.testing.assert_allclose(c.update(first_s).position, m.position[0], atol=1e-9)


def test_the_setpoint_may_lead_by_a_control_period() -> None:
    led, plain = controller(period_s=0.01), controller()
    for c in (led, plain):
        c.receive(message(stamp_s=5.0), 5.0)
        c.update(5.0)
    np.testing.assert_allclose(led.update(5.05).position, plain.update(5.06).position, atol=1e-12)


def test_cmd_timeout_is_off_by_default_and_holds_the_measured_position_when_on() -> None:
    m = message()
    late_s = float(m.time_from_start_s[-1]) + 0.2
    measured = Knot(0.0, START + 1.0)
    off, on = controller(), controller(cmd_timeout_s=0.1)
    for c in (off, on):
        c.receive(m, 0.0)
        c.update(0.0, measured)
        c.update(late_s, measured)
    np.testing.assert_array_equal(off.setpoint.position, m.position[-1])
    np.testing.assert_array_equal(on.setpoint.position, START + 1.0)
    assert (off.counts["command_timeouts"], on.counts["command_timeouts"]) == (0, 1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"joints": ("a", "b")}, "3 joints"),
        ({"joints": ("a", "b", "x")}, "'x'"),
        ({"joints": ("a", "b", "b")}, "each once"),
        ({"time_from_start_s": np.zeros(0), "position": np.zeros((0, 3))}, "empty"),
        ({"position": np.zeros((4, 2))}, "position"),
        ({"velocity": np.zeros((3, 3))}, "velocity"),
        ({"acceleration": np.zeros((4, 4))}, "acceleration"),
        ({"velocity": np.ones((4, 3))}, "still moving"),
        ({"stamp_s": 1.0}, "in the past"),
        ({"time_from_start_s": np.array([0.1, 0.2, 0.2, 0.3])}, "rise"),
        ({"time_from_start_s": np.array([0.1, 0.3, 0.2, 0.4])}, "rise"),
    ],
)
def test_refuses_what_the_source_refuses_and_follows_the_trajectory_before(change: dict, words: str) -> None:
    c, undisturbed = controller(), controller()
    for each in (c, undisturbed):
        each.receive(message(seed=3), 100.0)
        each.update(100.0)
    assert words in c.receive(replace(message(), **change), 100.02)
    assert c.counts == {"accepted": 1, "rejected": 1}
    np.testing.assert_array_equal(c.update(100.05).position, undisturbed.update(100.05).position)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("field", ["position", "velocity", "acceleration"])
def test_what_is_not_finite_passes_as_in_the_source_but_is_counted_and_reported(field: str, bad: float) -> None:
    alarms: list[str] = []
    c, m = controller(alarm=alarms.append), message()
    rows = getattr(m, field).copy()
    rows[1, 2] = bad
    assert c.receive(replace(m, **{field: rows}), 0.0) == ""
    assert c.counts["non_finite_received"] == 1
    assert len(alarms) == 1
    c.update(0.0)
    with np.errstate(invalid="ignore"):
        found = c.update(float(m.time_from_start_s[1]) - 1e-3)
    assert not np.isfinite(found.position[2])
    assert np.isfinite(found.position[:2]).all()


def test_a_nan_as_last_velocity_does_not_count_as_moving() -> None:
    c, m = controller(), message()
    assert m.velocity is not None
    velocity = m.velocity.copy()
    velocity[-1] = np.nan
    assert c.receive(replace(m, velocity=velocity), 0.0) == ""


def test_hold_forgets_the_trajectory() -> None:
    c = controller()
    c.receive(message(), 0.0)
    c.update(0.0)
    c.hold([1.0, 2.0, 3.0])
    assert c.update(0.05).position.tolist() == [1.0, 2.0, 3.0]

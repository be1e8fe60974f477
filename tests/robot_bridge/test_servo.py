"""Twists for MoveIt Servo: integrated, they lead where the joints lead; limits hold whatever is asked."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from foreact.robot_bridge.kinematics import Kinematics
from foreact.robot_bridge.limits import load_limits
from foreact.robot_bridge.servo import ServoSettings, TwistOutput, rotation_vector
from foreact.vla.errors import ConfigError

PANDA = load_limits("panda")
START = np.array([0.0, -0.4, 0.0, -2.2, 0.0, 1.9, 0.7])
TICK_S = 0.01


def test_integrated_twists_follow_the_targets() -> None:
    """The tool is moved by the twists alone, by SciPy's rotations; joints are only used to say where it should be."""
    output, kinematics = TwistOutput(PANDA), Kinematics(PANDA)
    position, matrix = kinematics.forward(START)
    turned = Rotation.from_matrix(matrix)
    q = START
    for tick in range(300):
        before = q
        q = START + 0.1 * (1 - np.cos(0.01 * tick)) * np.array([1, 0.5, -1, 0.5, 1, 0, 1])
        twist = output.twist(q, before)
        position = position + TICK_S * twist.linear
        turned = Rotation.from_rotvec(TICK_S * twist.angular) * turned
        assert twist.scaled == 1.0
    expected, expected_matrix = kinematics.forward(q)
    assert np.linalg.norm(position - expected) < 1e-3
    assert (turned * Rotation.from_matrix(expected_matrix).inv()).magnitude() < 2e-3


def test_a_twist_is_the_jacobian_times_joint_speed() -> None:
    output = TwistOutput(PANDA, ServoSettings(max_acceleration_m_s2=20.0, max_acceleration_rad_s2=100.0))
    speed = np.array([0.1, -0.05, 0.08, 0.02, -0.1, 0.1, 0.05])
    twist = output.twist(START + TICK_S * speed, START)
    expected = Kinematics(PANDA).jacobian(START) @ speed
    np.testing.assert_allclose([*twist.linear, *twist.angular], expected, atol=1e-3)


@given(st.integers(0, 2**32 - 1), st.integers(1, 60))
@settings(max_examples=60, deadline=None)
def test_limits_hold_whatever_is_asked(seed: int, ticks: int) -> None:
    rng = np.random.default_rng(seed)
    output = TwistOutput(PANDA)
    bound = output.settings
    last = np.zeros(6)
    for _ in range(ticks):
        target = None if rng.random() < 0.1 else rng.uniform(-3, 3, 7)
        twist = output.twist(target, rng.uniform(-3, 3, 7))
        now = np.concatenate([twist.linear, twist.angular])
        assert np.isfinite(now).all()
        assert np.linalg.norm(now[:3]) <= PANDA.tcp_speed_m_s * (1 + 1e-9)
        assert np.linalg.norm(now[3:]) <= PANDA.tcp_turn_rad_s * (1 + 1e-9)
        assert np.linalg.norm(now[:3] - last[:3]) <= bound.max_acceleration_m_s2 * TICK_S * (1 + 1e-9)
        assert np.linalg.norm(now[3:] - last[3:]) <= bound.max_acceleration_rad_s2 * TICK_S * (1 + 1e-9)
        last = now


def test_it_stops_smoothly_and_completely() -> None:
    output = TwistOutput(PANDA)
    for tick in range(50):
        output.twist(START + 0.003 * (tick + 1), START + 0.003 * tick)
    assert output.moving
    speeds = []
    while output.moving:
        speeds.append(np.linalg.norm(output.twist(None, START).linear))
    assert len(speeds) <= 1 + PANDA.tcp_speed_m_s / (output.settings.max_acceleration_m_s2 * TICK_S)
    assert speeds == sorted(speeds, reverse=True)


def test_the_first_target_after_a_stop_is_no_leap() -> None:
    output = TwistOutput(PANDA)
    output.twist(START, START)
    output.reset()
    twist = output.twist(START, START)
    assert not twist.linear.any()
    assert not twist.angular.any()


@pytest.mark.fault("B6", n=4, event="NaN, Inf or wrong shape on the way to a twist")
@pytest.mark.parametrize("bad", [np.full(7, np.nan), np.full(7, np.inf), np.zeros(6), np.zeros((1, 7))])
def test_hostile_joints_change_nothing(bad: np.ndarray) -> None:
    output, clean = TwistOutput(PANDA), TwistOutput(PANDA)
    for one in (output, clean):
        one.twist(START + 0.001, START)
    for arguments in ((bad, START), (START, bad)):
        with pytest.raises(ValueError, match="7 finite numbers"):
            output.twist(*arguments)
    np.testing.assert_array_equal(
        output.twist(START + 0.002, START + 0.001).linear, clean.twist(START + 0.002, START + 0.001).linear
    )


@pytest.mark.parametrize("values", [{"tick_s": 1.0}, {"gain_per_s": -1.0}, {"max_acceleration_m_s2": float("nan")}])
def test_a_wrong_setting_is_named(values: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"servo.{next(iter(values))}"):
        ServoSettings(**values)


def test_rotation_vector_is_that_of_scipy() -> None:
    for turn in Rotation.random(20, rng=np.random.default_rng(0)):
        np.testing.assert_allclose(rotation_vector(turn.as_matrix()), turn.as_rotvec(), atol=1e-6)
    np.testing.assert_array_equal(rotation_vector(np.eye(3)), np.zeros(3))

"""Paths, fades and weights of the chunk scheduler, against SciPy, the papers' formulas and finite differences."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import CubicHermiteSpline, PchipInterpolator

from foreact.robot_bridge.schedule_merge import ensemble_weights, soft_mask
from foreact.robot_bridge.schedule_path import Fade, Path, fade_length, slopes
from foreact.robot_bridge.schedule_settings import SchedulerSettings
from foreact.vla.errors import ConfigError

SEEDS = st.integers(0, 2**32 - 1)


@given(SEEDS, st.integers(3, 20))
@settings(max_examples=50, deadline=None)
def test_inner_slopes_are_those_of_pchip(seed: int, count: int) -> None:
    knots = np.random.default_rng(seed).normal(size=(count, 3))
    knots[count // 2] = knots[count // 2 - 1]  # a flat piece, where the harmonic mean would divide by zero
    expected = PchipInterpolator(np.arange(count), knots).derivative()(np.arange(count))
    np.testing.assert_allclose(slopes(knots)[1:-1], expected[1:-1], atol=1e-12)


@given(SEEDS, st.integers(2, 12), st.floats(-5, 5))
@settings(max_examples=50, deadline=None)
def test_path_is_the_cubic_hermite_spline_and_its_derivative(seed: int, count: int, origin: float) -> None:
    rng = np.random.default_rng(seed)
    knots = rng.normal(size=(count, 4))
    path = Path(origin, knots)
    reference = CubicHermiteSpline(np.arange(count), knots, slopes(knots))
    times = origin + np.sort(rng.uniform(0, count - 1, 20))
    for time in times:
        position, speed = path.at(time)
        np.testing.assert_allclose(position, reference(time - origin), atol=1e-9)
        np.testing.assert_allclose(speed, reference.derivative()(time - origin), atol=1e-9)
    np.testing.assert_allclose(path.positions(times), reference(times - origin), atol=1e-9)


@given(SEEDS, st.integers(2, 12))
@settings(max_examples=50, deadline=None)
def test_path_never_leaves_the_range_of_the_two_rows_it_joins(seed: int, count: int) -> None:
    knots = np.random.default_rng(seed).normal(size=(count, 3)).round(1)
    path = Path(0.0, knots)
    for i in range(count - 1):
        between = path.positions(np.linspace(i, i + 1, 50))
        low, high = np.minimum(knots[i], knots[i + 1]), np.maximum(knots[i], knots[i + 1])
        assert (between >= low - 1e-12).all()
        assert (between <= high + 1e-12).all()


def test_path_stands_still_beyond_its_ends() -> None:
    path = Path(2.0, np.array([[0.0], [1.0], [3.0]]))
    for time, expected in ((1.0, 0.0), (9.0, 3.0)):
        position, speed = path.at(time)
        assert (position, speed) == (expected, 0.0)


@given(SEEDS, st.floats(0.5, 20))
@settings(max_examples=50, deadline=None)
def test_fade_goes_from_the_gap_to_nothing_without_a_corner(seed: int, length: float) -> None:
    rng = np.random.default_rng(seed)
    gap, speed = rng.normal(size=(2, 5))
    fade = Fade(3.0, gap, speed, length)
    first = fade.at(3.0)
    assert first is not None
    np.testing.assert_allclose(first, (gap, speed), atol=1e-12)
    assert fade.at(3.0 + length * (1 + 1e-9)) is None
    almost = fade.at(3.0 + length * (1 - 1e-9))
    assert almost is not None
    np.testing.assert_allclose(almost, np.zeros((2, 5)), atol=1e-7)
    time, h = 3.0 + 0.37 * length, 1e-6 * length
    before, here, after = fade.at(time - h), fade.at(time), fade.at(time + h)
    assert before is not None
    assert here is not None
    assert after is not None
    np.testing.assert_allclose((after[0] - before[0]) / (2 * h), here[1], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(fade.positions(np.array([time, 99.0])), [here[0], np.zeros(5)], atol=1e-12)


@given(SEEDS)
@settings(max_examples=100, deadline=None)
def test_fade_of_the_computed_length_keeps_the_acceleration(seed: int) -> None:
    rng = np.random.default_rng(seed)
    gap, speed, limit = rng.normal(size=4) * 0.05, rng.normal(size=4) * 0.02, rng.uniform(0.001, 0.1, 4)
    length = fade_length(gap, speed, limit)
    times = np.linspace(0.0, length, 400)
    offset = Fade(0.0, gap, speed, length).positions(times)
    acceleration = np.abs(np.diff(offset, 2, axis=0)) / (times[1] - times[0]) ** 2
    assert (acceleration.max(axis=0) <= limit * 1.001).all()


def test_a_fade_of_nothing_takes_no_time() -> None:
    assert fade_length(np.zeros(3), np.zeros(3), np.ones(3)) == 0.0


@pytest.mark.parametrize(("rows", "frozen", "overlap"), [(10, 3, 8), (10, 0, 10), (8, 8, 8), (5, 4, 2), (6, 2, 0)])
def test_soft_mask_is_equation_5(rows: int, frozen: int, overlap: int) -> None:
    expected = []
    for i in range(rows):
        if i >= overlap:
            expected.append(0.0)
        elif i < frozen:
            expected.append(1.0)
        else:
            c = (overlap - i) / (overlap - frozen + 1)
            expected.append(c * (math.exp(c) - 1) / (math.e - 1))
    np.testing.assert_allclose(soft_mask(rows, frozen, overlap), expected, atol=1e-12)


def test_ensemble_weighs_the_oldest_most() -> None:
    raw = [math.exp(-0.3 * i) for i in range(4)]
    np.testing.assert_allclose(ensemble_weights(4, 0.3), np.array(raw) / sum(raw))


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"mode": "repalce"}, "did you mean 'replace'"),
        ({"blend_step": 3}, "did you mean 'blend_steps'"),
        ({"blend_steps": 0.1}, "scheduler.blend_steps"),
        ({"blend_steps": 20.0}, "scheduler.max_blend_steps"),
        ({"late_steps": math.nan}, "scheduler.late_steps"),
        ({"late_steps": "2"}, "scheduler.late_steps"),
        ({"max_jump_rad": 0.0}, "scheduler.max_jump_rad"),
        ({"ensemble_chunks": 1.5}, "scheduler.ensemble_chunks"),
        ({"acceleration": (1.0, -1.0)}, "scheduler.acceleration"),
        ({"acceleration": ()}, "scheduler.acceleration"),
    ],
)
def test_a_wrong_setting_is_named(values: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        SchedulerSettings.from_mapping(values)


def test_settings_come_from_a_robot_file() -> None:
    found = SchedulerSettings.from_mapping({"mode": "ensemble", "acceleration": [1.0, 2]})
    assert (found.mode, found.acceleration) == ("ensemble", (1.0, 2))


@pytest.mark.parametrize("seed", range(5))
def test_plain_floats_are_the_arrays_numbers_bit_by_bit(seed: int) -> None:
    rng = np.random.default_rng(seed)
    path = Path(2.3, rng.normal(size=(6, 7)))
    fade = Fade(3.1, rng.normal(size=7), rng.normal(size=7), 1.7)
    for time in [2.3, 7.3, *rng.uniform(1.0, 9.0, 200).tolist()]:
        np.testing.assert_array_equal(path.position(time), path.at(time)[0])
        offset, found = fade.offset(time), fade.at(time)
        assert (offset is None) == (found is None)
        if offset is not None and found is not None:
            np.testing.assert_array_equal(offset, found[0])

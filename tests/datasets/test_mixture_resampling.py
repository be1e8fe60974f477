"""Reading at another rate: displacement is kept, frames are real and in order, for any pair of rates."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foreact.datasets.resampling import Pace, action_rules, state_rules
from foreact.vla.contract import Field
from foreact.vla.errors import ConfigError

rates = st.integers(1, 120)
anything = settings(max_examples=200, deadline=None)


def read_from(rows: np.ndarray):
    def read(frame: np.ndarray) -> np.ndarray:
        assert frame.min() >= 0 and frame.max() < len(rows), "a frame that does not exist"
        return rows[frame]

    return read


@anything
@given(rates, rates, st.integers(1, 90), st.integers(0, 2**32 - 1))
def test_displacement_is_kept_over_any_window(stored: int, wanted: int, length: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    moves = rng.uniform(-1, 1, (length, 2)).astype(np.float32)
    pace = Pace.between(stored, wanted)
    ticks = int(pace.count(np.array([length]))[0])
    tick = np.arange(ticks)
    found = pace.actions(read_from(moves), tick, np.full(ticks, length), ["sum", "sum"])

    def travelled(x: Fraction) -> np.ndarray:
        """Where the store is at time x, counted in frames, if each increment is spread evenly over its frame."""
        whole = int(x)
        return moves[:whole].astype(np.float64).sum(0) + (moves[whole] * float(x - whole) if whole < length else 0.0)

    first, last = sorted(rng.integers(0, ticks + 1, 2).tolist())
    at = [min(Fraction(k * stored, wanted), Fraction(length)) for k in (first, last)]
    np.testing.assert_allclose(
        found[first:last].astype(np.float64).sum(0), travelled(at[1]) - travelled(at[0]), atol=1e-5 * max(ticks, length)
    )
    np.testing.assert_allclose(found.astype(np.float64).sum(0), moves.astype(np.float64).sum(0), atol=1e-4)


@anything
@given(rates, rates, st.integers(1, 90))
def test_frames_exist_are_in_order_and_never_later_than_the_tick(stored: int, wanted: int, length: int) -> None:
    pace = Pace.between(stored, wanted)
    ticks = int(pace.count(np.array([length]))[0])
    frames = pace.frame(np.arange(ticks))
    assert ticks >= 1 and frames[0] == 0 and frames[-1] < length
    assert (np.diff(frames) >= 0).all()
    for k, frame in enumerate(frames.tolist()):
        assert frame == Fraction(k * stored, wanted).__floor__()
    assert Fraction(ticks * stored, wanted) >= length, "the last frame would be cut off"
    if wanted >= stored:
        assert set(frames.tolist()) == set(range(length))


@anything
@given(rates, rates, st.integers(2, 60), st.integers(0, 1000))
def test_states_lie_on_the_line_between_their_frames(stored: int, wanted: int, length: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(length, 1)).astype(np.float32)
    rows = np.concatenate([rows, np.where(rows > 0, 1.0, -1.0).astype(np.float32)], axis=1)
    pace = Pace.between(stored, wanted)
    tick = np.arange(int(pace.count(np.array([length]))[0]))
    found = pace.states(read_from(rows), tick, np.full(len(tick), length), ["linear", "hold"])
    expected = np.interp(tick * stored / wanted, np.arange(length), rows[:, 0])
    np.testing.assert_allclose(found[:, 0], expected, atol=1e-5)
    np.testing.assert_array_equal(found[:, 1], rows[tick * stored // wanted, 1])


def test_angles_take_the_shortest_way() -> None:
    rows = np.array([[3.0], [-3.0]], np.float32)
    found = Pace.between(10, 40).states(read_from(rows), np.arange(4), np.full(4, 2), ["angle"])
    quarter = (2 * np.pi - 6.0) / 4
    expected = 3.0 + quarter * np.arange(4)
    np.testing.assert_allclose(np.sin(found[:, 0]), np.sin(expected), atol=1e-6)
    assert (np.abs(found) <= np.pi).all()


def test_a_gripper_is_the_last_command_and_increments_are_split_or_summed() -> None:
    rows = np.array([[1, 1], [2, 1], [3, -1], [4, -1], [5, 1]], np.float32)
    slower = Pace.between(30, 10).actions(read_from(rows), np.arange(2), np.full(2, 5), ["sum", "last"])
    np.testing.assert_array_equal(slower, [[6, -1], [9, 1]])
    faster = Pace.between(10, 20).actions(read_from(rows), np.arange(10), np.full(10, 5), ["sum", "last"])
    np.testing.assert_array_equal(faster, np.repeat(rows, 2, axis=0) * [0.5, 1.0])
    uneven = Pace.between(30, 20).actions(read_from(rows), np.arange(4), np.full(4, 5), ["sum", "last"])
    np.testing.assert_array_equal(uneven, [[2, 1], [4, -1], [6.5, 1], [2.5, 1]])


def test_rules_follow_from_the_contract() -> None:
    state = (
        Field(name="tcp", size=2, unit="m"),
        Field(name="tcp_euler", size=1, unit="rad", rotation="euler_xyz"),
        Field(name="tcp_quat", size=1, unit="1", rotation="quat_xyzw"),
        Field(name="gripper_command", size=1, unit="1"),
    )
    assert state_rules(state) == ["linear", "linear", "angle", "hold", "hold"]
    action = (
        Field(name="move", size=1, unit="m", relative=True),
        Field(name="target", size=1, unit="m"),
        Field(name="gripper", size=1, unit="1", relative=True),
    )
    assert action_rules(action) == ["sum", "last", "last"]


def test_rates_are_rounded_to_a_thousandth_of_a_hertz() -> None:
    assert Pace.between(29.97, 30) == Pace(999, 1000)
    assert Pace.between(30.0000001, 30).same
    with pytest.raises(ConfigError, match=r"at least 0.001 Hz, found 0.0001"):
        Pace.between(0.0001, 30)

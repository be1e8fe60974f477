"""Rules that compare action with motion, and time stamps with the rate."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from foreact.datasets.lint_base import EpisodeScan, Found, Rule, parts, runs, unit

_LAGS = range(-5, 11)
_MOVED_M = 0.02
"""An axis must travel so far for its direction to tell anything."""


@dataclass(frozen=True)
class Lag:
    """How motion follows the action."""

    frames: int
    """By how many frames the motion comes after the action that explains it best."""
    correlations: dict[int, float]
    """Lag -> correlation of action and motion, all axes together."""


def measure_lag(scan: EpisodeScan) -> Lag | None:
    """Compare the commanded with the measured velocity of the tool; None where that cannot be done.

    It needs an action field in metres and a state field in metres of the same frame, size 3, and enough motion.
    """
    pair = _velocities(scan)
    if pair is None:
        return None
    asked, moved = pair
    if asked.std() == 0 or moved.std() == 0:
        return None
    found: dict[int, float] = {}
    for lag in _LAGS:
        a, b = _shifted(asked, moved, lag)
        if len(a) >= 15 and a.std() > 0 and b.std() > 0:
            found[lag] = float(np.corrcoef(a.ravel(), b.ravel())[0, 1])
    if not found:
        return None
    return Lag(max(found, key=lambda lag: found[lag]), found)


def _velocities(scan: EpisodeScan) -> tuple[np.ndarray, np.ndarray] | None:
    """Commanded and measured velocity, both (T - 1, 3) and of the step from frame t to t + 1."""
    if scan.state is None or scan.action is None or scan.info.length < 20:
        return None
    for part, at in parts(scan.contract.action):
        if part.size != 3 or part.rotation is not None or unit(part)[1] != "m":
            continue
        for other, place in parts(scan.contract.state):
            same = other.size == 3 and other.rotation is None and unit(other)[1] == "m" and other.frame == part.frame
            if not same or not part.frame:
                continue
            position = scan.state[:, place] * unit(other)[0]
            if (position.max(0) - position.min(0)).max() < _MOVED_M:
                return None
            action = scan.action[:, at] * unit(part)[0]
            return (action[:-1] if part.relative else np.diff(action, axis=0)), np.diff(position, axis=0)
    return None


def _shifted(asked: np.ndarray, moved: np.ndarray, lag: int) -> tuple[np.ndarray, np.ndarray]:
    if lag >= 0:
        return asked[: len(asked) - lag], moved[lag:]
    return asked[-lag:], moved[:lag]


def _action_after(scan: EpisodeScan) -> Iterator[Found]:
    lag = measure_lag(scan)
    if lag is None or lag.frames > -2 or lag.correlations[lag.frames] < scan.limits.correlation:
        return
    yield (
        None,
        None,
        (
            f"the action fits the motion {-lag.frames} frames earlier best (correlation "
            f"{lag.correlations[lag.frames]:.2f}): it was stored with later frames than those it was decided on"
        ),
    )


def _direction(scan: EpisodeScan) -> Iterator[Found]:
    pair = _velocities(scan)
    if pair is None:
        return
    for axis in range(3):
        asked, moved = pair[0][:, axis], pair[1][:, axis]
        if np.abs(np.cumsum(moved)).max() < _MOVED_M or asked.std() == 0:
            continue
        found = []
        for lag in range(4):
            a, b = _shifted(asked, moved, lag)
            found.append(float(np.corrcoef(a, b)[0, 1]) if a.std() > 0 and b.std() > 0 else 0.0)
        if max(found) < 0 and min(found) < -scan.limits.correlation:
            yield (
                None,
                None,
                (
                    f"along {'xyz'[axis]} the robot moves against the action (correlation {min(found):.2f}): "
                    "a sign, the order of axes or the frame is not the contract's"
                ),
            )


def _gripper(scan: EpisodeScan) -> Iterator[Found]:
    width = _width(scan)
    if scan.action is None or width is None or scan.contract.gripper == "none":
        return
    opens = 1.0 if scan.contract.gripper == "+1 open, -1 close" else -1.0
    for part, at in parts(scan.contract.action):
        if not part.is_gripper:
            continue
        command = scan.action[:, at][:, 0] * opens
        steps = np.diff(width)
        span = float(width.max() - width.min())
        told = np.abs(steps) > 0.05 * span if span > 0 else np.zeros(len(steps), bool)
        told &= command[:-1] != 0
        if told.sum() >= 3:
            agree = float(np.sign(steps[told] * command[:-1][told]).mean())
            if agree < -0.5:
                yield (
                    None,
                    None,
                    (
                        f"action {part.name!r}: the gripper opens when told to close and closes when told to open "
                        f"({told.sum()} frames); the contract says {scan.contract.gripper!r}"
                    ),
                )


def _width(scan: EpisodeScan) -> np.ndarray | None:
    """(T,) something that grows as the gripper opens."""
    if scan.state is None or scan.info.length < 4:
        return None
    for part, at in parts(scan.contract.state):
        name = part.name.lower()
        if "width" in name or "opening" in name or "finger" in name:
            return np.abs(scan.state[:, at]).sum(1)
    return None


def _gripper_values(scan: EpisodeScan) -> Iterator[Found]:
    if scan.action is None or scan.contract.gripper == "none":
        return
    for part, at in parts(scan.contract.action):
        values = scan.action[:, at]
        if part.is_gripper and values.min() >= 0 and values.max() > 0.5 and (values < 0.05).any():
            yield (
                None,
                None,
                (
                    f"action {part.name!r} lies in {values.min():.3g} to {values.max():.3g} and is never negative; the "
                    f"contract says {scan.contract.gripper!r}: 0 and 1 were not converted"
                ),
            )


def _backwards(scan: EpisodeScan) -> Iterator[Found]:
    if scan.timestamps_s is None or len(scan.timestamps_s) < 2:
        return
    for a, b in runs(np.diff(scan.timestamps_s) <= 0):
        yield a, b + 1, f"time stamps do not increase after {scan.timestamps_s[a]:.4f} s"


def _rate(scan: EpisodeScan) -> Iterator[Found]:
    if scan.timestamps_s is None or len(scan.timestamps_s) < 3:
        return
    period = float(np.median(np.diff(scan.timestamps_s)))
    rate = scan.contract.rate_hz
    if period > 0 and abs(period * rate - 1) > scan.limits.rate_share:
        yield None, None, f"time stamps come at {1 / period:.4g} Hz, the contract says {rate:g} Hz"


def _jitter(scan: EpisodeScan) -> Iterator[Found]:
    if scan.timestamps_s is None or len(scan.timestamps_s) < 10:
        return
    steps = np.diff(scan.timestamps_s)
    period = float(np.median(steps))
    if period <= 0:
        return
    gap = steps > scan.limits.gap_periods * period
    gap[1:] &= steps[:-1] > 0  # after a clock that went back, it only catches up
    for a, b in runs(gap):
        longest = steps[a:b].max()
        lost = max(1, round(float(longest / period)) - 1)
        yield a, b + 1, f"{longest:.3g} s without a frame; usual are {period:.3g} s: about {lost} dropped"
    late = (np.abs(steps - period) > 0.5 * period) & (steps > 0)  # backwards is a rule of its own
    if late.mean() > scan.limits.jitter_share and late.sum() > 1:
        yield None, None, f"{late.mean():.0%} of the frames come more than half a period early or late"


CONTROL_RULES = (
    Rule("action-late", "warning", "actions are stored with frames after the motion they caused", _action_after),
    Rule("action-direction", "error", "the robot moves against the action along an axis", _direction),
    Rule("gripper-sign", "error", "the gripper does the opposite of what the contract says", _gripper),
    Rule("gripper-values", "warning", "gripper commands of 0 and 1 under a contract of -1 and 1", _gripper_values),
    Rule("time-backwards", "error", "time stamps that do not increase", _backwards),
    Rule("rate", "error", "time stamps at another rate than the contract's", _rate),
    Rule("rate-jitter", "warning", "gaps between time stamps, or many frames early or late", _jitter),
)

"""Rules about the numbers of state and action, one vector at a time: bounds, units, jumps, values that stand still."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from foreact.datasets.lint_base import EpisodeScan, Found, Rule, parts, runs, unit
from foreact.datasets.lint_rotations import rotation_steps
from foreact.vla.contract import Field


def vectors(scan: EpisodeScan) -> Iterator[tuple[str, Field, np.ndarray]]:
    """("state" or "action", field, its (T, size) values) of everything the episode has."""
    for kind, fields, values in (
        ("state", scan.contract.state, None if scan.state is None else scan.stored_state),
        ("action", scan.contract.action, scan.action),
    ):
        if values is not None:
            for part, at in parts(fields):
                yield kind, part, values[:, at]


def _range(mask: np.ndarray) -> tuple[int, int]:
    at = np.flatnonzero(mask)
    return int(at[0]), int(at[-1]) + 1


def _units(scan: EpisodeScan) -> Iterator[Found]:
    for kind, part, values in vectors(scan):
        scale, name = unit(part)
        if name not in ("m", "rad") or part.relative:
            continue
        limit = scan.limits.length_m if name == "m" else scan.limits.angle_rad
        beyond = np.abs(values).max(1) * scale > limit * (1 + 1e-6)
        if beyond.any():
            worst = float(np.abs(values).max())
            guess = "millimetres" if name == "m" else "degrees"
            yield *_range(beyond), f"{kind} {part.name!r} reaches {worst:.4g} with the unit {part.unit!r}; {guess}?"


def _quaternions(scan: EpisodeScan) -> Iterator[Found]:
    for kind, part, values in vectors(scan):
        if part.size != 4 or not (part.rotation == "quat_xyzw" or "quat" in part.name.lower()):
            continue
        lengths = np.linalg.norm(values, axis=1)
        wrong = np.abs(lengths - 1) > scan.limits.quaternion
        if wrong.any():
            worst = float(lengths[np.abs(lengths - 1).argmax()])
            yield *_range(wrong), f"{kind} {part.name!r}: quaternions have length {worst:.3f}, not 1"


def _bounds(kind_wanted: str):
    def check(scan: EpisodeScan) -> Iterator[Found]:
        for kind, part, values in vectors(scan):
            if kind != kind_wanted or (part.low is None and part.high is None):
                continue
            low, high = part.low, part.high
            slack = scan.limits.out_of_range * (high - low if low is not None and high is not None else 1.0)
            wrong = np.zeros(len(values), bool)
            if low is not None:
                wrong |= (values < low - slack).any(1)
            if high is not None:
                wrong |= (values > high + slack).any(1)
            if wrong.any():
                yield (
                    *_range(wrong),
                    (
                        f"{kind} {part.name!r} lies in {values.min():.4g} to {values.max():.4g}; "
                        f"the contract says {low} to {high}"
                    ),
                )

    return check


def _jumps(scan: EpisodeScan) -> Iterator[Found]:
    if scan.state is None or scan.info.length < 4:
        return
    rate = scan.contract.rate_hz
    for part, at in parts(scan.contract.state):
        scale, name = unit(part)
        values = scan.state[:, at]
        turned = rotation_steps(part, scan.stored_state[:, at], scale)
        if turned is not None:
            steps, limit, words = turned, scan.limits.speed_rad_s, "rad/s"
        elif name in ("m", "rad"):
            steps = np.abs(np.diff(values, axis=0)).max(1) * scale
            limit, words = (scan.limits.speed_m_s, "m/s") if name == "m" else (scan.limits.speed_rad_s, "rad/s")
        elif name == "other":
            yield from _statistical_jumps(scan, part, values)
            continue
        else:
            continue
        usual = float(np.percentile(steps, 95))
        wrong = (steps * rate > limit) & (steps > scan.limits.jump_ratio * usual)
        for a, b in runs(wrong):
            speed = float(steps[a:b].max() * rate)
            yield a, b + 1, f"state {part.name!r} jumps at {speed:.3g} {words}, usual are {usual * rate:.2g}"


def _statistical_jumps(scan: EpisodeScan, part: Field, values: np.ndarray) -> Iterator[Found]:
    for column in range(values.shape[1]):
        series = values[:, column]
        if len(np.unique(series)) < len(series) / 2:
            continue  # a switch jumps by its nature
        steps = np.diff(series)
        spread = 1.4826 * float(np.median(np.abs(steps - np.median(steps))))
        if spread <= 0:
            continue
        z = np.abs(steps - np.median(steps)) / spread
        for a, b in runs(z > scan.limits.jump_z):
            worst = float(z[a:b].max())
            yield (
                a,
                b + 1,
                f"state {part.name!r}[{column}] jumps by {worst:.0f} robust standard deviations of its steps",
            )


def commands_motion(scan: EpisodeScan) -> np.ndarray:
    """(T,) whether the action asks for motion; the gripper does not count."""
    assert scan.action is not None
    out = np.zeros(len(scan.action), bool)
    for part, at in parts(scan.contract.action):
        if part.is_gripper:
            continue
        values = scan.action[:, at]
        if part.relative:
            full = max(abs(part.low or 0.0), abs(part.high or 0.0)) or float(np.abs(values).max()) or 1.0
            out |= (np.abs(values) > scan.limits.command * full).any(1)
        else:
            spans = values.max(0) - values.min(0)
            steps = np.abs(np.diff(values, axis=0, prepend=values[:1]))
            out |= (steps > 0.01 * np.where(spans > 0, spans, np.inf)).any(1)
    return out


def _state_stands(scan: EpisodeScan) -> Iterator[Found]:
    if scan.state is None or scan.action is None or scan.info.length < 2:
        return
    same = np.concatenate([[False], (np.diff(scan.state, axis=0) == 0).all(1)])
    asked = commands_motion(scan)
    for a, b in runs(same, scan.frames(scan.limits.stuck_s) - 1):
        start = a - 1
        if asked[start:b].mean() > 0.5:
            seconds = (b - start) / scan.contract.rate_hz
            yield start, b, f"the state repeats exactly for {seconds:.1f} s while the action asks for motion"


def _action_stands(scan: EpisodeScan) -> Iterator[Found]:
    if scan.state is None or scan.action is None or scan.info.length < 2:
        return
    moving = [(p, at) for p, at in parts(scan.contract.action) if not p.is_gripper]
    if not moving:
        return
    relative = all(p.relative for p, _ in moving)
    values = np.concatenate([scan.action[:, at] for _, at in moving], 1)
    if relative:
        still, shortest = (values == 0).all(1), scan.frames(scan.limits.unlabelled_s)
    else:
        still = np.concatenate([[False], (np.diff(values, axis=0) == 0).all(1)])
        shortest = scan.frames(scan.limits.unlabelled_absolute_s)
    for a, b in runs(still, shortest):
        middle = a + (b - a) // 3  # the robot may still be on its way when the action stops
        if scan.moves(middle, b):
            seconds = (b - a) / scan.contract.rate_hz
            what = "is zero" if relative else "repeats exactly"
            yield a, b, f"the action {what} for {seconds:.1f} s while the robot moves"


def _saturated(scan: EpisodeScan) -> Iterator[Found]:
    if scan.action is None:
        return
    for part, at in parts(scan.contract.action):
        if part.is_gripper or part.low is None or part.high is None:
            continue
        values, slack = scan.action[:, at], 1e-3 * (part.high - part.low)
        shares = ((values <= part.low + slack) | (values >= part.high - slack)).mean(0)
        worst = int(shares.argmax())
        if shares[worst] > scan.limits.saturated_share:
            yield (
                None,
                None,
                (
                    f"action {part.name!r}[{worst}] is at its bound ({part.low:g} or {part.high:g}) in "
                    f"{shares[worst]:.0%} of the frames: it was clipped, or the scale is wrong"
                ),
            )


def _idle(scan: EpisodeScan) -> Iterator[Found]:
    if scan.state is None or scan.info.length < 2:
        return
    shortest = scan.frames(scan.limits.idle_s)
    length, travel = scan.info.length, scan.travel
    for start, step, words in ((0, 1, "begins"), (length - 1, -1, "ends")):
        away = (np.abs(scan.state - scan.state[start]) > travel).any(1)[::step]
        first = int(away.argmax()) if away.any() else length
        if first >= shortest:
            a, b = (0, first) if step == 1 else (length - first, length)
            yield a, b, f"the episode {words} with {first / scan.contract.rate_hz:.1f} s without motion"
            if first == length:
                return


STATE_RULES = (
    Rule("units", "error", "values that cannot have the unit of the contract", _units),
    Rule("quaternion-length", "error", "a quaternion is not of length 1", _quaternions),
    Rule("action-out-of-range", "error", "an action is beyond the bounds of the contract", _bounds("action")),
    Rule("state-out-of-range", "warning", "a state is beyond the bounds of the contract", _bounds("state")),
    Rule("state-jump", "warning", "a state changes faster than a robot can move", _jumps),
    Rule("state-stuck", "error", "the state repeats exactly while the action asks for motion", _state_stands),
    Rule("action-stuck", "warning", "no action while the robot moves", _action_stands),
    Rule("saturated-action", "warning", "an action component is at its bound most of the time", _saturated),
    Rule("idle", "note", "the episode begins or ends without motion", _idle),
)

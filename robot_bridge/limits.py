"""What one arm can do, as numbers in a file: joint ranges, rates, geometry; and whether a URDF describes that arm.

A limits file belongs to one type of robot. The bridge compares it with the robot's own URDF and refuses to arm when
they differ: a Panda file on an FR3 would lead joint 6 half a radian beyond where it may go.

Shape legend: N arm joints.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, PositiveFloat, ValidationError, model_validator

from foreact.robot_bridge.limits_urdf import UrdfJoint, read_urdf
from foreact.vla.errors import ConfigError, ForeActError, did_you_mean

Vector = tuple[float, ...]
Triple = tuple[float, float, float]

TOLERANCE_RAD = 1e-3
TOLERANCE_ORIGIN_M = 5e-3
TOLERANCE_ORIGIN_RAD = 0.02
"""A calibrated URDF differs from the drawing by a few millimetres; another robot by centimetres."""
_MAX_BYTES = 1 << 16
_TURN = 2.0 * math.pi


class LimitsError(ConfigError):
    """A limits file is missing or not valid."""


class WrongRobot(ForeActError):
    """The robot is not the one that the limits file is for."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Origin(_Part):
    """A fixed transform, as in a URDF origin: `xyz` [m], then `rpy`, extrinsic x-y-z angles [rad]."""

    xyz: Triple = (0.0, 0.0, 0.0)
    rpy: Triple = (0.0, 0.0, 0.0)


class ChainLink(Origin):
    """One step from the base to the flange: a fixed transform, then a turn about `axis`; without one, nothing turns."""

    axis: Triple | None = (0.0, 0.0, 1.0)


class GripperLimits(_Part):
    """The gripper of the file; widths are between the fingers."""

    open_m: float = 0.0
    closed_m: float = 0.0
    joints: tuple[str, ...] = ()
    """Finger joints whose positions [m] add up to the width."""


class UrdfRanges(_Part):
    """Joint ranges that a URDF of this robot may state; vendors have published more than one set for some robots."""

    source: str
    position_low: Vector
    """(N,) [rad]."""
    position_high: Vector
    velocity: Vector | None = None
    """(N,) [rad/s]; None: not compared."""


class RobotLimits(_Part):
    """One arm. All vectors are (N,), in the order of `joints`."""

    robot: str
    joints: tuple[str, ...]
    position_low: Vector
    """[rad]"""
    position_high: Vector
    """[rad]"""
    velocity: Vector
    """[rad/s]"""
    acceleration: Vector
    """[rad/s2]"""
    jerk: Vector
    """[rad/s3]"""
    tcp_speed_m_s: PositiveFloat = 0.25
    tcp_turn_rad_s: PositiveFloat = 1.0
    workspace_low_base: Triple
    """Corner of the box that the TCP stays in, base frame [m]."""
    workspace_high_base: Triple
    leash_rad: PositiveFloat = 0.1
    """Largest distance of a joint from where it is commanded to be."""
    leash_m: PositiveFloat = 0.05
    """The same for the TCP."""
    start_tolerance_rad: PositiveFloat = 0.005
    """Largest distance between command and joint when motion begins."""
    stop_s: PositiveFloat = 0.2
    """Every command ends at rest so long after it begins."""
    chain: tuple[ChainLink, ...]
    """From base to flange."""
    flange_to_tcp: Origin = Origin()
    gripper: GripperLimits = GripperLimits()
    urdf: tuple[UrdfRanges, ...] = ()
    """What the robot's own URDF may say; empty: `position_low` and `position_high`."""

    @model_validator(mode="after")
    def _is_sound(self) -> RobotLimits:
        n = len(self.joints)
        if n == 0 or len(set(self.joints)) != n:
            raise ValueError(f"joints must be named once each, found {self.joints}")
        for name in ("position_low", "position_high", "velocity", "acceleration", "jerk"):
            if len(getattr(self, name)) != n:
                raise ValueError(f"{name} must have {n} numbers, one per joint, found {len(getattr(self, name))}")
        for name in ("velocity", "acceleration", "jerk"):
            if min(getattr(self, name)) <= 0.0:
                raise ValueError(f"{name} must be positive, found {getattr(self, name)}")
        for joint, low, high in zip(self.joints, self.position_low, self.position_high, strict=True):
            if not low < high or high - low > 2 * _TURN + 1e-6:
                raise ValueError(f"{joint}: position range {low} to {high} rad is empty or beyond two turns")
        if any(low >= high for low, high in zip(self.workspace_low_base, self.workspace_high_base, strict=True)):
            raise ValueError("workspace_low_base must be below workspace_high_base in x, y and z")
        if sum(link.axis is not None for link in self.chain) != n:
            raise ValueError(f"chain must have {n} links that turn, one per joint")
        for link in self.chain:
            if link.axis is not None and not math.isclose(math.hypot(*link.axis), 1.0, abs_tol=1e-6):
                raise ValueError(f"an axis of the chain must have length 1, found {link.axis}")
        for ranges in self.urdf:
            if not len(ranges.position_low) == len(ranges.position_high) == n:
                raise ValueError(f"urdf ranges {ranges.source!r} must have {n} numbers")
            if ranges.velocity is not None and len(ranges.velocity) != n:
                raise ValueError(f"urdf velocities {ranges.source!r} must have {n} numbers")
        return self

    def changed(self, **fields: Any) -> RobotLimits:
        """A copy with other values, checked: the tool, the box or the names of one installation.

        Raises:
            LimitsError: If the result is not valid.
        """
        return _validated(self.model_dump() | fields, f"limits of {self.robot}")


def limits_names() -> list[str]:
    """Names of the files that come with the package."""
    return sorted(p.name.removesuffix(".yaml") for p in _folder().iterdir() if p.name.endswith(".yaml"))


def load_limits(name_or_path: str | Path) -> RobotLimits:
    """Read a limits file: one that comes with the package by name, or any by path.

    Raises:
        LimitsError: If there is none, or it is not valid; each wrong entry is named.
    """
    text, source = _read(str(name_or_path))
    try:
        found = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise LimitsError(f"{source} is not YAML: {error}") from error
    if not isinstance(found, dict):
        raise LimitsError(f"{source}: expected a mapping with robot, joints, ...; found {found!r:.80}")
    return _validated(found, source)


def check_joint_names(limits: RobotLimits, names: Sequence[str]) -> list[str]:
    """What is wrong with the joints that a robot publishes; the order does not matter, others may be among them."""
    found = list(names)
    problems = [
        f"joint {name!r} is missing; {did_you_mean(name, found)}" for name in limits.joints if name not in found
    ]
    problems += [
        f"joint {name!r} is named {found.count(name)} times" for name in limits.joints if found.count(name) > 1
    ]
    return problems


def check_urdf(limits: RobotLimits, urdf_text: str) -> list[str]:
    """Differences between a robot's URDF and the limits: one sentence each; empty if it is that robot.

    Compared are the range of every joint (1e-3 rad), its speed (1e-3 rad/s), and where it is mounted (5 mm, 0.02 rad,
    the spread of calibrated arms), which tells apart arms that have the same ranges.
    """
    try:
        joints = read_urdf(urdf_text)
    except ForeActError as error:
        return [str(error)]
    problems = check_joint_names(limits, list(joints))
    if problems:
        return problems
    ours = [joints[name] for name in limits.joints]
    sets = limits.urdf or (
        UrdfRanges(source="limits", position_low=limits.position_low, position_high=limits.position_high),
    )
    problems = min((_range_problems(limits, ranges, ours) for ranges in sets), key=len)
    return problems + _mounting_problems(limits, ours)


def require_urdf(limits: RobotLimits, urdf_text: str) -> None:
    """As `check_urdf`.

    Raises:
        WrongRobot: If there is any difference.
    """
    problems = check_urdf(limits, urdf_text)
    if problems:
        lines = "\n".join(f"  - {problem}" for problem in problems)
        raise WrongRobot(
            f"this robot is not the {limits.robot} of the limits file:\n{lines}\n"
            f"Use the file of the robot that is there; known: {', '.join(limits_names())}"
        )


def _range_problems(limits: RobotLimits, ranges: UrdfRanges, found: Sequence[UrdfJoint]) -> list[str]:
    problems = []
    for i, joint in enumerate(found):
        name = limits.joints[i]
        pairs = [
            ("lower limit", ranges.position_low[i], joint.low),
            ("upper limit", ranges.position_high[i], joint.high),
        ]
        if ranges.velocity is not None:
            pairs.append(("velocity limit", ranges.velocity[i], joint.velocity))
        for what, expected, actual in pairs:
            if actual is None or not abs(expected - actual) <= TOLERANCE_RAD:
                problems.append(f"{name}: {what} is {actual} in the URDF, {expected} for the {ranges.source}")
    return problems


def _mounting_problems(limits: RobotLimits, found: Sequence[UrdfJoint]) -> list[str]:
    problems = []
    turning = [link for link in limits.chain if link.axis is not None]
    for name, link, joint in zip(limits.joints, turning, found, strict=True):
        if name == limits.joints[0]:
            continue  # where the base stands in its URDF is the installation's affair
        far_m = math.dist(link.xyz, joint.xyz)
        turn = max(abs(math.remainder(a - b, _TURN)) for a, b in zip(link.rpy, joint.rpy, strict=True))
        if not (far_m <= TOLERANCE_ORIGIN_M and turn <= TOLERANCE_ORIGIN_RAD):
            problems.append(
                f"{name}: it is mounted at xyz {joint.xyz}, rpy {joint.rpy} in the URDF, "
                f"at {link.xyz}, {link.rpy} on the {limits.robot}"
            )
        if link.axis is not None and math.dist(link.axis, joint.axis) > TOLERANCE_ORIGIN_RAD:
            problems.append(f"{name}: it turns about {joint.axis} in the URDF, about {link.axis} on the {limits.robot}")
    return problems


def _validated(found: dict[str, Any], source: str) -> RobotLimits:
    try:
        return RobotLimits.model_validate(found)
    except ValidationError as error:
        lines = [f"  {'.'.join(map(str, e['loc'])) or '(top)'}: {e['msg']}" for e in error.errors()]
        raise LimitsError(f"{source} is not a limits file:\n" + "\n".join(lines)) from error


def _folder():
    return files("foreact.robot_bridge") / "limits"


def _read(name: str) -> tuple[str, str]:
    path = Path(name)
    if path.suffix in (".yaml", ".yml") or "/" in name:
        if not path.is_file():
            raise LimitsError(f"no limits file {path}; expected YAML as in robot_bridge/limits/")
        if path.stat().st_size > _MAX_BYTES:
            raise LimitsError(f"{path} has more than {_MAX_BYTES:,} bytes; that is no limits file")
        try:
            return path.read_text(encoding="utf-8"), str(path)
        except UnicodeDecodeError as error:
            raise LimitsError(f"{path} is not UTF-8 text: {error}") from error
    if name not in limits_names():
        raise LimitsError(f"no limits {name!r}; {did_you_mean(name, limits_names())}, or give the path of a YAML file")
    return (_folder() / f"{name}.yaml").read_text(encoding="utf-8"), f"limits {name}"

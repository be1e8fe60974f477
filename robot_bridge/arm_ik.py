"""Inverse kinematics of a whole chunk: poses of the tool in, joints out, with what could not be reached.

Runs beside the policy, never in the gate: it needs mink and MuJoCo. The model has no masses and no shapes; it is made
from the chain of the limits file, so policy and gate agree on where the tool is.

Each row is solved from the row before by a few steps of differential inverse kinematics, a quadratic program (mink):
reach the pose, drift slowly to a rest posture with what is left, stay inside the joint ranges and within what the joint
can travel in one policy period. Near a singularity the steps are damped (Nakamura and Hanafusa, 1986): the arm then
lags the pose rather than whip around.

Shape legend: K rows, N joints.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foreact.robot_bridge.limits import RobotLimits
from foreact.vla.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    import mujoco

Array = NDArray[np.float64]

TCP = "tcp"
_CLOSE_M, _CLOSE_RAD = 1e-4, 5e-4
"""A row that is so close to its pose is done."""


@dataclass(frozen=True, kw_only=True)
class IkSettings:
    """How hard inverse kinematics tries, and what it is content with.

    Raises:
        ConfigError: If a number is out of its range; it is named.
    """

    position_tolerance_m: float = 0.025
    rotation_tolerance_rad: float = 0.15
    """A chunk with a row further from its pose than this is refused, [0.0005, 0.1] and [0.002, 0.5]. Where a joint may
    not travel faster, or near a singularity, rows lag their poses by some millimetres and catch up; a chunk of
    recorded demonstrations by up to 20 mm at a quarter of the speed limits."""
    range_margin_rad: float = 0.1
    """Distance that is kept from the ends of the joint ranges, as the gate keeps it (`soft_margin_rad`), [0, 0.5]."""
    speed_share: float = 0.25
    """Part of the joints' speed limits that a row may use, as in the gate (`speed_fraction`), [0.001, 1]."""
    posture_gain: float = 0.02
    """How much of the way to the rest posture is gone in one step, where the pose leaves a choice, [0, 1]."""
    singular_condition: float = 17.0
    """Condition number of the Jacobian (metres and radians) that counts as near a singularity, [1, 1e6]; MoveIt Servo
    slows there."""
    iterations: int = 12
    """Steps per row, at most, [1, 100]."""

    def __post_init__(self) -> None:
        bounds = {
            "position_tolerance_m": (5e-4, 0.1),
            "rotation_tolerance_rad": (2e-3, 0.5),
            "range_margin_rad": (0.0, 0.5),
            "speed_share": (1e-3, 1.0),
            "posture_gain": (0.0, 1.0),
            "singular_condition": (1.0, 1e6),
            "iterations": (1, 100),
        }
        for name, (low, high) in bounds.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
                raise ConfigError(f"ik.{name} must be a number in [{low:g}, {high:g}], found {value!r}")

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> IkSettings:
        """From the `ik:` part of a robot file.

        Raises:
            ConfigError: If a name is unknown or a value does not fit.
        """
        known = [f.name for f in fields(cls)]
        for name in values:
            if name not in known:
                raise ConfigError(f"no setting ik.{name}; {did_you_mean(str(name), known)}")
        whole = values.get("iterations")
        return cls(**{**values, **({"iterations": int(whole)} if isinstance(whole, float) else {})})


@dataclass(frozen=True, kw_only=True)
class IkReport:
    """How a chunk went, row by row; all arrays are (K,)."""

    joint_position: Array
    """(K, N) [rad]."""
    position_error_m: Array
    rotation_error_rad: Array
    condition: Array
    """Condition number of the Jacobian at the row."""
    limited: NDArray[np.bool_]
    """Some joint is at an end of its range, or travels as far as it can in one period."""
    iterations: int
    """Of all rows together."""


def chain_spec(limits: RobotLimits) -> mujoco.MjSpec:
    """A MuJoCo model of the bare chain: joints named as in the limits file, site `tcp` at the tool, base at the origin.

    Joints have no stops; whoever uses the model keeps them.
    """
    mujoco = _mujoco()
    spec = mujoco.MjSpec()
    spec.compiler.degree = False
    body = spec.worldbody
    names = iter(limits.joints)
    for number, link in enumerate(limits.chain):
        body = body.add_body(
            name=f"link{number + 1}", pos=link.xyz, quat=_quat_wxyz(link.rpy), mass=1.0, inertia=(1e-2, 1e-2, 1e-2),
            explicitinertial=True,
        )  # fmt: skip
        if link.axis is not None:
            body.add_joint(name=next(names), type=mujoco.mjtJoint.mjJNT_HINGE, axis=link.axis)
    body.add_site(name=TCP, pos=limits.flange_to_tcp.xyz, quat=_quat_wxyz(limits.flange_to_tcp.rpy))
    return spec


class ChunkIk:
    """Of one arm.

    Args:
        limits: Its chain, ranges and speeds.
        period_s: Between two rows [s].
        posture: Rest posture (N,) [rad] of what a pose leaves free; None: the joints that each chunk starts from.
        settings: See there.

    Raises:
        ConfigError: If mink is not installed.
    """

    def __init__(
        self,
        limits: RobotLimits,
        period_s: float,
        posture: ArrayLike | None = None,
        settings: IkSettings | None = None,
    ):
        mink = _mink()
        self.limits, self.settings = limits, settings or IkSettings()
        self._mink = mink
        self._configuration: Any = mink.Configuration(chain_spec(limits).compile())
        # One radian weighs as much as 0.2 m, the ratio of the tolerances.
        self._frame: Any = mink.FrameTask(TCP, "site", position_cost=1.0, orientation_cost=0.2, lm_damping=0.02)
        self._rest: Any = mink.PostureTask(self._configuration.model, cost=1e-3, gain=self.settings.posture_gain)
        self._box = _Box(mink, len(limits.joints))
        margin = self.settings.range_margin_rad
        self._low, self._high = np.array(limits.position_low) + margin, np.array(limits.position_high) - margin
        self._travel = self.settings.speed_share * np.array(limits.velocity) * period_s
        self._posture = None if posture is None else np.asarray(posture, np.float64)

    def forward(self, q: ArrayLike) -> Array:
        """(4, 4) pose of the TCP in the base frame, for joints (N,) [rad]."""
        self._configuration.update(np.asarray(q, np.float64))
        out = np.eye(4)
        out[:3, :3], out[:3, 3] = self._pose()
        return out

    def solve(self, q_start: ArrayLike, T_base_tcp: Sequence[ArrayLike] | Array) -> IkReport:
        """Joints for poses that follow each other.

        Args:
            q_start: Joints (N,) [rad] before the first row.
            T_base_tcp: Poses (K, 4, 4) of the TCP.
        """
        poses = np.asarray(T_base_tcp, np.float64)
        count, q = len(poses), np.asarray(q_start, np.float64).copy()
        self._rest.set_target(q if self._posture is None else self._posture)
        out, errors = np.empty((count, len(q))), np.empty((count, 2))
        condition, limited, iterations = np.empty(count), np.zeros(count, bool), 0
        for row in range(count):
            self._box.around(q, self._low, self._high, self._travel)
            # Not from where the last step would lead: what is left free would then gather speed, row after row.
            q, errors[row], condition[row], used = self._reach(q, poses[row])
            out[row], limited[row] = q, self._box.touched_by(q)
            iterations += used
        return IkReport(
            joint_position=out,
            position_error_m=errors[:, 0],
            rotation_error_rad=errors[:, 1],
            condition=condition,
            limited=limited,
            iterations=iterations,
        )

    def _reach(self, q_before: Array, pose: Array) -> tuple[Array, tuple[float, float], float, int]:
        """Joints, errors [m, rad], condition number and number of steps for one pose."""
        mink, configuration, settings = self._mink, self._configuration, self.settings
        configuration.update(q_before)
        self._frame.set_target(mink.SE3.from_matrix(pose))
        singular = np.linalg.svd(configuration.get_frame_jacobian(TCP, "site"), compute_uv=False)
        damping = _damping(float(singular[-1]))
        used, before = 0, math.inf
        while True:
            step = mink.solve_ik(
                configuration, (self._frame, self._rest), 1.0, "daqp", damping=damping, limits=(self._box,)
            )
            q = np.clip(configuration.q + step, self._box.low, self._box.high)
            configuration.update(q)
            used += 1
            far_m, far_rad = self._error(pose)
            close = far_m < _CLOSE_M and far_rad < _CLOSE_RAD
            far, before = before, far_m + 0.2 * far_rad
            stuck = before > 0.99 * far or float(np.abs(step).max()) < 1e-7
            if close or stuck or used >= settings.iterations:
                return q.copy(), (far_m, far_rad), float(singular[0] / max(singular[-1], 1e-12)), used

    def _pose(self) -> tuple[Array, Array]:
        data = self._configuration.data
        return data.site_xmat[0].reshape(3, 3), data.site_xpos[0]

    def _error(self, pose: Array) -> tuple[float, float]:
        matrix, position = self._pose()
        turn = matrix.T @ pose[:3, :3]
        sine = 0.5 * math.hypot(turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1])
        return math.dist(position, pose[:3, 3]), math.atan2(sine, 0.5 * (float(np.trace(turn)) - 1.0))


class _Box:
    """Joint ranges and travel per row as one limit for mink: bounds on the joints themselves, so that several steps of
    one row together travel no further than one."""

    def __init__(self, mink: Any, n: int):
        self._constraint = mink.Constraint
        self._G = np.vstack([np.eye(n), -np.eye(n)])
        self.low, self.high = np.zeros(n), np.zeros(n)

    def around(self, q: Array, low: Array, high: Array, travel: Array) -> None:
        """Bounds for the row after `q`; a joint that is out of its range may stay or come back."""
        self.low = np.minimum(np.maximum(low, q - travel), q)
        self.high = np.maximum(np.minimum(high, q + travel), q)

    def touched_by(self, q: Array) -> bool:
        return bool(((q <= self.low + 1e-9) | (q >= self.high - 1e-9)).any())

    def compute_qp_inequalities(self, configuration: Any, dt: float) -> Any:
        """What mink asks of a limit: G dq <= h."""
        q = configuration.q
        return self._constraint(self._G, np.concatenate([self.high - q, q - self.low]))


def _damping(smallest: float, begins: float = 0.05, most: float = 2e-3) -> float:
    """Damping for the smallest singular value of the Jacobian: next to none, rising below `begins`."""
    return 1e-9 if smallest >= begins else 1e-9 + most * (1.0 - smallest / begins) ** 2


def _quat_wxyz(rpy: Sequence[float]) -> tuple[float, float, float, float]:
    """Quaternion of extrinsic x-y-z angles [rad]."""
    (sa, ca), (sb, cb), (sc, cc) = ((math.sin(0.5 * a), math.cos(0.5 * a)) for a in rpy)
    return (
        ca * cb * cc + sa * sb * sc,
        sa * cb * cc - ca * sb * sc,
        ca * sb * cc + sa * cb * sc,
        ca * cb * sc - sa * sb * cc,
    )


def _mujoco() -> Any:
    try:
        import mujoco
    except ImportError as error:
        raise ConfigError("inverse kinematics needs MuJoCo: pip install '.[robot,sim]' in ForeAct's folder") from error
    return mujoco


def _mink() -> Any:
    try:
        import mink
    except ImportError as error:
        raise ConfigError("inverse kinematics needs mink: pip install '.[robot]' in ForeAct's folder") from error
    return mink

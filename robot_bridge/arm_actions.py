"""What the numbers of an action mean for an arm: from contract fields to poses of the tool, or to joints.

Relative actions are increments of the commanded target, not of the measured pose: they integrate in open loop from the
target that was commanded when the policy looked (its anchor), as in the simulator. Euler angles are added component by
component, as CALVIN does it (mees/calvin_env, MIT), not composed.

Shape legend: K rows, A numbers of an action, N joints.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from foreact.robot_bridge.kinematics import matrix_to_rpy, rpy_to_matrix
from foreact.vla.contract import Contract, ContractMismatch, Field
from foreact.vla.errors import ForeActError

Array = NDArray[np.float64]


class ChunkRefused(ForeActError):
    """A chunk is not executed; the message says why."""


@dataclass(frozen=True)
class Part:
    """One field of the action vector."""

    field: Field
    place: slice
    scale: float
    """What 1.0 means, in m or rad."""


@dataclass(frozen=True)
class ActionLayout:
    """Where in the action vector what is: position and rotation, or joints; and perhaps a gripper."""

    position: Part | None
    rotation: Part | None
    joints: Part | None
    gripper: Part | None
    opens: float
    """Sign of the gripper number that means open."""
    frame: str
    """Of Cartesian numbers: "world" or "base"."""
    size: int
    low: Array = field(repr=False)
    """(A,) bounds."""
    high: Array = field(repr=False)

    @property
    def relative(self) -> bool:
        """Whether rows are increments."""
        part = self.joints or self.position
        assert part is not None
        return part.field.relative

    @classmethod
    def of(cls, contract: Contract, joints: int) -> ActionLayout:
        """Read the action fields of a contract.

        Raises:
            ContractMismatch: If they are none of: position and rotation of the tool, both relative or both absolute;
                joints of this arm, relative or absolute; each with or without a gripper.
        """
        found: dict[str, Part] = {}
        start = 0
        for item in contract.action:
            kind = _kind(item, joints)
            if kind in found:
                raise _mismatch(contract, f"both {found[kind].field.name!r} and {item.name!r} are {kind}")
            found[kind] = Part(item, slice(start, start + item.size), unit_scale(item, kind))
            start += item.size
        cartesian = {"position", "rotation"} & found.keys()
        if ("joints" in found) == bool(cartesian) or len(cartesian) == 1:
            raise _mismatch(contract, f"found {', '.join(found) or 'nothing'}")
        frame = ""
        if cartesian:
            position, rotation = found["position"].field, found["rotation"].field
            if (position.frame, position.relative) != (rotation.frame, rotation.relative):
                raise _mismatch(contract, f"{position.name!r} and {rotation.name!r} differ in frame, or in relative")
            if position.frame not in ("world", "base"):
                raise _mismatch(contract, f"frame {position.frame!r} is neither world nor base")
            if rotation.relative and rotation.rotation != "euler_xyz":
                raise _mismatch(contract, f"relative rotations must be euler_xyz, found {rotation.rotation}")
            frame = position.frame
        infinity = math.inf
        return cls(
            **{kind: found.get(kind) for kind in ("position", "rotation", "joints", "gripper")},  # type: ignore[arg-type]
            opens=-1.0 if contract.gripper == "-1 open, +1 close" else 1.0,
            frame=frame,
            size=start,
            low=np.concatenate([np.full(f.size, -infinity if f.low is None else f.low) for f in contract.action]),
            high=np.concatenate([np.full(f.size, infinity if f.high is None else f.high) for f in contract.action]),
        )

    def clip(self, actions: np.ndarray) -> tuple[Array, int]:
        """Actions (K, A) within the contract's bounds, and how many numbers were beyond.

        Raises:
            ChunkRefused: If they have another shape, or are not finite.
        """
        actions = np.asarray(actions, np.float64)
        if actions.ndim != 2 or actions.shape[0] < 1 or actions.shape[1] != self.size:
            raise ChunkRefused(f"a chunk must have shape (K, {self.size}), found {actions.shape}")
        if not np.isfinite(actions).all():
            raise ChunkRefused(f"{int((~np.isfinite(actions)).sum())} of {actions.size} action numbers are not finite")
        inside = np.clip(actions, self.low, self.high)
        return inside, int((inside != actions).sum())

    def gripper_commands(self, actions: Array, now: float) -> Array:
        """(K,): +1 open, -1 close; `now` throughout if the actions say nothing of a gripper."""
        if self.gripper is None:
            return np.full(len(actions), 1.0 if now > 0.0 else -1.0)
        return np.where(self.opens * actions[:, self.gripper.place][:, 0] > 0.0, 1.0, -1.0)

    def joint_targets(self, actions: Array, anchor: Array) -> Array:
        """(K, N) [rad] from joint actions, from the commanded joints `anchor` (N,) on."""
        assert self.joints is not None
        rows = self.joints.scale * actions[:, self.joints.place]
        return anchor + np.cumsum(rows, axis=0) if self.joints.field.relative else rows

    def poses(self, actions: Array, anchor_position: Array, anchor_euler: Array) -> tuple[Array, Array]:
        """(K, 4, 4) poses of the tool in `frame`, and their Euler angles (K, 3), not wrapped, from Cartesian actions.

        Args:
            actions: Shape (K, A).
            anchor_position: Commanded position (3,) [m].
            anchor_euler: Commanded extrinsic x-y-z angles (3,) [rad], not wrapped.
        """
        assert self.position is not None
        assert self.rotation is not None
        position = self.position.scale * actions[:, self.position.place]
        rotation = actions[:, self.rotation.place]
        out = np.tile(np.eye(4), (len(actions), 1, 1))
        if self.position.field.relative:
            position = anchor_position + np.cumsum(position, axis=0)
            euler = anchor_euler + np.cumsum(self.rotation.scale * rotation, axis=0)
            matrices = [rpy_to_matrix(row) for row in euler]
        else:
            matrices = [_matrix(self.rotation, row) for row in rotation]
            euler = np.empty((len(actions), 3))
            last = anchor_euler
            for row, matrix in enumerate(matrices):
                last = euler[row] = nearest_euler(matrix_to_rpy(matrix), last)
        out[:, :3, 3], out[:, :3, :3] = position, np.stack(matrices)
        return out, euler


def nearest_euler(euler: Array, reference: Array) -> Array:
    """Of all extrinsic x-y-z angles (3,) of one rotation, those nearest to `reference` (3,) [rad].

    They are `euler` and (roll + pi, pi - pitch, yaw + pi), each plus full turns. Adding to one or to the other means
    different motions, so a target that goes on must stay on its own branch.
    """
    roll, pitch, yaw = euler
    turn = 2.0 * math.pi
    best = [np.array(c) for c in ((roll, pitch, yaw), (roll + math.pi, math.pi - pitch, yaw + math.pi))]
    best = [c + turn * np.round((reference - c) / turn) for c in best]
    return min(best, key=lambda c: float(np.abs(c - reference).sum()))


def unit_scale(item: Field, kind: str) -> float:
    """What 1.0 of a field means, in m or rad: its unit is "m", "rad", or a number and one of these ("0.02 m").

    Raises:
        ContractMismatch: If the unit is another one.
    """
    wanted = {"position": ("m",), "rotation": ("rad", "1"), "joints": ("rad",), "gripper": ("1",)}[kind]
    number, _, unit = item.unit.rpartition(" ")
    try:
        scale = float(number) if number else 1.0
    except ValueError:
        scale = math.nan
    if unit not in wanted or not (math.isfinite(scale) and scale > 0.0):
        raise ContractMismatch(
            f"action field {item.name!r} is in {item.unit!r}; expected {' or '.join(map(repr, wanted))}, "
            f'perhaps scaled as in "0.02 {wanted[0]}"'
        )
    return scale


def _kind(item: Field, joints: int) -> str:
    if item.is_gripper:
        return "gripper"
    if item.rotation is not None:
        return "rotation"
    if item.unit.rpartition(" ")[2] == "m" and item.size == 3:
        return "position"
    if item.unit.rpartition(" ")[2] == "rad" and item.size == joints and not item.frame:
        return "joints"
    raise ContractMismatch(
        f"action field {item.name!r} ({item.size} numbers in {item.unit!r}, frame {item.frame!r}) is neither a "
        f"gripper, nor a position (3, m), nor a rotation, nor the {joints} joints (rad) of this arm"
    )


def _mismatch(contract: Contract, why: str) -> ContractMismatch:
    names = ", ".join(item.name for item in contract.action)
    return ContractMismatch(
        f"the arm cannot follow actions made of {names}: {why}. Expected position and rotation of the tool, both "
        "relative or both absolute in frame world or base; or joints; and perhaps a gripper"
    )


def _matrix(part: Part, numbers: Array) -> Array:
    """Rotation matrix (3, 3) of an absolute rotation field."""
    kind = part.field.rotation
    if kind == "euler_xyz":
        return rpy_to_matrix((part.scale * numbers).tolist())
    if kind == "rotvec":
        return _of_rotvec(part.scale * numbers)
    if kind == "quat_xyzw":
        x, y, z, w = numbers / _length(numbers, "a quaternion")
        return np.array(
            [
                [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
                [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
                [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
            ]
        )
    first, second = numbers[:3], numbers[3:6]  # rot6d: the first two columns (Zhou et al., 2019)
    x_axis = first / _length(first, "a rot6d's first column")
    second = second - (x_axis @ second) * x_axis
    y_axis = second / _length(second, "a rot6d's second column")
    return np.column_stack([x_axis, y_axis, np.cross(x_axis, y_axis)])


def _of_rotvec(vector: Array) -> Array:
    x, y, z = vector
    k = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    angle = float(np.linalg.norm(vector))
    a = 1.0 - angle**2 / 6 if angle < 1e-4 else math.sin(angle) / angle
    b = 0.5 - angle**2 / 24 if angle < 1e-4 else (1.0 - math.cos(angle)) / angle**2
    return np.eye(3) + a * k + b * (k @ k)


def _length(vector: Sequence[float] | Array, what: str) -> float:
    length = float(np.linalg.norm(vector))
    if length < 1e-6:
        raise ChunkRefused(f"{what} of length {length:.1g} says no direction")
    return length

"""Replay recorded CALVIN motion on the re-created robot and measure how far it strays.

The recordings are tab-separated: `rollout`, `step`, `action0..6`, `robot_obs0..14`, `scene_obs0..23`; row 0
of a rollout is its start state, each later row is an action and the state it led to.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import mujoco
import numpy as np
from numpy.typing import NDArray

from foreact.sim.controller import CartesianController
from foreact.sim.panda import add_panda, physics_options
from foreact.sim.rotations import euler_xyz_to_matrix, rotation_angle_between

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Rollout:
    """One recorded sequence of T actions."""

    name: str
    actions: Array
    """(T, 7): relative Cartesian actions."""
    robot_obs: Array
    """(T + 1, 15): the start state, then the state after each action."""
    scene_obs: Array
    """(T + 1, 24), likewise."""


@dataclass(frozen=True)
class ReplayError:
    """Distance between replay and recording after each of T actions."""

    name: str
    pos_mm: Array
    rot_mrad: Array
    width_mm: Array
    joint_mrad: Array
    """Largest of the seven joints."""


def read_rollouts(path: Path) -> dict[str, Rollout]:
    """Rollouts by name, in file order."""
    rows: dict[str, list[dict[str, str]]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            rows.setdefault(row["rollout"], []).append(row)

    def block(group: list[dict[str, str]], stem: str, width: int) -> Array:
        return np.array([[float(row[f"{stem}{i}"]) for i in range(width)] for row in group])

    return {
        name: Rollout(
            name,
            block(group, "action", 7)[1:],
            block(group, "robot_obs", 15),
            block(group, "scene_obs", 24),
        )
        for name, group in rows.items()
    }


def lone_robot() -> tuple[mujoco.MjModel, mujoco.MjData, CartesianController]:
    """The Panda in an empty world."""
    spec = mujoco.MjSpec()
    physics_options(spec)
    add_panda(spec)
    model = spec.compile()
    return model, mujoco.MjData(model), CartesianController(model)


def replay(rollout: Rollout, data: mujoco.MjData, controller: CartesianController) -> ReplayError:
    """Start where the recording starts, apply its actions, and compare. The scene in `data` is left as it is."""
    controller.reset(data, rollout.robot_obs[0])
    found = np.empty((len(rollout.actions), 15))
    for step, action in enumerate(rollout.actions):
        controller.apply_relative(data, action)
        found[step] = controller.robot_obs(data)
    wanted = rollout.robot_obs[1:]
    angles = [
        rotation_angle_between(euler_xyz_to_matrix(a), euler_xyz_to_matrix(b))
        for a, b in zip(found[:, 3:6], wanted[:, 3:6], strict=True)
    ]
    return ReplayError(
        rollout.name,
        pos_mm=1e3 * np.linalg.norm(found[:, :3] - wanted[:, :3], axis=1),
        rot_mrad=1e3 * np.array(angles),
        width_mm=1e3 * np.abs(found[:, 6] - wanted[:, 6]),
        joint_mrad=1e3 * np.abs(found[:, 7:14] - wanted[:, 7:14]).max(axis=1),
    )


def table(errors: Iterable[ReplayError]) -> str:
    """A text table: per rollout the 95th percentile and the maximum of each error."""
    lines = [f"{'rollout':14s} {'TCP mm':>13s} {'TCP mrad':>13s} {'width mm':>13s} {'joint mrad':>13s}   (p95, max)"]
    for error in errors:
        columns = (error.pos_mm, error.rot_mrad, error.width_mm, error.joint_mrad)
        cells = [f"{np.percentile(c, 95):6.2f} {c.max():6.2f}" for c in columns]
        lines.append(f"{error.name:14s} " + " ".join(cells))
    return "\n".join(lines)

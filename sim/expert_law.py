"""What scripted experts are made of: what they look at, and what they answer.

A law is a function of what is measured now (poses of TCP, fixtures and blocks), not of time: after a slip or a push it
finds its way back, and a policy can imitate it from a short history. It may remember what was measured first, because
"10 cm further" has no meaning without it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from foreact.sim.scenes import SceneSpec

DOWN = np.array([math.pi, 0.0, math.pi / 2])
"""TCP Euler angles (extrinsic xyz) with the fingers pointing down and closing along world x."""
OPEN, CLOSE = 1.0, -1.0
TRAVEL_Z = 0.53
"""TCP height that clears the blocks on the desk (top 0.48) with closed fingers (0.015 below the TCP) [m]."""


@dataclass(frozen=True)
class Block:
    """One block as measured."""

    pos: np.ndarray
    """(3,) centre, world [m]."""
    euler: np.ndarray
    """(3,) extrinsic xyz [rad]; the third is the yaw of a block that stands."""
    size: tuple[float, float, float]
    """Full edges along the block's own axes [m]."""


@dataclass(frozen=True)
class Measured:
    """What an expert looks at."""

    tcp: np.ndarray
    """(3,) TCP position, world [m]."""
    euler: np.ndarray
    """(3,) TCP Euler angles, extrinsic xyz [rad]."""
    width: float
    """Opening of the gripper, 0 to 0.08 [m]."""
    command: float
    """Last gripper command: +1 open, -1 close."""
    slide: float
    drawer: float
    switch: float
    """Joint values [m] as in scene_obs."""
    blocks: Mapping[str, Block]

    @classmethod
    def of(cls, robot_obs: np.ndarray, scene_obs: np.ndarray, scene: SceneSpec) -> Measured:
        """From robot_obs (15,) and scene_obs (24,)."""
        slide, drawer, _, switch = (float(v) for v in scene_obs[:4])
        blocks = {}
        for slot, name in enumerate(scene.slot_order):
            pose = scene_obs[6 + 6 * slot : 12 + 6 * slot]
            blocks[name] = Block(pose[:3].copy(), pose[3:].copy(), scene.block_sizes[name])
        width, command = float(robot_obs[6]), float(robot_obs[14])
        return cls(robot_obs[:3].copy(), robot_obs[3:6].copy(), width, command, slide, drawer, switch, blocks)


@dataclass(frozen=True)
class Waypoint:
    """Where the TCP should go next."""

    pos: np.ndarray
    """(3,) world [m]."""
    euler: np.ndarray
    """(3,) extrinsic xyz [rad]."""
    gripper: float = CLOSE
    """+1 open, -1 close."""


Law = Callable[[Measured], Waypoint]
"""From what is measured now to the next waypoint."""


@dataclass(frozen=True, kw_only=True)
class Style:
    """In what ways two people would do the same task differently; zero is the plain way."""

    travel_m: float = 0.0
    """Added to the height at which the hand crosses the desk [m]; not negative."""
    off_centre: float = 0.0
    """Where along a block, a handle or a bar it is taken or pushed, -1 to 1 of what is allowed."""
    other_way: bool = False
    """Where a law has two equally good ways (turn of the wrist, side to come from), take the less obvious one."""


PLAIN = Style()

MakeLaw = Callable[[SceneSpec, Measured, Style], Law]
"""Makes the law of one attempt, given what is measured at its beginning and the manner."""


def point(x: float, y: float, z: float) -> np.ndarray:
    """A position (3,) in the world [m]."""
    return np.array([x, y, z])


def over(tcp: np.ndarray, goal: np.ndarray, radius: float, travel_z: float) -> np.ndarray:
    """Go to `goal` from above: rise to `travel_z` first, cross over, and descend within `radius` of its axis."""
    away = math.hypot(goal[0] - tcp[0], goal[1] - tcp[1])
    if away < radius:
        return goal
    if tcp[2] < travel_z - 0.03 and away > 2 * radius:
        return point(tcp[0], tcp[1], travel_z + 0.02)
    return point(goal[0], goal[1], travel_z)

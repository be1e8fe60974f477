"""What scripted experts are made of: what they look at, and what they answer.

A law is a function of what is measured now (poses of TCP, fixtures and blocks), not of time: after a slip or a push it
finds its way back, and a policy can imitate it from a short history. It may remember what was measured first, because
"10 cm further" has no meaning without it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from foreact.sim.rotations import euler_xyz_to_matrix
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


Goal = Callable[[Measured], Waypoint]


@dataclass(frozen=True)
class Stage:
    """One leg of a way: where to go, and when that is done."""

    goal: Goal
    near_m: float = 0.02
    near_rad: float = 0.15
    until: Callable[[Measured], bool] | None = None
    """Where given, this decides instead of the distance."""
    patience: int = 70
    """Steps after which the way counts as blocked."""

    def done(self, now: Measured, goal: Waypoint) -> bool:
        """Whether the next stage can begin."""
        if self.until is not None:
            return self.until(now)
        turn = (goal.euler - now.euler + math.pi) % (2 * math.pi) - math.pi
        return math.dist(now.tcp, goal.pos) < self.near_m and float(np.abs(turn).max()) < self.near_rad


STALL_STEPS, STALL_M, STALL_RAD = 8, 0.0015, 0.01
"""A stage that came no closer than this in so many steps is blocked: the target pose must not run away."""


class Way:
    """Stages one after the other."""

    def __init__(self, stages: Sequence[Stage]) -> None:
        self._stages = tuple(stages)
        self._at = 0
        self._waited = 0
        self._since = 0
        self._best_m = self._best_rad = math.inf

    @property
    def blocked(self) -> bool:
        """Whether the present stage has taken longer than it may, or does not get on."""
        if self._at >= len(self._stages):
            return False
        return self._waited > self._stages[self._at].patience or self._since > STALL_STEPS

    @property
    def position(self) -> int:
        """Index of the present stage; the number of stages at the end."""
        return self._at

    def follow(self, now: Measured) -> Waypoint | None:
        """The waypoint of the first stage that is not done yet; None at the end."""
        while self._at < len(self._stages):
            stage = self._stages[self._at]
            goal = stage.goal(now)
            if not stage.done(now, goal):
                self._waited += 1
                self._watch(now, goal, stage)
                return goal
            self._at += 1
            self._waited = self._since = 0
            self._best_m = self._best_rad = math.inf
        return None

    def _watch(self, now: Measured, goal: Waypoint, stage: Stage) -> None:
        if stage.until is not None:
            return
        turn = (goal.euler - now.euler + math.pi) % (2 * math.pi) - math.pi
        left_m, left_rad = math.dist(now.tcp, goal.pos), float(np.abs(turn).max())
        if left_m < self._best_m - STALL_M or left_rad < self._best_rad - STALL_RAD:
            self._best_m, self._best_rad = min(left_m, self._best_m), min(left_rad, self._best_rad)
            self._since = 0
        else:
            self._since += 1


FRONT_Y = -0.10
"""In front of this line the hand passes door handle and lever [m]."""
FREE_Z = 0.57
"""TCP height at which a held block passes over two blocks on each other (top 0.52) [m]."""


def fingers(euler: np.ndarray) -> np.ndarray:
    """Unit vector (3,) along the fingers of a TCP with these Euler angles."""
    return euler_xyz_to_matrix(euler)[:, 2]


def to(pos: np.ndarray, euler: np.ndarray, gripper: float) -> Goal:
    """A goal that stays where it is."""
    return lambda now: Waypoint(pos, euler, gripper)


def way_out(now: Measured, gripper: float, height: float = FREE_Z, back_m: float = 0.08) -> list[Stage]:
    """Leave what the hand may be in: back along the fingers, out of the cabinet, and up."""
    stages: list[Stage] = []
    at = now.tcp
    behind = at[1] > 0.02 + 0.577 * (at[2] - 0.44) - 0.12
    if at[2] < height - 0.05 or behind:
        # Under the cabinet's ceiling there is little room above the hand.
        at = at - min(back_m, 0.035 if at[1] > 0.04 and at[2] < 0.55 else back_m) * fingers(now.euler)
        stages.append(Stage(to(at, now.euler, gripper), near_rad=math.pi, patience=30))
    if behind:
        at = point(at[0], min(at[1], FRONT_Y), at[2])
        stages.append(Stage(to(at, now.euler, gripper), near_m=0.03, near_rad=math.pi, patience=40))
    if at[2] < height - 0.02:
        at = point(at[0], at[1], height)
        stages.append(Stage(to(at, now.euler, gripper), near_m=0.03, near_rad=math.pi, patience=40))
    return stages

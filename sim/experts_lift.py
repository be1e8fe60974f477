"""The experts that take a block: lift from desk, drawer and niche, and unstack."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from foreact.sim.expert_law import (
    CLOSE,
    DOWN,
    FREE_Z,
    FRONT_Y,
    OPEN,
    PLAIN,
    Block,
    Law,
    MakeLaw,
    Measured,
    Stage,
    Style,
    Way,
    Waypoint,
    fingers,
    point,
    way_out,
)
from foreact.sim.experts_grasp import BACK_M, RISE_INSIDE, Grasp, choose_grasp, grasp_pose, stance
from foreact.sim.experts_pull import choose_pull, pull_stages
from foreact.sim.experts_reach import reach_of
from foreact.sim.scenes import SceneSpec

Array = NDArray[np.float64]

HELD_WIDTH_M = (0.03, 0.076)
"""Gripper widths at which a block may be between the fingers."""
HELD_WITHIN_M = 0.05
"""A held block's middle is no further from the TCP (taken at the end of a long side)."""
SHOVED_M, SHOVED_RAD = 0.02, 0.35
"""A block that moved so much since the grasp was chosen is looked at again."""
AWKWARD_RAD, MAX_PULLS = 0.9, 2
"""With a hand tilted further the arm is near its joint limits: rather pull the block closer, at most so often."""
LOST_Z = 0.3
"""A block below this has fallen to the floor; the arm waits in its neutral pose [m]."""
SETTLED_M = 0.0004
"""The gripper has settled when its width changes by less in a step."""
CLOSING_STEPS = 5
"""Steps that the gripper needs at least before it can have settled."""


def holds(now: Measured, name: str) -> bool:
    """Whether the gripper seems to hold the block."""
    low, high = HELD_WIDTH_M
    near = math.dist(now.tcp, now.blocks[name].pos) < HELD_WITHIN_M
    return now.command < 0.0 and low < now.width < high and near


def holds_any(now: Measured) -> str | None:
    """The block that the gripper seems to hold, or None."""
    held = [name for name in now.blocks if holds(now, name)]
    return min(held, key=lambda name: math.dist(now.tcp, now.blocks[name].pos), default=None)


def lies_free(now: Measured, name: str) -> bool:
    """Whether nothing stands on the block."""
    return all(lower != name for _, lower in stacks(now))


def stacks(now: Measured) -> list[tuple[str, str]]:
    """(upper, lower) of every two blocks on each other."""
    found = []
    for (upper, above), (lower, below) in permutations(now.blocks.items(), 2):
        rise = above.pos[2] - below.pos[2] - (stance(above).height + stance(below).height) / 2
        aside = math.hypot(above.pos[0] - below.pos[0], above.pos[1] - below.pos[1])
        if abs(rise) < 0.008 and aside < (stance(above).length + stance(below).length) / 2:
            found.append((upper, lower))
    return found


class _Settled:
    """Whether the gripper has come to rest since it was asked first."""

    def __init__(self) -> None:
        self._width: float | None = None
        self._steps = 0

    def __call__(self, now: Measured) -> bool:
        before, self._width = self._width, now.width
        self._steps += 1
        return before is not None and self._steps > CLOSING_STEPS and abs(now.width - before) < SETTLED_M


class Take:
    """Takes one block and brings it to a free place above and in front of where it was; tries again after slips."""

    def __init__(self, scene: SceneSpec, name: str, style: Style = PLAIN) -> None:
        self._scene = scene
        self._name = name
        self._style = style
        self._failed: set[Grasp] = set()
        self._grasp: Grasp | None = None
        self._seen: Block | None = None
        self._way: Way | None = None
        self._closing = 0
        self._pulls = 0

    def __call__(self, now: Measured) -> Waypoint:
        if now.blocks[self._name].pos[2] < LOST_Z:
            self._way = None
            return Waypoint(point(0.026, -0.231, FREE_Z), DOWN, OPEN)
        if self._way is None or self._must_begin_again(now):
            self._begin(now)
        assert self._way is not None
        goal = self._way.follow(now)
        if goal is None and self._grasp is None:  # pulled
            self._begin(now)
            goal = self._way.follow(now)
        if goal is None:
            return Waypoint(point(now.tcp[0], now.tcp[1], FREE_Z), now.euler, CLOSE)
        return goal

    def taken(self, now: Measured) -> bool:
        """Whether the block is held and out of the way."""
        return (
            self._grasp is not None
            and self._way is not None
            and self._way.follow(now) is None
            and holds(now, self._name)
        )

    def _must_begin_again(self, now: Measured) -> bool:
        assert self._way is not None and self._seen is not None
        block = now.blocks[self._name]
        if self._grasp is None:
            return self._way.blocked
        if self._way.blocked or (self._way.position > self._closing and not holds(now, self._name)):
            self._failed.add(self._grasp)
            return True
        if self._way.position < self._closing:
            turned = abs(math.sin(stance(block).yaw - stance(self._seen).yaw))
            return math.dist(block.pos, self._seen.pos) > SHOVED_M or turned > SHOVED_RAD
        return False

    def _begin(self, now: Measured) -> None:
        reach = reach_of(self._scene.name)
        name = self._name
        self._seen = now.blocks[name]
        grasp = choose_grasp(reach, now, name, self._style, frozenset(self._failed))
        if grasp is None or (grasp.tilt > AWKWARD_RAD and self._pulls < MAX_PULLS):
            pull = choose_pull(reach, now, name)
            if grasp is None or pull is not None:
                self._failed.clear()
                self._grasp = None
                self._pulls += 1
                yaw, tilt = pull or (math.pi / 2, 0.5)
                self._way = Way(pull_stages(now, name, yaw, tilt))
                return
        self._grasp = grasp
        height = FREE_Z + self._style.travel_m
        _, euler = grasp_pose(now.blocks[name], grasp)

        def at_grasp(seen: Measured, back_m: float = 0.0) -> Waypoint:
            pos, turned = grasp_pose(seen.blocks[name], grasp)
            return Waypoint(pos - back_m * fingers(turned), turned, OPEN)

        def before(seen: Measured) -> Waypoint:
            return at_grasp(seen, BACK_M)

        def entry(seen: Measured) -> Waypoint:
            goal = before(seen)
            x, y, z = goal.pos
            return Waypoint(point(x, min(y, FRONT_Y) if y > -0.04 else y, max(z, height)), goal.euler, OPEN)

        def close(seen: Measured) -> Waypoint:
            return Waypoint(seen.tcp, euler, CLOSE)

        stages = [
            *way_out(now, OPEN, height),
            Stage(entry, near_m=0.025, near_rad=0.2, patience=120),
            Stage(before, near_m=0.012, near_rad=0.08),
            Stage(at_grasp, near_m=0.004, near_rad=0.08, patience=45),
        ]
        self._closing = len(stages)
        seen = now.blocks[name].pos
        stages.append(Stage(close, until=_Settled()))
        inside = seen[1] > 0.02
        rise = _Offset(RISE_INSIDE if inside else point(0.0, 0.0, 0.11), euler)
        stages.append(Stage(rise, near_m=0.015, near_rad=0.3))
        if inside:
            stages.append(Stage(_Leave(euler, -BACK_M), near_m=0.02, near_rad=0.3))
            stages.append(Stage(_Front(euler, height), near_m=0.03, near_rad=0.3))
        self._way = Way(stages)


class _Offset:
    """Where the TCP was when asked first, and a step further."""

    def __init__(self, offset: Array, euler: Array) -> None:
        self._offset = offset
        self._euler = euler
        self._goal: Array | None = None

    def __call__(self, now: Measured) -> Waypoint:
        if self._goal is None:
            self._goal = now.tcp + self._offset
        return Waypoint(self._goal, self._euler, CLOSE)


class _Leave(_Offset):
    """Back along the fingers, but not up."""

    def __init__(self, euler: Array, along_m: float) -> None:
        offset = along_m * fingers(euler)
        super().__init__(point(offset[0], offset[1] - 0.03, 0.0), euler)


class _Front(_Offset):
    """In front of the cabinet, at `height`."""

    def __init__(self, euler: Array, height: float) -> None:
        super().__init__(np.zeros(3), euler)
        self._height = height

    def __call__(self, now: Measured) -> Waypoint:
        if self._goal is None:
            self._goal = point(now.tcp[0], min(now.tcp[1], FRONT_Y - 0.02), self._height)
        return Waypoint(self._goal, self._euler, CLOSE)


def _lift(name: str) -> MakeLaw:
    def make(scene: SceneSpec, first: Measured, style: Style) -> Law:
        del first
        return Take(scene, name, style)

    return make


def unstack(scene: SceneSpec, first: Measured, style: Style) -> Law:
    """Take the upper block of a stack; without one, any block that is near."""
    pairs = stacks(first)
    # The block that stands on both others, if any; never one that carries another.
    tops = [upper for upper, _ in pairs if lies_free(first, upper)]
    name = tops[0] if tops else min(first.blocks, key=lambda other: math.dist(first.blocks[other].pos, first.tcp))
    return Take(scene, name, style)


LIFT_LAWS: Mapping[str, MakeLaw] = {
    "unstack_block": unstack,
    **{
        f"lift_{colour}_block_{place}": _lift(f"block_{colour}")
        for place in ("table", "slider", "drawer")
        for colour in ("red", "blue", "pink")
    },
}
"""Task name -> law."""

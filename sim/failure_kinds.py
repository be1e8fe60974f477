"""What kind of failure a failed attempt was, from what the simulator saw on the way: one of a few words, and how far.

The task oracle compares two snapshots (`scene_info.SceneInfo`); here the same snapshots of every control step are asked
what the robot touched and how far the thing that should move has moved. Limits here are ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from foreact.sim.block_goals import (
    LIFTED_M,
    PUSHED_M,
    ROTATED_RAD,
    Lifted,
    Placed,
    Pushed,
    PushedInto,
    Rotated,
    Stacked,
    Unstacked,
    held_block,
    only_on_blocks,
)
from foreact.sim.goals import JointMoved, LampSwitched
from foreact.sim.lights import BUTTON_THRESHOLD_M, SWITCH_THRESHOLD_M
from foreact.sim.rotations import matrix_to_euler_xyz
from foreact.sim.scene_info import SceneInfo
from foreact.sim.scene_state import BULB, ROBOT, SLIDE
from foreact.sim.scenes import BLOCKS
from foreact.sim.tasks import get_task

IMPOSSIBLE = "not possible when it began"
OTHER = "another task happened"
UNTOUCHED = "never touched"
TOUCHED = "touched, hardly moved"
SHORT = "moved, not far enough"
RULE = "moved far enough, not as the rule wants"
HELD = "never let go"
DROPPED = "let go elsewhere"
KINDS = (IMPOSSIBLE, OTHER, UNTOUCHED, TOUCHED, SHORT, RULE, HELD, DROPPED)
"""All kinds, and the order in which they are tried: a failure gets the first that fits."""

HARDLY = 0.2
"""Below this share of the way, something has hardly moved."""


@dataclass
class TaskWatch:
    """Looks on while one task is tried; see `kind`."""

    task: str
    reached: float = 0.0
    """The furthest that the right thing came, as a share of what the task asks for."""
    touched: set[str] = field(default_factory=set)
    """Every body that the robot touched since the task began."""
    _last: tuple[SceneInfo, SceneInfo] | None = None

    def see(self, start: SceneInfo, now: SceneInfo) -> None:
        """Note one control step of the task that began at `start`."""
        self.touched |= now.contacts_of(ROBOT)
        self.reached = max(self.reached, _share(self.task, start, now))
        self._last = start, now

    def kind(self, *, possible: bool, others: Sequence[str] = ()) -> tuple[str, str]:
        """The kind of failure, one of `KINDS`, and a few words on how far it got.

        Args:
            possible: Whether the task could be done when it began.
            others: Tasks that happened although they were not asked for.
        """
        if self._last is None or not possible:
            return IMPOSSIBLE, ""
        start, now = self._last
        goal = get_task(self.task).goal
        wanted = _bodies(self.task, start)
        if not wanted:  # no block is held, or none lies where the task needs one: the oracle can never be content
            return IMPOSSIBLE, ""
        if others:
            return OTHER, ", ".join(others)
        if isinstance(goal, (Placed, Stacked)):
            return self._let_go(wanted, now)
        far = self._how_far()
        if not self.touched & wanted and self.reached < HARDLY:
            elsewhere = sorted(_plain(name) for name in self.touched - {"floor"})
            return UNTOUCHED, f"it touched {_listed(elsewhere)} instead" if elsewhere else "it touched nothing"
        if self.reached < HARDLY:
            return TOUCHED, far
        return (SHORT, far) if self.reached < 1.0 else (RULE, far)

    def _let_go(self, wanted: frozenset[str], now: SceneInfo) -> tuple[str, str]:
        (block,) = wanted
        touched = now.contacts_of(block)
        if ROBOT in touched:
            return HELD, f"the {_plain(block)} is in the hand"
        where = sorted(_plain(name) for name in touched)
        return DROPPED, f"the {_plain(block)} touches {_listed(where)}" if where else f"the {_plain(block)} is falling"

    def _how_far(self) -> str:
        goal, share = get_task(self.task).goal, self.reached
        if isinstance(goal, JointMoved):
            return f"{100 * share * abs(goal.by_m):.1f} of {100 * abs(goal.by_m):.0f} cm"
        if isinstance(goal, Rotated):
            return f"{share * math.degrees(ROTATED_RAD):.0f} of {math.degrees(ROTATED_RAD):.0f} degrees"
        if isinstance(goal, Pushed):
            return f"{100 * share * PUSHED_M:.1f} of {100 * PUSHED_M:.0f} cm"
        if isinstance(goal, Lifted):
            return f"{100 * share * LIFTED_M[goal.support]:.1f} of {100 * LIFTED_M[goal.support]:.0f} cm up"
        if isinstance(goal, PushedInto):
            return f"a block moved {100 * share * PUSHED_M:.1f} cm"
        return ""


def _bodies(task: str, start: SceneInfo) -> frozenset[str]:
    """What has to be touched for the task; empty if, by the contacts at its start, nothing would do."""
    goal = get_task(task).goal
    if isinstance(goal, JointMoved):
        return frozenset({"slide" if goal.dim == SLIDE else "drawer"})
    if isinstance(goal, LampSwitched):
        return frozenset({"switch" if goal.dim == BULB else "button"})
    if isinstance(goal, (Rotated, Pushed, Lifted)):
        return frozenset({goal.block})
    if isinstance(goal, (Placed, Stacked)):
        held = held_block(start)
        return frozenset() if held is None else frozenset({held})
    if isinstance(goal, Unstacked):
        return frozenset(block for block in BLOCKS if only_on_blocks(start, block))
    return frozenset(block for block in BLOCKS if start.contacts_of(block) == {"desk"})


def _share(task: str, start: SceneInfo, now: SceneInfo) -> float:
    """How far the right thing is from where it was, in the right direction; 1 is what the task asks for."""
    goal = get_task(task).goal
    if isinstance(goal, JointMoved):
        moved = now.slide_m - start.slide_m if goal.dim == SLIDE else now.drawer_m - start.drawer_m
        return moved / goal.by_m
    if isinstance(goal, LampSwitched):
        lever, button = abs(now.switch_m - start.switch_m), abs(now.button_m - start.button_m)
        share = lever / SWITCH_THRESHOLD_M if goal.dim == BULB else button / BUTTON_THRESHOLD_M
        return min(0.99, share)  # the lamp is what counts
    if isinstance(goal, (Rotated, Pushed, Lifted)):
        before, after = start.blocks[goal.block], now.blocks[goal.block]
        if isinstance(goal, Rotated):
            turned = matrix_to_euler_xyz(after.R_world_block @ before.R_world_block.T)[2]
            return goal.sign * float(turned) / ROTATED_RAD
        moved = after.pos_world - before.pos_world
        if isinstance(goal, Pushed):
            return goal.sign * float(moved[0]) / PUSHED_M
        return float(moved[2]) / LIFTED_M[goal.support]
    if isinstance(goal, PushedInto):
        moves = [now.blocks[b].pos_world[:2] - start.blocks[b].pos_world[:2] for b in _bodies(task, start)]
        # There is no fixed distance to go, so a move by the length of a push is "not far enough" at most.
        return min(0.99, max((float(np.linalg.norm(move)) for move in moves), default=0.0) / PUSHED_M)
    return 0.0


def _plain(body: str) -> str:
    return f"{body.removeprefix('block_')} block" if body in BLOCKS else _NAMES.get(body, body)


_NAMES = {"slide": "door", "plank": "niche floor", "switch": "lever"}


def _listed(names: Sequence[str]) -> str:
    *front, last = (f"the {name}" for name in names)
    return f"{', '.join(front)} and {last}" if front else last

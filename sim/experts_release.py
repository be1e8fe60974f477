"""What comes before a task when the hand still has a block: put it down, let go, and leave.

Only tasks that place or stack begin with a block in the hand on purpose. But a rotation is done while the block is
still gripped, and an unstacked block is in the air: a hand that just closed for the next task would take it along.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from foreact.sim.expert_law import (
    CLOSE,
    DOWN,
    FREE_Z,
    OPEN,
    Law,
    MakeLaw,
    Measured,
    Stage,
    Style,
    Way,
    Waypoint,
    point,
    to,
    way_out,
)
from foreact.sim.experts_lift import HELD_WIDTH_M
from foreact.sim.scenes import DESK_AREA_Y, SceneSpec

IN_HAND_M = 0.06
"""A block whose middle is no further from the TCP is in the hand or between open fingers."""
RESTING_Z_M = (0.36, 0.46, 0.50)
"""Heights of blocks that lie in the drawer, on desk or plank, or on another block."""
LEVEL_M = 0.004
ROOM_M = 0.075
"""A place to put a block has at least this distance to the middle of others and of the button."""


def in_hand(now: Measured) -> str | None:
    """The block between the fingers, closed or open; None if there is none."""
    near = {name: math.dist(now.tcp, block.pos) for name, block in now.blocks.items()}
    name = min(near, key=lambda block: near[block])
    return name if near[name] < IN_HAND_M else None


def in_the_air(now: Measured, name: str) -> bool:
    """Whether the hand holds the block above whatever it could stand on."""
    low, high = HELD_WIDTH_M
    held = now.command < 0 and low < now.width < high
    z = now.blocks[name].pos[2]
    return held and all(abs(z - level) > LEVEL_M for level in RESTING_Z_M)


def first_let_go(make: MakeLaw, *, only_from_the_air: bool = False) -> MakeLaw:
    """The same law, after whatever the hand has is put down and the hand is away from it.

    Args:
        make: Makes the law.
        only_from_the_air: Laws that open the hand themselves and begin at a block need this only for a block that
            hangs in the air.
    """

    def made(scene: SceneSpec, first: Measured, style: Style) -> Law:
        name = in_hand(first)
        if name is None or (only_from_the_air and not in_the_air(first, name)):
            return make(scene, first, style)
        way = Way(_stages(scene, first, name))
        law: Law | None = None

        def act(now: Measured) -> Waypoint:
            nonlocal law
            if law is None:
                waypoint = way.follow(now)
                if waypoint is not None and not way.blocked:
                    return waypoint
                law = make(scene, now, style)
            return law(now)

        return act

    return made


def _stages(scene: SceneSpec, first: Measured, name: str) -> list[Stage]:
    stages: list[Stage] = []
    at = first
    if in_the_air(first, name):
        stages = way_out(first, CLOSE)
        below = first.tcp[2] - first.blocks[name].pos[2]
        spot = _free_spot(scene, first, name)
        high, low = point(*spot, FREE_Z + 0.02), point(*spot, 0.462 + below)
        euler = np.array([DOWN[0], 0.0, first.euler[2]])
        stages.append(Stage(to(high, euler, CLOSE), near_m=0.02))
        stages.append(Stage(to(low, euler, CLOSE), near_m=0.004, patience=60))
        at = replace(first, tcp=low, euler=euler)
    stages.append(Stage(to(at.tcp, at.euler, OPEN), until=lambda now: now.width > 0.07, patience=15))
    return [*stages, *way_out(at, OPEN)]


def _free_spot(scene: SceneSpec, now: Measured, name: str) -> tuple[float, float]:
    """The free place on the desk that is nearest to the hand."""
    taken = [block.pos[:2] for other, block in now.blocks.items() if other != name]
    taken.append(np.array(scene.button_xy))
    low, high = scene.desk_area_x
    spots = [
        (x, y)
        for x in np.arange(low + 0.03, high - 0.02, 0.03)
        for y in np.arange(DESK_AREA_Y[0] + 0.02, DESK_AREA_Y[1] - 0.02, 0.03)
    ]
    roomy = [spot for spot in spots if min(math.dist(spot, other) for other in taken) > ROOM_M]
    return min(roomy or spots, key=lambda spot: math.dist(spot, now.tcp[:2]))

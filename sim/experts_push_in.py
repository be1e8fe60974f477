"""The expert that pushes a block over the desk's edge into the open drawer."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from foreact.sim.expert_law import CLOSE, DOWN, Law, MakeLaw, Measured, Style, Waypoint, fingers, point
from foreact.sim.expert_tilt import along, turned_to
from foreact.sim.experts_push import FINGER_M, PushAlongX, drag_by_top, extent, has_room, low_z
from foreact.sim.experts_reach import reach_of
from foreact.sim.scenes import BLOCKS, SceneSpec

EDGE_Y = -0.18
"""The desk ends here; beyond is the open drawer."""
OPENING_M = 0.18
"""Half of the drawer's inner width."""
LEANINGS = ((-0.3, 0.0), (0.3, 0.0), (-0.3, -0.3), (0.3, -0.3), (0.0, -0.5))
"""(roll, pitch) of a hand behind a block: slanted fingers meet it over a wider part [rad]."""
GAPS_M = (0.016, 0.006)
"""Room left between block and fingers before the push."""
BACK_M = 0.07


class PushIn:
    """From behind with closed fingers; a block with no room behind it is first pulled to the front by its top."""

    def __init__(self, scene: SceneSpec, first: Measured, style: Style) -> None:
        self._scene, self._style = scene, style
        self._sideways: tuple[tuple[str, float], PushAlongX] | None = None
        self._name = self._choose(first)
        self._look(first)

    def __call__(self, now: Measured) -> Waypoint:
        block = now.blocks[self._name]
        if block.pos[2] < 0.435:
            if block.pos[2] > 0.3:
                return Waypoint(now.tcp + point(0.0, 0.03, 0.05), now.euler, CLOSE)
            self._name = self._choose(now)
            self._look(now)
            block = now.blocks[self._name]
        aside = block.pos[0] - self._scene.drawer_x
        if abs(aside) > OPENING_M - extent(block, 0.0) + 0.005 and block.pos[1] > EDGE_Y + 0.02:
            return self._aside(now, -math.copysign(1.0, aside))(now)
        if np.linalg.norm(block.pos - self._seen.pos) > 0.03:
            self._look(now)
        return self._pull(now) if self._euler is None else self._push(now, self._euler)

    def _aside(self, now: Measured, sign: float) -> PushAlongX:
        if self._sideways is None or self._sideways[0] != (self._name, sign):
            self._sideways = (self._name, sign), PushAlongX(self._name, sign, self._scene, now, self._style)
        return self._sideways[1]

    def _choose(self, now: Measured) -> str:
        """The block with most room: in the drawer's width, on the desk, far from the cabinet."""
        reach = reach_of(self._scene.name)
        reach.look(now)

        def cost(name: str) -> float:
            block = now.blocks[name]
            x, y, z = block.pos
            on_desk = abs(z - 0.46) < 0.015 and y < 0.02
            outside = max(0.0, abs(x - self._scene.drawer_x) + extent(block, 0.0) - OPENING_M)
            return 100.0 * (not on_desk) + 50.0 * outside + 0.5 * (self._free(now, name) is None) + y

        return min(BLOCKS, key=cost)

    def _look(self, now: Measured) -> None:
        self._seen = now.blocks[self._name]
        self._gap = GAPS_M[0]
        reach_of(self._scene.name).look(now)
        self._euler = self._free(now, self._name)

    def _free(self, now: Measured, name: str) -> np.ndarray | None:
        """Euler angles (3,) of a closed hand that has room behind the block; None if there is none."""
        reach = reach_of(self._scene.name)
        for gap in GAPS_M:
            for roll, pitch in LEANINGS:
                euler = DOWN + np.array([roll, pitch, 0.0])
                ready = self._behind(now, name, euler, gap)
                if has_room(reach, ready, euler, name):
                    self._gap = gap
                    return euler
        return None

    def _behind(self, now: Measured, name: str, euler: np.ndarray, gap: float) -> np.ndarray:
        block = now.blocks[name]
        z = low_z(euler)
        slant = (z + 0.02 - 0.46) * abs(math.tan(euler[1]))
        away = extent(block, math.pi / 2) + FINGER_M + slant + gap
        return point(block.pos[0] + 0.008 * self._style.off_centre, block.pos[1] + away, z)

    def _push(self, now: Measured, euler: np.ndarray) -> Waypoint:
        block = now.blocks[self._name]
        ready = self._behind(now, self._name, euler, self._gap)
        aside = now.tcp[0] - ready[0]
        behind = now.tcp[1] - block.pos[1] - extent(block, math.pi / 2)
        if now.tcp[2] < ready[2] + 0.015 and 0.0 < behind < 0.06 and abs(aside) < 0.02:
            return Waypoint(point(now.tcp[0] - 0.5 * aside, now.tcp[1] - 0.025, ready[2]), euler, CLOSE)
        goal = along(now.tcp, ready, fingers(euler), 0.008, BACK_M + self._style.travel_m)
        return Waypoint(goal, turned_to(now, euler), CLOSE)

    def _pull(self, now: Measured) -> Waypoint:
        """Press on the block's top and draw it to the front."""
        block = now.blocks[self._name]
        if now.tcp[2] > 0.52 or np.linalg.norm(block.pos - self._seen.pos) > 0.01:
            self._look(now)
            if self._euler is not None:
                return self._push(now, self._euler)
        return drag_by_top(now, block, point(0.0, -0.012, 0.0))


def _push_in(scene: SceneSpec, first: Measured, style: Style) -> Law:
    return PushIn(scene, first, style)


PUSH_IN_LAWS: Mapping[str, MakeLaw] = {"push_into_drawer": _push_in}
"""Task name -> law."""

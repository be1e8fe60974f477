"""From a symbolic initial state to the numbers of `scene_obs`.

CALVIN (mees/calvin, evaluation code, MIT) does this for scene D only: the 32-bit FNV-1 hash of the state's text seeds
a generator, which shuffles two anchors on the table and draws three yaws in pi/2 +- pi/8. What it drew for each of the
192 states is in `chain_data/official_states.tsv`. Here a state has the same order of anchors and the same yaws in every
scene; the anchors, the travel of the door and the order of the slots are the scene's own.

Anchors of A, B and C (ours). They stand at D's distance from the desk's edge (y -0.12) and are at least as far apart as
D's (0.18 m). A block turned by up to pi/8 can be pushed by 0.105 m to either side without reaching the other block, the
button (base of radius 0.04 m) or the edge of the desk, and lies within the width of the drawer (its centre +- 0.18 m).
In B the button stands in front of the drawer, which leaves room for only one anchor there; the other is 8 cm to the
left of it. A block that is alone on the table in B therefore always takes the anchor in front of the drawer.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from foreact.sim.scenes import DRAWER_TRAVEL, SWITCH_TRAVEL, SceneSpec, get_scene
from foreact.sim.symbolic import COLOURS, INITIAL_STATES, SLIDER_LEFT, SLIDER_RIGHT, TABLE, SymbolicState
from foreact.vla.errors import ForeActError

Xyz = tuple[float, float, float]

DATA = Path(__file__).parent / "chain_data"
TABLE_ANCHORS: Mapping[str, tuple[Xyz, Xyz]] = {
    "A": ((0.0, -0.12, 0.45999), (0.20, -0.12, 0.45999)),  # ours, as are B and C
    "B": ((-0.08, -0.12, 0.45999), (0.10, -0.12, 0.45999)),
    "C": ((0.065, -0.12, 0.45999), (0.245, -0.12, 0.45999)),
    "D": ((0.0500000896, -0.120000177, 0.459990009), (0.229995412, -0.11999514, 0.45999001)),
}
"""The two places on the table where chains begin with a block [m, world]."""
LONE_ANCHOR: Mapping[str, int] = {"B": 1}
"""The anchor of a block that is alone on the table, in scenes where that is not left to the shuffle."""
_NICHE_D: Mapping[str, Xyz] = {
    SLIDER_LEFT: (-0.240851662, 0.0924044687, 0.460990009),  # all digits of the evaluation code
    SLIDER_RIGHT: (0.070341633, 0.0924044687, 0.460990009),
}


class NotAnInitialState(ForeActError):
    """A symbolic state is not one in which chains begin."""


@cache
def _realisations() -> tuple[tuple[bool, Xyz], ...]:
    """Per initial state: whether the anchors are swapped, and the yaws of red, blue and pink [rad]."""
    lines = (DATA / "official_states.tsv").read_text(encoding="utf-8").splitlines()[3:]
    rows = [line.split("\t") for line in lines]
    return tuple((row[1] == "1", (float(row[2]), float(row[3]), float(row[4]))) for row in rows)


def state_id(state: SymbolicState) -> int:
    """Position of `state` among the 192 initial states.

    Raises:
        NotAnInitialState: If it is none of them.
    """
    try:
        return INITIAL_STATES.index(state)
    except ValueError:
        raise NotAnInitialState(
            f"no chain begins in {state}; expected one of the {len(INITIAL_STATES)} of "
            "foreact.sim.symbolic.INITIAL_STATES: one or two blocks on the table, none in drawer or hand, and at most "
            "one in each half of the niche"
        ) from None


def block_anchors(state: SymbolicState, scene: SceneSpec | str) -> dict[str, Xyz]:
    """Where each block, by colour, starts [m, world].

    Raises:
        NotAnInitialState: If no chain begins in `state`.
        UnknownScene: If there is no such scene.
    """
    spec = get_scene(scene) if isinstance(scene, str) else scene
    swapped, _ = _realisations()[state_id(state)]
    places = state.blocks
    # CALVIN's rule: red takes the first anchor, pink the second, blue the first if red leaves it.
    first = {"red": 0, "blue": int(places["red"] == TABLE), "pink": 1}
    alone = list(places.values()).count(TABLE) == 1
    anchors: dict[str, Xyz] = {}
    for colour, place in places.items():
        if place == TABLE:
            chosen = first[colour] ^ swapped
            if alone:
                chosen = LONE_ANCHOR.get(spec.name, chosen)
            anchors[colour] = TABLE_ANCHORS[spec.name][chosen]
        elif spec.name == "D":
            anchors[colour] = _NICHE_D[place]
        else:
            anchors[colour] = spec.anchor_left_xyz if place == SLIDER_LEFT else spec.anchor_right_xyz
    return anchors


def initial_scene_obs(state: SymbolicState, scene: SceneSpec | str) -> NDArray[np.float64]:
    """The vector `scene_obs` (24,) float64 with which a chain begins; in D CALVIN's own to nine digits.

    Args:
        state: One of `INITIAL_STATES`.
        scene: A scene or its name.

    Raises:
        NotAnInitialState: If no chain begins in `state`.
        UnknownScene: If there is no such scene.
    """
    spec = get_scene(scene) if isinstance(scene, str) else scene
    anchors = block_anchors(state, spec)
    _, yaws = _realisations()[state_id(state)]
    obs = np.zeros(24)
    obs[0] = spec.door_travel if state.slider == "left" else 0.0
    obs[1] = DRAWER_TRAVEL if state.drawer == "open" else 0.0
    obs[3] = SWITCH_TRAVEL * state.lightbulb
    obs[4], obs[5] = state.lightbulb, state.led
    for colour, yaw in zip(COLOURS, yaws, strict=True):
        start = 6 + 6 * spec.slot_order.index(f"block_{colour}")
        obs[start : start + 3] = anchors[colour]
        obs[start + 5] = yaw
    return obs

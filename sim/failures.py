"""Why a task was not done, in words: was it possible when it began, and how does the desk look now?"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from foreact.sim.block_places import block_pose, is_covered, open_half, place_of
from foreact.sim.scene_state import BULB, DRAWER, LED, SLIDE
from foreact.sim.scenes import BLOCKS, DRAWER_TRAVEL, SceneSpec
from foreact.sim.tasks import get_task

Array = NDArray[np.float64]

IMPOSSIBLE, NOT_DONE = "not possible at its beginning", "possible, not done in time"


def failure_reason(task: str, before: Array, after: Array, scene: SceneSpec) -> str:
    """One sentence about a failed attempt.

    Args:
        task: What was asked.
        before: `scene_obs` (24,) when it was asked.
        after: `scene_obs` (24,) when time was up.
        scene: The scene.
    """
    possible = get_task(task).goal.feasible(before, scene)
    verdict = NOT_DONE if possible else IMPOSSIBLE
    return f"{verdict}; before: {describe_desk(before, scene)}; after: {describe_desk(after, scene)}"


def describe_desk(scene_obs: Array, scene: SceneSpec) -> str:
    """Where the blocks are, and how door, drawer and lamps stand."""
    parts = []
    for block in BLOCKS:
        z = block_pose(scene_obs, scene, block)[2]
        place = "floor" if z < 0.2 else place_of(scene_obs, scene, block)
        covered = ", covered" if is_covered(scene_obs, scene, block) else ""
        parts.append(f"{block.removeprefix('block_')} {place}{covered}")
    half = open_half(scene_obs, scene)
    door = half.removeprefix("niche_") + " half open" if half else f"at {scene_obs[SLIDE]:.2f} m"
    return (
        f"{', '.join(parts)}; door {door}, drawer at {100 * scene_obs[DRAWER] / DRAWER_TRAVEL:.0f} %, "
        f"bulb {_on(scene_obs[BULB])}, led {_on(scene_obs[LED])}"
    )


def _on(lamp: float) -> str:
    return "on" if lamp > 0.5 else "off"

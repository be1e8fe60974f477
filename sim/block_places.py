"""Where blocks are, read from `scene_obs`, and moving them there: what block tasks need before they can be asked.

Places are read from poses alone, because a stored state has no contacts. Distances here are ours; CALVIN has none of
these rules, it only knows where its own initial states put the blocks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from foreact.sim.scene_state import DRAWER, SLIDE
from foreact.sim.scenes import (
    BLOCK_SPAWN_Z,
    BLOCKS,
    DESK_AREA_Y,
    DOOR_WIDTH,
    DRAWER_TRAVEL,
    NICHE_AREA_Y,
    NICHE_SPAWN_Z,
    SceneSpec,
)

Array = NDArray[np.float64]

MAX_TRIES = 200
HALF_HEIGHT_M = 0.02
"""All blocks are 0.04 high."""
LEVEL_M = 0.012
"""How far a resting block's height may be from the nominal one."""
DESK_Z, NICHE_Z, DRAWER_Z = BLOCK_SPAWN_Z, NICHE_SPAWN_Z, 0.36
GRASP_CLEARANCE_M = 0.03
"""Room that a finger needs beside a block."""
PUSH_RUN_M = 0.125
"""A push needs this much free way along x: 0.10 and the steps in which the arm comes to rest."""
LONG_BLOCK_M, LONG_TURN_X_M = 0.07, 0.32
"""Further right the arm cannot turn a block of 0.08 m by 60 degrees where it stands."""
DRAWER_OPEN_M = 0.18
"""From here on the drawer counts as open for putting in and taking out."""
ROOM_BESIDE_M, ROOM_EDGE_M = 0.085, 0.045
"""A free place in the niche is so far along x from the middle of another block, and from the ends of the open half."""
BESIDE_DOOR_M = 0.03
"""The middle of a block that is to be taken from the niche is so far from door and wall; none is half hidden."""
HANDLE_FRONT_Y, HANDLE_HALF_WIDTH_M, HANDLE_CLEARANCE_M = -0.034, 0.02, 0.02
"""The door's handle reaches so far over the desk, 0.506 m high: above one block (0.48), not above two (0.52)."""


DOOR_FRONT_Y = 0.0
"""Nothing that stands on the desk further to the front touches the sliding door (its lower edge is at 0.0027)."""


def block_slot(scene: SceneSpec, block: str) -> slice:
    """Where the block's x, y, z, Euler x, y, z are in `scene_obs`."""
    start = 6 + 6 * scene.slot_order.index(block)
    return slice(start, start + 6)


def block_pose(scene_obs: Array, scene: SceneSpec, block: str) -> Array:
    """(6,): x, y, z [m], extrinsic xyz Euler angles [rad]."""
    return scene_obs[block_slot(scene, block)]


def radius(scene: SceneSpec, block: str) -> float:
    """Half of the block's horizontal diagonal [m]."""
    x, y, _ = scene.block_sizes[block]
    return math.hypot(x, y) / 2


def place_of(scene_obs: Array, scene: SceneSpec, block: str) -> str:
    """One of desk, niche_left, niche_right, drawer, stacked (on another block) or air (held, or fallen)."""
    x, y, z = block_pose(scene_obs, scene, block)[:3]
    for other in BLOCKS:
        if other != block:
            ox, oy, oz = block_pose(scene_obs, scene, other)[:3]
            if abs(z - oz - 2 * HALF_HEIGHT_M) < LEVEL_M and math.hypot(x - ox, y - oy) < radius(scene, other):
                return "stacked"
    if abs(z - DESK_Z) < LEVEL_M and abs(x) < 0.44:
        if -0.19 < y < 0.025:
            return "desk"
        left, right = scene.niche_x
        if y >= 0.025 and left < x < right:
            middle = (scene.niche_left_x[1] + scene.niche_right_x[0]) / 2
            return "niche_left" if x < middle else "niche_right"
    if abs(z - DRAWER_Z) < LEVEL_M + 0.01 and abs(x - scene.drawer_x) < 0.19 and y < 0.06:
        return "drawer"
    return "air"


def in_the_air(scene_obs: Array, scene: SceneSpec) -> str | None:
    """The block that is held, or None. A block on the floor is not held, nor one that stands on end."""
    for block in BLOCKS:
        _, y, z = block_pose(scene_obs, scene, block)[:3]
        support_z = DESK_Z - HALF_HEIGHT_M if y > -0.18 else DRAWER_Z - HALF_HEIGHT_M
        on_end = max(scene.block_sizes[block]) / 2
        if z > support_z + on_end + LEVEL_M and place_of(scene_obs, scene, block) == "air":
            return block
    return None


def stacked_pair(scene_obs: Array, scene: SceneSpec) -> tuple[str, str] | None:
    """(upper, lower) of a stack, or None."""
    for upper in BLOCKS:
        if place_of(scene_obs, scene, upper) != "stacked":
            continue
        x, y, z = block_pose(scene_obs, scene, upper)[:3]
        for lower in BLOCKS:
            ox, oy, oz = block_pose(scene_obs, scene, lower)[:3]
            if lower != upper and abs(z - oz - 2 * HALF_HEIGHT_M) < LEVEL_M and math.hypot(x - ox, y - oy) < 0.06:
                return upper, lower
    return None


def open_half(scene_obs: Array, scene: SceneSpec) -> str | None:
    """Which half of the niche the door leaves open, niche_left or niche_right; None while it stands in between."""
    share = scene_obs[SLIDE] / scene.door_travel
    return "niche_left" if share < 0.2 else "niche_right" if share > 0.8 else None


def is_covered(scene_obs: Array, scene: SceneSpec, block: str) -> bool:
    """Whether another block stands on this one."""
    pair = stacked_pair(scene_obs, scene)
    return pair is not None and pair[1] == block


def gap_to_others(scene_obs: Array, scene: SceneSpec, block: str, xy: Sequence[float] | Array | None = None) -> float:
    """Smallest distance between this block's circle and that of another one on the same level [m]."""
    pose = block_pose(scene_obs, scene, block)
    at = pose[:2] if xy is None else np.asarray(xy)
    gaps = [
        float(np.hypot(*(at - block_pose(scene_obs, scene, other)[:2]))) - radius(scene, block) - radius(scene, other)
        for other in BLOCKS
        if other != block and abs(block_pose(scene_obs, scene, other)[2] - pose[2]) < 0.035
    ]
    return min(gaps, default=math.inf)


def graspable_on_desk(scene_obs: Array, scene: SceneSpec, block: str) -> bool:
    """Whether the block stands free on the desk."""
    return (
        place_of(scene_obs, scene, block) == "desk"
        and not is_covered(scene_obs, scene, block)
        and gap_to_others(scene_obs, scene, block) > 0.0
    )


def can_be_turned(scene_obs: Array, scene: SceneSpec, block: str) -> bool:
    """Whether the block stands free on the desk, where the hand can turn it."""
    x = block_pose(scene_obs, scene, block)[0]
    long_one = max(scene.block_sizes[block]) > LONG_BLOCK_M
    return graspable_on_desk(scene_obs, scene, block) and not (long_one and x > LONG_TURN_X_M)


def can_be_pushed(scene_obs: Array, scene: SceneSpec, block: str, sign: float) -> bool:
    """Whether the block stands on the desk with a free way along x on the side to which it is pushed."""
    if place_of(scene_obs, scene, block) != "desk" or is_covered(scene_obs, scene, block):
        return False
    x, y = block_pose(scene_obs, scene, block)[:2]
    end = x + sign * PUSH_RUN_M
    if abs(end) > 0.44 - radius(scene, block):
        return False
    obstacles = [(*scene.button_xy, 0.04)]
    for other in BLOCKS:
        if other != block and place_of(scene_obs, scene, other) in ("desk", "stacked"):
            obstacles.append((*block_pose(scene_obs, scene, other)[:2], radius(scene, other)))
    reach = radius(scene, block)
    for ox, oy, other_radius in obstacles:
        ahead = sign * (ox - x)
        if abs(oy - y) < reach + other_radius and 0.0 < ahead < PUSH_RUN_M + reach + other_radius:
            return False
    return True


def can_be_lifted(scene_obs: Array, scene: SceneSpec, block: str, support: str) -> bool:
    """Whether the block stands on desk, plank or in the drawer, uncovered and within reach."""
    place = place_of(scene_obs, scene, block)
    if is_covered(scene_obs, scene, block):
        return False
    if support == "desk":
        return graspable_on_desk(scene_obs, scene, block)
    if support == "plank":
        low, high = open_gap(scene_obs, scene)
        x = float(block_pose(scene_obs, scene, block)[0])
        beside_door = low + BESIDE_DOOR_M < x < high - BESIDE_DOOR_M
        return place.startswith("niche") and place == open_half(scene_obs, scene) and beside_door
    return place == "drawer" and scene_obs[DRAWER] > DRAWER_OPEN_M


def has_room(scene_obs: Array, scene: SceneSpec, support: str) -> bool:
    """Whether a block can be put onto the plank (beside a block that may be in its open half) or into the drawer."""
    if support == "drawer":
        return bool(scene_obs[DRAWER] > DRAWER_OPEN_M)
    half = open_half(scene_obs, scene)
    if half is None:
        return False
    low, high = open_gap(scene_obs, scene)
    taken = [block_pose(scene_obs, scene, b)[0] for b in BLOCKS if place_of(scene_obs, scene, b) == half]
    places = np.arange(low + ROOM_EDGE_M, high - ROOM_EDGE_M, 0.01)
    return any(all(abs(x - other) > ROOM_BESIDE_M for other in taken) for x in places)


def open_gap(scene_obs: Array, scene: SceneSpec) -> tuple[float, float]:
    """From where to where in x the door leaves the niche open; the wider of the two gaps [m]."""
    left, right = scene.niche_x
    door = float(np.clip(scene.door_x - scene_obs[SLIDE], left, right))
    door_end = float(np.clip(scene.door_x - scene_obs[SLIDE] + DOOR_WIDTH, left, right))
    return max((left, door), (door_end, right), key=lambda gap: gap[1] - gap[0])


def has_stacking_base(scene_obs: Array, scene: SceneSpec) -> bool:
    """Whether a block stands free on the desk."""
    return any(place_of(scene_obs, scene, b) == "desk" and not is_covered(scene_obs, scene, b) for b in BLOCKS)


def can_fall_into_drawer(scene_obs: Array, scene: SceneSpec, block: str) -> bool:
    """Whether the drawer is open and the block stands free on the desk behind it."""
    if scene_obs[DRAWER] <= DRAWER_OPEN_M or not graspable_on_desk(scene_obs, scene, block):
        return False
    x = float(block_pose(scene_obs, scene, block)[0])
    return abs(x - scene.drawer_x) < 0.18 - radius(scene, block)


def put_on_desk(
    scene_obs: Array, scene: SceneSpec, block: str, rng: np.random.Generator, x_range: tuple[float, float] | None = None
) -> None:
    """Move the block to a random free place on the desk."""
    _put(scene_obs, scene, block, rng, x_range or scene.desk_area_x, DESK_AREA_Y, DESK_Z, GRASP_CLEARANCE_M)


def put_on(scene_obs: Array, scene: SceneSpec, block: str, support: str, rng: np.random.Generator) -> None:
    """Move the block onto desk, plank (the open half) or into the drawer, and open what is in the way."""
    if support == "desk":
        put_on_desk(scene_obs, scene, block, rng)
    elif support == "plank":
        if open_half(scene_obs, scene) is None:
            scene_obs[SLIDE] = scene.door_travel * rng.integers(0, 2)
        _clear(scene_obs, scene, open_half(scene_obs, scene), rng, keep=block)
        area = scene.niche_left_x if open_half(scene_obs, scene) == "niche_left" else scene.niche_right_x
        low, high = open_gap(scene_obs, scene)
        area = max(area[0], low + BESIDE_DOOR_M), min(area[1], high - BESIDE_DOOR_M)
        _put(scene_obs, scene, block, rng, area, NICHE_AREA_Y, NICHE_Z, GRASP_CLEARANCE_M)
    else:
        scene_obs[DRAWER] = DRAWER_TRAVEL
        x = scene.drawer_x
        y = -0.05 - DRAWER_TRAVEL
        _put(scene_obs, scene, block, rng, (x - 0.10, x + 0.10), (y - 0.04, y + 0.04), DRAWER_Z, GRASP_CLEARANCE_M)


def make_room(scene_obs: Array, scene: SceneSpec, support: str, rng: np.random.Generator) -> None:
    """Open the drawer, or one half of the niche, and clear it if it is too full."""
    if has_room(scene_obs, scene, support):
        return
    if support == "drawer":
        if scene_obs[DRAWER] <= DRAWER_OPEN_M:
            scene_obs[DRAWER] = DRAWER_TRAVEL
        return
    if open_half(scene_obs, scene) is None:
        scene_obs[SLIDE] = scene.door_travel * rng.integers(0, 2)
    if not has_room(scene_obs, scene, support):
        _clear(scene_obs, scene, open_half(scene_obs, scene), rng)


def make_stacking_base(scene_obs: Array, scene: SceneSpec, rng: np.random.Generator) -> None:
    """Put a block on the desk unless one stands there."""
    if not has_stacking_base(scene_obs, scene):
        put_on_desk(scene_obs, scene, BLOCKS[int(rng.integers(len(BLOCKS)))], rng)


def stack_two(scene_obs: Array, scene: SceneSpec, rng: np.random.Generator) -> None:
    """Put one block onto another on the desk."""
    lower, upper = (BLOCKS[int(i)] for i in rng.permutation(len(BLOCKS))[:2])
    for _ in range(MAX_TRIES):
        put_on_desk(scene_obs, scene, lower, rng)
        if _clear_of_handle(scene_obs, scene, lower, radius(scene, upper)):
            break
    pose = block_pose(scene_obs, scene, upper)
    pose[:] = block_pose(scene_obs, scene, lower)
    pose[:2] += rng.uniform(-0.008, 0.008, 2)
    pose[2] += 2 * HALF_HEIGHT_M
    pose[5] += rng.uniform(-0.3, 0.3)


def _clear_of_handle(scene_obs: Array, scene: SceneSpec, block: str, radius_above: float) -> bool:
    """Whether a second block of that radius on top of this one stays away from the door's handle."""
    x, y = block_pose(scene_obs, scene, block)[:2]
    handle_x = scene.door_x + DOOR_WIDTH / 2 - scene_obs[SLIDE]
    beside = abs(x - handle_x) - HANDLE_HALF_WIDTH_M - radius_above
    return bool(beside > HANDLE_CLEARANCE_M or y + radius_above < HANDLE_FRONT_Y - HANDLE_CLEARANCE_M)


def put_before_drawer(scene_obs: Array, scene: SceneSpec, rng: np.random.Generator) -> None:
    """Open the drawer and put one block on the desk behind it."""
    scene_obs[DRAWER] = DRAWER_TRAVEL
    block = BLOCKS[int(rng.integers(len(BLOCKS)))]
    reach = 0.17 - radius(scene, block)
    low, high = scene.desk_area_x
    put_on_desk(scene_obs, scene, block, rng, (max(low, scene.drawer_x - reach), min(high, scene.drawer_x + reach)))


def _clear(scene_obs: Array, scene: SceneSpec, place: str | None, rng: np.random.Generator, keep: str = "") -> None:
    for block in BLOCKS:
        if block != keep and place_of(scene_obs, scene, block) == place:
            put_on_desk(scene_obs, scene, block, rng)


def _put(
    scene_obs: Array,
    scene: SceneSpec,
    block: str,
    rng: np.random.Generator,
    x_range: tuple[float, float],
    y_range: tuple[float, float],
    z: float,
    clearance_m: float,
) -> None:
    """Draw a place until it is free; the caller notices if none was."""
    pose = block_pose(scene_obs, scene, block)
    for _ in range(MAX_TRIES):
        pose[:] = rng.uniform(*x_range), rng.uniform(*y_range), z, 0.0, 0.0, rng.uniform(-math.pi, math.pi)
        if gap_to_others(scene_obs, scene, block) > clearance_m and (
            z != DESK_Z
            or (
                math.hypot(*(pose[:2] - scene.button_xy)) > radius(scene, block) + 0.05
                and pose[1] + _half_depth(scene, block, pose[5]) < DOOR_FRONT_Y
            )
        ):
            return


def _half_depth(scene: SceneSpec, block: str, yaw: float) -> float:
    """Half of the block's extent along y [m]."""
    x, y, _ = scene.block_sizes[block]
    return abs(math.sin(yaw)) * x / 2 + abs(math.cos(yaw)) * y / 2

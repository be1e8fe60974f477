"""The oracles of the block tasks: what fires them, and every reason why they must not fire."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import mujoco
import numpy as np
import pytest

from foreact.sim import golden
from foreact.sim.env import DeskEnv
from foreact.sim.rotations import euler_xyz_to_matrix
from foreact.sim.scene_info import BlockInfo, SceneInfo
from foreact.sim.scene_state import ROBOT, write_block_pose
from foreact.sim.scenes import BLOCKS
from foreact.sim.starts import NEUTRAL_ROBOT_OBS
from foreact.sim.tasks import BLOCK_TASKS, reached_tasks

RED, BLUE, PINK = BLOCKS
PLACES = {RED: (0.0, -0.1, 0.46), BLUE: (0.15, -0.1, 0.46), PINK: (0.3, -0.1, 0.46)}


def lying(pos, euler=(0.0, 0.0, 0.0), lin=(0.0, 0.0, 0.0), ang=(0.0, 0.0, 0.0)) -> BlockInfo:
    return BlockInfo(np.array(pos), euler_xyz_to_matrix(euler), np.array(lin), np.array(ang))


def info(contacts=(), **moved: BlockInfo) -> SceneInfo:
    """Three blocks on the desk; `moved` ones are elsewhere and touch only what `contacts` says."""
    blocks = {name: lying(pos) for name, pos in PLACES.items()} | {f"block_{k}": v for k, v in moved.items()}
    said = {name for pair in contacts for name in pair}
    pairs = [*contacts, *((name, "desk") for name in BLOCKS if name not in said and name[6:] not in moved)]
    return SceneInfo(0.0, 0.0, 0.0, 0.0, False, False, blocks, frozenset(tuple(sorted(p)) for p in pairs))


START = info()
ON_DESK = [(RED, "desk")]
GRIPPED = [(RED, "desk"), (RED, ROBOT)]
HELD = [(RED, ROBOT)]


def at(dx=0.0, dy=0.0, dz=0.0, **kwargs) -> BlockInfo:
    """The red block, moved from its first place."""
    return lying(np.array(PLACES[RED]) + (dx, dy, dz), **kwargs)


def test_there_are_26_and_nothing_has_happened_at_first():
    assert len(BLOCK_TASKS) == 26
    assert reached_tasks(START, START, BLOCK_TASKS) == []


@pytest.mark.parametrize(
    ("degrees", "contacts", "expected"),
    [
        (61, ON_DESK, ["rotate_red_block_left"]),
        (61, GRIPPED, ["rotate_red_block_left"]),  # may still be gripped
        (-61, ON_DESK, ["rotate_red_block_right"]),
        (59, ON_DESK, []),
        (-59, ON_DESK, []),
        (61, HELD, []),  # in the air
        (179, ON_DESK, ["rotate_red_block_left"]),
        (181, ON_DESK, ["rotate_red_block_right"]),  # the shorter way round counts
    ],
)
def test_rotate(degrees, contacts, expected):
    now = info(contacts, red=at(euler=(0.0, 0.0, math.radians(degrees))))
    assert reached_tasks(START, now, BLOCK_TASKS) == expected


@pytest.mark.parametrize("change", [{"dx": 0.101}, {"dy": -0.08, "dx": 0.061}, {"tilt": 31.0}])
def test_rotate_neither_far_nor_tilted(change):
    tilt = math.radians(change.pop("tilt", 0.0))
    turned = info(ON_DESK, red=at(euler=(tilt, 0.0, math.radians(70)), **change))
    assert "rotate_red_block_left" not in reached_tasks(START, turned, BLOCK_TASKS)
    fine = info(ON_DESK, red=at(0.05, -0.05, euler=(math.radians(29), 0.0, math.radians(70))))
    assert reached_tasks(START, fine, BLOCK_TASKS) == ["rotate_red_block_left"]


def test_rotation_counts_from_the_start_and_not_from_zero():
    start = info(ON_DESK, red=at(euler=(0.0, 0.0, 3.0)))
    now = info(ON_DESK, red=at(euler=(0.0, 0.0, 3.0 + 1.1 - 2 * math.pi)))
    assert reached_tasks(start, now, BLOCK_TASKS) == ["rotate_red_block_left"]


@pytest.mark.parametrize(
    ("dx", "contacts", "expected"),
    [
        (0.101, ON_DESK, ["push_red_block_right"]),
        (-0.101, ON_DESK, ["push_red_block_left"]),
        (-0.101, GRIPPED, ["push_red_block_left"]),
        (-0.101, [*ON_DESK, (RED, "button")], ["push_red_block_left"]),  # more supports are fine
        (0.0999, ON_DESK, []),
        (0.101, HELD, []),
        (0.101, [], []),
        (0.101, [(RED, "slide")], []),
    ],
)
def test_push(dx, contacts, expected):
    now = info(contacts, red=at(dx))
    assert reached_tasks(START, now, BLOCK_TASKS) == expected


def test_a_pushed_block_keeps_all_that_it_touched():
    start = info([(RED, "desk"), (RED, "slide")])
    assert reached_tasks(start, info(ON_DESK, red=at(0.12)), BLOCK_TASKS) == []
    assert reached_tasks(info(HELD, red=at()), info(ON_DESK, red=at(0.12)), BLOCK_TASKS) == []


@pytest.mark.parametrize(
    ("support", "place", "rise"), [("desk", "table", 0.05), ("plank", "slider", 0.03), ("drawer", "drawer", 0.05)]
)
def test_lift(support, place, rise):
    start, task = info([(RED, support)]), f"lift_red_block_{place}"
    assert reached_tasks(start, info(HELD, red=at(dz=rise + 0.001)), BLOCK_TASKS) == [task]
    for contacts, dz in ((HELD, rise - 0.001), ([*HELD, (RED, support)], 0.1), ([*HELD, (RED, BLUE)], 0.1), ([], 0.1)):
        assert task not in reached_tasks(start, info(contacts, red=at(dz=dz)), BLOCK_TASKS)


@pytest.mark.parametrize(("support", "task"), [("plank", "place_in_slider"), ("drawer", "place_in_drawer")])
def test_place(support, task):
    start = info(HELD, red=at(dz=0.2))
    assert task in reached_tasks(start, info([(RED, support)], red=at(0.1)), BLOCK_TASKS)
    for contacts in ([(RED, support), (RED, ROBOT)], [(RED, "desk")], HELD, []):
        assert task not in reached_tasks(start, info(contacts, red=at(0.1)), BLOCK_TASKS)
    # what is held at the start must be one block and nothing else, and touch only the robot
    for contacts in (GRIPPED, [*HELD, ("drawer", ROBOT)], [*HELD, (BLUE, ROBOT)]):
        started = info(contacts, red=at(dz=0.2))
        assert task not in reached_tasks(started, info([(RED, support)], red=at(0.1)), BLOCK_TASKS)


def test_stack():
    on_blue = at(0.15, 0.0, 0.04)
    stacked = info([(RED, BLUE), (BLUE, "desk")], red=on_blue)
    for start in (START, info(HELD, red=at(dz=0.2))):
        assert "stack_block" in reached_tasks(start, stacked, BLOCK_TASKS)
    held = info([(RED, BLUE), (RED, ROBOT), (BLUE, "desk")], red=on_blue)
    leaning = info([(RED, BLUE), (RED, "desk"), (BLUE, "desk")], red=on_blue)
    falling = info([(RED, BLUE), (BLUE, "desk")], red=replace(on_blue, lin_vel_world=np.array([0.0, 0.0, -1.1])))
    spinning = info([(RED, BLUE), (BLUE, "desk")], red=replace(on_blue, ang_vel_block=np.array([1.1, 0.0, 0.0])))
    for now in (held, leaning, falling, spinning, START):
        assert "stack_block" not in reached_tasks(START, now, BLOCK_TASKS)
    assert "stack_block" not in reached_tasks(info([(RED, BLUE), (RED, "desk"), (BLUE, "desk")]), stacked, BLOCK_TASKS)


def test_unstack():
    on_blue = at(0.15, 0.0, 0.04)
    start = info([(RED, BLUE), (BLUE, "desk")], red=on_blue)
    in_hand = info([*HELD, (BLUE, "desk")], red=at(0.15, 0.0, 0.15))
    assert reached_tasks(start, in_hand, BLOCK_TASKS) == ["unstack_block"]
    assert "unstack_block" in reached_tasks(start, START, BLOCK_TASKS)
    assert "unstack_block" not in reached_tasks(start, start, BLOCK_TASKS)
    moving = info([(RED, BLUE), (BLUE, "desk")], red=replace(on_blue, lin_vel_world=np.array([1.1, 0.0, 0.0])))
    leaning = info([(RED, BLUE), (RED, "desk"), (BLUE, "desk")], red=on_blue)
    for other in (moving, leaning):
        assert "unstack_block" not in reached_tasks(other, START, BLOCK_TASKS)


def test_push_into_drawer():
    inside = info([(RED, "drawer")], red=at(dz=-0.1))
    assert reached_tasks(START, inside, BLOCK_TASKS) == ["push_into_drawer"]
    touched = info([(RED, "drawer"), (RED, ROBOT)], red=at(dz=-0.1))
    assert reached_tasks(START, touched, BLOCK_TASKS) == []
    for contacts in (GRIPPED, [(RED, "desk"), (RED, BLUE)], [(RED, "plank")], HELD):
        assert "push_into_drawer" not in reached_tasks(info(contacts, red=at()), inside, BLOCK_TASKS)


@pytest.fixture(scope="module")
def env():
    return DeskEnv("D", render=False)


def put(env: DeskEnv, robot_obs=NEUTRAL_ROBOT_OBS, drawer=0.0, settle=0, **poses) -> SceneInfo:
    """Blocks at (x, y, z, yaw) in the simulation, contacts found; the rest stands in a row on the desk."""
    scene_obs = np.zeros(24)
    scene_obs[1] = drawer
    env.set_state(robot_obs, scene_obs)
    for name, pos in PLACES.items():
        x, y, z, yaw = poses.get(name[6:], (*pos, 0.0))
        write_block_pose(env.model, env.data, name, (x, y, z), (0.0, 0.0, yaw))
    for _ in range(settle):
        mujoco.mj_step(env.model, env.data)
    mujoco.mj_forward(env.model, env.data)
    env.begin_task(None)
    return env.scene_info()


def test_oracles_see_contacts_of_the_simulation(env):
    start = put(env)
    assert all(start.contacts_of(block) == {"desk"} for block in BLOCKS)
    moved = put(env, red=(-0.05, -0.1, 0.46, 1.2))
    assert reached_tasks(start, moved, BLOCK_TASKS) == ["rotate_red_block_left"]
    moved = put(env, red=(0.0, -0.06, 0.46, -1.2), pink=(0.19, -0.02, 0.46, 0.0))
    assert reached_tasks(start, moved, BLOCK_TASKS) == ["rotate_red_block_right", "push_pink_block_left"]
    flying = put(env, red=(0.0, -0.1, 0.462, 1.2))
    assert reached_tasks(start, flying, BLOCK_TASKS) == [], "2 mm over the desk is no contact"


def test_stack_unstack_and_push_into_drawer_in_the_simulation(env):
    start = put(env)
    stacked = put(env, red=(0.15, -0.1, 0.5, 0.0), settle=20)
    assert stacked.contacts_of(RED) == {BLUE}
    assert reached_tasks(start, stacked, BLOCK_TASKS) == ["stack_block"], "not pushed: it left the desk"
    assert reached_tasks(stacked, start, ["unstack_block", "stack_block"]) == ["unstack_block"]
    opened = put(env, drawer=0.22)
    inside = put(env, drawer=0.22, red=(0.1, -0.28, 0.36, 0.5), settle=20)
    assert "drawer" in inside.contacts_of(RED)
    assert reached_tasks(opened, inside, BLOCK_TASKS) == ["push_into_drawer"]


def test_lift_and_place_with_a_real_grip(env):
    """Teleported blocks between the closing fingers, then up."""
    put(env, red=(0.02586889, -0.2313129, 0.5712808, math.pi / 2))
    for _ in range(15):
        env.step(np.array([0, 0, 0, 0, 0, 0, -1.0]))
    held = env.scene_info()
    assert held.contacts_of(RED) == {ROBOT}
    on_desk, on_plank = put(env), put(env, red=(-0.2, 0.09, 0.461, 0.0))
    lifted = replace(held, blocks={**held.blocks, RED: lying((0.0, -0.1, 0.5713))})
    assert reached_tasks(on_desk, lifted, BLOCK_TASKS) == ["lift_red_block_table"]
    assert reached_tasks(on_plank, lifted, BLOCK_TASKS) == ["lift_red_block_slider"]
    assert "place_in_slider" in reached_tasks(held, on_plank, BLOCK_TASKS)
    assert "place_in_drawer" in reached_tasks(held, put(env, drawer=0.22, red=(0.1, -0.28, 0.36, 0.5)), BLOCK_TASKS)


@pytest.mark.parametrize(
    ("name", "task"),
    [("open_drawer", "open_drawer"), ("slider_left", "move_slider_left"), ("push_red_left", "push_red_block_left")],
)
def test_recorded_actions_of_the_original_fire_the_recorded_task(env, name, task):
    rollout = golden.read_rollouts(Path(__file__).parent / "data" / "golden_rollouts.tsv")[name]
    env.reset(options={"robot_obs": rollout.robot_obs[0], "scene_obs": rollout.scene_obs[0]})
    happened = [env.step(action)[4]["tasks_happened"] for action in rollout.actions]
    assert happened[0] == [] and happened[-1] == [task]
    blocks = env.scene_obs[6:].reshape(3, 6)
    recorded = rollout.scene_obs[-1, 6:].reshape(3, 6)
    # The pushed block ends 5 mm from the recorded one, the others stay where they were.
    assert np.abs(blocks[:, :3] - recorded[:, :3]).max() < 0.008

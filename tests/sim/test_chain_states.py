"""The initial states of chains: CALVIN's recipe on scene D, and what ours promise on A, B and C."""

from __future__ import annotations

import csv
import itertools
from pathlib import Path

import mujoco
import numpy as np
import pytest
from scipy.optimize import least_squares

from foreact.sim.chain_states import TABLE_ANCHORS, NotAnInitialState, block_anchors, initial_scene_obs
from foreact.sim.desk import add_desk
from foreact.sim.ik import PandaIK
from foreact.sim.panda import Q_LOWER, Q_UPPER, physics_options
from foreact.sim.rotations import euler_xyz_to_matrix, rotation_vector
from foreact.sim.scene_state import touching, write_block_pose, write_scene_obs
from foreact.sim.scenes import BLOCKS, SCENES, UnknownScene
from foreact.sim.starts import NEUTRAL_ROBOT_OBS
from foreact.sim.symbolic import INITIAL_STATES, SymbolicState

YAW_SPREAD = np.pi / 8
PUSH_M = 0.105
"""What a push by more than 0.10 m moves a block, about (recorded pushes: 0.1045 and 0.105)."""

with (Path(__file__).parent / "data" / "calvin_eval_initial_states.tsv").open() as file:
    OFFICIAL_STATES = list(csv.DictReader(file, delimiter="\t"))


def fnv1_32(text: str) -> int:
    """32-bit FNV-1 with initial value 0."""
    value = 0
    for byte in text.encode():
        value = (value * 16777619) % 2**32 ^ byte
    return value


def calvin_recipe(state: SymbolicState) -> np.ndarray:
    """How CALVIN's evaluation code makes `scene_obs` of scene D."""
    text = str(dict([*state._asdict().items(), ("grasped", 0)]).values())
    rng = np.random.RandomState(fnv1_32(text))
    table = [np.array([5.00000896e-02, -1.20000177e-01, 4.59990009e-01]),
             np.array([2.29995412e-01, -1.19995140e-01, 4.59990010e-01])]  # fmt: skip
    niche = {"slider_left": np.array([-2.40851662e-01, 9.24044687e-02, 4.60990009e-01]),
             "slider_right": np.array([7.03416330e-02, 9.24044687e-02, 4.60990009e-01])}  # fmt: skip
    rng.shuffle(table)
    on_table = {"red_block": 0, "blue_block": int(state.red_block == "table"), "pink_block": 1}
    obs = np.zeros(24)
    obs[0] = {"left": 0.28, "right": 0.0}[state.slider]
    obs[1] = {"open": 0.22, "closed": 0.0}[state.drawer]
    obs[3] = 0.088 * state.lightbulb
    obs[4:6] = state.lightbulb, state.led
    for slot, (name, anchor) in enumerate(on_table.items()):
        place = getattr(state, name)
        obs[6 + 6 * slot : 9 + 6 * slot] = table[anchor] if place == "table" else niche[place]
        obs[11 + 6 * slot] = rng.uniform(np.pi / 2 - np.pi / 8, np.pi / 2 + np.pi / 8)
    return obs


def test_fnv1_check_value() -> None:
    assert fnv1_32("hello world") == 2805756500


@pytest.mark.parametrize("number", range(192))
def test_initial_states_of_scene_d_are_calvins(number: int) -> None:
    state, row = INITIAL_STATES[number], OFFICIAL_STATES[number]
    assert tuple(map(str, state)) == tuple(row[field] for field in SymbolicState._fields)
    text = str(dict([*state._asdict().items(), ("grasped", 0)]).values())
    assert fnv1_32(text) == int(row["fnv1_seed"])
    obs = initial_scene_obs(state, "D")
    assert obs.shape == (24,)
    assert np.abs(obs - [float(row[f"scene_obs_{i}"]) for i in range(24)]).max() <= 5e-9
    assert np.abs(obs - calvin_recipe(state)).max() <= 5.1e-9


@pytest.mark.parametrize("scene", ["A", "B", "C"])
def test_other_scenes_get_the_same_states_in_their_own_numbers(scene: str) -> None:
    spec = SCENES[scene]
    for state in INITIAL_STATES:
        obs, in_d = initial_scene_obs(state, spec), initial_scene_obs(state, "D")
        assert obs[0] == (spec.door_travel if state.slider == "left" else 0.0)
        assert np.array_equal(obs[1:6], in_d[1:6])
        on_table: list[tuple[float, ...]] = []
        for slot, name in enumerate(spec.slot_order):
            colour = name.removeprefix("block_")
            place, pose = state.blocks[colour], obs[6 + 6 * slot : 12 + 6 * slot]
            assert np.array_equal(pose[3:], in_d[9 + 6 * BLOCKS.index(name) : 12 + 6 * BLOCKS.index(name)])
            niche = {"slider_left": spec.anchor_left_xyz, "slider_right": spec.anchor_right_xyz}
            if place == "table":
                on_table.append(tuple(pose[:3]))
                assert tuple(pose[:3]) in TABLE_ANCHORS[scene]
            else:
                assert tuple(pose[:3]) == niche[place]
        assert len(set(on_table)) == len(on_table)


@pytest.mark.parametrize("scene", sorted(SCENES))
def test_door_leaves_the_anchor_of_the_open_half_free(scene: str) -> None:
    """The reach in x of the door plate, and not only its name, decides which half is open."""
    spec = SCENES[scene]
    for side, q in (("right", 0.0), ("left", spec.door_travel)):
        left, right = spec.door_x - q, spec.door_x - q + 0.28
        covered = {half: left < anchor[0] < right for half, anchor in
                   (("slider_left", spec.anchor_left_xyz), ("slider_right", spec.anchor_right_xyz))}  # fmt: skip
        state = INITIAL_STATES[0]._replace(slider=side)
        assert [half for half, hidden in covered.items() if not hidden] == [state.open_half]


def build(scene: str) -> tuple[mujoco.MjModel, mujoco.MjData]:
    spec = mujoco.MjSpec()
    physics_options(spec)
    add_desk(spec, SCENES[scene])
    model = spec.compile()
    return model, mujoco.MjData(model)


def touches(model: mujoco.MjModel, data: mujoco.MjData) -> set[str]:
    """What the blocks touch; "block" for each other."""
    mujoco.mj_forward(model, data)
    found: set[str] = set()
    for pair in touching(model, data):
        others = [name for name in pair if name not in BLOCKS]
        if len(others) < 2:
            found.add(others[0] if others else "block")
    return found


@pytest.mark.parametrize("scene", sorted(SCENES))
def test_blocks_rest_on_desk_and_plank_and_touch_nothing_else(scene: str) -> None:
    model, data = build(scene)
    for state in INITIAL_STATES:
        write_scene_obs(model, data, initial_scene_obs(state, scene))
        assert touches(model, data) <= {"desk", "plank"}, state
    for state in INITIAL_STATES[::24]:
        start = initial_scene_obs(state, scene)
        write_scene_obs(model, data, start)
        for _ in range(60):
            mujoco.mj_step(model, data)
        for slot, name in enumerate(SCENES[scene].slot_order):
            assert data.body(name).xpos == pytest.approx(start[6 + 6 * slot : 9 + 6 * slot], abs=2e-3)


@pytest.mark.parametrize("scene", sorted(SCENES))
def test_every_block_can_be_pushed_both_ways_from_every_table_anchor(scene: str) -> None:
    """At the end of a push, at five yaws each, it touches the desk alone: no button, no neighbour, no edge."""
    model, data = build(scene)
    yaws = np.pi / 2 + YAW_SPREAD * np.linspace(-1, 1, 5)
    for pushed, neighbour, at in itertools.product(BLOCKS, BLOCKS, (0, 1)):
        if pushed == neighbour:
            continue
        (parked,) = set(BLOCKS) - {pushed, neighbour}
        write_block_pose(model, data, parked, SCENES[scene].anchor_left_xyz, (0, 0, 0))
        goal, other = np.array(TABLE_ANCHORS[scene][at]), TABLE_ANCHORS[scene][1 - at]
        for yaw, other_yaw, way in itertools.product(yaws, yaws, (-1, 1)):
            write_block_pose(model, data, pushed, goal + (way * PUSH_M, 0, 0), (0, 0, yaw))
            write_block_pose(model, data, neighbour, other, (0, 0, other_yaw))
            assert touches(model, data) <= {"desk", "plank"}, (pushed, at, way)
            half_x = SCENES[scene].block_sizes[pushed][0] / 2
            assert abs(goal[0] + way * PUSH_M) + half_x < 0.44


@pytest.mark.parametrize("scene", ["A", "B", "C"])
def test_table_anchors_lie_in_front_of_the_drawer(scene: str) -> None:
    """Both in A and C; in B, where the button takes the room, the one that a lone block gets."""
    low, high = SCENES[scene].drawer_x - 0.18, SCENES[scene].drawer_x + 0.18
    inside = [anchor for anchor in TABLE_ANCHORS[scene] if low + 0.034 <= anchor[0] <= high - 0.034]
    assert len(inside) == (1 if scene == "B" else 2)
    for state in INITIAL_STATES:
        alone = [colour for colour, place in state.blocks.items() if place == "table"]
        if len(alone) == 1:
            assert block_anchors(state, scene)[alone[0]] in inside


@pytest.mark.parametrize("scene", sorted(SCENES))
def test_hand_reaches_both_ends_of_every_push(scene: str) -> None:
    """Pointing straight down, at the height of a block and 7 cm above, within the limits of the joints."""
    ik = PandaIK()
    matrix = euler_xyz_to_matrix((np.pi, 0.0, np.pi / 2))
    for anchor, dx, z in itertools.product(TABLE_ANCHORS[scene], (-PUSH_M, PUSH_M), (0.455, 0.53)):
        wanted = np.array([anchor[0] + dx, anchor[1], z])

        def error(q: np.ndarray, wanted: np.ndarray = wanted) -> np.ndarray:
            pos, rot = ik.forward(q)
            return np.concatenate([pos - wanted, 0.2 * rotation_vector(matrix @ rot.T)])

        found = least_squares(error, NEUTRAL_ROBOT_OBS[7:14], bounds=(Q_LOWER, Q_UPPER))
        assert np.abs(found.fun).max() < 1e-3, (scene, wanted)


def test_other_states_are_refused() -> None:
    held = INITIAL_STATES[0].moved(red="grasped")
    with pytest.raises(NotAnInitialState, match="one or two blocks on the table"):
        initial_scene_obs(held, "D")
    with pytest.raises(UnknownScene):
        initial_scene_obs(INITIAL_STATES[0], "E")

"""What actions mean: against the simulator's own controller, SciPy's rotations, and wrong contracts."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from foreact.robot_bridge.arm_actions import ActionLayout, ChunkRefused, nearest_euler
from foreact.sim.controller import CartesianController
from foreact.sim.embodiment import ACTION_MODES, desk_contract
from foreact.sim.panda import HOME_Q, add_panda, physics_options
from foreact.vla.contract import Contract, ContractMismatch, Field

SEEDS = st.integers(0, 2**32 - 1)


def contract_of(*fields: Field, gripper: str = "+1 open, -1 close") -> Contract:
    return desk_contract().model_copy(update={"action": fields, "gripper": gripper})


def test_relative_actions_lead_the_target_where_the_simulator_leads_it() -> None:
    spec = mujoco.MjSpec()
    physics_options(spec)
    add_panda(spec)
    model = spec.compile()
    data = mujoco.MjData(model)
    controller = CartesianController(model)
    start = np.concatenate([np.zeros(6), [0.08], HOME_Q, [1.0]])
    controller.reset(data, start)
    position, euler = controller.target_pose
    actions = np.random.default_rng(0).uniform(-1, 1, (10, 7))
    layout = ActionLayout.of(desk_contract(), 7)
    poses, eulers = layout.poses(actions, position, euler)
    for row, action in enumerate(actions):
        controller.apply_relative(data, action)
        expected_position, expected_euler = controller.target_pose
        np.testing.assert_allclose(poses[row, :3, 3], expected_position, atol=1e-12)
        np.testing.assert_allclose(eulers[row], expected_euler, atol=1e-12)
        expected = Rotation.from_euler("xyz", expected_euler).as_matrix()
        np.testing.assert_allclose(poses[row, :3, :3], expected, atol=1e-12)


@pytest.mark.parametrize("mode", sorted(ACTION_MODES))
def test_every_mode_of_the_desk_is_understood(mode: str) -> None:
    layout = ActionLayout.of(desk_contract(action_mode=mode), 7)
    assert layout.relative == mode.startswith("relative")
    assert (layout.joints is None) == mode.endswith("cartesian")
    assert layout.frame == ("world" if mode.endswith("cartesian") else "")
    assert layout.size == len(ACTION_MODES[mode].low)


def test_joint_actions_add_up_or_stand_alone() -> None:
    actions = np.random.default_rng(0).uniform(-0.1, 0.1, (4, 8))
    anchor = np.arange(7.0)
    relative = ActionLayout.of(desk_contract(action_mode="relative_joint"), 7)
    absolute = ActionLayout.of(desk_contract(action_mode="absolute_joint"), 7)
    np.testing.assert_allclose(relative.joint_targets(actions, anchor)[2], anchor + actions[:3, :7].sum(axis=0))
    np.testing.assert_array_equal(absolute.joint_targets(actions, anchor), actions[:, :7])


@pytest.mark.parametrize("kind", ["euler_xyz", "quat_xyzw", "rotvec", "rot6d"])
def test_absolute_rotations_are_those_of_scipy(kind: str) -> None:
    turns = Rotation.random(6, rng=np.random.default_rng(1))
    numbers = {
        "euler_xyz": turns.as_euler("xyz"),
        "quat_xyzw": 3.0 * turns.as_quat(),
        "rotvec": turns.as_rotvec(),
        "rot6d": np.concatenate([turns.as_matrix()[:, :, 0], turns.as_matrix()[:, :, 1]], axis=1),
    }[kind]
    size = numbers.shape[1]
    rotation = Field(name="r", size=size, unit="rad" if kind in ("euler_xyz", "rotvec") else "1", frame="base")
    position = Field(name="p", size=3, unit="m", frame="base")
    layout = ActionLayout.of(contract_of(position, rotation.model_copy(update={"rotation": kind})), 7)
    poses, eulers = layout.poses(np.hstack([np.ones((6, 3)), numbers]), np.zeros(3), np.zeros(3))
    np.testing.assert_allclose(poses[:, :3, :3], turns.as_matrix(), atol=1e-9)
    np.testing.assert_allclose(Rotation.from_euler("xyz", eulers).as_matrix(), turns.as_matrix(), atol=1e-9)
    np.testing.assert_array_equal(poses[:, :3, 3], 1.0)


@given(SEEDS)
@settings(max_examples=100, deadline=None)
def test_nearest_euler_is_the_same_rotation_and_finds_its_own_branch(seed: int) -> None:
    rng = np.random.default_rng(seed)
    wanted = rng.uniform(-7, 7, 3)
    folded = Rotation.from_euler("xyz", wanted).as_euler("xyz")
    np.testing.assert_allclose(nearest_euler(folded, wanted), wanted, atol=1e-6)
    other = nearest_euler(folded, rng.uniform(-7, 7, 3))
    assert (Rotation.from_euler("xyz", other) * Rotation.from_euler("xyz", wanted).inv()).magnitude() < 1e-6


def test_gripper_follows_the_sign_of_the_contract() -> None:
    actions = np.zeros((3, 7))
    actions[:, 6] = [0.3, -0.2, 0.0]
    usual = ActionLayout.of(desk_contract(), 7)
    reverse = ActionLayout.of(desk_contract().model_copy(update={"gripper": "-1 open, +1 close"}), 7)
    without = ActionLayout.of(contract_of(*desk_contract().action[:2], gripper="none"), 7)
    np.testing.assert_array_equal(usual.gripper_commands(actions, 1.0), [1, -1, -1])
    np.testing.assert_array_equal(reverse.gripper_commands(actions, 1.0), [-1, 1, -1])
    np.testing.assert_array_equal(without.gripper_commands(actions[:, :6], -1.0), [-1, -1, -1])


def test_numbers_beyond_the_contract_are_clipped_and_counted() -> None:
    layout = ActionLayout.of(desk_contract(), 7)
    actions = np.zeros((2, 7))
    actions[1, :2] = [1.5, -9.0]
    inside, beyond = layout.clip(actions)
    assert beyond == 2
    np.testing.assert_array_equal(inside[1, :2], [1.0, -1.0])


@pytest.mark.fault("B6", n=4, event="policy plans NaN, Inf or a wrong shape")
@pytest.mark.parametrize("bad", [np.full((2, 7), np.nan), np.full((2, 7), np.inf), np.zeros((2, 6)), np.zeros((0, 7))])
def test_actions_that_are_not_numbers_of_the_contract_are_refused(bad: np.ndarray) -> None:
    with pytest.raises(ChunkRefused, match="finite|shape"):
        ActionLayout.of(desk_contract(), 7).clip(bad)


def test_a_quaternion_without_direction_is_refused() -> None:
    fields = (
        Field(name="p", size=3, unit="m", frame="world"),
        Field(name="q", size=4, unit="1", frame="world", rotation="quat_xyzw"),
    )
    layout = ActionLayout.of(contract_of(*fields), 7)
    with pytest.raises(ChunkRefused, match="no direction"):
        layout.poses(np.zeros((1, 7)), np.zeros(3), np.zeros(3))


POSITION, EULER, GRIPPER = ACTION_MODES["relative_cartesian"].fields
JOINTS = ACTION_MODES["relative_joint"].fields[0]


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ((POSITION, GRIPPER), "found position, gripper"),
        ((POSITION, EULER, JOINTS), "cannot follow"),
        ((GRIPPER,), "found gripper"),
        ((POSITION, POSITION.model_copy(update={"name": "again"}), EULER), "both 'delta_position' and 'again'"),
        ((POSITION, EULER.model_copy(update={"frame": "base"})), "differ in frame"),
        ((POSITION, EULER.model_copy(update={"relative": False})), "or in relative"),
        ((POSITION.model_copy(update={"frame": "tcp"}), EULER.model_copy(update={"frame": "tcp"})), "frame 'tcp'"),
        ((POSITION, EULER.model_copy(update={"rotation": "rotvec"})), "must be euler_xyz"),
        ((POSITION.model_copy(update={"unit": "0.02 mm"}), EULER), "'delta_position' .*neither"),
        ((POSITION.model_copy(update={"unit": "big m"}), EULER), "expected 'm'"),
        ((POSITION.model_copy(update={"unit": "-1 m"}), EULER), "expected 'm'"),
        ((POSITION, EULER.model_copy(update={"unit": "deg"})), "expected 'rad'"),
        ((JOINTS.model_copy(update={"size": 6}),), "the 7 joints"),
    ],
)
def test_a_contract_that_the_arm_cannot_follow_is_named(fields: tuple[Field, ...], named: str) -> None:
    with pytest.raises(ContractMismatch, match=named):
        ActionLayout.of(contract_of(*fields), 7)

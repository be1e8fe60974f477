"""Inverse kinematics of chunks and the planner, against MuJoCo's kinematics of the simulated Panda."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import mujoco
import numpy as np
import pytest

from foreact.robot_bridge.arm_actions import ChunkRefused, nearest_euler
from foreact.robot_bridge.arm_ik import ChunkIk, IkSettings, chain_spec
from foreact.robot_bridge.arm_planner import ArmTargets
from foreact.robot_bridge.kinematics import Kinematics
from foreact.robot_bridge.limits import load_limits
from foreact.robot_bridge.planner_hook import robot_hook
from foreact.sim.embodiment import desk_contract
from foreact.sim.ik import PandaIK
from foreact.sim.panda import BASE_POS_WORLD, HOME_Q
from foreact.sim.rotations import euler_xyz_to_matrix, matrix_to_euler_xyz, rotation_angle_between
from foreact.vla.errors import ConfigError
from foreact.vla.policy import Observation, Plan
from foreact.vla.serving.requests import Anchor

PERIOD_S = 1 / 7.5
T_WORLD_BASE = np.eye(4)
T_WORLD_BASE[:3, 3] = BASE_POS_WORLD
PANDA = load_limits("panda")
MIDDLE = {
    "panda": np.array([0.0, -0.4, 0.0, -2.2, 0.0, 1.9, 0.7]),
    "fr3": np.array([0.0, -0.4, 0.0, -2.2, 0.0, 1.9, 0.7]),
    "ur5e": np.array([0.3, -1.3, 1.6, -1.9, -1.5, 0.2]),
}


@pytest.fixture(scope="module")
def sim_ik() -> PandaIK:
    return PandaIK()


@pytest.fixture(scope="module")
def arm() -> ArmTargets:
    return ArmTargets(desk_contract(), PANDA, T_WORLD_BASE, PERIOD_S)


def steady(rng: np.random.Generator, rows: int = 10) -> np.ndarray:
    """A chunk as policies make them: one direction, some noise, at most full scale."""
    actions = np.tile(rng.uniform(-0.8, 0.8, 7), (rows, 1)) + rng.normal(size=(rows, 7)) * 0.1
    actions[:, 6] = 1.0
    return actions


@pytest.mark.parametrize("name", ["panda", "fr3", "ur5e"])
def test_generated_model_has_the_kinematics_of_the_limits_file(name: str) -> None:
    limits = load_limits(name)
    model = chain_spec(limits).compile()
    data, kinematics = mujoco.MjData(model), Kinematics(limits)
    assert [model.joint(i).name for i in range(model.njnt)] == list(limits.joints)
    rng = np.random.default_rng(0)
    for _ in range(20):
        data.qpos[:] = rng.uniform(limits.position_low, limits.position_high)
        mujoco.mj_kinematics(model, data)
        position, matrix = kinematics.forward(data.qpos)
        np.testing.assert_allclose(data.site("tcp").xpos, position, atol=1e-9)
        np.testing.assert_allclose(data.site("tcp").xmat.reshape(3, 3), matrix, atol=1e-9)


def test_generated_panda_is_the_simulated_one(sim_ik: PandaIK) -> None:
    ik, rng = ChunkIk(PANDA, PERIOD_S), np.random.default_rng(1)
    for _ in range(20):
        q = rng.uniform(PANDA.position_low, PANDA.position_high)
        position, matrix = sim_ik.forward(q)
        pose = T_WORLD_BASE @ ik.forward(q)
        np.testing.assert_allclose(pose[:3, 3], position, atol=1e-9)
        np.testing.assert_allclose(pose[:3, :3], matrix, atol=1e-9)


def test_chunks_lead_the_simulated_arm_to_the_poses_they_mean(arm: ArmTargets, sim_ik: PandaIK) -> None:
    """Expected poses are summed up here, row by row; reached poses come from the simulator's model."""
    rng, checked = np.random.default_rng(2), 0
    for _ in range(30):
        arm.reset()
        q = MIDDLE["panda"] + rng.uniform(-0.2, 0.2, 7)
        position, matrix = sim_ik.forward(q)
        euler = matrix_to_euler_xyz(matrix)
        actions = steady(rng) * [0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 1.0]
        chunk = arm.targets(actions, q, 1.0)
        for row, action in enumerate(actions):
            position, euler = position + 0.02 * action[:3], euler + 0.05 * action[3:6]
            reached, turned = sim_ik.forward(chunk.joint_position[row])
            assert np.linalg.norm(reached - position) < 1e-3
            assert rotation_angle_between(turned, euler_xyz_to_matrix(euler)) < 5e-3
            checked += 1
    assert checked == 300


def test_it_reaches_what_the_iteration_of_the_simulator_converges_to(sim_ik: PandaIK) -> None:
    ik, rng = ChunkIk(PANDA, PERIOD_S), np.random.default_rng(3)
    for _ in range(10):
        q = HOME_Q + rng.uniform(-0.05, 0.05, 7)
        position, matrix = sim_ik.forward(q)
        wanted = position + rng.uniform(-0.015, 0.015, 3)
        slow = q
        for _ in range(60):
            slow = sim_ik.solve_slowly(slow, wanted, matrix)
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = matrix, wanted - BASE_POS_WORLD
        found = ik.solve(q, pose[None]).joint_position[0]
        assert np.linalg.norm(sim_ik.forward(found)[0] - sim_ik.forward(slow)[0]) < 1e-3


@pytest.mark.parametrize("name", ["fr3", "ur5e"])
def test_other_arms_follow_joint_motion_of_their_own(name: str) -> None:
    limits = load_limits(name)
    ik, kinematics, rng = ChunkIk(limits, PERIOD_S), Kinematics(limits), np.random.default_rng(4)
    for _ in range(10):
        start = MIDDLE[name] + rng.uniform(-0.2, 0.2, len(limits.joints))
        rows = start + np.cumsum(np.tile(rng.uniform(-0.02, 0.02, len(start)), (10, 1)), axis=0)
        poses = np.tile(np.eye(4), (10, 1, 1))
        poses[:, :3, 3], poses[:, :3, :3] = kinematics.forward(rows)
        report = ik.solve(start, poses)
        assert report.position_error_m.max() < 1e-3
        assert report.rotation_error_rad.max() < 5e-3
        if len(start) == 6:  # no joint to spare: the same joints
            np.testing.assert_allclose(report.joint_position, rows, atol=5e-3)


@pytest.mark.parametrize(
    ("name", "start", "direction"),
    [
        ("panda", [0.0, 0.3, 0.0, -0.25, 0.0, 1.9, 0.7], [0.7, 0.0, -0.7]),  # the elbow stretches
        ("ur5e", [0.0, -1.3, 1.6, -1.9, 0.02, 0.0], [0.0, 1.0, 0.0]),  # two wrist axes are parallel
        ("ur5e", [0.0, -1.5, 0.1, -1.57, -1.5, 0.0], [0.3, 0.0, 0.95]),  # out of reach
    ],
)
def test_near_a_singularity_no_joint_takes_a_leap(name: str, start: list[float], direction: list[float]) -> None:
    limits = load_limits(name)
    ik = ChunkIk(limits, PERIOD_S, settings=IkSettings(speed_share=0.9))
    pose = ik.forward(start)
    poses = np.tile(pose, (20, 1, 1))
    poses[:, :3, 3] += 0.02 * np.arange(1, 21)[:, None] * np.array(direction)
    report = ik.solve(start, poses)
    steps = np.abs(np.diff(np.vstack([start, report.joint_position]), axis=0))
    assert np.isfinite(report.joint_position).all()
    assert (steps <= 0.9 * np.array(limits.velocity) * PERIOD_S + 1e-9).all()
    assert report.condition.max() > IkSettings().singular_condition
    assert (report.joint_position >= np.array(limits.position_low) - 1e-9).all()
    assert (report.joint_position <= np.array(limits.position_high) + 1e-9).all()


def test_spare_joints_drift_to_the_rest_posture_slowly() -> None:
    rest = MIDDLE["panda"]
    ik = ChunkIk(PANDA, PERIOD_S, posture=rest)
    start = rest + 0.3 * np.array([1, 0, -1, 0, 0.5, 0, 0])
    pose = ik.forward(start)
    report = ik.solve(start, np.tile(pose, (400, 1, 1)))
    steps = np.abs(np.diff(np.vstack([start, report.joint_position]), axis=0))
    assert steps.max() < 0.02
    assert report.position_error_m.max() < 1e-3
    assert np.linalg.norm(report.joint_position[-1] - rest) < 0.65 * np.linalg.norm(start - rest)


def test_a_joint_out_of_its_range_may_only_come_back() -> None:
    ik = ChunkIk(PANDA, PERIOD_S, settings=IkSettings(range_margin_rad=0.1))
    start = MIDDLE["panda"].copy()
    start[3] = -3.05  # 0.02 inside the range, 0.08 beyond the margin
    pose = ik.forward(start)
    away = pose.copy()
    away[:3, 3] += [0.05, 0.0, 0.05]
    found = ik.solve(start, np.linspace(pose, away, 10)[1:]).joint_position[:, 3]
    assert found.min() >= start[3] - 1e-9


def test_out_of_reach_is_refused_with_the_reason_or_cut_where_rows_are_spare(arm: ArmTargets) -> None:
    actions = np.zeros((40, 7))
    actions[:, 0] = 1.0  # 0.8 m ahead
    with pytest.raises(ChunkRefused, match=r"row \d+ of 40 leads where the panda cannot: .* mm and .* mrad away"):
        arm.targets(actions, MIDDLE["panda"], 1.0)
    chunk = arm.targets(actions, MIDDLE["panda"], 1.0, required_rows=5)
    assert 5 <= len(chunk.joint_position) == len(chunk.gripper) < 40
    assert chunk.info["ik_cut_rows"] == 40 - len(chunk.gripper)
    assert chunk.info["limited_rows"] > 0


@pytest.mark.fault("B6", n=2, event="request with a malformed anchor")
@pytest.mark.parametrize("anchor", [np.zeros(6), np.full(7, np.nan)])
def test_a_malformed_anchor_is_refused(arm: ArmTargets, anchor: np.ndarray) -> None:
    with pytest.raises(ChunkRefused, match="7 finite joints"):
        arm.targets(np.zeros((2, 7)), anchor, 1.0)


def test_joint_actions_need_no_inverse_kinematics_and_stay_in_range() -> None:
    arm = ArmTargets(desk_contract(action_mode="relative_joint"), PANDA, T_WORLD_BASE, PERIOD_S)
    actions = np.zeros((30, 8))
    actions[:, 3], actions[:, 7] = 0.1, -1.0
    chunk = arm.targets(actions, MIDDLE["panda"], 1.0)
    np.testing.assert_allclose(chunk.joint_position[4], MIDDLE["panda"] + [0, 0, 0, 0.5, 0, 0, 0])
    assert chunk.joint_position[:, 3].max() == PANDA.position_high[3]
    assert chunk.info["limited_rows"] > 0
    assert (chunk.gripper == -1.0).all()


def test_one_pose_in_absolute_numbers_is_reached_from_anywhere_near(sim_ik: PandaIK) -> None:
    arm = ArmTargets(desk_contract(action_mode="absolute_cartesian"), PANDA, T_WORLD_BASE, PERIOD_S)
    position, matrix = sim_ik.forward(MIDDLE["panda"])
    action = np.concatenate([position, matrix_to_euler_xyz(matrix), [1.0]])
    chunk = arm.targets(np.tile(action, (10, 1)), MIDDLE["panda"] + 0.05, 1.0)
    assert np.linalg.norm(sim_ik.forward(chunk.joint_position[-1])[0] - position) < 1e-3


def test_chunks_in_a_row_turn_on_past_half_a_turn(arm: ArmTargets) -> None:
    """Pitch goes through 90 degrees, where angles computed afresh would turn the other way."""
    layout, pitch = arm.layout, 1.3
    position, matrix = np.zeros(3), euler_xyz_to_matrix((0.4, pitch, 0.2))
    euler = np.array([0.4, pitch, 0.2])
    actions = np.zeros((4, 7))
    actions[:, 4] = 1.0
    for _ in range(5):
        poses, _ = layout.poses(actions, position, nearest_euler(matrix_to_euler_xyz(matrix), euler))
        euler = euler + [0, 4 * 0.05, 0]
        matrix = poses[-1, :3, :3]
        assert rotation_angle_between(matrix, euler_xyz_to_matrix(euler)) < 1e-9
    assert euler[1] > 2.2


def planned(action: Sequence[float], anchor: np.ndarray, rows: int = 10) -> Mapping[str, Any]:
    """What `foreact serve --robot desk_sim` answers to a plan of the same action again and again."""
    seen = Observation(slots=[0], images={}, state=np.zeros((1, 15), np.float32), instruction=["open the drawer"])
    plan = Plan(actions=np.tile(np.asarray(action, np.float32), (1, rows, 1)))
    to_joints = robot_hook("desk_sim")(desk_contract())
    return to_joints(seen, plan, Anchor(joint_position=anchor, gripper_command=1.0))


def test_a_served_plan_goes_on_from_the_anchor(sim_ik: PandaIK) -> None:
    found = planned([0.5, 0, 0.2, 0, 0, 0, -1], HOME_Q)
    q = found["joint_position"]
    assert q.shape == (10, 7) and (found["gripper"] == -1.0).all()
    moved = sim_ik.forward(q[-1])[0] - sim_ik.forward(HOME_Q)[0]
    np.testing.assert_allclose(moved, 10 * 0.02 * np.array([0.5, 0.0, 0.2]), atol=2e-3)


def test_a_served_plan_that_the_arm_cannot_begin_is_refused_with_a_sentence() -> None:
    found = planned([0.0] * 7, np.full(7, np.nan))
    assert set(found) == {"refused"} and "7 finite joints" in found["refused"]


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"iteration": 3}, "did you mean 'iterations'"),
        ({"speed_share": 0.0}, "ik.speed_share"),
        ({"position_tolerance_m": float("nan")}, "ik.position_tolerance_m"),
        ({"range_margin_rad": "0.1"}, "ik.range_margin_rad"),
    ],
)
def test_a_wrong_setting_of_inverse_kinematics_is_named(values: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        IkSettings.from_mapping(values)

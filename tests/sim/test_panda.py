"""The robot model: kinematics, masses, names, camera and contact filter, read back from the compiled model."""

import mujoco
import numpy as np
import pytest

from foreact.sim import panda
from foreact.sim.rotations import euler_xyz_to_matrix, matrix_to_euler_xyz

HOME_TCP = (0.02586889, -0.2313129, 0.5712808)
HOME_EULER = (3.09045, -0.02909, 1.50014)


@pytest.fixture(scope="module")
def home() -> tuple[mujoco.MjModel, mujoco.MjData]:
    spec = mujoco.MjSpec()
    panda.physics_options(spec)
    panda.add_panda(spec)
    model = spec.compile()
    data = mujoco.MjData(model)
    data.qpos[:7] = panda.HOME_Q
    data.qpos[7:] = panda.FINGER_OPEN_M
    mujoco.mj_forward(model, data)
    return model, data


def test_home_tcp_is_the_recorded_neutral_pose(home):
    _, data = home
    np.testing.assert_allclose(data.site(panda.TCP_SITE).xpos, HOME_TCP, atol=1e-6)
    np.testing.assert_allclose(matrix_to_euler_xyz(data.site(panda.TCP_SITE).xmat), HOME_EULER, atol=1e-5)


def test_kinematics_equal_the_denavit_hartenberg_table_of_the_manufacturer(home):
    """Craig's convention, from the Franka control interface documentation; base, flange and hand added."""
    model, _ = home
    a = (0, 0, 0, 0.0825, -0.0825, 0, 0.088)
    d = (0.333, 0, 0.316, 0, 0.384, 0, 0)
    alpha = np.array((0, -1, 1, 1, -1, 1, 1)) * np.pi / 2
    data = mujoco.MjData(model)
    rng = np.random.default_rng(7)
    for _ in range(20):
        q = rng.uniform(panda.Q_LOWER, panda.Q_UPPER)
        pose = np.eye(4)
        pose[:3, 3] = panda.BASE_POS_WORLD
        for i in range(7):
            step = np.eye(4)
            step[:3, :3] = euler_xyz_to_matrix((alpha[i], 0, 0)) @ euler_xyz_to_matrix((0, 0, q[i]))
            step[:3, 3] = (a[i], -d[i] * np.sin(alpha[i]), d[i] * np.cos(alpha[i]))
            pose = pose @ step
        data.qpos[:7] = q
        mujoco.mj_kinematics(model, data)
        np.testing.assert_allclose(data.site(panda.TCP_SITE).xpos, pose[:3, 3] + 0.247 * pose[:3, 2], atol=1e-9)
        np.testing.assert_allclose(data.body("panda_hand").xmat.reshape(3, 3)[:, 2], pose[:3, 2], atol=1e-9)


def test_names_and_masses(home):
    model, _ = home
    wanted = {f"panda_link{i}": m for i, m in enumerate((2.7, 2.73, 2.04, 2.08, 3.0, 1.3, 0.2), start=1)}
    wanted |= {"panda_hand": 0.81 + 0.2, "panda_leftfinger": 0.1, "panda_rightfinger": 0.1}
    for name, mass in wanted.items():
        assert float(model.body(name).mass[0]) == pytest.approx(mass), name
        assert float(model.body_gravcomp[model.body(name).id]) == 1.0, name
    joints = [model.joint(i).name for i in range(model.njnt)]
    assert joints == [*panda.ARM_JOINTS, *panda.FINGER_JOINTS]


def test_gravity_is_compensated_in_any_pose(home):
    model, _ = home
    data = mujoco.MjData(model)
    data.qpos[:7] = (0.3, 0.5, -0.2, -1.5, 0.4, 2.0, 0.1)
    mujoco.mj_forward(model, data)
    assert np.abs(data.qfrc_bias).max() > 5.0, "the pose must load the joints for this test to mean anything"
    np.testing.assert_allclose(data.qfrc_bias - data.qfrc_gravcomp, 0.0, atol=1e-9)


def test_fingers_close_along_world_x_at_home_and_meet_in_the_middle(home):
    model, data = home
    left, right = (data.body(name).xpos for name in panda.FINGER_BODIES)
    gap = left - right
    assert np.linalg.norm(gap) == pytest.approx(0.08)
    assert abs(gap[0]) > 0.99 * np.linalg.norm(gap)
    np.testing.assert_allclose((left + right) / 2, data.body("panda_hand").xpos + 0.0584 * _approach(data), atol=1e-9)
    tip = max(
        float(_approach(data) @ (data.geom(f"{b}_pad").xpos - data.site(panda.TCP_SITE).xpos))
        + float(model.geom(f"{b}_pad").size[2])
        for b in panda.FINGER_BODIES
    )
    assert tip == pytest.approx(0.0144, abs=0.001), "fingers reach about 15 mm beyond the TCP"


def test_wrist_camera_looks_15_degrees_towards_the_fingers(home):
    model, data = home
    hand = data.body("panda_hand").xmat.reshape(3, 3)
    camera = hand.T @ data.cam(panda.GRIPPER_CAMERA).xmat.reshape(3, 3)
    np.testing.assert_allclose(-camera[:, 2], (0.2675, 0, 0.9636), atol=1e-3)
    np.testing.assert_allclose(camera[:, 1], (0.9636, 0, -0.2675), atol=1e-3)
    offset = hand.T @ (data.cam(panda.GRIPPER_CAMERA).xpos - data.body("panda_hand").xpos)
    np.testing.assert_allclose(offset, (-0.1, 0, 0), atol=1e-9)
    assert float(model.cam(panda.GRIPPER_CAMERA).fovy[0]) == 75.0


def test_robot_meets_the_scene_but_never_itself():
    spec = mujoco.MjSpec()
    panda.physics_options(spec)
    panda.add_panda(spec)
    spec.worldbody.add_geom(
        name="wall", type=mujoco.mjtGeom.mjGEOM_BOX, pos=HOME_TCP, size=(0.3, 0.3, 0.05), priority=0
    )
    model = spec.compile()
    data = mujoco.MjData(model)
    data.qpos[:7] = panda.HOME_Q
    mujoco.mj_forward(model, data)
    wall = model.geom("wall").id
    assert data.ncon > 0
    assert all(wall in (c.geom1, c.geom2) for c in data.contact)
    touched = {model.geom(g).name for c in data.contact for g in (c.geom1, c.geom2)}
    assert {"panda_leftfinger_pad", "panda_rightfinger_pad"} <= touched
    pad = next(c for c in data.contact if model.geom("panda_leftfinger_pad").id in (c.geom1, c.geom2))
    assert pad.friction[0] == pytest.approx(0.70), "the finger's friction decides, not the larger of the pair"
    assert pad.dim == 4


def test_physics_runs_at_240_hz(home):
    model, _ = home
    assert model.opt.timestep == pytest.approx(1 / 240)
    np.testing.assert_allclose(model.opt.gravity, (0, 0, -9.8))


def _approach(data: mujoco.MjData) -> np.ndarray:
    return data.body("panda_hand").xmat.reshape(3, 3)[:, 2]

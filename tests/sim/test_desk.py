"""The rebuilt desk against the published numbers of the original and against hand-computed physics."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest

from foreact.sim.desk import BLOCK_RGBA, CAMERA_POS_WORLD, CAMERA_TARGET_WORLD, add_desk
from foreact.sim.desk_parts import FINGER_FRICTION, FINGER_PRIORITY
from foreact.sim.panda import physics_options
from foreact.sim.scene_state import touching
from foreact.sim.scenes import BLOCKS, SCENES, UnknownScene, get_scene
from foreact.sim.textures import wood

GRAVITY = 9.8
FINGER_HALF = (0.0105, 0.0115, 0.048)  # the robot's long finger: 0.021 x 0.023 x 0.096 m


def build(name: str, finger: bool = False) -> tuple[mujoco.MjModel, mujoco.MjData]:
    """The desk alone; `finger` adds a box like the robot's finger that a test can move about."""
    spec = mujoco.MjSpec()
    physics_options(spec)
    if finger:
        body = spec.worldbody.add_body(name="finger", mocap=True, pos=[0.0, -1.0, 1.0])
        body.add_geom(
            name="finger",
            type=mujoco.mjtGeom.mjGEOM_BOX,
            size=list(FINGER_HALF),
            friction=[FINGER_FRICTION, 0.005, 0.0001],
            priority=FINGER_PRIORITY,
        )
    add_desk(spec, SCENES[name])
    model = spec.compile()
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    return model, data


def step(model: mujoco.MjModel, data: mujoco.MjData, seconds: float) -> None:
    for _ in range(round(seconds / model.opt.timestep)):
        mujoco.mj_step(model, data)


def joint(data: mujoco.MjData, name: str) -> float:
    return float(data.joint(name).qpos[0])


def push(model: mujoco.MjModel, data: mujoco.MjData, name: str, force_n: float, seconds: float) -> float:
    """The joint value after pushing along the joint."""
    dof = model.joint(name).dofadr[0]
    data.qfrc_applied[dof] = force_n
    step(model, data, seconds)
    data.qfrc_applied[dof] = 0.0
    return joint(data, name)


def move_finger(
    model: mujoco.MjModel, data: mujoco.MjData, start: list[float], end: list[float], seconds: float = 1.0
) -> None:
    """Carry the tip of the finger along a straight line; its tip is half a length below its centre."""
    up = np.array([0.0, 0.0, FINGER_HALF[2]])
    steps = round(seconds / model.opt.timestep)
    for i in range(steps + 1):
        data.mocap_pos[0] = np.asarray(start) + (np.asarray(end) - np.asarray(start)) * i / steps + up
        mujoco.mj_step(model, data)


@pytest.mark.parametrize("name", sorted(SCENES))
def test_joints_masses_and_limits(name: str) -> None:
    model, _ = build(name)
    travel = {"A": 0.28, "B": 0.304, "C": 0.24, "D": 0.28}[name]
    for part, mass, high in (
        ("slide", 1.543, travel),
        ("drawer", 4.231, 0.22),
        ("button", 0.154, 0.02),
        ("switch", 0.239, 0.088),
    ):
        assert model.body(part).mass[0] == pytest.approx(mass)
        assert model.joint(part).range.tolist() == pytest.approx([0.0, high])
    for block in BLOCKS:
        x, y, z = SCENES[name].block_sizes[block]
        assert model.body(block).mass[0] == pytest.approx(1.0)
        inertia = [(y * y + z * z) / 12, (x * x + z * z) / 12, (x * x + y * y) / 12]
        assert sorted(model.body(block).inertia) == pytest.approx(sorted(inertia))


def test_the_picture_stays_cheap() -> None:
    model, _ = build("C")
    assert np.count_nonzero(model.geom_group < 3) <= 45
    assert model.vis.quality.offsamples == 0
    assert model.vis.quality.shadowsize == 0


def test_collision_shapes_are_boxes_and_cylinders() -> None:
    model, _ = build("A")
    solid = (model.geom_contype != 0) | (model.geom_conaffinity != 0)
    kinds = {mujoco.mjtGeom(kind).name for kind in model.geom_type[solid]}
    assert kinds <= {"mjGEOM_PLANE", "mjGEOM_BOX", "mjGEOM_CYLINDER", "mjGEOM_SPHERE"}


@pytest.mark.parametrize(
    ("point", "pixel"),
    [
        ((0.44, -0.18, 0.44), (172.0, 125.1)),  # desk, front right corner
        ((-0.44, 0.18, 0.648), (20.8, 12.2)),  # cabinet top, back left
        ((0.44, 0.18, 0.648), (197.1, 6.3)),  # cabinet top, back right
        ((-0.12, -0.12, 0.484), (57.2, 98.0)),  # button of scene D
        ((0.05, -0.12, 0.46), (93.7, 104.3)),  # block anchors on the desk
        ((0.229995, -0.119995, 0.46), (131.3, 106.0)),
        ((-0.240852, 0.092404, 0.46099), (67.6, 63.2)),  # in the niche
        ((0.070342, 0.092404, 0.46099), (127.8, 63.8)),
        ((0.0258689, -0.2313129, 0.5712808), (57.3, 103.1)),  # tool at home
        ((0.18, -0.25, 0.36), (114.7, 152.3)),  # drawer handle of scene D, closed
        ((0.18, -0.47, 0.36), (81.5, 198.9)),  # and open
    ],
)
def test_static_camera_projects_to_the_original_pixels(point: tuple[float, ...], pixel: tuple[float, float]) -> None:
    model, data = build("D")
    camera = data.camera("rgb_static")
    x, y, z = camera.xmat.reshape(3, 3).T @ (np.asarray(point) - camera.xpos)
    focal = 100.0 / np.tan(np.radians(model.camera("rgb_static").fovy[0]) / 2.0)
    assert focal == pytest.approx(1143.0, abs=0.1)
    found = (100.0 + focal * x / -z, 100.0 - focal * y / -z)
    assert found == pytest.approx(pixel, abs=0.5)


def test_static_camera_looks_at_its_target() -> None:
    _, data = build("D")
    line = np.asarray(CAMERA_TARGET_WORLD) - np.asarray(CAMERA_POS_WORLD)
    assert np.linalg.norm(line) == pytest.approx(4.2, abs=1e-4)
    forward = -data.camera("rgb_static").xmat.reshape(3, 3)[:, 2]
    assert forward == pytest.approx(line / np.linalg.norm(line), abs=2e-4)


def test_blocks_rest_at_the_recorded_heights() -> None:
    model, data = build("D")
    data.joint("drawer").qpos[0] = 0.22
    for block, pos in (
        ("block_red", (0.05, -0.12, 0.47)),
        ("block_blue", (0.07, 0.0924, 0.47)),
        ("block_pink", (0.18, -0.30, 0.38)),
    ):
        data.joint(block).qpos[:3] = pos
    step(model, data, 1.0)
    heights = [data.joint(block).qpos[2] for block in ("block_red", "block_blue", "block_pink")]
    assert heights == pytest.approx([0.45999, 0.46099, 0.36], abs=3e-4)
    assert touching(model, data) == {
        ("block_red", "desk"),
        ("block_blue", "plank"),
        ("block_pink", "drawer"),
    }


@pytest.mark.parametrize("part", ["slide", "drawer"])
def test_dry_friction_of_door_and_drawer_is_4_newton(part: str) -> None:
    model, data = build("D")
    assert push(model, data, part, 3.0, 2.0) < 1e-3
    assert push(model, data, part, 5.0, 2.0) > 0.15
    assert push(model, data, part, -3.0, 2.0) > 0.15
    assert push(model, data, part, -6.0, 2.0) < 0.01


def test_lever_stays_where_it_is_left() -> None:
    model, data = build("D")
    data.joint("switch").qpos[0] = 0.06
    step(model, data, 10.0)
    assert joint(data, "switch") == pytest.approx(0.06, abs=2e-3)
    weight = 0.239 * GRAVITY * np.cos(np.radians(30))  # along the slope, about 2 N
    assert push(model, data, "switch", 3.5 + weight, 1.0) == pytest.approx(0.06, abs=3e-3)
    assert push(model, data, "switch", 4.5 + weight, 1.0) > 0.08
    assert push(model, data, "switch", -(4.5 - weight), 1.0) < 0.01


def test_button_needs_about_2_5_newton_and_springs_back() -> None:
    model, data = build("D")
    step(model, data, 0.5)
    assert joint(data, "button") == pytest.approx(0.0, abs=2e-4)
    assert push(model, data, "button", 2.2, 1.0) < 0.001
    assert push(model, data, "button", 3.2, 1.0) == pytest.approx(0.02, abs=1e-3)
    step(model, data, 0.5)
    assert joint(data, "button") == pytest.approx(0.0, abs=2e-4)


def test_stops_are_soft_but_hold() -> None:
    model, data = build("C")
    assert push(model, data, "slide", 50.0, 1.0) == pytest.approx(0.24, abs=0.02)
    data.joint("slide").qpos[0] = 0.28  # accepted, then pushed back to the stop
    step(model, data, 1.0)
    assert joint(data, "slide") == pytest.approx(0.24, abs=0.01)


def test_a_block_slides_with_the_friction_of_the_original() -> None:
    """Table-block 0.35: 1 kg holds 3.43 N."""
    model, data = build("D")
    step(model, data, 0.5)
    before = data.joint("block_blue").qpos[0]
    body = model.body("block_blue").id
    data.xfrc_applied[body, 0] = 3.1
    step(model, data, 0.5)
    assert data.joint("block_blue").qpos[0] == pytest.approx(before, abs=2e-3)
    data.xfrc_applied[body, 0] = 3.8
    step(model, data, 0.5)
    assert data.joint("block_blue").qpos[0] > before + 0.02


def test_friction_of_every_kind_of_pair() -> None:
    model, data = build("D", finger=True)
    red = data.joint("block_red").qpos
    red[:7] = (0.1, -0.1, 0.4599, 1, 0, 0, 0)
    data.joint("block_blue").qpos[:7] = (0.1, -0.1, 0.4998, 1, 0, 0, 0)
    data.joint("block_pink").qpos[:7] = (1.0, 1.0, 0.0199, 1, 0, 0, 0)
    data.mocap_pos[0] = (0.1, -0.1, 0.5197 + FINGER_HALF[2])
    mujoco.mj_forward(model, data)
    found = {}
    for i in range(data.ncon):
        names = sorted(model.body(model.geom_bodyid[g]).name for g in data.contact.geom[i])
        found[tuple(names)] = float(data.contact.friction[i, 0])
    assert found == {
        ("block_red", "desk"): pytest.approx(0.35),
        ("block_blue", "block_red"): pytest.approx(0.49),
        ("block_blue", "finger"): pytest.approx(0.70),
        ("block_pink", "world"): pytest.approx(0.70),
    }


def test_touch_counts_half_a_millimetre_and_does_not_push() -> None:
    model, data = build("D")
    for gap, touches in ((0.0004, True), (0.0007, False)):
        mujoco.mj_resetData(model, data)
        data.joint("block_red").qpos[:7] = (0.1, -0.1, 0.46 + gap, 1, 0, 0, 0)
        mujoco.mj_forward(model, data)
        assert (("block_red", "desk") in touching(model, data)) is touches
        # in free fall, so nothing pushes
        dof = model.joint("block_red").dofadr[0]
        assert data.qacc[dof + 2] == pytest.approx(-GRAVITY, abs=1e-6)


def test_finger_fits_behind_the_drawer_handle_and_pulls_it_open() -> None:
    model, data = build("D", finger=True)
    x = 0.18
    data.mocap_pos[0] = (x, -0.215, 0.35 + FINGER_HALF[2])
    mujoco.mj_forward(model, data)
    assert not any("robot" in pair for pair in touching(model, data))
    move_finger(model, data, [x, -0.215, 0.35], [x, -0.43, 0.35])
    assert joint(data, "drawer") > 0.12
    move_finger(model, data, [x, -0.49, 0.35], [x, -0.25, 0.35])
    assert joint(data, "drawer") < 0.08


def test_finger_moves_the_door_by_its_handle() -> None:
    model, data = build("D", finger=True)
    handle_x, y, z = -0.10 + 0.14, 0.01, 0.55
    data.mocap_pos[0] = (handle_x + 0.02 + FINGER_HALF[0] + 0.005, y, z + FINGER_HALF[2])
    mujoco.mj_forward(model, data)
    assert not any("robot" in pair for pair in touching(model, data))
    move_finger(model, data, [handle_x + 0.04, y, z], [handle_x - 0.18, y, z])
    assert joint(data, "slide") > 0.15
    left = handle_x - joint(data, "slide")
    move_finger(model, data, [left - 0.045, y, z], [left + 0.15, y, z])
    assert joint(data, "slide") < 0.1


def test_finger_presses_the_button() -> None:
    model, data = build("D", finger=True)
    move_finger(model, data, [-0.12, -0.12, 0.50], [-0.12, -0.12, 0.470])
    assert joint(data, "button") == pytest.approx(0.014, abs=0.002)
    move_finger(model, data, [-0.12, -0.12, 0.470], [-0.12, -0.12, 0.52])
    assert joint(data, "button") < 0.001


def test_finger_moves_the_lever_down_from_above_and_up_from_below() -> None:
    model, data = build("D", finger=True)
    data.joint("switch").qpos[0] = 0.088
    # down: a vertical finger stands on the bar and goes down along the slope
    move_finger(model, data, [0.30, 0.0929, 0.646], [0.30, 0.0354, 0.5466])
    assert joint(data, "switch") < 0.044
    mujoco.mj_resetData(model, data)
    # up: the finger points at the panel, its tip under the bar
    slope, normal = np.array([0.0, 0.5, 3**0.5 / 2]), np.array([0.0, -(3**0.5) / 2, 0.5])
    foot = np.array([0.30, 0.02, 0.44])
    data.mocap_quat[0] = (np.cos(np.pi / 6), np.sin(np.pi / 6), 0.0, 0.0)
    for i in range(241):
        s = 0.047 + 0.07 * i / 240
        data.mocap_pos[0] = foot + s * slope + (0.01 + FINGER_HALF[2]) * normal
        mujoco.mj_step(model, data)
    assert joint(data, "switch") > 0.044


def test_door_and_drawer_do_not_rub_against_the_desk() -> None:
    model, data = build("B")
    for part, high in (("slide", 0.304), ("drawer", 0.22), ("switch", 0.088), ("button", 0.02)):
        for value in (0.0, high / 2, high):
            data.joint(part).qpos[0] = value
            mujoco.mj_forward(model, data)
            assert not any(part in pair for pair in touching(model, data))


@pytest.mark.parametrize("grain", ["fine", "straight", "oak"])
def test_wood_has_its_mean_colour_and_is_the_same_every_time(grain: str) -> None:
    picture = wood((157, 117, 78), grain, seed=3)
    assert picture.shape == (256, 256, 3)
    assert picture.dtype == np.uint8
    assert picture.mean(axis=(0, 1)) == pytest.approx((157, 117, 78), abs=1.0)
    assert picture.std() > 3.0
    assert np.array_equal(picture, wood((157, 117, 78), grain, seed=3))
    assert not np.array_equal(picture, wood((157, 117, 78), grain, seed=4))
    # no seam: the step across the border is like any other step
    steps = np.abs(np.diff(picture.astype(float), axis=0)).mean()
    seam = np.abs(picture[0].astype(float) - picture[-1]).mean()
    assert seam < 3.0 * steps + 1.0


def test_unknown_scene_names_the_known_ones() -> None:
    with pytest.raises(UnknownScene, match="A, B, C, D"):
        get_scene("E")


def test_block_colours_are_pure() -> None:
    assert BLOCK_RGBA["block_pink"][:3] == (1.0, 0.0, 1.0)

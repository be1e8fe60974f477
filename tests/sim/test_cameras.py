"""Camera matrices and depth against CALVIN's published pixels and plain ray geometry."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from foreact.sim.cameras import camera_metadata, project
from foreact.sim.env import DeskEnv
from foreact.sim.gl_backend import NoGlBackend, pick_gl_backend
from foreact.sim.reference_views import reference_scene_obs
from foreact.sim.rendering import CameraRenderer, UnknownCamera
from foreact.sim.starts import NEUTRAL_ROBOT_OBS

EYE = np.array([2.871459, -2.166602, 2.555160])
RIGHT, UP = np.array([0.7232, 0.5141, -0.4611]), np.array([-0.0303, 0.6906, 0.7226])
# world point -> pixel of the static camera (CALVIN, mees/calvin_env, MIT)
GOLDEN = {
    (0.44, -0.18, 0.44): (172.0, 125.1),
    (-0.44, 0.18, 0.648): (20.8, 12.2),
    (0.44, 0.18, 0.648): (197.1, 6.3),
    (-0.12, -0.12, 0.484): (57.2, 98.0),
    (0.05, -0.12, 0.46): (93.7, 104.3),
    (0.229995, -0.119995, 0.46): (131.3, 106.0),
    (0.02586889, -0.2313129, 0.5712808): (57.3, 103.1),
    (0.18, -0.25, 0.36): (114.7, 152.3),
    (0.18, -0.47, 0.36): (81.5, 198.9),
}


@pytest.fixture(scope="module")
def env() -> DeskEnv:
    env = DeskEnv("D", render=False)
    env.set_state(NEUTRAL_ROBOT_OBS, reference_scene_obs("D", "off"))
    return env


@pytest.fixture(scope="module")
def renderer(env: DeskEnv) -> Iterator[CameraRenderer]:
    try:
        pick_gl_backend()
    except NoGlBackend as error:
        pytest.skip(str(error))
    with CameraRenderer(env.model) as renderer:
        yield renderer


def test_golden_pixels(env: DeskEnv) -> None:
    camera = camera_metadata(env.model, env.data)["rgb_static"]
    pixels, depths = project(camera, list(GOLDEN))
    assert pixels == pytest.approx(np.array(list(GOLDEN.values())), abs=0.1)
    assert np.all((depths > 3.7) & (depths < 4.6))


def test_published_numbers(env: DeskEnv) -> None:
    cameras = camera_metadata(env.model, env.data)
    static, hand = cameras["rgb_static"], cameras["rgb_gripper"]
    assert static["K"] == pytest.approx(np.array([[1143.0, 0, 100], [0, 1143.0, 100], [0, 0, 1]]), abs=0.01)
    assert hand["K"] == pytest.approx(np.array([[54.74, 0, 42], [0, 54.74, 42], [0, 0, 1]]), abs=0.01)
    assert (static["near_m"], static["far_m"], static["fovy_deg"]) == (0.01, 10.0, pytest.approx(10.0))
    assert (hand["near_m"], hand["far_m"], hand["fovy_deg"]) == (0.01, 2.0, pytest.approx(75.0))
    # columns of a pose are the camera's right, down and forward
    assert static["T_world_camera"][:3, 0] == pytest.approx(RIGHT, abs=2e-4)
    assert static["T_world_camera"][:3, 1] == pytest.approx(-UP, abs=2e-4)
    assert static["T_world_camera"][:3, 3] == pytest.approx(EYE)
    assert "T_hand_camera" not in static
    T_hand_camera = hand.get("T_hand_camera")
    assert T_hand_camera is not None
    assert T_hand_camera[:3, 3] == pytest.approx([-0.1, 0.0, 0.0])
    assert T_hand_camera[:3, 2] == pytest.approx([0.2675, 0.0, 0.9636], abs=1e-3)
    assert T_hand_camera[:3, 0] == pytest.approx([0.0, 1.0, 0.0], abs=1e-3)


def test_the_hand_camera_hangs_on_the_hand(env: DeskEnv) -> None:
    hand = camera_metadata(env.model, env.data)["rgb_gripper"]
    body = env.data.body("panda_hand")
    T_world_hand = np.eye(4)
    T_world_hand[:3, :3], T_world_hand[:3, 3] = body.xmat.reshape(3, 3), body.xpos
    T_hand_camera = hand.get("T_hand_camera")
    assert T_hand_camera is not None
    assert T_world_hand @ T_hand_camera == pytest.approx(hand["T_world_camera"], abs=1e-9)


def test_matrices_follow_the_picture_size(env: DeskEnv) -> None:
    small = camera_metadata(env.model, env.data, {"rgb_static": (100, 160)})["rgb_static"]
    assert small["K"] == pytest.approx(np.array([[571.5, 0, 80], [0, 571.5, 50], [0, 0, 1]]), abs=0.01)
    with pytest.raises(UnknownCamera, match="did you mean 'rgb_static'"):
        camera_metadata(env.model, env.data, {"rgb_statc": (10, 10)})


def test_depth_ranges_of_the_neutral_view(env: DeskEnv, renderer: CameraRenderer) -> None:
    """The original's home view: static 3.77 to 6.20 m, hand 0.08 to 0.79 m."""
    static, hand = renderer.depth(env.data, "rgb_static"), renderer.depth(env.data, "rgb_gripper")
    assert (static.shape, hand.shape) == ((200, 200), (84, 84))
    assert static.dtype == hand.dtype == np.float32
    assert (static.min(), static.max()) == pytest.approx((3.77, 6.20), abs=0.02)
    assert (hand.min(), hand.max()) == pytest.approx((0.08, 0.79), abs=0.02)


@pytest.mark.parametrize(
    ("pixel", "height_m"),
    [
        ((150, 90), 0.44),
        ((100, 90), 0.44),
        ((165, 120), 0.44),
        ((115, 11), 0.6478),
        ((80, 165), 0.0),
        ((120, 175), 0.0),
    ],
)
def test_depth_is_where_the_ray_meets_the_plane(env, renderer, pixel: tuple[int, int], height_m: float) -> None:
    """Desk top, cabinet top and floor, by intersecting the ray through the pixel's middle with the plane."""
    u, v = pixel[0] + 0.5, pixel[1] + 0.5
    forward = np.cross(UP, RIGHT)
    ray = forward + RIGHT * (u - 100.0) / 1143.0 - UP * (v - 100.0) / 1143.0
    expected = (height_m - EYE[2]) / ray[2]
    assert renderer.depth(env.data, "rgb_static")[pixel[1], pixel[0]] == pytest.approx(expected, abs=2e-3)


def test_depth_of_the_hand_camera(env: DeskEnv, renderer: CameraRenderer) -> None:
    """Back-projecting floor and desk pixels with K and the pose lands on their planes."""
    camera = camera_metadata(env.model, env.data)["rgb_gripper"]
    depth = renderer.depth(env.data, "rgb_gripper")
    ids = renderer.geom_ids(env.data, "rgb_gripper")
    v, u = np.nonzero(ids == env.model.geom("floor").id)
    rays = np.stack([u + 0.5, v + 0.5, np.ones(len(u))]) * depth[v, u]
    points = camera["T_world_camera"] @ np.vstack([np.linalg.inv(camera["K"]) @ rays, np.ones(len(u))])
    assert len(u) > 2000
    assert points[2] == pytest.approx(np.zeros(len(u)), abs=1e-3)


def test_asking_for_depth_leaves_the_colours_alone(env: DeskEnv, renderer: CameraRenderer) -> None:
    before = renderer.render(env.data, "rgb_static")
    renderer.depth(env.data, "rgb_static")
    renderer.geom_ids(env.data, "rgb_static")
    assert np.array_equal(before, renderer.render(env.data, "rgb_static"))
    with pytest.raises(UnknownCamera, match="rgb_gripper"):
        renderer.depth(env.data, "nothing")

"""Pictures: against the camera model, the published colours, and themselves."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import mujoco
import numpy as np
import pytest

from foreact.sim import gl_backend
from foreact.sim.desk import add_desk
from foreact.sim.gl_backend import NoGlBackend, pick_gl_backend
from foreact.sim.rendering import CameraRenderer, UnknownCamera
from foreact.sim.scene_state import write_scene_obs
from foreact.sim.scenes import SCENES

SIZES = {"rgb_static": (200, 200), "closeup": (60, 90)}


@pytest.fixture(scope="module")
def desk() -> Iterator[tuple[mujoco.MjModel, mujoco.MjData, CameraRenderer]]:
    try:
        pick_gl_backend()
    except NoGlBackend as error:
        pytest.skip(str(error))
    spec = mujoco.MjSpec()
    add_desk(spec, SCENES["D"])
    spec.worldbody.add_camera(name="closeup", pos=[-0.12, -0.12, 0.9], fovy=20.0)  # straight down on the button
    model = spec.compile()
    data = mujoco.MjData(model)
    with CameraRenderer(model, SIZES) as renderer:
        yield model, data, renderer


LIT_RED = (239, 0, 0)
"""The upward face of a red block: light from 19 degrees off the vertical, 0.6 + 0.356 cos(19 deg)."""


def put(model: mujoco.MjModel, data: mujoco.MjData, red: tuple[float, float, float], **joints: float) -> None:
    """Everything closed, the red block somewhere, the others out of sight."""
    obs = np.zeros(24)
    for dim, name in enumerate(("slide", "drawer", "button", "switch", "bulb", "led")):
        obs[dim] = joints.get(name, 0.0)
    obs[6:9] = red
    obs[12:15] = obs[18:21] = (0.0, 0.0, -3.0)
    write_scene_obs(model, data, obs)
    mujoco.mj_forward(model, data)


def close_to(picture: np.ndarray, rgb: tuple[int, int, int], tolerance: int = 12) -> np.ndarray:
    return np.abs(picture.astype(int) - np.array(rgb)).max(axis=-1) <= tolerance


def centre(mask: np.ndarray) -> tuple[float, float]:
    """Mean (u, v) of a mask in image coordinates, where pixel centres are at .5."""
    v, u = np.nonzero(mask)
    return float(u.mean() + 0.5), float(v.mean() + 0.5)


def test_pictures_have_the_asked_size_and_type(desk) -> None:
    model, data, renderer = desk
    put(model, data, (0.1, -0.1, 0.46))
    pictures = renderer.render_all(data)
    assert {name: p.shape for name, p in pictures.items()} == {
        "rgb_static": (200, 200, 3),
        "closeup": (60, 90, 3),
    }
    assert all(p.dtype == np.uint8 for p in pictures.values())


def test_a_picture_is_not_overwritten_by_the_next(desk) -> None:
    model, data, renderer = desk
    put(model, data, (0.1, -0.1, 0.46))
    first = renderer.render(data, "rgb_static")
    kept = first.copy()
    put(model, data, (0.3, -0.1, 0.46))
    second = renderer.render(data, "rgb_static")
    assert np.array_equal(first, kept)
    assert not np.array_equal(first, second)


def test_the_same_state_gives_the_same_picture(desk) -> None:
    model, data, renderer = desk
    put(model, data, (0.1, -0.1, 0.46))
    first = renderer.render_all(data)
    second = renderer.render_all(data)
    for name in first:
        assert np.array_equal(first[name], second[name])


@pytest.mark.parametrize(
    ("red", "pixel"),
    [((0.05, -0.12, 0.46), (93.7, 104.3)), ((0.229995, -0.119995, 0.46), (131.3, 106.0))],
)
def test_a_drawn_block_is_where_the_original_camera_sees_it(desk, red, pixel) -> None:
    """The visible outline of a small convex block is centred on its middle within a pixel."""
    model, data, renderer = desk
    put(model, data, red)
    picture = renderer.render(data, "rgb_static").astype(int)
    is_red = (picture[..., 0] > 120) & (picture[..., 1] < 30) & (picture[..., 2] < 30)
    assert is_red.sum() > 100
    assert centre(is_red) == pytest.approx(pixel, abs=1.0)


def test_the_drawn_desk_ends_at_its_corner(desk) -> None:
    """Golden pixel (172.0, 125.1): wood to the left of the desk's front right corner, floor to the right."""
    model, data, renderer = desk
    put(model, data, (0.0, 0.0, -3.0))
    row = renderer.render(data, "rgb_static")[122].astype(int)
    grey = row.max(axis=1) - row.min(axis=1) < 8
    assert not grey[165:172].any()
    picture = renderer.render(data, "rgb_static").astype(int)
    # the upper face is lighter than the front face; along the column above the corner the edge is at v = 125
    column = picture[110:140, 168].sum(axis=1)
    edge = 110 + int(np.argmin(np.diff(column))) + 1
    assert edge == pytest.approx(125.1, abs=1.5)


def test_lamps_change_colour(desk) -> None:
    model, data, renderer = desk
    seen = {}
    for on in (0.0, 1.0):
        put(model, data, (0.1, -0.1, 0.46), led=on, bulb=on, switch=0.088 * on)
        picture = renderer.render(data, "rgb_static").astype(int)
        r, g, b = picture[..., 0], picture[..., 1], picture[..., 2]
        seen[on] = (
            int(((g > 140) & (r < 20) & (b < 20)).sum()),
            int(((r > 140) & (g > 140) & (b < 20)).sum()),
        )
    assert seen[0.0] == (0, 0)
    assert seen[1.0][0] > 200  # LED, green
    assert seen[1.0][1] > 100  # bulb, yellow


def test_light_from_above_and_no_shadows(desk) -> None:
    """An upward face shows the block's full colour, an upright one 0.6 of it, as in the original renders."""
    model, data, renderer = desk
    put(model, data, (0.1, -0.1, 0.46))
    picture = renderer.render(data, "rgb_static")
    assert close_to(picture, LIT_RED).sum() > 40
    assert close_to(picture, (153, 0, 0)).sum() > 40


def test_the_top_row_comes_first(desk) -> None:
    """Seen straight down with +y up in the picture, a block at larger y is higher."""
    model, data, renderer = desk
    put(model, data, (-0.12, -0.06, 0.46))
    assert centre(close_to(renderer.render(data, "closeup"), LIT_RED))[1] < 30
    put(model, data, (-0.12, -0.18, 0.46))
    assert centre(close_to(renderer.render(data, "closeup"), LIT_RED))[1] > 30


def test_closing_and_drawing_again(desk) -> None:
    model, data, renderer = desk
    put(model, data, (0.1, -0.1, 0.46))
    before = renderer.render(data, "rgb_static")
    assert renderer.gl_renderer_name()
    renderer.close()
    renderer.close()
    assert np.array_equal(renderer.render(data, "rgb_static"), before)


def test_two_renderers_do_not_disturb_each_other(desk) -> None:
    model, data, renderer = desk
    put(model, data, (0.1, -0.1, 0.46))
    alone = renderer.render(data, "rgb_static")
    with CameraRenderer(model, {"rgb_static": (64, 64)}) as other:
        assert other.render(data, "rgb_static").shape == (64, 64, 3)
        assert np.array_equal(renderer.render(data, "rgb_static"), alone)
    assert np.array_equal(renderer.render(data, "rgb_static"), alone)


def test_unknown_cameras_are_named(desk) -> None:
    model, data, renderer = desk
    with pytest.raises(UnknownCamera, match="did you mean 'rgb_static'"):
        CameraRenderer(model, {"rgb_statc": (10, 10)})
    with pytest.raises(UnknownCamera, match="closeup, rgb_static"):
        renderer.render(data, "nothing")


def test_a_chosen_backend_is_tried_once_and_what_is_wrong_with_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gl_backend, "_PROBE", "raise SystemExit('no driver here')")
    monkeypatch.setenv("MUJOCO_GL", "OSMesa")
    monkeypatch.setenv("FOREACT_GL_WORKS", "osmesa")  # found out by this process or its parent
    assert pick_gl_backend() == "osmesa"
    monkeypatch.setenv("MUJOCO_GL", "egl")
    with pytest.raises(NoGlBackend, match=r"MUJOCO_GL=egl does not work here \(egl: no driver here\).*Unset it"):
        pick_gl_backend()
    monkeypatch.setenv("MUJOCO_GL", "egll")
    with pytest.raises(NoGlBackend, match="did you mean 'egl'"):
        pick_gl_backend()


def test_when_nothing_draws_the_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A real child process that cannot load a driver, because the backends do not exist."""
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(gl_backend, "_PROBE", "raise SystemExit('no driver here')")
    with pytest.raises(NoGlBackend, match=r"egl: no driver here.*libosmesa6.*libegl1 with libgl1-mesa-dri"):
        pick_gl_backend()
    assert "MUJOCO_GL" not in os.environ


def test_choosing_does_not_import_mujoco() -> None:
    code = (
        "import sys; import foreact.sim.gl_backend as b\n"
        "try:\n  name = b.pick_gl_backend()\nexcept b.NoGlBackend:\n  name = 'none'\n"
        "assert 'mujoco' not in sys.modules; print(name)"
    )
    env = {key: value for key, value in os.environ.items() if key != "MUJOCO_GL"}
    env["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    child = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr
    assert child.stdout.strip() in ("egl", "osmesa", "none")

"""The desk against CALVIN's own pictures, and random looks that can be taken back."""

from __future__ import annotations

import colorsys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import mujoco
import numpy as np
import pytest

from foreact.sim.env import DeskEnv
from foreact.sim.gl_backend import NoGlBackend, pick_gl_backend
from foreact.sim.looks import UNCHANGED, BadLooks, Looks, apply_look, restore_look
from foreact.sim.reference_views import (
    PARTS,
    STATES,
    NoReference,
    compare_parts,
    draw_state,
    load_reference,
    measure_scene,
    reference_scene_obs,
    sample_like_reference,
)
from foreact.sim.rendering import CameraRenderer
from foreact.sim.starts import NEUTRAL_ROBOT_OBS

REFERENCE = Path(__file__).parent / "data" / "looks"
BLOCK_HUES_DEG = {"block_red": 0.0, "block_blue": 240.0, "block_pink": 300.0}


@pytest.fixture(scope="module", autouse=True)
def _needs_gl() -> None:
    try:
        pick_gl_backend()
    except NoGlBackend as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def desk() -> Iterator[tuple[DeskEnv, CameraRenderer]]:
    env = DeskEnv("D", render=False)
    with CameraRenderer(env.model) as renderer:
        yield env, renderer


def pictures(desk: tuple[DeskEnv, CameraRenderer], state: str = "off") -> dict[str, np.ndarray]:
    env, renderer = desk
    env.set_state(NEUTRAL_ROBOT_OBS, reference_scene_obs("D", state))
    return renderer.render_all(env.data)


@pytest.mark.parametrize("scene", list("ABCD"))
def test_every_part_has_the_colour_and_the_outline_of_the_original(scene: str) -> None:
    matches = measure_scene(REFERENCE, scene)
    seen = {match.part for match in matches}
    assert seen == set(PARTS)
    for match in matches:
        where = f"{match.part} of scene {scene}, {match.state}: {match}"
        assert match.colour_gap <= 20.0, where
        # a handful of pixels peeping out behind the door says nothing about an outline
        assert match.iou >= 0.9 or match.pixels < 20, where


def test_the_measure_notices_a_door_and_a_block_out_of_place_and_a_lamp_that_is_off() -> None:
    env = DeskEnv("D", render=False)
    sample_like_reference(env.model)
    static, _, parts = load_reference(REFERENCE, "D", "on")
    with CameraRenderer(env.model) as renderer:
        shut, _, shut_parts = draw_state(env, renderer, "off")
    found = {m.part: m for m in compare_parts("D", "on", (static, parts), (shut, shut_parts))}
    assert found["door"].iou < 0.5
    assert found["switch_lever"].iou < 0.5
    assert found["led"].colour_gap > 150.0
    moved = np.roll(shut_parts, 3, axis=1)
    off = load_reference(REFERENCE, "D", "off")
    found = {m.part: m for m in compare_parts("D", "off", (off[0], off[2]), (shut, moved))}
    assert found["block_blue"].iou < 0.9


def test_half_a_pixel_is_the_offset_of_the_original_renderer() -> None:
    """Sampling at the pixels' corners must fit better than at their middles, for every block and the desk."""
    static, _, parts = load_reference(REFERENCE, "D", "off")
    fits = []
    for corner in (False, True):
        env = DeskEnv("D", render=False)
        if corner:
            sample_like_reference(env.model)
        with CameraRenderer(env.model) as renderer:
            ours, _, our_parts = draw_state(env, renderer, "off")
        fits.append({m.part: m.iou for m in compare_parts("D", "off", (static, parts), (ours, our_parts))})
    for part in ("block_red", "block_blue", "block_pink", "table", "led"):
        assert fits[1][part] > fits[0][part]


def test_missing_and_misshapen_references_are_named(tmp_path: Path) -> None:
    with pytest.raises(NoReference, match=r"D_off\.png"):
        load_reference(tmp_path, "D", "off")
    (tmp_path / "D_off.png").write_bytes((REFERENCE / "D_off_hand.png").read_bytes())
    with pytest.raises(NoReference, match="must be 200 x 200 pixels, found 84 x 84"):
        load_reference(tmp_path, "D", "off")


def test_the_nominal_look_comes_back_bit_for_bit(desk) -> None:
    env, _ = desk
    model = env.model
    arrays = [n for n in dir(model) if isinstance(getattr(model, n), np.ndarray)]
    before = {state: pictures(desk, state) for state in STATES}
    kept = {name: getattr(model, name).copy() for name in arrays}
    for seed in range(3):
        apply_look(model, np.random.default_rng(seed), Looks(distractors=4))
        changed = pictures(desk)
        assert all((changed[name] != before["off"][name]).mean() > 0.5 for name in changed)
    restore_look(model)
    for state in STATES:
        after = pictures(desk, state)
        assert all(np.array_equal(before[state][name], after[name]) for name in after)
    pictures(desk, "on")
    for name in arrays:
        assert np.array_equal(kept[name], getattr(model, name)), name


def test_a_look_depends_on_the_generator_alone(desk) -> None:
    env, _ = desk
    apply_look(env.model, np.random.default_rng(5))
    first = pictures(desk)
    apply_look(env.model, np.random.default_rng(6))
    second = pictures(desk)
    apply_look(env.model, np.random.default_rng(5))
    again = pictures(desk)
    other = DeskEnv("D", render=False)
    with CameraRenderer(other.model) as renderer:
        apply_look(other.model, np.random.default_rng(5))
        elsewhere = pictures((other, renderer))
    restore_look(env.model)
    for name in first:
        assert np.array_equal(first[name], again[name])
        assert np.array_equal(first[name], elsewhere[name])
        assert not np.array_equal(first[name], second[name])


def test_blocks_keep_their_hue_and_lamps_their_state(desk) -> None:
    """Measured in the pictures, without the tint of the light: each block within 6 degrees of its own hue."""
    env, renderer = desk
    looks = Looks(light_tint=0.0, distractors=4)
    hues = set()
    for seed in range(12):
        apply_look(env.model, np.random.default_rng(seed), looks)
        picture = pictures(desk)["rgb_static"]
        ids = renderer.geom_ids(env.data, "rgb_static")
        for name, hue in BLOCK_HUES_DEG.items():
            red, green, blue = (picture[ids == env.model.geom(name).id].mean(axis=0) / 255.0).tolist()
            found, saturation, _ = colorsys.rgb_to_hsv(red, green, blue)
            gap = (360.0 * found - hue + 180.0) % 360.0 - 180.0
            assert abs(gap) < 7.0, (seed, name, gap)
            assert saturation > 0.8
            hues.add(round(found, 4))
        env.set_state(NEUTRAL_ROBOT_OBS, reference_scene_obs("D", "on"))
        apply_look(env.model, np.random.default_rng(seed), looks)
        assert env.model.geom("led").rgba.tolist() == [0.0, 1.0, 0.0, 1.0]
    restore_look(env.model)
    assert len(hues) > 20


def test_nothing_varies_when_nothing_may(desk) -> None:
    env, _ = desk
    before = pictures(desk)
    apply_look(env.model, np.random.default_rng(1), UNCHANGED)
    after = pictures(desk)
    assert all(np.array_equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    ("setting", "part"),
    [({"table": True}, "table"), ({"front": True}, "door"), ({"floor": True}, "floor_light")],
)
def test_one_thing_varies_alone(desk, setting: dict[str, bool], part: str) -> None:
    env, renderer = desk
    before, _, parts = draw_state(env, renderer, "off")
    apply_look(env.model, np.random.default_rng(3), replace(UNCHANGED, **setting))
    after, _, _ = draw_state(env, renderer, "off")
    restore_look(env.model)
    changed = (before != after).any(axis=-1)
    assert changed[parts == 1 + PARTS.index(part)].mean() > 0.9
    assert not changed[parts == 1 + PARTS.index("block_blue")].any()
    assert not changed[parts == 1 + PARTS.index("robot")].any()


def test_physics_does_not_see_the_look(desk) -> None:
    env, _ = desk
    ends = []
    for seed in (None, 11):
        if seed is None:
            restore_look(env.model)
        else:
            apply_look(env.model, np.random.default_rng(seed), Looks(distractors=4))
        env.reset(options={"robot_obs": NEUTRAL_ROBOT_OBS, "scene_obs": reference_scene_obs("D", "off")})
        for _ in range(20):
            env.step(np.array([0.3, 0.5, -1.0, 0.0, 0.0, 0.2, -1.0]))
        ends.append(env.data.qpos.copy())
    restore_look(env.model)
    assert np.array_equal(ends[0], ends[1])


def test_distractors_show_only_when_asked_and_touch_nothing(desk) -> None:
    env, _ = desk
    model = env.model
    hidden = [model.geom(f"distractor_{i}").id for i in range(4)]
    assert not model.geom_contype[hidden].any()
    assert not model.geom_conaffinity[hidden].any()
    assert not model.geom_rgba[hidden, 3].any()
    scene = mujoco.MjvScene(model, maxgeom=500)
    counts = []
    for seed in (None, 2):
        if seed is not None:
            while not model.geom_rgba[hidden, 3].any():
                apply_look(model, np.random.default_rng(seed), Looks(distractors=4))
                seed += 1
        mujoco.mj_forward(model, env.data)
        mujoco.mjv_updateScene(model, env.data, mujoco.MjvOption(), None, mujoco.MjvCamera(), 7, scene)
        counts.append(scene.ngeom - int((model.geom_rgba[hidden, 3] > 0).sum()))
    restore_look(model)
    assert counts[0] == counts[1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"styles": ("wod",)}, "did you mean 'wood'"),
        ({"styles": ()}, "styles is empty"),
        ({"distractors": 9}, "distractors must be 0 to 4, found 9"),
        ({"block_hue_deg": 60.0}, "block_hue_deg must be 0 to 15"),
        ({"light_gain": (1.2, 0.8)}, "light_gain must be"),
        ({"static_turn_deg": -1.0}, "static_turn_deg must be 0 or more"),
    ],
)
def test_settings_that_make_no_sense_are_explained(settings: dict, message: str) -> None:
    with pytest.raises(BadLooks, match=message):
        Looks(**settings)


def test_a_hand_alone_has_no_arm_and_moves_nothing_else(desk) -> None:
    env, renderer = desk
    robot = pictures(desk)["rgb_static"]
    seen = set(np.unique(renderer.geom_ids(env.data, "rgb_static")))
    links = {g for g in range(env.model.ngeom) if _body(env.model, g).startswith("panda_link")}
    hand = {g for g in range(env.model.ngeom) if _body(env.model, g).startswith(("panda_hand", "panda_left"))}
    assert seen & links and seen & hand
    apply_look(env.model, np.random.default_rng(2), replace(UNCHANGED, hand_alone=True))
    alone = pictures(desk)["rgb_static"]
    ids = renderer.geom_ids(env.data, "rgb_static")
    assert not set(np.unique(ids)) & links and set(np.unique(ids)) & hand
    assert not np.array_equal(robot, alone)
    others = [apply_look(env.model, np.random.default_rng(s), replace(UNCHANGED, hand_alone=True)) or pictures(desk)
              for s in (3, 4)]  # fmt: skip
    colours = [p["rgb_static"][np.isin(ids, list(hand))].mean(axis=0) for p in others]
    assert np.abs(colours[0] - colours[1]).max() > 10
    restore_look(env.model)
    assert np.array_equal(pictures(desk)["rgb_static"], robot)


def _body(model: mujoco.MjModel, geom: int) -> str:
    return model.body(int(model.geom_bodyid[geom])).name

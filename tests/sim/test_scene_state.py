"""Reading, writing and drawing desk states, and the logic of the lamps."""

from __future__ import annotations

import csv
from itertools import combinations
from pathlib import Path

import mujoco
import numpy as np
import pytest

from foreact.sim.desk import add_desk
from foreact.sim.lights import LightState, UnknownRules
from foreact.sim.panda import physics_options
from foreact.sim.random_start import random_reset
from foreact.sim.scene_state import (
    BULB,
    LED,
    BadSceneObs,
    NoDesk,
    desk_index,
    read_scene_obs,
    step_lights,
    touching,
    write_scene_obs,
)
from foreact.sim.scenes import BLOCKS, SCENES
from foreact.vla.errors import ConfigError

STATES = Path(__file__).parent / "data" / "calvin_eval_initial_states.tsv"


def build(name: str) -> tuple[mujoco.MjModel, mujoco.MjData]:
    spec = mujoco.MjSpec()
    physics_options(spec)
    add_desk(spec, SCENES[name])
    model = spec.compile()
    return model, mujoco.MjData(model)


def official_states() -> np.ndarray:
    with STATES.open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    return np.array([[float(row[f"scene_obs_{i}"]) for i in range(24)] for row in rows])


def test_the_192_official_states_survive_a_round_trip() -> None:
    model, data = build("D")
    states = official_states()
    assert states.shape == (192, 24)
    for state in states:
        lights = write_scene_obs(model, data, state)
        assert read_scene_obs(model, data, lights) == pytest.approx(state, abs=1e-9)


def test_the_official_states_are_at_rest_here_too() -> None:
    """Nothing overlaps: after half a second every block is where the table put it."""
    model, data = build("D")
    for state in official_states()[::12]:
        lights = write_scene_obs(model, data, state)
        for _ in range(120):
            mujoco.mj_step(model, data)
            step_lights(model, data, lights)
        assert read_scene_obs(model, data, lights) == pytest.approx(state, abs=2e-3)


@pytest.mark.parametrize(
    ("scene", "order"),
    [("A", "pink blue red"), ("B", "red blue pink"), ("C", "blue red pink"), ("D", "red blue pink")],
)
def test_block_slots_follow_the_scene(scene: str, order: str) -> None:
    model, data = build(scene)
    state = np.zeros(24)
    for slot in range(3):
        state[6 + 6 * slot : 9 + 6 * slot] = (0.1 * slot, -0.1, 0.5)
    write_scene_obs(model, data, state)
    for slot, colour in enumerate(order.split()):
        assert data.joint(f"block_{colour}").qpos[0] == pytest.approx(0.1 * slot)


def test_writing_stops_everything_and_colours_the_lamps() -> None:
    model, data = build("D")
    data.qvel[:] = 1.0
    state = official_states()[0]
    state[BULB], state[LED] = 1.0, 1.0
    lights = write_scene_obs(model, data, state)
    assert lights.bulb and lights.led
    assert not data.qvel.any()
    assert model.geom("led").rgba.tolist() == [0, 1, 0, 1]
    assert model.geom("bulb").rgba.tolist() == [1, 1, 0, 1]
    state[BULB], state[LED] = 0.0, 0.0
    write_scene_obs(model, data, state)
    assert model.geom("led").rgba.tolist() == [1, 1, 1, 1]
    assert model.geom("bulb").rgba.tolist() == [1, 1, 1, 1]


def test_bad_vectors_are_refused_by_name() -> None:
    model, data = build("D")
    with pytest.raises(BadSceneObs, match=r"shape \(24,\), found \(15,\)"):
        write_scene_obs(model, data, np.zeros(15))
    state = np.zeros(24)
    state[7] = np.nan
    with pytest.raises(BadSceneObs, match=r"dims \[7\]"):
        write_scene_obs(model, data, state)


def test_a_model_without_a_desk_says_so() -> None:
    model = mujoco.MjModel.from_xml_string("<mujoco/>")
    with pytest.raises(NoDesk, match="add_desk"):
        desk_index(model)


def test_each_press_of_the_button_toggles_the_led_once() -> None:
    """Through the physics: push, hold, let go, twice."""
    model, data = build("D")
    lights = LightState()
    dof = model.joint("button").dofadr[0]
    seen = []
    for force in (0.0, 3.5, 0.0, 3.5, 0.0):
        data.qfrc_applied[dof] = force
        for _ in range(30):
            for _ in range(8):
                mujoco.mj_step(model, data)
            step_lights(model, data, lights)
            if not seen or seen[-1] != lights.led:
                seen.append(lights.led)
    assert seen == [False, True, False]


@pytest.mark.parametrize(("rules", "after"), [("2022-12", [False, True]), ("2022-04", [True, False])])
def test_an_led_that_starts_on(rules: str, after: list[bool]) -> None:
    lights = LightState(led=True, rules=rules)
    found = []
    for _ in range(2):
        lights.update(0.015, 0.0)
        found.append(lights.led)
        lights.update(0.0, 0.0)
    assert found == after


def test_a_button_held_at_the_start_is_no_press() -> None:
    model, data = build("D")
    state = official_states()[0]
    state[2] = 0.02
    lights = write_scene_obs(model, data, state)
    lights.update(0.02, 0.0)
    assert lights.led is False


def test_the_bulb_follows_the_lever() -> None:
    lights = LightState()
    for lever_m, on in ((0.0, False), (0.0439, False), (0.0441, True), (0.088, True), (0.01, False)):
        lights.update(0.0, lever_m)
        assert lights.bulb is on


def test_unknown_rules_suggest_the_nearest() -> None:
    with pytest.raises(UnknownRules, match="did you mean '2022-12'"):
        LightState(rules="2022-11")


@pytest.mark.parametrize("scene", sorted(SCENES))
def test_random_starts_lie_in_the_published_areas(scene: str) -> None:
    model, data = build(scene)
    spec = SCENES[scene]
    rng = np.random.default_rng(1)
    places = {"desk": 0, "left": 0, "right": 0}
    for _ in range(40):
        start = random_reset(rng, model, data)
        assert not start.scene_obs[:6].any()
        for one, other in combinations(BLOCKS, 2):
            assert (min(one, other), max(one, other)) not in touching(model, data)
        for x, y, *_ in start.scene_obs[6:].reshape(3, 6):
            if -0.15 <= y <= -0.03:
                place, (low, high) = "desk", spec.desk_area_x
            else:
                assert 0.05 <= y <= 0.12
                left = x <= spec.niche_left_x[1]
                place, (low, high) = ("left", spec.niche_left_x) if left else ("right", spec.niche_right_x)
            assert low <= x <= high
            places[place] += 1
    assert min(places.values()) > 10


def test_random_starts_stay_put() -> None:
    model, data = build("B")
    rng = np.random.default_rng(5)
    for _ in range(8):
        start = random_reset(rng, model, data, fixtures="random")
        for _ in range(120):
            mujoco.mj_step(model, data)
        moved = np.abs(read_scene_obs(model, data, start.lights) - start.scene_obs)
        angles = np.concatenate([np.arange(9, 12), np.arange(15, 18), np.arange(21, 24)])
        assert np.delete(moved, angles).max() < 3e-3
        assert np.minimum(moved[angles], 2 * np.pi - moved[angles]).max() < 0.03


def test_random_fixtures_use_both_ends() -> None:
    model, data = build("C")
    rng = np.random.default_rng(2)
    starts = np.array([random_reset(rng, model, data, fixtures="random").scene_obs for _ in range(60)])
    for dim, high in ((0, 0.24), (1, 0.22), (3, 0.088), (4, 1.0), (5, 1.0)):
        assert set(np.round(starts[:, dim], 6)) == {0.0, high}
        assert 0.2 < (starts[:, dim] > 0).mean() < 0.8
    assert np.array_equal(starts[:, 3] > 0, starts[:, 4] > 0)  # the bulb agrees with its lever
    assert not starts[:, 2].any()


def test_random_starts_repeat_with_their_seed() -> None:
    model, data = build("A")
    first = [random_reset(np.random.default_rng(9), model, data, fixtures="random") for _ in range(2)]
    assert np.array_equal(first[0].scene_obs, first[1].scene_obs)
    assert first[0].rejected == first[1].rejected
    with pytest.raises(ConfigError, match="did you mean 'random'"):
        random_reset(np.random.default_rng(0), model, data, fixtures="rnadom")

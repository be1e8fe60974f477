"""The oracles of the eight fixture tasks: thresholds, direction, preconditions, errors."""

from __future__ import annotations

from dataclasses import replace

import mujoco
import numpy as np
import pytest

from foreact.sim.desk import add_desk
from foreact.sim.lights import LightState
from foreact.sim.panda import physics_options
from foreact.sim.scene_info import SceneInfo
from foreact.sim.scene_state import BadSceneObs, step_lights, write_scene_obs
from foreact.sim.scenes import SCENES
from foreact.sim.tasks import (
    FIXTURE_TASKS,
    TASKS,
    UnknownTask,
    feasible,
    get_task,
    reached_tasks,
    set_precondition,
)

REST = SceneInfo(slide_m=0.1, drawer_m=0.1, button_m=0.0, switch_m=0.0, bulb=False, led=False)


def state(
    slide: float = 0.0, drawer: float = 0.0, switch: float = 0.0, bulb: float = 0.0, led: float = 0.0
) -> np.ndarray:
    obs = np.zeros(24)
    obs[:6] = slide, drawer, 0.0, switch, bulb, led
    return obs


def test_the_eight_fixture_tasks() -> None:
    assert set(FIXTURE_TASKS) == {
        "move_slider_left", "move_slider_right", "open_drawer", "close_drawer",
        "turn_on_lightbulb", "turn_off_lightbulb", "turn_on_led", "turn_off_led",
    }  # fmt: skip
    assert all(task.name == name for name, task in TASKS.items())


@pytest.mark.parametrize(
    ("field", "change", "task"),
    [
        ("slide_m", 0.15, "move_slider_left"),
        ("slide_m", -0.15, "move_slider_right"),
        ("drawer_m", 0.12, "open_drawer"),
        ("drawer_m", -0.12, "close_drawer"),
    ],
)
def test_a_joint_task_fires_just_past_its_threshold_and_alone(field: str, change: float, task: str) -> None:
    start = replace(REST, slide_m=0.2, drawer_m=0.15)
    value = getattr(start, field)
    short = replace(start, **{field: value + 0.999 * change})
    past = replace(start, **{field: value + 1.001 * change})
    assert reached_tasks(start, short, FIXTURE_TASKS) == []
    assert reached_tasks(start, past, FIXTURE_TASKS) == [task]


@pytest.mark.parametrize(("lamp", "name"), [("bulb", "lightbulb"), ("led", "led")])
def test_a_lamp_task_compares_start_and_now(lamp: str, name: str) -> None:
    off, on = replace(REST, **{lamp: False}), replace(REST, **{lamp: True})
    assert reached_tasks(off, on, FIXTURE_TASKS) == [f"turn_on_{name}"]
    assert reached_tasks(on, off, FIXTURE_TASKS) == [f"turn_off_{name}"]
    assert reached_tasks(on, on, FIXTURE_TASKS) == []
    assert reached_tasks(off, off, FIXTURE_TASKS) == []


def test_feasible_needs_travel_beyond_the_threshold() -> None:
    scene = SCENES["C"]  # the shortest door: 0.24
    assert feasible("move_slider_left", state(slide=0.0), scene)
    assert not feasible("move_slider_left", state(slide=0.08), scene)
    assert feasible("move_slider_left", state(slide=0.08), SCENES["D"])
    assert feasible("move_slider_right", state(slide=0.24), scene)
    assert not feasible("move_slider_right", state(slide=0.16), scene)
    assert feasible("open_drawer", state(drawer=0.07), scene)
    assert not feasible("open_drawer", state(drawer=0.09), scene)
    assert feasible("turn_on_led", state(led=0), scene)
    assert not feasible("turn_off_led", state(led=0), scene)


@pytest.mark.parametrize("scene", sorted(SCENES))
@pytest.mark.parametrize("task", FIXTURE_TASKS)
def test_a_precondition_makes_its_task_feasible_and_changes_little(scene: str, task: str) -> None:
    spec = SCENES[scene]
    for obs in (state(), state(spec.door_travel, 0.22, 0.088, 1.0, 1.0), state(0.12, 0.11, 0.044, 0.0, 1.0)):
        before = obs.copy()
        ready = set_precondition(task, obs, spec)
        assert np.array_equal(obs, before)  # the caller's vector is not touched
        assert feasible(task, ready, spec)
        assert np.array_equal(set_precondition(task, ready, spec), ready)
        if feasible(task, obs, spec):
            assert np.array_equal(ready, obs)
        changed = set(np.flatnonzero(ready != obs))
        allowed = {"slider": {0}, "drawer": {1}, "lights": {3, 4} if "bulb" in task else {5}}
        assert changed <= allowed[get_task(task).family]


@pytest.mark.parametrize("task", FIXTURE_TASKS)
def test_each_task_fires_in_the_simulation_when_its_fixture_is_pushed(task: str) -> None:
    spec = mujoco.MjSpec()
    physics_options(spec)
    add_desk(spec, SCENES["D"])
    model = spec.compile()
    data = mujoco.MjData(model)
    opposite = state(*(0.28, 0.22, 0.088, 1.0, 1.0) if "right" in task or "close" in task or "off" in task else ())
    for slot in range(3):
        opposite[6 + 6 * slot : 9 + 6 * slot] = (0.05 + 0.1 * slot, -0.1, 0.46)
    lights = write_scene_obs(model, data, set_precondition(task, opposite, SCENES["D"]))
    mujoco.mj_forward(model, data)
    joint, force = {
        "move_slider_left": ("slide", 8), "move_slider_right": ("slide", -8),
        "open_drawer": ("drawer", 8), "close_drawer": ("drawer", -8),
        "turn_on_lightbulb": ("switch", 8), "turn_off_lightbulb": ("switch", -8),
        "turn_on_led": ("button", 4), "turn_off_led": ("button", 4),
    }[task]  # fmt: skip
    start = SceneInfo.capture(model, data, lights)
    data.qfrc_applied[model.joint(joint).dofadr[0]] = force
    fired = []
    for _ in range(60):
        mujoco.mj_step(model, data, nstep=8)
        step_lights(model, data, lights)
        fired = reached_tasks(start, SceneInfo.capture(model, data, lights))
        if fired:
            break
    assert fired == [task]


def test_a_snapshot_of_a_vector_equals_the_one_of_the_simulation() -> None:
    spec = mujoco.MjSpec()
    add_desk(spec, SCENES["A"])
    model = spec.compile()
    data = mujoco.MjData(model)
    obs = state(0.1, 0.2, 0.088, 1.0, 0.0)
    for slot in range(3):
        obs[6 + 6 * slot : 12 + 6 * slot] = (0.1 * slot, -0.1, 0.46, 0.1, -0.2, 0.3 + slot)
    lights = write_scene_obs(model, data, obs)
    mujoco.mj_forward(model, data)
    one, other = SceneInfo.capture(model, data, lights), SceneInfo.from_scene_obs(obs, SCENES["A"])
    assert (one.slide_m, one.drawer_m, one.bulb, one.led) == pytest.approx(
        (other.slide_m, other.drawer_m, other.bulb, other.led)
    )
    for name, block in one.blocks.items():
        assert block.pos_world == pytest.approx(other.blocks[name].pos_world)
        assert block.R_world_block == pytest.approx(other.blocks[name].R_world_block)


def test_contacts_of_one_body() -> None:
    info = replace(REST, contacts=frozenset({("block_red", "desk"), ("block_red", "robot"), ("desk", "robot")}))
    assert info.contacts_of("block_red") == {"desk", "robot"}
    assert info.contacts_of("block_blue") == set()


def test_errors_are_readable() -> None:
    with pytest.raises(UnknownTask, match="no task 'open_draw'.*did you mean 'open_drawer'"):
        get_task("open_draw")
    with pytest.raises(BadSceneObs, match="shape"):
        feasible("open_drawer", np.zeros(3), SCENES["D"])
    assert LightState().led is False

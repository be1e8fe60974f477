"""Sources that stop, lag, freeze or stamp wrongly: the rows of the event table with their bounds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from gate_steps import PANDA, TICK, comes_to_rest, until, world

from foreact.robot_bridge.causes import Cause
from foreact.robot_bridge.gate_world import World
from foreact.robot_bridge.types import State

# ---- sources that stop -----------------------------------------------------------------------------------------------

fault = pytest.mark.fault
SILENCES = [
    # source, cause, HOLD within, FAULT within [s]
    pytest.param("rgb_static", Cause.CAMERA_STALE, 0.1, 0.5, marks=fault("B10", n=20, event="camera stops")),
    pytest.param("joints", Cause.JOINTS_STALE, 0.02, 0.1, marks=fault("B6", n=20, event="joint states stop")),
    pytest.param("gripper", Cause.GRIPPER_SILENT, 0.1, 0.5, marks=fault("B6", n=20, event="gripper is silent")),
    pytest.param("policy", Cause.POLICY_LOST, 0.1, 0.5, marks=fault("B7", n=20, event="policy is silent")),
]


@pytest.mark.parametrize(("what", "cause", "hold_s", "fault_s"), SILENCES)
def test_a_source_that_stops(what: str, cause: Cause, hold_s: float, fault_s: float) -> None:
    for seed in range(20):
        w = world(seed=seed)
        began = w.now_s
        w.silent.add(what)
        until(w, State.HOLD, hold_s)
        assert w.gate.cause == cause
        assert comes_to_rest(w, 0.25) <= 0.05
        if w.gate.state is not State.FAULT:
            until(w, State.FAULT, fault_s - (w.now_s - began))
        assert w.gate.cause == cause
        w.silent.clear()
        assert not w.run(3.0) and w.gate.state is State.FAULT  # for good


@pytest.mark.fault("B10", n=10, event="camera slows down or jitters")
@pytest.mark.parametrize("every", [4, 5, 6, 8, 10])
@pytest.mark.parametrize("camera", ["rgb_static", "rgb_gripper"])
def test_a_slow_camera(camera: str, every: int) -> None:
    w = world()
    late = []
    for i in range(60):
        w.silent.discard(camera) if i % every == 0 else w.silent.add(camera)
        for _ in range(3):
            w.tick()
            late.append(w.gate.watches.cameras[camera].age_s(w.now_s))
            assert late[-1] <= 0.1 or w.gate.look(w.now_s) is None  # no inference on an old picture
            if w.gate.state is State.HOLD:
                assert w.gate.cause in (Cause.CAMERA_STALE, Cause.CAMERAS_OUT_OF_SYNC)
                return
            assert w.gate.state is State.RUNNING and late[-1] <= 0.1 + TICK
    pytest.fail("a picture every 130 ms or more must stop the arm")


@pytest.mark.fault("B10", n=1, event="camera whose pictures come late, with their true stamps")
def test_pictures_that_are_old_when_they_come() -> None:
    w = world()
    began = w.now_s
    original = w.picture
    w.picture = lambda camera, sequence: replace(original(camera, sequence), stamp_s=w.epoch_s + w.now_s - 0.15)
    until(w, State.HOLD, 0.1)
    assert w.gate.cause in (Cause.CAMERA_STALE, Cause.STAMPS) and w.now_s - began <= 0.1 + TICK
    assert w.gate.look(w.now_s) is None


@pytest.mark.fault("B11", n=10, event="camera freezes, stamps go on")
@pytest.mark.parametrize("camera", ["rgb_static", "rgb_gripper"])
@pytest.mark.parametrize("seed", range(5))
def test_a_frozen_camera(camera: str, seed: int) -> None:
    w = World(PANDA, seed=seed)
    w.plan = lambda step, anchor: anchor + 0.02 * np.arange(1, w.rows + 1)[:, None] * np.eye(7)[0]
    w.running(1.0 + 0.01 * seed)
    w.frozen.add(camera)
    until(w, State.HOLD, 5 / 30 + 0.034)  # the fifth equal picture
    assert w.gate.cause is Cause.CAMERA_FROZEN
    comes_to_rest(w)


def test_equal_pictures_of_a_scene_at_rest_are_no_fault() -> None:
    w = World(PANDA).armed()
    w.frozen.update({"rgb_static", "rgb_gripper"})
    w.run(2.0)
    assert w.gate.state is State.READY


@pytest.mark.fault("B10", n=3, event="cameras out of sync")
def test_cameras_out_of_sync() -> None:
    w = world()
    original = w.picture
    w.picture = lambda camera, sequence: replace(
        original(camera, sequence), stamp_s=w.epoch_s + w.now_s - (0.04 if camera == "rgb_gripper" else 0.0)
    )
    w.run(0.05)
    assert w.gate.look(w.now_s) is None and w.gate.look(w.now_s) is None
    w.tick()
    assert w.gate.state is State.RUNNING
    assert w.gate.look(w.now_s) is None
    w.tick()
    assert w.gate.state is State.HOLD and w.gate.cause is Cause.CAMERAS_OUT_OF_SYNC
    w.picture = original
    w.run(0.1)
    assert set(w.gate.look(w.now_s) or {}) == {"rgb_static", "rgb_gripper"}
    until(w, State.RUNNING, 1.0)


# ---- stamps and clocks -----------------------------------------------------------------------------------------------


@pytest.mark.fault("B17", n=8, event="the clock of the stamps is set")
@pytest.mark.parametrize("jump_s", [1.0, -1.0, 3600.0, -3600.0, 0.06, -0.06, 86400.0 * 365, -1e9])
def test_clock_jump(jump_s: float) -> None:
    w = world()
    w.epoch_s += jump_s
    until(w, State.HOLD, 0.1)
    assert w.gate.cause is Cause.CLOCK_JUMP
    assert comes_to_rest(w) <= 0.05
    until(w, State.RUNNING, 2.0)  # a clock that is steady again is no fault
    assert w.gate.watches.clock.jumps == 1


@pytest.mark.fault("B17", n=2, event="the clock of the stamps stands still or races")
@pytest.mark.parametrize("rate", [0.0, 2.0])
def test_a_clock_that_does_not_run_like_ours(rate: float) -> None:
    w = world()
    began, tick = w.now_s, w.tick
    original = w.epoch_s

    def warped() -> None:
        w.epoch_s = original + (rate - 1.0) * (w.now_s + TICK - began)
        tick()

    for _ in range(10):
        warped()
    assert w.gate.state is State.HOLD and w.gate.cause is Cause.CLOCK_JUMP
    for _ in range(250):
        warped()
    assert w.gate.state is State.FAULT


@pytest.mark.fault("B17", n=6, event="stamps in the future, or backwards, of one source")
@pytest.mark.parametrize("offset_s", [0.06, 100.0, -0.2])
@pytest.mark.parametrize("source", ["camera", "joints"])
def test_stamps_that_cannot_be(offset_s: float, source: str) -> None:
    w = world()
    if source == "camera":
        picture = w.picture
        w.picture = lambda camera, sequence: (
            lambda f: replace(f, stamp_s=f.stamp_s + offset_s)
        )(picture(camera, sequence))  # fmt: skip
    else:
        joints = w.joints
        w.joints = lambda **changes: joints(**{"stamp_s": w.epoch_s + w.now_s + offset_s, **changes})
    until(w, State.HOLD, 0.1)
    assert w.gate.cause in (Cause.STAMPS, Cause.CAMERA_STALE, Cause.JOINTS_STALE)
    until(w, State.FAULT, 2.3)


@pytest.mark.fault("B17", n=3, event="the steady clock itself runs backwards")
@pytest.mark.parametrize("now_s", [0.0, -1e9, float("nan")])
def test_a_steady_clock_that_is_none(now_s: float) -> None:
    w = world()
    assert w.gate.tick(now_s) is None
    assert w.gate.state is State.FAULT and w.gate.cause is Cause.CLOCK_JUMP


@pytest.mark.fault("B28", n=1, event="a tick of the gate is late")
@pytest.mark.parametrize("late_s", [0.06, 0.5, 3600.0])
def test_a_late_tick(late_s: float) -> None:
    w = world()
    w.now_s += late_s
    w.tick()
    assert w.gate.late_ticks == 1
    assert w.gate.state in (State.HOLD, State.FAULT)
    assert Cause.TICK_LATE in w.causes(State.HOLD) or w.gate.state is State.FAULT
    w = world()
    w.now_s += 0.04
    w.tick()
    assert w.gate.late_ticks == 0 and w.gate.cause is not Cause.TICK_LATE


@pytest.mark.parametrize("state", [State.DISARMED, State.HOLD])
def test_a_late_tick_is_told_in_every_state(state: State) -> None:
    """Also where it stops nothing: who looks for the cause of a late tick needs to know when it was."""
    w = world()
    if state is State.DISARMED:
        w.gate.disarm(w.now_s)
    else:
        w.gate.stop(w.now_s, "asked to")
    assert w.gate.state is state
    w.now_s += 0.06
    w.tick()
    told = [event for event in w.gate.log.last(5) if event.cause == Cause.TICK_LATE.value]
    assert [event.kind for event in told] == ["warning"] and "60 ms late" in told[0].message
    assert w.gate.late_ticks == 1 and w.gate.state is state


# ---- pictures --------------------------------------------------------------------------------------------------------

GOOD = np.zeros((12, 16, 3), np.uint8)
BAD_IMAGES: list[Any] = [
    {"image": np.zeros((16, 12, 3), np.uint8)}, {"image": np.zeros((24, 32, 3), np.uint8)}, {"image": GOOD[:, :, 0]},
    {"image": GOOD[:, :, :2]}, {"image": np.zeros((12, 16, 4), np.uint8)}, {"image": GOOD.astype(np.uint16)},
    {"image": GOOD.astype(np.float32)}, {"image": GOOD.tobytes()}, {"image": None}, {"image": GOOD.astype(object)},
    {"encoding": "bgr8"}, {"encoding": "jpeg"}, {"stamp_s": float("nan")}, {"image": GOOD[None]},
]  # fmt: skip


@pytest.mark.fault("B20", n=len(BAD_IMAGES), event="picture that the contract does not allow")
@pytest.mark.parametrize("change", BAD_IMAGES, ids=range(len(BAD_IMAGES)))
def test_image_contract(change: dict[str, Any]) -> None:
    w = world()
    w.gate.on_frame(replace(w.picture("rgb_static", 500), **change))
    w.gate.on_frame(w.picture("rgb_static", 501))  # a good one after it heals nothing
    w.tick()
    assert w.gate.state is State.FAULT and w.gate.cause is Cause.IMAGE_CONTRACT
    assert "rgb_static" in w.events("state")[-1].message
    w.gate.disarm(w.now_s)
    w.run(0.5)
    assert w.gate.arm(w.now_s) == []  # it was put right


def test_a_picture_the_transport_could_not_read() -> None:
    w = world()
    w.gate.on_bad_message("camera rgb_gripper", "step 250 is less than a row of 252 bytes", w.now_s)
    w.tick()
    assert w.gate.state is State.FAULT and w.gate.cause is Cause.IMAGE_CONTRACT
    w = world()
    w.gate.on_bad_message("camera of somebody else", "not our business", w.now_s)
    w.gate.on_frame(replace(w.picture("rgb_static", 1), camera="other"))
    w.tick()
    assert w.gate.state is State.RUNNING


BAD_JOINTS: list[Any] = [
    {"position": np.full(7, np.nan)}, {"position": np.zeros(6)}, {"position": np.zeros(7, np.float32)},
    {"velocity": np.full(7, np.inf)}, {"velocity": np.zeros(3)}, {"stamp_s": float("inf")}, {"position": None},
]  # fmt: skip


@pytest.mark.fault("B6", n=len(BAD_JOINTS), event="joint states that cannot be used")
@pytest.mark.parametrize("change", BAD_JOINTS, ids=range(len(BAD_JOINTS)))
def test_bad_joint_states(change: dict[str, Any]) -> None:
    w = world()
    joints = w.joints
    w.joints = lambda **more: joints(**{**change, **more})
    until(w, State.HOLD, 0.02)
    assert w.gate.cause is Cause.JOINTS_BAD
    until(w, State.FAULT, 0.1)


def test_joint_states_the_transport_could_not_read() -> None:
    w = world()
    w.silent.add("joints")
    w.gate.on_bad_message("joints", "panda_joint3 is missing", w.now_s)
    until(w, State.HOLD, 0.02)
    assert w.gate.cause is Cause.JOINTS_BAD and "panda_joint3" in w.events("state")[-1].message

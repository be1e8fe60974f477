"""A robot recorded twice at once: the store's episode, and the one that the bag importer makes of the bag."""

from __future__ import annotations

import gc
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from foreact.datasets.episode import EpisodeData
from foreact.datasets.formats.rosbag import RosbagSource
from foreact.datasets.store import Store
from foreact.datasets.verify import verify_store
from foreact.robot_bridge.record_session import RobotRecorder
from foreact.robot_bridge.record_worker import RecordSettings
from foreact.robot_bridge.types import CameraFrame, JointSample
from foreact.vla.contract import Camera, Contract, Field
from foreact.vla.errors import ForeActError

CONTRACT = Contract(
    embodiment="arm",
    rate_hz=30,
    cameras=(Camera(name="front", height=12, width=16), Camera(name="wrist", height=8, width=8)),
    state=(Field(name="joint_position", size=2, unit="rad"), Field(name="gripper_command", size=1, unit="1")),
    action=(
        Field(name="delta_position", size=3, unit="0.02 m", frame="base", low=-1, high=1, relative=True),
        Field(name="gripper", size=1, unit="1", low=-1, high=1),
    ),
    gripper="+1 open, -1 close",
)
SETTINGS = RecordSettings(codec="zstd", joints=("shoulder", "elbow"), shortest=5)


def picture(number: int, side: tuple[int, int] = (24, 32)) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (*side, 3), np.uint8)


def frame(camera: str, number: int, at_s: float, sequence: int | None = None) -> CameraFrame:
    side = (24, 32) if camera == "front" else (8, 8)
    return CameraFrame(
        camera=camera, image=picture(number, side), stamp_s=1000 + at_s, received_s=at_s,
        sequence=number if sequence is None else sequence,
    )  # fmt: skip


def joints(number: int, at_s: float) -> JointSample:
    q = np.array([number, -number]) / 7
    return JointSample(position=q, velocity=q * 0, gripper_width_m=0.04, stamp_s=1000 + at_s, received_s=at_s)


def to_state(sample: JointSample, gripper: float) -> np.ndarray:
    return np.array([*sample.position, gripper], np.float32)


def recorder(path: Path, **changes: Any) -> RobotRecorder:
    options: dict[str, Any] = {"state_of": to_state}
    given = {k: changes.pop(k) for k in list(changes) if k in RecordSettings.__dataclass_fields__}
    return RobotRecorder(
        path / "store", CONTRACT, bags=path / "bags", settings=replace(SETTINGS, **given),
        **(options | changes),
    )  # fmt: skip


def play(robot: RobotRecorder, start_s: float, inputs: Sequence[tuple[float, str, int]]) -> None:
    """Inputs as (time [s], what, number), all at once: their times alone decide."""
    for at, what, number in inputs:
        at_s = start_s + at
        if what in ("front", "wrist"):
            robot.frame(frame(what, number, at_s))
        elif what == "joints":
            robot.joints(joints(number, at_s))
        elif what == "gripper":
            robot.gripper(1.0 if number % 2 else -1.0)
        elif what == "words":
            robot.instruction(f"do  {number} things", at_s)
        else:
            robot.action(np.array([number / 100, 0, -number / 100, 1]), at_s, intervention=number % 3 == 0)


def regular(seconds: float, front_hz: float = 27.3, joints_hz: float = 113.0) -> list[tuple[float, str, int]]:
    found = []
    for what, rate, phase in (("front", front_hz, 0.011), ("wrist", 31.7, 0.002), ("joints", joints_hz, 0.0)):
        found += [(phase + i / rate, what, i) for i in range(int((seconds - phase) * rate))]
    found += [(0.05 + i / 30, "action", i) for i in range(int((seconds - 0.05) * 30))]
    found += [(0.7, "words", 4), (0.9, "gripper", 2)]
    return sorted(found)


def imported(path: Path, name: str) -> list[EpisodeData]:
    """What the importer makes of the bag, with the contract and the map that lie in it."""
    bag = path / "bags" / name
    contract = Contract.load(bag / "contract.yaml")
    source = RosbagSource(bag, contract, topics=str(bag / "topics.yaml"), shortest=str(SETTINGS.shortest))
    return [source.read(each) for each in source.names()]


def same(live: EpisodeData, bag: EpisodeData) -> None:
    assert len(live) == len(bag)
    for camera in CONTRACT.cameras:
        assert np.array_equal(live.images[camera.name], bag.images[camera.name])
    assert live.state is not None and live.action is not None
    assert np.array_equal(live.state, np.asarray(bag.state)) and np.array_equal(live.action, np.asarray(bag.action))
    assert (live.instruction, live.segments) == (bag.instruction, bag.segments)


def test_the_bag_imported_later_is_the_episode_recorded_live(tmp_path: Path) -> None:
    with recorder(tmp_path) as robot:
        robot.instruction("open the drawer", 0.0)  # said before the recording begins
        name = robot.begin(meta={"operator": "me"})
        play(robot, time.monotonic() + 0.01, regular(2.0))
        done = robot.end(success=True)
    assert (done.episodes, done.notices, done.late) == ([name], [], 0) and not done.dropped
    live = Store.open(tmp_path / "store").read(name)
    [bag] = imported(tmp_path, name)
    same(live, bag)
    assert done.frames == len(live) and 56 <= len(live) <= 59
    assert live.instruction == "open the drawer" and [s.instruction for s in live.segments] == [
        "open the drawer",
        "do 4 things",
    ]
    assert live.meta["success"] and live.meta["operator"] == "me" and live.meta["ended"] == "done"
    assert not verify_store(tmp_path / "store").problems


def test_each_action_is_recorded_once_whatever_the_jitter(tmp_path: Path) -> None:
    """Relative actions must not be taken twice or lost: their sum is where the arm goes."""
    rng = np.random.default_rng(0)
    with recorder(tmp_path, speed_scale=0.5) as robot:
        name = robot.begin("go")
        start = time.monotonic()
        inputs = [(i / 60, what, i) for i in range(300) for what in ("front", "wrist", "joints")]
        inputs += [(0.3 + i / 15 + rng.uniform(-0.01, 0.01) * (i > 0), "action", i) for i in range(50)]
        play(robot, start, sorted(inputs))
        done = robot.end()
    assert done.notices == []
    live = Store.open(tmp_path / "store").read(name)
    assert live.action is not None
    numbers = np.round(100 * live.action[:, 0]).astype(int).tolist()
    # 0.2 s after the last action no new one had come: nothing was commanded then, but for the gripper.
    held = [0] * (len(live) - 50)
    assert numbers == [*range(50), *held] and 2 <= len(held) <= 7 and (live.action[:, 3] == 1).all()
    assert live.meta["held_steps"] == 3 and live.meta["ended"].startswith("/foreact/action was silent for 0.2")
    assert np.allclose(np.diff(live.extras["time_s"]), 1 / 30)  # of the contract's clock: the robot was half as fast
    assert np.array_equal(live.extras["intervention"], [n % 3 == 0 and i < 50 for i, n in enumerate(numbers)])
    assert live.meta["intervention_frames"] == 17
    same(live, imported(tmp_path, name)[0])


def test_pictures_of_a_bag_may_be_jpeg(tmp_path: Path) -> None:
    with recorder(tmp_path, pictures="jpeg") as robot:
        name = robot.begin("go")
        play(robot, time.monotonic() + 0.01, regular(1.0))
        done = robot.end()
    live = Store.open(tmp_path / "store").read(name)
    [bag] = imported(tmp_path, name)
    assert np.array_equal(np.asarray(live.state), np.asarray(bag.state)) and done.bag is not None
    # Noise is the worst there is for JPEG; still the same pictures at the same frames.
    difference = np.abs(live.images["wrist"].astype(int) - bag.images["wrist"]).mean(axis=(1, 2, 3))
    assert difference.max() < 5 and done.bag.written["/front/image_raw/compressed"] > 20


WHAT = st.sampled_from(["front", "wrist", "joints", "action", "words"])
INPUTS = st.lists(st.tuples(st.integers(0, 900).map(lambda ms: ms / 1000), WHAT), max_size=60)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(inputs=INPUTS, order=st.randoms(use_true_random=False))
def test_odd_rates_gaps_and_disorder_give_the_same_both_ways(
    tmp_path_factory: pytest.TempPathFactory, inputs: list[tuple[float, str]], order: Any
) -> None:
    path = tmp_path_factory.mktemp("parity")
    base = [(0.0, what, 500) for what in ("front", "wrist", "joints", "action")]
    stream = sorted([*base, *((at, what, number) for number, (at, what) in enumerate(inputs))])
    # Neighbours overtake each other, as messages of several threads do.
    for i in range(len(stream) - 1):
        if order.random() < 0.3:
            stream[i], stream[i + 1] = stream[i + 1], stream[i]
    with recorder(path, shortest=5, max_age_s=0.15) as robot:
        name = robot.begin()
        play(robot, time.monotonic() + 0.02, stream)
        done = robot.end()
    store = Store.open(path / "store")
    live = [store.read(each) for each in done.episodes]
    try:
        bags = imported(path, name)
    except ForeActError:  # no stretch that is long enough
        bags = []
    assert len(live) == len(bags)
    for one, other in zip(live, bags, strict=True):
        same(one, other)


@pytest.mark.fault(row="D14", n=2, event="a camera is silent for some pictures")
@pytest.mark.parametrize("front_hz", [27.3, 109.2])
def test_gaps_are_flagged(tmp_path: Path, front_hz: float) -> None:
    """Also of a camera that is faster than the frames, whose first picture after the gap is in none of them."""
    missing = range(round(20 * front_hz / 27.3), round(23 * front_hz / 27.3))
    inputs = [i for i in regular(2.0, front_hz=front_hz) if not (i[1] == "front" and i[2] in missing)]
    with recorder(tmp_path) as robot:
        name = robot.begin("go")
        start = time.monotonic() + 0.01
        play(robot, start, inputs)
        done = robot.end()
    live = Store.open(tmp_path / "store").read(name)
    assert live.meta["gaps"] == 1
    assert live.meta["longest_gap_s"] == pytest.approx((len(missing) + 1) / front_hz, abs=1e-3)
    [flagged] = np.flatnonzero(live.extras["gap"]).tolist()
    # The flagged frame is the first with the picture after the gap; the one before still has an old one.
    after = 1000 + start + 0.011 + missing.stop / front_hz
    assert after - 1e-6 <= live.extras["picture_stamp_s"][flagged, 0] < after + 1 / 30
    assert live.extras["picture_age_s"][flagged - 1, 0] > 1.5 / 30
    assert (np.diff(live.extras["time_s"]) > 0).all() and (np.diff(live.extras["picture_stamp_s"], axis=0) >= 0).all()
    assert live.meta["skewed_frames"] >= 1 and done.notices == []


@pytest.mark.fault(row="D14", n=1, event="a camera stops for longer than max_age_s")
def test_a_long_silence_ends_the_episode_and_begins_another(tmp_path: Path) -> None:
    inputs = [(at, what, number) for at, what, number in regular(2.5) if not (what == "front" and 20 <= number < 40)]
    saved: list[str] = []
    with recorder(tmp_path, on_saved=saved.append) as robot:
        name = robot.begin("go")
        play(robot, time.monotonic() + 0.01, inputs)
        done = robot.end(success=False)
    assert done.episodes == [name, f"{name}-001"] == saved
    store = Store.open(tmp_path / "store")
    live = [store.read(each) for each in done.episodes]
    assert live[0].meta["ended"].startswith("/front/image_raw was silent for 0.2") and "success" not in live[0].meta
    assert live[1].meta["ended"] == "done" and live[1].meta["success"] is False
    bags = imported(tmp_path, name)
    assert len(bags) == 2
    for one, other in zip(live, bags, strict=True):
        same(one, other)


@pytest.mark.fault(row="D14", n=1, event="the process is too slow: pictures are dropped at the door")
def test_what_is_dropped_is_counted_and_flagged(tmp_path: Path) -> None:
    hold = threading.Event()

    def slow(sample: JointSample, gripper: float) -> np.ndarray:
        hold.wait()
        return to_state(sample, gripper)

    with recorder(tmp_path, queue_bytes=200_000, settle_s=0.01, state_of=slow) as robot:
        name = robot.begin("go")
        start = time.monotonic() + 0.01
        play(robot, start, regular(0.2))
        time.sleep(0.1)
        play(robot, start, [i for i in regular(4.0) if i[0] > 0.2])
        hold.set()
        time.sleep(0.2)
        play(robot, start, [(at + 4, what, number + 110) for at, what, number in regular(1.0)])
        done = robot.end()
    dropped = sum(done.dropped.values())
    assert dropped > 0 and done.bag is not None
    episodes = [Store.open(tmp_path / "store").read(each) for each in done.episodes]
    assert done.dropped["/front/image_raw"] > 0 and episodes[-1].meta["dropped_messages"] == dropped
    # Where the pictures are missing there are no frames, or the next frame is flagged.
    assert len(episodes) == 2 and episodes[0].meta["ended"] != "done" and done.name == name


def test_what_was_recorded_is_let_go_of_at_once(tmp_path: Path) -> None:
    """Without the garbage collector, which may not come round for an hour in a process that makes little garbage."""

    def alive() -> Counter[str]:
        return Counter(type(o).__name__ for o in gc.get_objects())

    gc.collect()
    gc.disable()
    before = alive()  # other tests of this process may hold some
    try:
        with recorder(tmp_path) as robot:
            for _ in range(6):
                robot.begin("do it")
                play(robot, time.monotonic(), regular(1.0))
                assert robot.end().episodes
            held = alive() - before
        assert held["Recording"] <= 1 and held["EpisodeWriter"] <= 1 and held["EpisodeMaker"] <= 1
        assert held["Picture"] <= 4  # the newest of each camera
    finally:
        gc.enable()

"""Pace, pictures in a thread, camera and joint faults, and the JSON requests."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from foreact.robot_bridge.sim_robot import SimRobot
from foreact.robot_bridge.sim_robot_control import REQUESTS, Control
from foreact.robot_bridge.sim_robot_faults import CAMERA_FAULTS, CameraLine
from foreact.robot_bridge.sim_robot_loop import GIVE_UP_S, run_in_real_time
from foreact.robot_bridge.topic_names import make_topics
from foreact.robot_bridge.transport_memory import MemoryLink
from foreact.robot_bridge.types import CameraFrame, JointSample, RobotMode
from foreact.sim.robot_body import DeskBody
from foreact.vla.errors import ConfigError

CAMERAS = (("rgb_static", 200, 200), ("rgb_gripper", 84, 84))
PERIOD_S = 1.0 / 240.0


class Seen:
    """The bridge's end: an `Inbox` that keeps pictures and joint states."""

    def __init__(self) -> None:
        self.frames: list[CameraFrame] = []
        self.samples: list[JointSample] = []
        self.modes: list[RobotMode] = []

    def frame(self, frame: CameraFrame) -> None:
        self.frames.append(frame)

    def joints(self, sample: JointSample) -> None:
        self.samples.append(sample)

    def mode(self, mode: RobotMode, received_s: float) -> None:
        self.modes.append(mode)

    def instruction(self, text: str, received_s: float) -> None:
        raise AssertionError(text)

    def description(self, urdf: str) -> None: ...

    def bad_message(self, role: str, message: str, received_s: float) -> None:
        raise AssertionError(message)

    def command(self, name: str, value: bool) -> tuple[bool, str]:
        raise AssertionError(name)


class Wall:
    """A steady clock that moves when somebody sleeps, or works."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.naps: list[float] = []

    def steady(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.naps.append(seconds)
        self.now_s += seconds


def make(render: bool = False) -> tuple[SimRobot, Seen]:
    body = DeskBody("D", render=render)
    link = MemoryLink(make_topics({}, CAMERAS, body.joints))
    seen = Seen()
    link.transport.start(seen)
    robot = SimRobot(body, link.robot)
    robot.start()
    return robot, seen


@pytest.fixture
def robot() -> SimRobot:
    return make()[0]


def run_ticks(robot: SimRobot, wall: Wall, ticks: int, work=lambda tick: None, **settings):
    """Run the loop for some ticks of an idle machine; `work(tick)` may take time of `wall`."""
    stop, step = threading.Event(), robot.step

    def stepped(dt_s: float) -> None:
        step(dt_s)
        work(robot.ticks)
        if robot.ticks >= ticks:
            stop.set()

    robot.step = stepped  # type: ignore[method-assign]
    try:
        return run_in_real_time(robot, stop, steady=wall.steady, sleep=wall.sleep, system=lambda: 5e9, **settings)
    finally:
        robot.step = step  # type: ignore[method-assign]


@pytest.mark.parametrize("factor", [1.0, 4.0, 0.5])
def test_simulated_time_keeps_pace_with_the_steady_clock(robot: SimRobot, factor: float) -> None:
    wall = Wall()
    pace = run_ticks(robot, wall, 240, factor=factor)
    assert (pace.ticks, pace.late_ticks) == (240, 0)
    assert wall.now_s - 100.0 == pytest.approx(239 * PERIOD_S / factor)
    np.testing.assert_allclose(wall.naps, PERIOD_S / factor, rtol=1e-6)


def test_late_ticks_are_counted_and_made_up_for(robot: SimRobot) -> None:
    wall = Wall()

    def busy(tick: int) -> None:
        wall.now_s += 24.5 * PERIOD_S if tick == 50 else 0.0

    pace = run_ticks(robot, wall, 240, busy)
    # the next tick was due 23.5 periods ago, the one after it 22.5, ... down to 1.5; half a period is not late
    assert pace.late_ticks == 23
    assert pace.max_late_s == pytest.approx(23.5 * PERIOD_S)
    assert pace.given_up_s == 0.0
    assert wall.now_s - 100.0 == pytest.approx(239 * PERIOD_S)
    assert robot.epoch_s == 5e9


def test_what_is_too_late_is_given_up_and_stamps_stay_with_the_system_clock(robot: SimRobot) -> None:
    wall = Wall()

    def hang(tick: int) -> None:
        wall.now_s += 2.0 if tick == 50 else 0.0

    pace = run_ticks(robot, wall, 240, hang)
    assert pace.given_up_s == pytest.approx(2.0 - PERIOD_S)
    assert pace.given_up_s > GIVE_UP_S
    assert wall.now_s - 100.0 == pytest.approx(239 * PERIOD_S + pace.given_up_s)
    assert robot.epoch_s - 5e9 == pytest.approx(pace.given_up_s)


def test_a_factor_that_is_no_factor_is_refused(robot: SimRobot) -> None:
    for factor in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="factor"):
            run_in_real_time(robot, threading.Event(), factor=factor)


def test_in_real_time_pictures_of_a_thread_are_those_of_the_stepping_one() -> None:
    robot, seen = make(render=True)
    robot.step(1.0)  # blocks come to rest
    seen.samples.clear()
    seen.frames.clear()
    stop = threading.Event()
    pace = run_in_real_time(robot, stop, each_picture=lambda: stop.set() if robot.ticks >= 360 else None)
    assert pace.ticks == robot.ticks - 240 == 120
    assert len(seen.samples) == 60
    assert {f.camera for f in seen.frames} == set(robot.body.cameras)
    drawn_at_once = robot.body.draw()  # the arm stands still
    for frame in seen.frames:
        np.testing.assert_allclose(frame.image.astype(int), drawn_at_once[frame.camera], atol=2)
    stamps = [f.stamp_s for f in seen.frames if f.camera == "rgb_static"]
    np.testing.assert_allclose(np.diff(stamps) * 30, np.round(np.diff(stamps) * 30), atol=1e-4)
    robot.body.close()


def test_a_picture_that_cannot_be_drawn_ends_the_robot_with_the_reason() -> None:
    robot, _ = make(render=True)

    def broken(view: object = None) -> dict:
        raise ConfigError("no light")

    robot.body.draw = broken  # type: ignore[method-assign]
    with pytest.raises(ConfigError, match="no light"):
        run_in_real_time(robot, threading.Event())


def offered(fault: str, amount: float = 0.0, pictures: int = 30) -> list[tuple[int, float, float]]:
    """What comes out of a camera line that is fed one picture per 1/30 s: (brightness, stamp, when)."""
    line = CameraLine(np.random.default_rng(0))
    line.set(fault, amount)
    out = []
    for tick in range(pictures * 8 + 240):
        now_s = tick / 240
        if tick % 8 == 0 and tick // 8 < pictures:
            line.offer(np.full((2, 2, 3), 10 + tick // 8, np.uint8), now_s, now_s)
        out += [(int(p.image[0, 0, 0]), p.stamp_s, now_s) for p in line.due(now_s)]
    return out


def test_camera_faults_do_what_they_say() -> None:
    good = offered("")
    assert [brightness for brightness, *_ in good] == list(range(10, 40))
    assert all(stamp == when for _, stamp, when in good)
    assert offered("stop") == []
    assert {b for b, *_ in offered("freeze")} == {10}
    assert [s for _, s, _ in offered("freeze")] == [s for _, s, _ in good]
    assert [b for b, *_ in offered("slow", 3)] == list(range(10, 40, 3))
    assert {b for b, *_ in offered("black")} == {0}
    np.testing.assert_allclose([w - s for _, s, w in offered("delay", 0.2)], 0.2, atol=PERIOD_S)
    np.testing.assert_allclose([s - w for _, s, w in offered("stamp", 0.7)], 0.7)
    jitter = offered("jitter", 0.1)
    late = np.array([w - s for _, s, w in jitter])
    assert [b for b, *_ in jitter] == list(range(10, 40))
    assert late.min() >= 0.0
    assert 0.05 < late.max() <= 0.1 + PERIOD_S
    assert late.std() > 0.01


@pytest.mark.parametrize(("fault", "amount"), [("blur", 0.0), ("delay", -1.0), ("jitter", float("nan")), ("slow", 0.0)])
def test_camera_faults_that_make_no_sense_are_refused(fault: str, amount: float) -> None:
    with pytest.raises(ConfigError, match=fault):
        CameraLine(np.random.default_rng(0)).set(fault, amount)


def test_joint_states_can_be_dropped_frozen_and_misdated() -> None:
    robot, seen = make()
    robot.joint_faults.drop = 0.5
    robot.step(2.0)
    assert 80 < len(seen.samples) < 160
    assert robot.counts["joints_lost"] == 240 - len(seen.samples)
    robot.joint_faults.drop = 1.0
    before = len(seen.samples)
    robot.step(1.0)
    assert len(seen.samples) == before
    robot.joint_faults.drop, robot.joint_faults.stamp_offset_s = 0.0, -3.0
    robot.step(0.1)
    assert seen.samples[-1].stamp_s == pytest.approx(robot.now_s - 3.0, abs=2 * PERIOD_S)


@pytest.fixture
def asked() -> Iterator[tuple[Control, SimRobot, threading.Event]]:
    """A robot that is stepped by a thread, and what asks it."""
    robot, _ = make()
    end, quit_ = threading.Event(), threading.Event()

    def run() -> None:
        while not end.wait(0.0005):
            robot.step(PERIOD_S)

    thread = threading.Thread(target=run)
    thread.start()
    yield Control(robot, robot.body, quit_.set), robot, quit_  # type: ignore[arg-type]
    end.set()
    thread.join()


def ask(control: Control, **request) -> dict:
    return json.loads(control.line(json.dumps(request)))


def test_requests_are_done_and_answered(asked: tuple[Control, SimRobot, threading.Event]) -> None:
    control, robot, quit_ = asked
    reset = ask(control, do="reset", task="open_drawer", start=2, id=17)
    assert (reset["ok"], reset["task"], reset["done"], reset["id"]) == (True, "open_drawer", False, 17)
    start = DeskBody("D", render=False).draw_start("open_drawer", 2)
    np.testing.assert_allclose(robot.body.state()[0], start.robot_obs[7:14], atol=1e-4)
    begun = ask(control, do="begin", task="close_drawer", instruction="shut it")
    assert (begun["task"], begun["instruction"]) == ("close_drawer", "shut it")
    assert ask(control, do="mode", mode="emergency_stop")["ok"]
    assert robot.mode is RobotMode.EMERGENCY_STOP
    assert ask(control, do="joint_fault", drop=1.0)["ok"]
    assert robot.joint_faults.drop == 1.0
    assert ask(control, do="block", joint="panda_joint2")["ok"]
    status = ask(control, do="status")
    assert status["mode"] == "emergency_stop"
    assert status["judgement"]["task"] == "close_drawer"
    assert not quit_.is_set()
    assert ask(control, do="quit")["ok"]
    assert quit_.is_set()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "not JSON"),
        ("[1]", "JSON object"),
        ("x" * 70_000, "characters"),
        ('{"do": "resett"}', "reset"),
        ('{"do": ["reset"]}', "no request"),
        ('{"do": "reset", "tusk": "open_drawer"}', "tusk"),
        ('{"do": "reset", "task": "open_drawerr"}', "open_drawer"),
        ('{"do": "reset", "start": -1}', "start"),
        ('{"do": "reset", "start": 1.5}', "start"),
        ('{"do": "reset", "start": NaN}', "start"),
        ('{"do": "reset", "task": 3}', "task"),
        ('{"do": "mode", "mode": "asleep"}', "protective_stop"),
        ('{"do": "camera_fault", "camera": "rgb_static", "fault": "stop"}', "no camera"),
        ('{"do": "joint_fault", "drop": 2}', "drop"),
        ('{"do": "block", "joint": "elbow"}', "panda_joint1"),
    ],
)
def test_a_request_that_cannot_be_done_is_answered_with_the_reason(
    asked: tuple[Control, SimRobot, threading.Event], line: str, words: str
) -> None:
    control, robot, _ = asked
    before = robot.body.judgement()["task"]
    answer = json.loads(control.line(line))
    assert not answer["ok"]
    assert words in answer["error"]
    assert robot.body.judgement()["task"] == before
    assert robot.mode is RobotMode.OK


def test_every_request_and_fault_is_explained() -> None:
    control = Control(make()[0], DeskBody("D", render=False), lambda: None)
    assert set(REQUESTS) == set(control._do)
    assert all(CAMERA_FAULTS.values())

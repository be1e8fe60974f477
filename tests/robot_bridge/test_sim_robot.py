"""The simulated robot under an injected clock: physics, topics, faults and the judge."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from foreact.robot_bridge.robot_side import ReceivedTrajectory
from foreact.robot_bridge.sim_robot import SimRobot, SimRobotSettings
from foreact.robot_bridge.topic_names import make_topics
from foreact.robot_bridge.transport_memory import MemoryLink
from foreact.robot_bridge.types import CameraFrame, JointSample, RobotMode, Trajectory
from foreact.sim.env import DeskEnv
from foreact.sim.experts import Expert
from foreact.sim.ik import PandaIK
from foreact.sim.robot_body import DeskBody
from foreact.sim.rotations import euler_xyz_to_matrix
from foreact.vla.errors import ConfigError

DT = 1.0 / 240.0
REST = 0.01
"""Joint speed below which the arm stands [rad/s]."""


@dataclass
class Seen:
    """The bridge's end: an `Inbox` that keeps all it is given."""

    frames: list[CameraFrame] = field(default_factory=list)
    joint_samples: list[JointSample] = field(default_factory=list)
    modes: list[RobotMode] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)

    def frame(self, frame: CameraFrame) -> None:
        self.frames.append(frame)

    def joints(self, sample: JointSample) -> None:
        self.joint_samples.append(sample)

    def mode(self, mode: RobotMode, received_s: float) -> None:
        self.modes.append(mode)

    def instruction(self, text: str, received_s: float) -> None:
        raise AssertionError("nobody speaks here")

    def description(self, urdf: str) -> None: ...

    def bad_message(self, role: str, message: str, received_s: float) -> None:
        self.bad.append(f"{role}: {message}")

    def command(self, name: str, value: bool) -> tuple[bool, str]:
        raise AssertionError("nobody commands here")


@dataclass
class Rig:
    """A robot, the link to it, and what came over it."""

    body: DeskBody
    robot: SimRobot
    link: MemoryLink
    seen: Seen

    @property
    def q(self) -> np.ndarray:
        return self.body.state()[0]

    @property
    def speed(self) -> float:
        """Of the fastest joint [rad/s]."""
        return float(np.abs(self.body.state()[1]).max())

    def send(self, position, velocity=None, acceleration=None, times=(0.1,)) -> None:
        rows = [np.zeros_like(position) if a is None else a for a in (velocity, acceleration)]
        self.link.transport.send_trajectory(
            Trajectory(
                start_s=self.robot.now_s,
                time_from_start_s=np.asarray(times, dtype=np.float64),
                position=np.asarray(position),
                velocity=np.asarray(rows[0]),
                acceleration=np.asarray(rows[1]),
            )
        )

    def steps(self, seconds: float) -> None:
        self.robot.step(seconds)


def make_rig(scene: str = "D", *, render: bool = False, seed: int = 0, **settings) -> Rig:
    body = DeskBody(scene, render=render, seed=seed)
    cameras = [("rgb_static", 200, 200), ("rgb_gripper", 84, 84)]
    holder: list[SimRobot] = []
    names = make_topics({}, cameras, body.joints)
    link = MemoryLink(names, clock=lambda: holder[0].now_s if holder else 0.0)
    seen = Seen()
    link.transport.start(seen)
    robot = SimRobot(body, link.robot, SimRobotSettings(**settings))
    holder.append(robot)
    robot.start()
    return Rig(body, robot, link, seen)


@pytest.fixture
def rig() -> Rig:
    return make_rig()


def test_standing_still_is_the_desks_own_control_step_bit_for_bit() -> None:
    rig = make_rig(render=True, camera_noise=0)
    start = rig.body.draw_start("open_drawer", 3)
    rig.robot.restart(start)
    env = DeskEnv("D")
    env.set_state(start.robot_obs, start.scene_obs)
    for _ in range(3):
        rig.steps(1.0 / 30.0)
        env.controller.apply_joint_absolute(env.data, start.robot_obs[7:14], start.robot_obs[14])
    np.testing.assert_array_equal(rig.q, env.robot_obs[7:14])
    latest = {f.camera: f.image for f in rig.seen.frames}
    for camera, image in env.frames().items():
        np.testing.assert_array_equal(latest[camera], image)
    env.close()
    rig.body.close()


def test_topics_have_their_rates_and_stamps() -> None:
    rig = make_rig(render=True)
    rig.robot.epoch_s = 1000.0
    rig.steps(1.0)
    stamps = np.array([s.stamp_s for s in rig.seen.joint_samples])
    assert len(stamps) == 120
    np.testing.assert_allclose(np.diff(stamps), 2 * DT, atol=1e-9)
    for camera in rig.body.cameras:
        stamps = np.array([f.stamp_s for f in rig.seen.frames if f.camera == camera])
        assert len(stamps) == 30
        np.testing.assert_allclose(np.diff(stamps), 1.0 / 30.0, atol=1e-9)
        assert stamps[-1] == pytest.approx(1001.0)
    assert set(rig.seen.modes) == {RobotMode.OK}
    assert len(rig.seen.modes) == 11
    assert not rig.seen.bad
    rig.body.close()


def test_joint_states_are_what_moves(rig: Rig) -> None:
    goal = rig.q + 0.1
    rig.send(goal[None], times=(0.5,))
    rig.steps(1.5)
    last = rig.seen.joint_samples[-1]
    np.testing.assert_allclose(last.position, goal, atol=1e-3)
    recorded = np.array([s.position for s in rig.seen.joint_samples])
    speeds = np.array([s.velocity for s in rig.seen.joint_samples])
    np.testing.assert_allclose(np.diff(recorded, axis=0) / (2 * DT), (speeds[1:] + speeds[:-1]) / 2, atol=0.02)


@pytest.mark.parametrize("speed", [0.1, 0.3, 0.5])
def test_at_constant_speed_the_arm_follows_37_milliseconds_behind(rig: Rig, speed: float) -> None:
    way = speed * np.array([1.0, -0.5, 0.5, 1.0, -1.0, 0.2, 1.0])
    times = np.array([0.2, 1.0, 1.2])
    begin = rig.q
    rig.send(begin + np.outer([0.1, 0.9, 1.0], way), velocity=np.outer([1.0, 1.0, 0.0], way), times=times)
    rig.steps(0.8)
    behind = rig.robot.controller.setpoint.position - rig.q
    # each step of 1/240 s closes a tenth of the error; in equilibrium nine tenths remain, and grow by speed / 240
    np.testing.assert_allclose(behind, way * 9.0 / 240.0, rtol=1e-4)


def stream(rig: Rig, rng: np.random.Generator, seconds: float, top_speed: float) -> None:
    """Messages at 50 Hz, as a gate sends them: along a smooth motion, then to rest 0.2 s after each one's start."""
    begin = rig.q
    amplitude = rng.uniform(-1.0, 1.0, 7)
    turn = rng.uniform(2.0, 4.0)
    amplitude *= top_speed / turn / np.abs(amplitude).max()

    def motion(t: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return (
            begin + amplitude * (1.0 - np.cos(turn * t)),
            amplitude * turn * np.sin(turn * t),
            amplitude * turn**2 * np.cos(turn * t),
        )

    for k in range(round(seconds * 50)):
        rows = [motion(k / 50 + ahead) for ahead in (0.02, 0.04)]
        rest = rows[-1][0] + rows[-1][1] * 0.08
        position, velocity, acceleration = (np.array([r[i] for r in rows]) for i in range(3))
        zero = np.zeros((1, 7))
        rig.send(
            np.concatenate([position, rest[None]]),
            np.concatenate([velocity, zero]),
            np.concatenate([acceleration, zero]),
            times=(0.02, 0.04, 0.2),
        )
        rig.steps(0.02 if k % 6 else 5 * DT)


def stops_by_itself(trials: int) -> float:
    """Seconds from the last message to rest, the worst of `trials` random motions and moments in free space.

    Motions that run into the table are not counted: an arm that presses on it trembles at about 0.01 rad/s.
    """
    rig, rng, worst = make_rig(), np.random.default_rng(6), 0.0
    starts = [rig.body.draw_start(None, number) for number in range(8)]
    done = pressed = 0
    while done < trials:
        rig.robot.restart(starts[done % 8])
        stream(rig, rng, rng.uniform(0.1, 1.0), rng.uniform(0.1, 0.54))
        q, since_s, moving_s, touched = rig.q, 0.0, 0.0, False
        while since_s < 0.6:
            rig.steps(DT)
            since_s += DT
            moving_s = since_s if rig.speed > REST else moving_s
            touched |= rig.body._env.robot_touches_anything()
        assert np.abs(rig.q - q).max() < 0.2
        if touched:
            assert rig.speed < 0.05
            pressed += 1
            assert pressed <= 2 + trials // 10
            continue
        done += 1
        worst = max(worst, moving_s)
    return worst


def test_the_arm_stops_by_itself_when_messages_cease() -> None:
    assert stops_by_itself(30) <= 0.3


def test_a_blocked_joint_stays_while_the_others_go_and_goes_when_released(rig: Rig) -> None:
    begin = rig.q
    rig.robot.block_joint("panda_joint4")
    rig.send((begin + 0.3)[None], times=(1.0,))
    rig.steps(2.0)
    moved = rig.q - begin
    assert abs(moved[3]) < 0.002
    np.testing.assert_allclose(np.delete(moved, 3), 0.3, atol=0.03)  # the servo counts on the jammed one
    assert rig.robot.status()["tracking_error"] == pytest.approx(0.3, abs=0.005)
    rig.robot.block_joint("")
    rig.steps(1.0)
    assert rig.q[3] - begin[3] == pytest.approx(0.3, abs=0.005)


def test_an_unknown_joint_or_camera_is_named(rig: Rig) -> None:
    with pytest.raises(ConfigError, match="panda_joint4"):
        rig.robot.block_joint("panda_joint44")
    with pytest.raises(ConfigError, match="rgb_statik"):
        rig.robot.set_camera_fault("rgb_statik", "stop")


@pytest.mark.parametrize("mode", [RobotMode.EMERGENCY_STOP, RobotMode.PROTECTIVE_STOP, RobotMode.REFLEX])
def test_a_stop_brakes_is_published_and_lets_nothing_move_until_it_ends(rig: Rig, mode: RobotMode) -> None:
    stream(rig, np.random.default_rng(1), 0.4, 0.5)
    assert rig.speed > 0.1
    rig.robot.set_mode(mode)
    rig.steps(0.1)
    assert rig.speed < REST
    assert rig.seen.modes[-1] is mode
    where = rig.q
    rig.send((where + 0.2)[None])
    rig.link.transport.send_gripper(-1.0)
    rig.steps(0.5)
    np.testing.assert_allclose(rig.q, where, atol=1e-3)
    assert rig.robot.counts["ignored_while_stopped"] == 1
    rig.robot.set_mode(RobotMode.OK)
    rig.steps(0.2)
    np.testing.assert_allclose(rig.q, where, atol=1e-3)
    rig.send((where + 0.05)[None], times=(0.5,))
    rig.steps(1.0)
    np.testing.assert_allclose(rig.q, where + 0.05, atol=1e-3)


def test_a_nan_passes_the_controller_and_the_robot_stops_itself_with_an_alarm(rig: Rig) -> None:
    position = np.repeat(rig.q[None] + 0.05, 2, axis=0)
    position[1, 4] = np.nan
    begin = rig.q
    rig.send(position, times=(0.1, 0.2))
    rig.steps(0.5)
    assert rig.robot.mode is RobotMode.REFLEX
    assert rig.seen.modes[-1] is RobotMode.REFLEX
    assert rig.robot.controller.counts["non_finite_received"] == 1
    assert "not finite" in rig.robot.alarms[0]
    assert np.isfinite(rig.q).all()
    assert np.abs(rig.q - begin).max() < 0.06
    assert rig.speed < REST
    assert not rig.body.diverged()


def test_a_refused_trajectory_changes_nothing_and_is_an_alarm(rig: Rig) -> None:
    begin = rig.q
    rig.robot.receive(
        ReceivedTrajectory(
            joints=("x",) * 7, stamp_s=0.0, time_from_start_s=np.array([0.1]), position=np.zeros((1, 7)),
            velocity=None, acceleration=None, received_s=0.0,
        )
    )  # fmt: skip
    rig.steps(0.3)
    np.testing.assert_allclose(rig.q, begin, atol=1e-4)
    assert "refused" in rig.robot.alarms[0]


def test_stamps_are_read_on_the_clock_of_the_header(rig: Rig) -> None:
    rig.robot.epoch_s = 5000.0
    rig.steps(0.5)
    begin = rig.q
    for stamp_s in (5000.9, 5000.1):  # the second ended before it came
        rig.robot.receive(
            ReceivedTrajectory(
                joints=rig.body.joints, stamp_s=stamp_s, time_from_start_s=np.array([0.1, 0.3]),
                position=np.stack([begin, begin + 0.1]), velocity=None, acceleration=None, received_s=0.0,
            )
        )  # fmt: skip
    rig.steps(0.45)
    np.testing.assert_allclose(rig.q, begin, atol=1e-4)
    assert "in the past" in rig.robot.alarms[0]
    rig.steps(0.8)
    np.testing.assert_allclose(rig.q, begin + 0.1, atol=1e-3)


def test_two_publishers_on_the_command_topic_both_reach_the_controller_as_on_a_real_robot(rig: Rig) -> None:
    begin = rig.q
    rig.send((begin + 0.1)[None], times=(0.5,))
    rig.steps(0.25)
    rig.send((begin - 0.1)[None], times=(0.5,))
    rig.steps(1.5)
    np.testing.assert_allclose(rig.q, begin - 0.1, atol=1e-3)
    assert rig.robot.controller.counts["accepted"] == 2


def test_gripper_closes_and_opens(rig: Rig) -> None:
    rig.link.transport.send_gripper(-1.0)
    rig.steps(1.0)
    assert rig.seen.joint_samples[-1].gripper_width_m == pytest.approx(0.0, abs=0.002)
    rig.link.transport.send_gripper(1.0)
    rig.steps(1.0)
    assert rig.seen.joint_samples[-1].gripper_width_m == pytest.approx(0.08, abs=0.002)


def test_the_same_messages_give_the_same_motion_and_pictures() -> None:
    runs = []
    for _ in range(2):
        rig = make_rig(render=True, seed=4)
        rig.robot.set_camera_fault("rgb_static", "jitter", 0.05)
        stream(rig, np.random.default_rng(2), 0.3, 0.5)
        runs.append(rig)
    one, other = (rig.seen for rig in runs)
    assert len(one.joint_samples) == len(other.joint_samples) > 30
    for a, b in zip(one.joint_samples, other.joint_samples, strict=True):
        np.testing.assert_array_equal(a.position, b.position)
        np.testing.assert_array_equal(a.velocity, b.velocity)
    for a, b in zip(one.frames, other.frames, strict=True):
        assert (a.camera, a.stamp_s, a.received_s) == (b.camera, b.stamp_s, b.received_s)
        np.testing.assert_array_equal(a.image, b.image)
    for rig in runs:
        rig.body.close()


def act_by_expert(rig: Rig, task: str, number: int, seconds: float = 10.0) -> bool:
    """Let the scripted expert do a task through 30 messages per second; whether the judge says that it is done."""
    rig.robot.restart(rig.body.draw_start(task, number))
    env, ik = rig.body._env, PandaIK()
    expert = Expert(task, env.scene)
    position, matrix = ik.forward(rig.q)
    euler = env.controller.target_pose[1]
    np.testing.assert_allclose(euler_xyz_to_matrix(euler), matrix, atol=1e-9)
    for _ in range(round(seconds * 30)):
        action = np.clip(expert.act(env.robot_obs, env.scene_obs), -1.0, 1.0)
        position, euler = position + 0.02 * action[:3], euler + 0.05 * action[3:6]
        rig.link.transport.send_gripper(float(action[6]))
        rig.send(ik.solve(rig.q, position, euler_xyz_to_matrix(euler))[None], times=(1.0 / 30.0,))
        rig.steps(1.0 / 30.0)
        if rig.body.judgement()["done"]:
            return True
    return False


@pytest.mark.parametrize("task", ["open_drawer", "move_slider_left", "turn_on_lightbulb", "turn_on_led"])
def test_the_judge_says_when_a_task_is_done_through_the_trajectory_controller(rig: Rig, task: str) -> None:
    told: list[dict] = []
    rig.robot.on_done = lambda judgement: told.append(dict(judgement))
    assert act_by_expert(rig, task, 1)
    assert [t["task"] for t in told] == [task]
    assert told[0]["done_after_s"] == pytest.approx(told[0]["since_s"], abs=0.05)
    assert task in told[0]["happened"]
    rig.steps(0.5)
    assert len(told) == 1


def test_the_judge_is_not_impressed_by_nothing(rig: Rig) -> None:
    rig.robot.restart(rig.body.draw_start("open_drawer", 0))
    rig.steps(1.0)
    judgement = rig.body.judgement()
    assert (judgement["done"], judgement["done_after_s"], judgement["since_s"]) == (False, None, 1.0)
    assert judgement["instruction"]


def test_start_n_of_a_task_is_the_same_each_time_and_others_differ() -> None:
    a, b = DeskBody("D", render=False, seed=7), DeskBody("D", render=False, seed=7)
    one, same, other = a.draw_start("open_drawer", 2), b.draw_start("open_drawer", 2), a.draw_start("open_drawer", 3)
    np.testing.assert_array_equal(one.scene_obs, same.scene_obs)
    np.testing.assert_array_equal(one.robot_obs, same.robot_obs)
    assert np.abs(one.robot_obs - other.robot_obs).max() > 1e-3


def test_settings_are_checked() -> None:
    with pytest.raises(ConfigError, match="joints_every"):
        SimRobotSettings(joints_every=0)

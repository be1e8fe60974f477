"""A simulated robot on a robot's topics: trajectory controller, joints, cameras, modes. Time is given from outside.

`SimRobot` moves a body (`foreact.sim.robot_body.DeskBody`) by what arrives, and publishes what a robot publishes,
through any `RobotSide`. `step(dt_s)` is all that moves it: the same messages at the same steps give the same motion bit
for bit. `foreact.robot_bridge.sim_robot_loop` calls it in real time.
"""

from __future__ import annotations

import queue
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import numpy as np

from foreact.robot_bridge.robot_side import ReceivedTrajectory, RobotSide
from foreact.robot_bridge.sim_robot_faults import CameraLine, JointFaults
from foreact.robot_bridge.trajectory_controller import TrajectoryController
from foreact.robot_bridge.trajectory_spline import Knot
from foreact.robot_bridge.types import RobotMode
from foreact.vla.errors import ConfigError, did_you_mean

T = TypeVar("T")


class SimBody(Protocol):
    """What moves; see `foreact.sim.robot_body.DeskBody`."""

    joints: tuple[str, ...]
    period_s: float
    cameras: tuple[str, ...]

    def state(self) -> tuple[np.ndarray, np.ndarray, float]: ...
    def advance(self, q_arm: np.ndarray, gripper: float) -> None: ...
    def block(self, joint: int | None) -> None: ...
    def joint_index(self, name: str) -> int: ...
    def view(self) -> Any: ...
    def draw(self, view: Any = None) -> dict[str, np.ndarray]: ...
    def diverged(self) -> bool: ...
    def restart(self, start: Any) -> None: ...
    def begin(self, task: str | None, instruction: str = "") -> None: ...
    def judgement(self) -> dict[str, Any]: ...
    def urdf(self) -> str: ...
    def close(self) -> None: ...
    @property
    def gripper_command(self) -> float: ...


@dataclass(frozen=True, kw_only=True)
class SimRobotSettings:
    """Rates in physics steps (of 1/240 s on the desk), and what the controller does."""

    joints_every: int = 2
    """Physics steps between joint states: 120 Hz."""
    pictures_every: int = 8
    """Physics steps between pictures: 30 Hz."""
    mode_every: int = 24
    """Physics steps between repetitions of the mode: 10 Hz."""
    cmd_timeout_s: float = 0.0
    """Of the trajectory controller; 0 is off, as by default in ros2_controllers."""
    interpolate_from_desired_state: bool = True
    """Of the trajectory controller; ros2_controllers' default is false, a stream of short messages needs true."""
    camera_noise: int = 1
    """Largest error of a pixel value, of 255."""
    seed: int = 0
    """Of noise, and of faults that are drawn."""

    def __post_init__(self) -> None:
        for name in ("joints_every", "pictures_every", "mode_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"SimRobotSettings.{name} must be at least 1, found {getattr(self, name)}")


class SimRobot:
    """One simulated robot. `receive`, `receive_gripper` and `post` may be called from any thread, the rest from one."""

    def __init__(self, body: SimBody, side: RobotSide, settings: SimRobotSettings | None = None) -> None:
        self.body, self.side = body, side
        self.settings = settings or SimRobotSettings()
        self.mode = RobotMode.OK
        self.epoch_s = 0.0
        """Header time [s] at simulated time 0."""
        self.counts: Counter[str] = Counter()
        """What was published, ignored and refused since the start, by name."""
        self.alarms: list[str] = []
        """What must never happen, in sentences; the first hundred."""
        self.ticks = 0
        """Physics steps since the start."""
        self.picture_taker: Callable[[Any, float, float], None] | None = None
        """Draws elsewhere: gets a view, its header time and its simulated time; None: pictures are drawn at once."""
        rng = np.random.default_rng(self.settings.seed)
        self.camera_lines = {name: CameraLine(rng, noise=self.settings.camera_noise) for name in body.cameras}
        self.joint_faults = JointFaults(rng)
        position, _, _ = body.state()
        self._gripper = body.gripper_command
        self.controller = TrajectoryController(
            body.joints,
            position,
            period_s=body.period_s,
            cmd_timeout_s=self.settings.cmd_timeout_s,
            interpolate_from_desired_state=self.settings.interpolate_from_desired_state,
            alarm=self.alarm,
        )
        self._last_joints = body.state()
        self._inbox: queue.SimpleQueue[ReceivedTrajectory | float | Callable[[], None]] = queue.SimpleQueue()
        self._was_done = False
        self.on_done: Callable[[Mapping[str, Any]], None] | None = None
        """Told once when the judged task is done, with the body's judgement."""

    @property
    def now_s(self) -> float:
        """Simulated time [s]."""
        return self.ticks * self.body.period_s

    def start(self) -> None:
        """Begin to listen, and say the mode.

        Raises:
            TransportError: If the transport cannot.
        """
        self.side.start(self.receive, self.receive_gripper, self._bad_message)
        self.side.publish_mode(self.mode)
        self.side.publish_description(self.body.urdf())

    def receive(self, message: ReceivedTrajectory) -> None:
        """A command of the arm, for the next step."""
        self._inbox.put(message)

    def receive_gripper(self, command: float) -> None:
        """+1 open, -1 close, for the next step."""
        self._inbox.put(float(command))

    def post(self, work: Callable[[], T]) -> Future[T]:
        """Have something done between two steps, by the thread that steps."""
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(work())
            except Exception as error:  # handed to whoever asked
                future.set_exception(error)

        self._inbox.put(run)
        return future

    def step(self, dt_s: float) -> None:
        """Advance by a whole number of physics steps, the nearest one to `dt_s`; at least one."""
        for _ in range(max(1, round(dt_s / self.body.period_s))):
            self.serve()
            self._tick()

    def serve(self) -> None:
        """Take what has arrived, without advancing."""
        while True:
            try:
                item = self._inbox.get_nowait()
            except queue.Empty:
                return
            if isinstance(item, ReceivedTrajectory):
                self._take(item)
            elif isinstance(item, float):
                self._take_gripper(item)
            elif callable(item):
                item()

    def set_mode(self, mode: RobotMode) -> None:
        """A stop brakes at once and forgets the trajectory; `ok` lets the arm obey again, from where it stands."""
        self.mode = mode
        self.controller.hold(self.body.state()[0])
        self.side.publish_mode(mode)

    def restart(self, start: Any) -> None:
        """The arm and the scene jump to a start of the body; the controller holds there."""
        self.body.restart(start)
        self._gripper, self._was_done = self.body.gripper_command, False
        self.controller.hold(self.body.state()[0])

    def begin(self, task: str | None, instruction: str = "") -> None:
        """Judge a task from now on; nothing moves."""
        self.body.begin(task, instruction)
        self._was_done = False

    def set_camera_fault(self, camera: str, fault: str = "", amount: float = 0.0) -> None:
        """Begin one of `CAMERA_FAULTS`, or end it.

        Raises:
            ConfigError: If camera or fault are unknown.
        """
        if camera not in self.camera_lines:
            raise ConfigError(f"no camera {camera!r}; {did_you_mean(camera, self.camera_lines)}")
        self.camera_lines[camera].set(fault, amount)

    def block_joint(self, name: str = "") -> None:
        """Jam an arm joint; "" lets all go.

        Raises:
            ConfigError: If there is no such joint.
        """
        self.body.block(self.body.joint_index(name) if name else None)

    def offer_picture(self, camera: str, image: np.ndarray, stamp_s: float, now_s: float) -> None:
        """A picture; it goes out with this step, or as its fault says. By the thread that steps, see `post`."""
        self.camera_lines[camera].offer(image, stamp_s, now_s)

    def alarm(self, sentence: str) -> None:
        """Note what must never happen."""
        self.counts["alarms"] += 1
        if len(self.alarms) < 100:
            self.alarms.append(f"{self.now_s:.3f} s: {sentence}")

    def status(self) -> dict[str, Any]:
        """Simulated time, mode, counts, greatest joint speed [rad/s] and tracking error [rad], judgement."""
        q, qd, width = self.body.state()
        return {
            "sim_s": round(self.now_s, 4),
            "mode": self.mode.value,
            "joint_speed": float(np.abs(qd).max()),
            "tracking_error": float(np.abs(self.controller.setpoint.position - q).max()),
            "gripper_width_m": width,
            "controller": dict(self.controller.counts),
            "counts": dict(self.counts),
            "alarms": list(self.alarms[:5]),
            "judgement": self.body.judgement(),
        }

    def close(self) -> None:
        """Stop listening and publishing."""
        self.side.close()

    def _take(self, message: ReceivedTrajectory) -> None:
        if self.mode is not RobotMode.OK:
            self.counts["ignored_while_stopped"] += 1
            return
        stamp_s = message.stamp_s - self.epoch_s if message.stamp_s != 0.0 else 0.0
        if stamp_s != message.stamp_s:
            message = _restamped(message, stamp_s)
        if why := self.controller.receive(message, self.now_s):
            self.counts["rejected"] += 1
            self.alarm(f"a trajectory was refused: {why}")

    def _take_gripper(self, command: float) -> None:
        if self.mode is RobotMode.OK and np.isfinite(command):
            self._gripper = 1.0 if command > 0.0 else -1.0

    def _tick(self) -> None:
        settings, body = self.settings, self.body
        q, qd, _ = body.state()
        setpoint = self.controller.update(self.now_s, Knot(self.now_s, q, qd))
        if not np.isfinite(setpoint.position).all():
            # libfranka refuses to command what is not finite, and the motion ends with an exception
            self.alarm("the controller commanded a position that is not finite; the arm stopped itself")
            self.set_mode(RobotMode.REFLEX)
            setpoint = self.controller.setpoint
        body.advance(setpoint.position, self._gripper)
        self.ticks += 1
        if self.ticks % settings.joints_every == 0:
            self._publish_joints()
        if self.ticks % settings.pictures_every == 0:
            self._take_pictures()
            self._tell_if_done()
        self._publish_pictures()
        if self.ticks % settings.mode_every == 0:
            self.side.publish_mode(self.mode)
            if body.diverged() and not self.counts["diverged"]:
                self.counts["diverged"] = 1
                self.alarm("the physics has diverged; this run is worth nothing")

    def _tell_if_done(self) -> None:
        if not self._was_done and self.on_done is not None and (judgement := self.body.judgement())["done"]:
            self._was_done = True
            self.on_done(judgement)

    def _publish_joints(self) -> None:
        if not self.joint_faults.frozen:
            self._last_joints = self.body.state()
        if self.joint_faults.lost():
            self.counts["joints_lost"] += 1
            return
        q, qd, width = self._last_joints
        self.side.publish_joints(q, qd, width, self.epoch_s + self.now_s + self.joint_faults.stamp_offset_s)
        self.counts["joints"] += 1

    def _take_pictures(self) -> None:
        if not self.camera_lines:
            return
        stamp_s, now_s = self.epoch_s + self.now_s, self.now_s
        if self.picture_taker is not None:
            self.picture_taker(self.body.view(), stamp_s, now_s)
            return
        for camera, image in self.body.draw().items():
            self.offer_picture(camera, image, stamp_s, now_s)

    def _publish_pictures(self) -> None:
        for camera, line in self.camera_lines.items():
            for picture in line.due(self.now_s):
                self.side.publish_frame(camera, picture.image, picture.stamp_s)
                self.counts[camera] += 1

    def _bad_message(self, role: str, what: str) -> None:
        self.counts["bad_messages"] += 1
        self.alarm(f"a message ({role}) could not be read: {what}")


def _restamped(message: ReceivedTrajectory, stamp_s: float) -> ReceivedTrajectory:
    """The same, on the simulated clock; a stamp that falls on 0 exactly must not mean "now"."""
    return replace(message, stamp_s=stamp_s if stamp_s != 0.0 else -1e-9)

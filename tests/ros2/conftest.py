"""A ROS domain of this run's own, a policy server in a process of its own, a robot as a ROS 2 node, and a client.

The policy server needs torch and MuJoCo: FOREACT_POLICY_PYTHON names a Python that has them, if this one has not.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

ROOT = Path(__file__).parents[2]
LOOPBACK = (
    '<CycloneDDS><Domain><General><Interfaces><NetworkInterface name="lo"/></Interfaces></General></Domain>'
    "</CycloneDDS>"
)
# A machine that does other things as well is late now and then; what is judged here is not its timing.
PATIENT = {
    "joints_hold_s": 0.3, "joints_fault_s": 2.0, "camera_hold_s": 0.5, "camera_fault_s": 3.0, "policy_hold_s": 0.5,
    "policy_fault_s": 3.0, "gripper_hold_s": 0.5, "gripper_fault_s": 3.0, "late_steps": 30.0, "late_tick_s": 0.3,
    "warmup_fraction": 1.0, "inference_period_s": 5.0, "sync_s": 0.2, "hold_limit_s": 5.0,
}  # fmt: skip
STEPS = {"configure": 1, "cleanup": 2, "activate": 3, "deactivate": 4}


@pytest.fixture(scope="session", autouse=True)
def world() -> Iterator[None]:
    """Nobody else hears us."""
    patch = pytest.MonkeyPatch()
    patch.setenv("ROS_DOMAIN_ID", str(20 + os.getpid() % 70))
    patch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    patch.setenv("CYCLONEDDS_URI", LOOPBACK)
    patch.delenv("ROS_STATIC_PEERS", raising=False)
    yield
    if importlib.util.find_spec("rclpy"):
        subprocess.run(["ros2", "daemon", "stop"], capture_output=True, timeout=30)
    patch.undo()


@pytest.fixture(scope="session")
def policy_python() -> list[str]:
    """Command and environment of a Python with torch."""
    python = os.environ.get("FOREACT_POLICY_PYTHON", "")
    if not python and importlib.util.find_spec("torch") is None:
        pytest.skip("no torch here; FOREACT_POLICY_PYTHON names a Python that has it")
    return [python or sys.executable]


def other_environment(python: str) -> dict[str, str]:
    """For a Python that is not this one: none of ROS's own folders."""
    theirs = str(ROOT / "src")
    own = python == sys.executable and os.environ.get("PYTHONPATH", "")
    return {**os.environ, "PYTHONPATH": f"{theirs}:{own}" if own else theirs, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="session")
def policy_url(policy_python: list[str]) -> Iterator[str]:
    """A server of the checkpoint that comes with the project, for the desk's arm."""
    server = subprocess.Popen(
        [*policy_python, "-m", "foreact.commands.main", "serve", str(ROOT / "checkpoints" / "foreact_desk"),
         "--robot", "desk_sim", "--port", "0", "--json"],
        env=other_environment(policy_python[0]), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert server.stdout is not None
    line = server.stdout.readline()
    assert line, f"the policy server ended with {server.wait(10)}"
    yield json.loads(line)["urls"]["openpi"]
    server.terminate()
    server.wait(20)
    server.stdout.close()


@pytest.fixture
def robot_file(tmp_path: Path) -> Callable[..., str]:
    """Makes robot files: the desk's, named after this test, with bounds for a busy machine, and what is given."""

    def make(**changes: Any) -> str:
        found = yaml.safe_load((ROOT / "robot_bridge" / "robots" / "desk_sim.yaml").read_text())
        found |= {"name": f"ros_test_{os.getpid()}", "gate": dict(PATIENT), **changes}
        found["policy"] = {**found["policy"], "timeout_s": 10.0}
        path = tmp_path / f"robot_{len(list(tmp_path.iterdir()))}.yaml"
        path.write_text(yaml.safe_dump(found))
        return str(path)

    return make


class Ros:
    """A node of the test's own that spins in a thread."""

    def __init__(self, name: str = "test_client"):
        import rclpy
        from rclpy.executors import MultiThreadedExecutor
        from rclpy.signals import SignalHandlerOptions

        self.context = rclpy.Context()
        rclpy.init(args=[], context=self.context, signal_handler_options=SignalHandlerOptions.NO)
        self.node = rclpy.create_node(name, context=self.context)
        self.executor = MultiThreadedExecutor(num_threads=3, context=self.context)
        self.executor.add_node(self.node)
        self.thread = threading.Thread(target=self._spin, daemon=True)
        self.thread.start()
        self.got: dict[str, list[tuple[float, Any]]] = defaultdict(list)

    def _spin(self) -> None:
        from rclpy.executors import ExternalShutdownException, ShutdownException

        with suppress(ExternalShutdownException, ShutdownException):
            self.executor.spin()

    def call(self, kind: Any, name: str, request: Any, timeout_s: float = 60.0) -> Any:
        """A service's answer."""
        client = self.node.create_client(kind, name)
        assert client.wait_for_service(20.0), f"no service {name}"
        future = client.call_async(request)
        until(future.done, timeout_s, f"{name} did not answer")
        self.node.destroy_client(client)
        return future.result()

    def change(self, step: str, node: str = "/foreact") -> bool:
        """A lifecycle transition by name."""
        from lifecycle_msgs.srv import ChangeState

        request = ChangeState.Request()
        request.transition.id = STEPS[step]
        return self.call(ChangeState, f"{node}/change_state", request).success

    def state(self, node: str = "/foreact") -> str:
        """The lifecycle state."""
        from lifecycle_msgs.srv import GetState

        return self.call(GetState, f"{node}/get_state", GetState.Request()).current_state.label

    def trigger(self, name: str, node: str = "/foreact") -> tuple[bool, str]:
        """~/arm, ~/disarm, ~/stop."""
        from std_srvs.srv import Trigger

        answer = self.call(Trigger, f"{node}/{name}", Trigger.Request())
        return answer.success, answer.message

    def set(self, values: Mapping[str, Any], node: str = "/foreact") -> list[tuple[bool, str]]:
        """Set parameters; (done, reason) of each."""
        from rcl_interfaces.srv import SetParameters
        from rclpy.parameter import Parameter

        request = SetParameters.Request()
        request.parameters = [Parameter(name, value=value).to_parameter_msg() for name, value in values.items()]
        results = self.call(SetParameters, f"{node}/set_parameters", request).results
        return [(result.successful, result.reason) for result in results]

    def listen(self, kind: Any, topic: str, **qos: Any) -> list[tuple[float, Any]]:
        """Messages as they come, each with its time of arrival."""
        box = self.got[topic]
        self.node.create_subscription(kind, topic, lambda m: box.append((time.monotonic(), m)), make_qos(**qos))
        return box

    def say(self, text: str, node: str = "/foreact") -> None:
        """An instruction."""
        from std_msgs.msg import String

        if not hasattr(self, "_words"):
            self._words = self.node.create_publisher(String, f"{node}/instruction", make_qos(durability=1))
        self._words.publish(String(data=text))

    def close(self) -> None:
        self.executor.shutdown(timeout_sec=2.0)
        self.thread.join(5.0)
        self.node.destroy_node()
        self.context.try_shutdown()


def make_qos(depth: int = 10, reliability: int = 1, durability: int = 2, **more: Any) -> Any:
    """A profile by ROS's numbers: reliability 1 reliable, 2 best effort; durability 1 transient local, 2 volatile."""
    from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

    return QoSProfile(
        depth=depth, reliability=ReliabilityPolicy(reliability), durability=DurabilityPolicy(durability), **more
    )


def until(what: Callable[[], object], seconds: float, why: str | Callable[[], str] = "it did not happen") -> float:
    """How long it took until `what` was true [s]."""
    began = time.monotonic()
    while not what():
        assert time.monotonic() - began < seconds, why() if callable(why) else why
        time.sleep(0.01)
    return time.monotonic() - began


@pytest.fixture
def wait_until() -> Callable[..., float]:
    return until


@pytest.fixture
def qos() -> Callable[..., Any]:
    return make_qos


@pytest.fixture
def ros() -> Iterator[Ros]:
    client = Ros()
    yield client
    client.close()


class Process:
    """A program with its output."""

    def __init__(self, command: list[str], env: Mapping[str, str] | None = None):
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=dict(env or os.environ)
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout:
            self.lines.extend(iter(self.process.stdout.readline, ""))

    @property
    def text(self) -> str:
        return "".join(self.lines)

    def end(self, number: int = 2, timeout_s: float = 30.0) -> int:
        """Its exit status after a signal."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        finally:
            self._reader.join(5.0)


@pytest.fixture
def start() -> Iterator[Callable[..., Process]]:
    """Starts programs that end with the test."""
    running: list[Process] = []

    def run(command: list[str], env: Mapping[str, str] | None = None) -> Process:
        running.append(Process(command, env))
        return running[-1]

    yield run
    for process in reversed(running):
        if process.process.poll() is None:
            process.end()


@pytest.fixture
def bridge(start: Callable[..., Process], policy_url: str) -> Callable[..., Process]:
    """Starts bridges, not configured yet."""

    def run(name: str = "foreact", **parameters: Any) -> Process:
        given = {"url": policy_url, "policy_timeout_s": 10.0, **parameters}
        words = [w for key, value in given.items() for w in ("-p", f"{key}:={_yaml(value)}")]
        return start([
            sys.executable, "-m", "foreact.robot_bridge.ros_node", "--ros-args", "-r", f"__node:={name}", *words
        ])  # fmt: skip

    return run


def _yaml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


@pytest.fixture
def arm(robot_file: Callable[..., str]) -> Iterator[Any]:
    """An arm that stands where the desk's does: a ROS 2 node with cameras at 30 Hz, joints at 125 Hz, a trajectory
    controller with the interpolation of ros2_controllers, as topic and as action."""
    robot = Arm(robot_file())
    yield robot
    robot.close()


@pytest.fixture
def make_arm(robot_file: Callable[..., str]) -> Iterator[Callable[[str], Any]]:
    """More such arms, by the name of their node."""
    made: list[Arm] = []
    yield lambda name: made.append(Arm(robot_file(), name)) or made[-1]
    for robot in made:
        robot.close()


def urdf_of(limits: Any) -> str:
    """The URDF of the arm that a limits file is about."""
    lines = ["<robot>"]
    for i, (name, link) in enumerate(zip(limits.joints, limits.chain, strict=False)):
        xyz, rpy, axis = (" ".join(map(str, part)) for part in (link.xyz, link.rpy, link.axis))
        low, high, speed = limits.position_low[i], limits.position_high[i], limits.velocity[i]
        lines.append(
            f'<joint name="{name}" type="revolute"><origin xyz="{xyz}" rpy="{rpy}"/><axis xyz="{axis}"/>'
            f'<limit lower="{low}" upper="{high}" velocity="{speed}"/></joint>'
        )
    return "".join([*lines, "</robot>"])


class Arm:
    """Kinematic: it is where the controller says."""

    START = (-1.2178, 1.0399, 2.1198, -2.3421, -0.8702, 1.6412, 0.5534)

    def __init__(self, file: str, node_name: str = "test_arm"):
        from foreact.robot_bridge.config import load_robot
        from foreact.robot_bridge.ros_robot_side import RosRobotSide
        from foreact.robot_bridge.trajectory_controller import TrajectoryController
        from foreact.robot_bridge.types import RobotMode

        self.robot = load_robot(file)
        self.names = self.robot.topic_names()
        self.side = RosRobotSide(self.names, node_name)
        self.controller = TrajectoryController(self.names.arm_joints, self.START, period_s=0.008)
        self.q = np.array(self.START)
        self.trajectories: list[Any] = []
        self.bad: list[tuple[str, str]] = []
        self.fastest = 0.0
        self._new: list[Any] = []
        self._ended = threading.Event()
        self.side.start(self._take, lambda command: None, lambda role, text: self.bad.append((role, text)))
        self.side.publish_mode(RobotMode.OK)
        self.side.publish_description(urdf_of(self.robot.arm()))
        noise = np.random.default_rng(1)
        self._pictures = [
            {c.name: noise.integers(0, 256, (c.height, c.width, 3), np.uint8) for c in self.robot.contract.cameras}
            for _ in range(8)
        ]
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _take(self, trajectory: Any) -> None:
        self.trajectories.append(trajectory)
        self._new.append(trajectory)

    def _run(self) -> None:
        due, tick = time.monotonic(), 0
        while not self._ended.wait(max(0.0, due - time.monotonic())):
            due, now = max(due + 0.008, time.monotonic() - 0.1), time.time()
            while self._new:
                self.controller.receive(self._new.pop(0), now)
            before, self.q = self.q, self.controller.update(now).position
            velocity = (self.q - before) / 0.008
            self.fastest = max(self.fastest, float(np.abs(velocity).max()))
            self.side.publish_joints(self.q, velocity, 0.08, time.time())
            if tick % 4 == 0:
                for camera, image in self._pictures[tick // 4 % 8].items():
                    self.side.publish_frame(camera, image, time.time())
            tick += 1

    def close(self) -> None:
        self._ended.set()
        self._thread.join(5.0)
        self.side.close()

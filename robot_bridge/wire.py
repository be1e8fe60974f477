"""Bridge and robot on a network: messages in CDR over a `Node`, which is DDS or Zenoh."""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

import numpy as np

from foreact.robot_bridge import messages_in, messages_out
from foreact.robot_bridge.node import Node
from foreact.robot_bridge.robot_side import ReceivedTrajectory
from foreact.robot_bridge.ros_make import RosbagsMaker
from foreact.robot_bridge.ros_types import decode, encode, warm
from foreact.robot_bridge.topic_names import TopicNames, TopicSpec
from foreact.robot_bridge.transport import Inbox
from foreact.robot_bridge.transport_errors import BadMessage
from foreact.robot_bridge.types import DiagnosticLine, Event, RobotMode, State, TopicReport, Trajectory


class WireTransport:
    """The bridge's end; a `foreact.robot_bridge.transport.Transport`.

    Args:
        node: Not yet opened.
        names: All topics.
        hardware_id: Named in diagnostics.
    """

    def __init__(self, node: Node, names: TopicNames, hardware_id: str = ""):
        self._node, self.names, self._hardware = node, names, hardware_id
        self._make = RosbagsMaker()
        self._spec = {spec.role: spec for spec in names.specs()}
        self._sequence: Counter[str] = Counter()
        self._inbox: Inbox | None = None
        # A stop never waits behind an "arm" that is still being judged.
        self._commands = {"stop": _Worker(self._obey, "stop"), "": _Worker(self._obey, "commands")}

    def start(self, inbox: Inbox) -> None:
        """As `Transport.start`."""
        for spec in self.names.specs():
            warm(spec.type)
        self._inbox = inbox
        self._node.open(self.names.specs(), self._heard)

    def send_trajectory(self, trajectory: Trajectory) -> None:
        """As `Transport.send_trajectory`."""
        # Stamps are readings of the wall clock, as ROS time is without a simulator.
        stamp = trajectory.start_s - time.monotonic() + time.time() if self.names.stamped else 0.0
        self._send("trajectory", messages_out.joint_trajectory(self._make, self.names.arm_joints, trajectory, stamp))

    def send_gripper(self, command: float) -> None:
        """As `Transport.send_gripper`."""
        if "gripper" in self._spec:
            self._send("gripper", messages_out.gripper(self._make, command, self.names))

    def send_diagnostics(self, lines: Sequence[DiagnosticLine]) -> None:
        """As `Transport.send_diagnostics`."""
        self._send("diagnostics", messages_out.diagnostics(self._make, lines, time.time(), self._hardware))

    def send_state(self, state: State, event: Event | None) -> None:
        """As `Transport.send_state`."""
        self._send("state", messages_out.state(self._make, state, event))

    def send_foresight(self, images: Mapping[str, np.ndarray], stamp_s: float) -> None:
        """As `Transport.send_foresight`."""
        for camera, image in images.items():
            if f"foresight {camera}" in self._spec:
                self._send(f"foresight {camera}", messages_out.compressed_image(self._make, image, stamp_s, camera))

    def graph(self) -> Sequence[TopicReport]:
        """As `Transport.graph`."""
        return self._node.reports()

    def close(self) -> None:
        """As `Transport.close`."""
        self._inbox = None
        self._node.close()
        for worker in self._commands.values():
            worker.close()

    def _send(self, role: str, message: object) -> None:
        spec = self._spec[role]
        self._node.publish(spec, encode(message, spec.type))

    def _heard(self, spec: TopicSpec, data: bytes, received_s: float) -> None:
        if (inbox := self._inbox) is None:
            return
        try:
            self._deliver(inbox, spec, data, received_s)
        except BadMessage as error:
            inbox.bad_message(spec.role, str(error), received_s)
        except Exception as error:  # a hostile message must not end the thread that listens
            text = f"{spec.topic}: a message could not be read: {error!r:.200}"
            inbox.bad_message(spec.role, text, received_s)

    def _deliver(self, inbox: Inbox, spec: TopicSpec, data: bytes, received_s: float) -> None:
        message = decode(data, spec.type, f"a message on {spec.topic}")
        role = spec.role
        if role.startswith("camera "):
            name = role.removeprefix("camera ")
            number = self._sequence[name]
            frame = messages_in.camera_frame(message, name, self.names.cameras[name], received_s, number)
            self._sequence[name] += 1
            inbox.frame(frame)
        elif role == "joints":
            joints = self.names
            sample = messages_in.joint_sample(message, joints.arm_joints, joints.gripper_joints, received_s)
            if sample is not None:
                inbox.joints(sample)
        elif role == "mode":
            inbox.mode(messages_in.robot_mode(message, spec.type), received_s)
        elif role == "description":
            inbox.description(messages_in.description(message))
        elif role == "instruction":
            inbox.instruction(messages_in.instruction(message), received_s)
        else:
            self._commands.get(role, self._commands[""]).put((role, bool(message.data)))

    def _obey(self, item: tuple[str, bool]) -> None:
        role, value = item
        if role == "stop" and not value:
            return  # a button that is released does not stop anything
        name = "disarm" if role == "arm" and not value else role
        if (inbox := self._inbox) is not None:
            try:
                done, sentence = inbox.command(name, value)
            except Exception as error:  # whoever asked is told, and the next command, perhaps a stop, has its turn
                done, sentence = False, f"{name} failed: {error!r:.200}"
            self._send("reply", messages_out.reply(self._make, name, done, sentence))


class _Worker:
    """A thread that does one thing after another, at most ten waiting."""

    def __init__(self, do: Callable[[tuple[str, bool]], None], name: str):
        self._do = do
        self._queue: queue.Queue[tuple[str, bool] | None] = queue.Queue(maxsize=10)
        self._thread = threading.Thread(target=self._run, name=f"bridge {name}", daemon=True)
        self._thread.start()

    def put(self, item: tuple[str, bool]) -> None:
        if not self._queue.full():
            self._queue.put_nowait(item)

    def close(self) -> None:
        with suppress(queue.Full):
            self._queue.put(None, timeout=2.0)
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout=2.0)

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            with suppress(Exception):  # a command that fails must not keep the next one, perhaps a stop, from its turn
                self._do(item)


class WireRobotSide:
    """The robot's end; a `foreact.robot_bridge.robot_side.RobotSide`.

    Args:
        node: Not yet opened.
        names: The bridge's topics.
    """

    def __init__(self, node: Node, names: TopicNames):
        self._node, self.names = node, names
        self._make = RosbagsMaker()
        self._spec = {spec.role: spec for spec in names.robot_specs()}
        self._callbacks: tuple[Callable[..., None], Callable[..., None], Callable[..., None] | None] | None = None

    def start(
        self,
        on_trajectory: Callable[[ReceivedTrajectory], None],
        on_gripper: Callable[[float], None],
        on_bad_message: Callable[[str, str], None] | None = None,
    ) -> None:
        """As `RobotSide.start`."""
        for spec in self.names.robot_specs():
            warm(spec.type)
        self._callbacks = (on_trajectory, on_gripper, on_bad_message)
        self._node.open(self.names.robot_specs(), self._heard)

    def publish_frame(self, camera: str, image: np.ndarray, stamp_s: float) -> None:
        """As `RobotSide.publish_frame`."""
        pack = messages_out.compressed_image if self.names.cameras[camera].compressed else messages_out.raw_image
        self._send(f"camera {camera}", pack(self._make, image, stamp_s, camera))

    def publish_joints(
        self,
        positions: Sequence[float] | np.ndarray,
        velocities: Sequence[float] | np.ndarray,
        gripper_width_m: float,
        stamp_s: float,
    ) -> None:
        """As `RobotSide.publish_joints`."""
        fingers = self.names.gripper_joints
        each = [gripper_width_m / len(fingers)] * len(fingers) if fingers else []
        message = messages_out.joint_state(
            self._make,
            (*self.names.arm_joints, *fingers),
            [*positions, *each],
            [*velocities, *[0.0] * len(fingers)],
            stamp_s,
        )
        self._send("joints", message)

    def publish_mode(self, mode: RobotMode) -> None:
        """As `RobotSide.publish_mode`."""
        if (spec := self._spec.get("mode")) and spec.type == "std_msgs/msg/String":
            self._send("mode", messages_out.text(self._make, str(mode)))
        elif spec and spec.type == "std_msgs/msg/Bool":
            self._send("mode", self._make.new("std_msgs/msg/Bool", data=mode is not RobotMode.OK))
        elif spec:
            code = {RobotMode.OK: 1, RobotMode.PROTECTIVE_STOP: 3, RobotMode.EMERGENCY_STOP: 7, RobotMode.REFLEX: 8}
            self._send("mode", self._make.new(spec.type, mode=code.get(mode, 11)))

    def publish_description(self, urdf: str) -> None:
        """As `RobotSide.publish_description`."""
        if "description" in self._spec:
            self._send("description", messages_out.text(self._make, urdf))

    def close(self) -> None:
        """As `RobotSide.close`."""
        self._callbacks = None
        self._node.close()

    def _send(self, role: str, message: object) -> None:
        spec = self._spec[role]
        self._node.publish(spec, encode(message, spec.type))

    def _heard(self, spec: TopicSpec, data: bytes, received_s: float) -> None:
        if (callbacks := self._callbacks) is None:
            return
        on_trajectory, on_gripper, on_bad = callbacks
        try:
            message = decode(data, spec.type, f"a message on {spec.topic}")
            if spec.role == "trajectory":
                on_trajectory(messages_in.trajectory(message, received_s))
            elif spec.role == "gripper":
                names = self.names
                fingers = max(1, len(names.gripper_joints))
                on_gripper(messages_in.gripper(message, names.gripper_open_m, names.gripper_closed_m, fingers))
        except BadMessage as error:
            if on_bad:
                on_bad(spec.role, str(error))

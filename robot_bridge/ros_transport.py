"""The bridge's way to a robot over rclpy.

Cameras and joints come through a second, small node with a thread of its own: an executor of rclpy asks all its
entities at every message, and those of a lifecycle node are many. Pictures are decoded in a thread per camera. What is
sent is made into messages and published by threads as well, so the gate's loop waits for nobody.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from foreact.robot_bridge import messages_in, messages_out
from foreact.robot_bridge.limits import RobotLimits
from foreact.robot_bridge.ros_action import ActionOutput
from foreact.robot_bridge.ros_graph import RosGraph
from foreact.robot_bridge.ros_make import RclpyMaker
from foreact.robot_bridge.ros_output import ArmOutput, TopicOutput
from foreact.robot_bridge.ros_qos import profile
from foreact.robot_bridge.ros_sensors import SensorNode
from foreact.robot_bridge.ros_servo import ServoOutput
from foreact.robot_bridge.ros_threads import Latest, Queue
from foreact.robot_bridge.topic_names import TopicNames, TopicSpec
from foreact.robot_bridge.transport import Inbox
from foreact.robot_bridge.transport_errors import BadMessage, TransportError
from foreact.robot_bridge.types import DiagnosticLine, Event, State, TopicReport, Trajectory


class RosTransport:
    """A `foreact.robot_bridge.transport.Transport` that may be started again after it was closed.

    Args:
        node: rclpy's, in an executor with at least two threads.
        names: All topics; remapping rules of the node are obeyed.
        arm: Its limits.
        output: As `Robot.output`.
        hardware_id: Named in diagnostics.
        action_rate_hz: With `output` "action", see `ros_action`.
        log: Gets sentences about what could not be sent.
    """

    def __init__(
        self,
        node: Any,
        names: TopicNames,
        arm: RobotLimits,
        *,
        output: str = "joint_trajectory",
        hardware_id: str = "",
        action_rate_hz: float = 25.0,
        log: Callable[[str], None] = lambda text: None,
    ):
        self._node, self.names, self._hardware = node, names, hardware_id
        self._make = RclpyMaker()
        self._log = log
        self.output = _output(output, node, names, arm, self._make, action_rate_hz, self._failed)
        self.foresight_quality = 90
        self.errors: Counter[str] = Counter()
        self._graph = RosGraph(node, self.output.reports)
        self._inbox: Inbox | None = None
        self._entities: list[tuple[Callable[[Any], Any], Any]] = []
        self._publishers: dict[str, Any] = {}
        self._counts: Counter[str] = Counter()
        self._sensors: SensorNode | None = None

    def start(self, inbox: Inbox) -> None:
        """As `Transport.start`."""
        if self._inbox is not None:
            raise TransportError("this transport was started already")
        self._inbox = inbox
        # A stop never waits behind an "arm" that is still being judged.
        self._commands = {role: Queue(f"ros {role or 'commands'}", self._failed) for role in ("stop", "")}
        self._talk, self._pictures = Queue("ros talk", self._failed, waiting=64), Latest("ros foresight", self._failed)
        own = self.output.spec()
        specs = [s for s in self.names.specs() if s.role != "trajectory"] + ([own] if own else [])
        named = [(spec, self._node.resolve_topic_name(spec.topic)) for spec in specs]
        try:
            for spec, topic in named:
                if spec.direction == "out":
                    self._publishers[spec.role] = self._publish_on(spec, topic)
            self.output.open(own and self._publishers[own.role], inbox, self.now_s)
            sensors = [(s, t) for s, t in named if s.role == "joints" or s.role.startswith("camera ")]
            self._sensors = SensorNode(self._node, self.names, sensors, self._counts, self.output.joints)
            self._sensors.start(inbox)
            for spec, topic in named:
                if spec.direction == "in" and (spec, topic) not in sensors:
                    self._subscribe_to(spec, topic)
        except Exception as error:
            self.close()
            raise TransportError(f"the node could not join its topics: {error!s:.300}") from error
        self._graph.open(named, self._counts)

    def now_s(self) -> float:
        """The node's clock [s]; simulated if `use_sim_time` is set."""
        return self._node.get_clock().now().nanoseconds * 1e-9

    def send_trajectory(self, trajectory: Trajectory) -> None:
        """As `Transport.send_trajectory`."""
        self.output.send(trajectory)

    def send_gripper(self, command: float) -> None:
        """As `Transport.send_gripper`."""
        if "gripper" in self._publishers:
            self._say("gripper", lambda: messages_out.gripper(self._make, command, self.names))

    def send_diagnostics(self, lines: Sequence[DiagnosticLine]) -> None:
        """As `Transport.send_diagnostics`."""
        now = self.now_s()
        self._say("diagnostics", lambda: messages_out.diagnostics(self._make, lines, now, self._hardware))

    def send_state(self, state: State, event: Event | None) -> None:
        """As `Transport.send_state`."""
        self._say("state", lambda: messages_out.state(self._make, state, event))

    def send_foresight(self, images: Mapping[str, np.ndarray], stamp_s: float) -> None:
        """As `Transport.send_foresight`."""
        for camera, image in images.items():
            if (publisher := self._publishers.get(f"foresight {camera}")) is not None:
                self._pictures.put(camera, partial(self._picture, publisher, image, stamp_s, camera))

    def graph(self) -> Sequence[TopicReport]:
        """As `Transport.graph`: what the last look saw, at most half a second ago."""
        return self._graph.reports()

    def close(self) -> None:
        """As `Transport.close`."""
        if self._inbox is None:
            return
        self._inbox = None
        self._graph.close()
        if self._sensors is not None:
            self._sensors.close()
            self._sensors = None
        self.output.close()
        for worker in (*self._commands.values(), self._talk, self._pictures):
            worker.close()
        for destroy, entity in self._entities:
            destroy(entity)
        self._entities.clear()
        self._publishers.clear()

    # --- out ----------------------------------------------------------------------------------------------------------

    def _publish_on(self, spec: TopicSpec, topic: str) -> Any:
        from rclpy.event_handler import PublisherEventCallbacks  # type: ignore[import-not-found]

        events = PublisherEventCallbacks(
            incompatible_qos=partial(self._graph.event, spec.role), use_default_callbacks=False
        )
        made = self._node.create_publisher(
            self._type(spec), topic, profile(spec.qos), callback_group=self._group(), event_callbacks=events
        )
        self._entities.append((self._node.destroy_publisher, made))
        return made

    def _say(self, role: str, make: Callable[[], Any]) -> None:
        if self._inbox is None or (publisher := self._publishers.get(role)) is None:
            return
        if not self._talk.put(lambda: publisher.publish(make())):
            self.errors["not sent"] += 1

    def _picture(self, publisher: Any, image: np.ndarray, stamp_s: float, camera: str) -> None:
        publisher.publish(
            messages_out.compressed_image(self._make, image, stamp_s, camera, quality=self.foresight_quality)
        )

    # --- in -----------------------------------------------------------------------------------------------------------

    def _subscribe_to(self, spec: TopicSpec, topic: str) -> None:
        from rclpy.event_handler import SubscriptionEventCallbacks  # type: ignore[import-not-found]

        events = SubscriptionEventCallbacks(
            incompatible_qos=partial(self._graph.event, spec.role), use_default_callbacks=False
        )
        made = self._node.create_subscription(
            self._type(spec), topic, partial(self._heard, spec), profile(spec.qos), callback_group=self._group(),
            event_callbacks=events,
        )  # fmt: skip
        self._entities.append((self._node.destroy_subscription, made))

    def _heard(self, spec: TopicSpec, message: Any) -> None:
        received_s = time.monotonic()
        self._counts[spec.role] += 1
        if (inbox := self._inbox) is None:
            return
        try:
            if spec.role == "mode":
                inbox.mode(messages_in.robot_mode(message, spec.type), received_s)
            elif spec.role == "description":
                inbox.description(messages_in.description(message))
            elif spec.role == "instruction":
                inbox.instruction(messages_in.instruction(message), received_s)
            else:
                queue = self._commands.get(spec.role, self._commands[""])
                queue.put(partial(self._obey, spec.role, bool(message.data)))
        except BadMessage as error:
            inbox.bad_message(spec.role, str(error), received_s)
        except Exception as error:  # a hostile message must not end the executor
            inbox.bad_message(spec.role, f"{spec.topic}: a message could not be read: {error!r:.200}", received_s)

    def _obey(self, role: str, value: bool) -> None:
        if role == "stop" and not value:
            return  # a button that is released does not stop anything
        name = "disarm" if role == "arm" and not value else role
        if (inbox := self._inbox) is not None:
            done, sentence = inbox.command(name, value)
            self._say("reply", lambda: messages_out.reply(self._make, name, done, sentence))

    # --- both ---------------------------------------------------------------------------------------------------------

    def _group(self) -> Any:
        from rclpy.callback_groups import MutuallyExclusiveCallbackGroup  # type: ignore[import-not-found]

        return MutuallyExclusiveCallbackGroup()

    def _type(self, spec: TopicSpec) -> Any:
        from rosidl_runtime_py.utilities import get_message  # type: ignore[import-not-found]

        try:
            return get_message(spec.type)
        except (ImportError, AttributeError, ValueError) as error:
            package = spec.type.partition("/")[0]
            raise TransportError(
                f"{spec.topic} has type {spec.type}, which is not installed; "
                f"apt install ros-$ROS_DISTRO-{package.replace('_', '-')}"
            ) from error

    def _failed(self, error: Exception) -> None:
        self.errors[type(error).__name__] += 1
        if self._inbox is not None and self.errors.total() <= 10:
            self._log(f"something could not be sent: {error!r:.300}")


def _output(
    kind: str, node: Any, names: TopicNames, arm: RobotLimits, make: RclpyMaker, rate_hz: float,
    on_error: Callable[[Exception], None],
) -> ArmOutput:  # fmt: skip
    if kind == "action":
        return ActionOutput(node, names, make, rate_hz, on_error)
    if kind == "servo_twist":
        return ServoOutput(names, make, arm, on_error)
    return TopicOutput(names, make, on_error)

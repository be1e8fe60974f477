"""The robot's end over rclpy: a simulated robot as a ROS 2 node, whichever middleware is in use."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from foreact.robot_bridge import messages_in, messages_out
from foreact.robot_bridge.robot_side import ReceivedTrajectory
from foreact.robot_bridge.ros_make import RclpyMaker
from foreact.robot_bridge.ros_qos import profile
from foreact.robot_bridge.ros_robot_action import RobotAction
from foreact.robot_bridge.topic_names import TopicNames, TopicSpec
from foreact.robot_bridge.transport_errors import BadMessage, TransportError
from foreact.robot_bridge.types import RobotMode

_MODE_CODES = {
    RobotMode.OK: 1, RobotMode.PROTECTIVE_STOP: 3, RobotMode.EMERGENCY_STOP: 7, RobotMode.REFLEX: 8
}  # fmt: skip


class RosRobotSide:
    """A `foreact.robot_bridge.robot_side.RobotSide` that also offers the FollowJointTrajectory action.

    Args:
        names: The bridge's topics.
        node_name: What `ros2 node list` shows.
        domain_id: None: ROS_DOMAIN_ID.

    Raises:
        TransportError: If there is no rclpy.
    """

    def __init__(self, names: TopicNames, node_name: str = "robot_sim", domain_id: int | None = None):
        try:
            import rclpy  # type: ignore[import-not-found]
            from rclpy.executors import MultiThreadedExecutor  # type: ignore[import-not-found]
            from rclpy.signals import SignalHandlerOptions  # type: ignore[import-not-found]
        except ImportError as error:
            raise TransportError(
                f"there is no rclpy here ({error}); source a ROS 2 install, see docs/ros2.md"
            ) from error
        self.names = names
        self._make = RclpyMaker()
        self._context = rclpy.Context()
        rclpy.init(args=[], context=self._context, domain_id=domain_id, signal_handler_options=SignalHandlerOptions.NO)
        self.node = rclpy.create_node(node_name, namespace=names.namespace, context=self._context)
        self._executor = MultiThreadedExecutor(num_threads=4, context=self._context)
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._spin, name="ros robot", daemon=True)
        self._publishers: dict[str, Any] = {}
        self._spec = {spec.role: spec for spec in names.robot_specs()}
        self._closed = False
        self.action: RobotAction | None = None

    def start(
        self,
        on_trajectory: Callable[[ReceivedTrajectory], None],
        on_gripper: Callable[[float], None],
        on_bad_message: Callable[[str, str], None] | None = None,
    ) -> None:
        """As `RobotSide.start`."""
        from rosidl_runtime_py.utilities import get_message  # type: ignore[import-not-found]

        self._callbacks = (on_trajectory, on_gripper, on_bad_message)
        for role, spec in self._spec.items():
            kind, qos = get_message(spec.type), profile(spec.qos)
            if spec.direction == "out":
                self._publishers[role] = self.node.create_publisher(kind, spec.topic, qos)
            else:
                self.node.create_subscription(kind, spec.topic, partial(self._heard, spec), qos)
        try:
            self.action = RobotAction(self.node, self.names, on_trajectory)
        except ImportError:
            self.action = None  # control_msgs is not installed; the topic is enough
        self._thread.start()

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
        if (spec := self._spec.get("mode")) is None:
            return
        if spec.type == "std_msgs/msg/String":
            self._send("mode", messages_out.text(self._make, str(mode)))
        elif spec.type == "std_msgs/msg/Bool":
            self._send("mode", self._make.new("std_msgs/msg/Bool", data=mode is not RobotMode.OK))
        else:
            self._send("mode", self._make.new(spec.type, mode=_MODE_CODES.get(mode, 11)))

    def publish_description(self, urdf: str) -> None:
        """As `RobotSide.publish_description`."""
        self._send("description", messages_out.text(self._make, urdf))

    def close(self) -> None:
        """As `RobotSide.close`."""
        if self._closed:
            return
        self._closed = True
        if self.action is not None:
            self.action.close()
        self._executor.shutdown(timeout_sec=2.0)
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout=2.0)
        self.node.destroy_node()
        self._context.try_shutdown()

    def _spin(self) -> None:
        from rclpy.executors import ExternalShutdownException, ShutdownException  # type: ignore[import-not-found]

        with contextlib.suppress(ExternalShutdownException, ShutdownException, KeyboardInterrupt):
            self._executor.spin()

    def _send(self, role: str, message: Any) -> None:
        if not self._closed and role in self._publishers:
            self._publishers[role].publish(message)

    def _heard(self, spec: TopicSpec, message: Any) -> None:
        on_trajectory, on_gripper, on_bad = self._callbacks
        names = self.names
        try:
            if spec.role == "trajectory":
                on_trajectory(messages_in.trajectory(message, time.monotonic()))
            elif spec.role == "gripper":
                fingers = max(1, len(names.gripper_joints))
                on_gripper(messages_in.gripper(message, names.gripper_open_m, names.gripper_closed_m, fingers))
        except BadMessage as error:
            if on_bad:
                on_bad(spec.role, str(error))

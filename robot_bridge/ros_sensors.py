"""The small node through which cameras and joints come: three subscriptions, one thread, no services.

Only the newest message counts. A callback notes when it came and hands pictures on; joints, a few numbers, it reads
itself.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from foreact.robot_bridge import messages_in
from foreact.robot_bridge.ros_qos import profile
from foreact.robot_bridge.ros_threads import Latest
from foreact.robot_bridge.topic_names import TopicNames, TopicSpec
from foreact.robot_bridge.transport import Inbox
from foreact.robot_bridge.transport_errors import BadMessage
from foreact.robot_bridge.types import JointSample


class SensorNode:
    """Listens from `start` to `close`, once.

    Args:
        node: The bridge's; this one has its name and `_sensors`.
        names: All topics.
        topics: Of cameras and joints, each with its name after remapping.
        counts: Role -> messages that arrived; counted here.
        on_joints: Also gets measured joints.
    """

    def __init__(
        self,
        node: Any,
        names: TopicNames,
        topics: Sequence[tuple[TopicSpec, str]],
        counts: Counter[str],
        on_joints: Callable[[JointSample], None],
    ):
        import rclpy  # type: ignore[import-not-found]
        from rclpy.executors import SingleThreadedExecutor  # type: ignore[import-not-found]
        from rclpy.parameter import Parameter  # type: ignore[import-not-found]

        self._names, self._topics, self._counts, self._on_joints = names, topics, counts, on_joints
        # Global arguments hold the bridge's own name and remappings; the names here are remapped already.
        self._node = rclpy.create_node(
            f"{node.get_name()}_sensors", namespace=node.get_namespace(), context=node.context,
            use_global_arguments=False, enable_rosout=False, start_parameter_services=False,
            parameter_overrides=[Parameter("start_type_description_service", value=False)],
        )  # fmt: skip
        self._executor = SingleThreadedExecutor(context=node.context)
        self._executor.add_node(self._node)
        self._decoders: dict[str, Latest] = {}
        self._thread = threading.Thread(target=self._spin, name="ros sensors", daemon=True)
        self._inbox: Inbox | None = None

    def start(self, inbox: Inbox) -> None:
        """Begin."""
        from rclpy.event_handler import SubscriptionEventCallbacks  # type: ignore[import-not-found]
        from rosidl_runtime_py.utilities import get_message  # type: ignore[import-not-found]

        self._inbox = inbox
        for spec, topic in self._topics:
            if spec.role.startswith("camera "):
                self._decoders[spec.role] = Latest(f"ros {spec.role}")
            # No event of QoS: a best-effort reader asks for nothing, so every publisher fits.
            self._node.create_subscription(
                get_message(spec.type), topic, partial(self._heard, spec), profile(spec.qos),
                event_callbacks=SubscriptionEventCallbacks(use_default_callbacks=False),
            )  # fmt: skip
        self._thread.start()

    def close(self) -> None:
        """End; nothing is delivered afterwards."""
        self._inbox = None
        self._executor.shutdown(timeout_sec=2.0)
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout=2.0)
        for decoder in self._decoders.values():
            decoder.close()
        self._node.destroy_node()

    def _spin(self) -> None:
        from rclpy.executors import ExternalShutdownException, ShutdownException  # type: ignore[import-not-found]

        try:
            self._executor.spin()
        except (ExternalShutdownException, ShutdownException, KeyboardInterrupt):
            pass
        except Exception:
            if self._inbox is not None:
                raise

    def _heard(self, spec: TopicSpec, message: Any) -> None:
        received_s = time.monotonic()
        number = self._counts[spec.role]
        self._counts[spec.role] = number + 1
        if spec.role == "joints":
            self._read(spec, message, received_s, number)
        else:
            self._decoders[spec.role].put("", partial(self._read, spec, message, received_s, number))

    def _read(self, spec: TopicSpec, message: Any, received_s: float, number: int) -> None:
        if (inbox := self._inbox) is None:
            return
        names = self._names
        try:
            if spec.role == "joints":
                sample = messages_in.joint_sample(message, names.arm_joints, names.gripper_joints, received_s)
                if sample is not None:
                    self._on_joints(sample)
                    inbox.joints(sample)
            else:
                camera = spec.role.removeprefix("camera ")
                inbox.frame(messages_in.camera_frame(message, camera, names.cameras[camera], received_s, number))
        except BadMessage as error:
            inbox.bad_message(spec.role, str(error), received_s)
        except Exception as error:  # a hostile message must not end the thread that listens
            inbox.bad_message(spec.role, f"{spec.topic}: a message could not be read: {error!r:.200}", received_s)

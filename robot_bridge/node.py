"""What carries bytes under `wire.WireTransport` and `wire.WireRobotSide`: DDS or Zenoh."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from foreact.robot_bridge.topic_names import TopicSpec
from foreact.robot_bridge.types import TopicReport

OnData = Callable[[TopicSpec, bytes, float], None]
"""Gets the topic, a message in CDR with its header, and the steady clock [s] when it arrived."""


class Node(Protocol):
    """One participant of a ROS 2 graph."""

    def open(self, specs: Sequence[TopicSpec], on_data: OnData) -> None:
        """Join, and begin to listen to the topics with direction "in". `on_data` is called from threads, one call at a
        time for each topic.

        Raises:
            TransportError: If it cannot.
        """
        ...

    def publish(self, spec: TopicSpec, data: bytes) -> None:
        """Send on a topic with direction "out"; returns at once, and does nothing once closed."""
        ...

    def reports(self) -> Sequence[TopicReport]:
        """Each topic, with who else is on it. Counts include this participant itself."""
        ...

    def close(self) -> None:
        """Leave; nothing is sent or heard afterwards."""
        ...

"""Bridge and robot on ROS 2 topics by pip's cyclonedds, without a ROS install."""

from __future__ import annotations

from foreact.robot_bridge.dds_node import DdsNode
from foreact.robot_bridge.network import NetworkScope
from foreact.robot_bridge.topic_names import TopicNames
from foreact.robot_bridge.wire import WireRobotSide, WireTransport


class DdsTransport(WireTransport):
    """The bridge's end.

    Args:
        names: All topics; `names.node` is what `ros2 node list` shows.
        scope: Domain and discovery range; default: of the environment, LOCALHOST where it is silent.
        hardware_id: Named in diagnostics.

    Raises:
        ConfigError: If the environment holds a value that ROS 2 does not know.
    """

    def __init__(self, names: TopicNames, scope: NetworkScope | None = None, hardware_id: str = ""):
        node = DdsNode(names.node, names.namespace, scope)
        self.scope = node.scope
        super().__init__(node, names, hardware_id)


class DdsRobotSide(WireRobotSide):
    """The robot's end.

    Args:
        names: The bridge's topics.
        scope: As for `DdsTransport`.
        node_name: What `ros2 node list` shows.
    """

    def __init__(self, names: TopicNames, scope: NetworkScope | None = None, node_name: str = "robot_sim"):
        super().__init__(DdsNode(node_name, names.namespace, scope), names)

"""Bridge and robot on ROS 2 topics over Zenoh, as rmw_zenoh lays them out, without a ROS install. Experimental: tried
with both ends of our own and Zenoh's router, not with rmw_zenoh."""

from __future__ import annotations

from foreact.robot_bridge.network import NetworkScope, is_loopback
from foreact.robot_bridge.topic_names import TopicNames
from foreact.robot_bridge.wire import WireRobotSide, WireTransport
from foreact.robot_bridge.zenoh_node import ROUTER, ZenohNode


class ZenohTransport(WireTransport):
    """The bridge's end.

    Args:
        names: All topics.
        scope: Whose domain id is used; default: of the environment.
        hardware_id: Named in diagnostics.
        router: Where the router listens.
    """

    def __init__(
        self, names: TopicNames, scope: NetworkScope | None = None, hardware_id: str = "", router: str = ROUTER
    ):
        node = ZenohNode(names.node, names.namespace, scope, router)
        self.scope = node.scope
        super().__init__(node, names, hardware_id)


class ZenohRobotSide(WireRobotSide):
    """The robot's end; arguments as for `ZenohTransport`."""

    def __init__(
        self, names: TopicNames, scope: NetworkScope | None = None, node_name: str = "robot_sim", router: str = ROUTER
    ):
        super().__init__(ZenohNode(node_name, names.namespace, scope, router), names)


def zenoh_refusals(router: str = ROUTER, *, allow_network: bool = False) -> list[str]:
    """Why the robot may not be armed over a router; empty if a person has said that its network is closed.

    Discovery ranges do not hold for Zenoh: who reaches the router reaches the robot, and rmw_zenohd listens on all
    interfaces unless it is configured otherwise.
    """
    if allow_network:
        return []
    host = router.split("/", 1)[-1].split("?")[0].rsplit(":", 1)[0]
    where = (
        "listens on all interfaces unless it is configured otherwise" if is_loopback(host) else "is not this machine"
    )
    return [
        f"Zenoh's router at {router} {where}, so anyone who reaches it could command the robot. Let it listen on "
        "127.0.0.1 alone, and give --allow-network"
    ]

"""The bridge: `ros2 launch foreact_ros bridge.launch.py robot:=desk_sim url:=ws://127.0.0.1:8000`.

Everything stays on this computer and in a ROS domain of its own, unless the arguments say otherwise: whoever can reach
the command topic commands the arm.
"""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    LogInfo,
    OpaqueFunction,
    RegisterEventHandler,
    SetEnvironmentVariable,
)
from launch.event_handlers import OnProcessStart
from launch.events import matches_action
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode
from launch_ros.event_handlers import OnStateTransition
from launch_ros.events.lifecycle import ChangeState
from lifecycle_msgs.msg import Transition

ARGUMENTS = {
    "robot": ("", "robot file: a name that comes with foreact, or the path of a YAML file; empty: as in params"),
    "url": ("", "policy server; empty: as in params, or else the robot file's"),
    "params": ("", "YAML file of parameters; empty: config/bridge.yaml of this package"),
    "name": ("foreact", "name of the node"),
    "namespace": ("", "its namespace"),
    "configure": ("true", "whether to configure the node when it has started"),
    "activate": ("true", "whether to activate it once it is configured; it is disarmed then, and nothing moves"),
    "dry_run": ("", "true: make commands and show them, send none; empty: as in params"),
    "use_sim_time": ("false", "take stamps from /clock"),
    "domain_id": ("77", "ROS domain; every other node and shell that has to do with this robot needs the same"),
    "discovery_range": ("LOCALHOST", "ROS_AUTOMATIC_DISCOVERY_RANGE; with SUBNET the bridge arms only under SROS2"),
}


def generate_launch_description() -> LaunchDescription:
    """Arguments, environment, node and transitions."""
    declared = [DeclareLaunchArgument(name, default_value=d, description=text) for name, (d, text) in ARGUMENTS.items()]
    return LaunchDescription([*declared, *environment(), OpaqueFunction(function=_node)])


def environment() -> list[LaunchDescriptionEntity]:
    """Who can be heard."""
    return [
        SetEnvironmentVariable("ROS_DOMAIN_ID", LaunchConfiguration("domain_id")),
        SetEnvironmentVariable("ROS_AUTOMATIC_DISCOVERY_RANGE", LaunchConfiguration("discovery_range")),
    ]


def _node(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    given = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    share = Path(get_package_share_directory("foreact_ros"))
    own: dict[str, str | bool] = {name: given[name] for name in ("robot", "url") if given[name]}
    own |= {name: given[name] == "true" for name in ("dry_run", "use_sim_time") if given[name]}
    node = LifecycleNode(
        package="foreact_ros", executable="bridge", name=given["name"], namespace=given["namespace"], output="screen",
        parameters=[given["params"] or str(share / "config" / "bridge.yaml"), own],
        # SIGINT stops the arm and disarms; it is given time for that before SIGTERM.
        sigterm_timeout="10", sigkill_timeout="10",
    )  # fmt: skip
    entities: list[LaunchDescriptionEntity] = [node]
    if given["configure"] == "true":
        entities.append(
            RegisterEventHandler(
                OnProcessStart(target_action=node, on_start=[_change(node, Transition.TRANSITION_CONFIGURE)])
            )
        )
    if given["activate"] == "true":
        entities.append(
            RegisterEventHandler(
                OnStateTransition(
                    target_lifecycle_node=node,
                    start_state="configuring",
                    goal_state="inactive",
                    entities=[_change(node, Transition.TRANSITION_ACTIVATE)],
                )  # fmt: skip
            )
        )
    entities.append(
        RegisterEventHandler(
            OnStateTransition(
                target_lifecycle_node=node,
                goal_state="active",
                entities=[LogInfo(msg=f"{given['name']} is active and disarmed; arm it with the service ~/arm")],
            )  # fmt: skip
        )
    )
    return entities


def _change(node: LifecycleNode, transition: int) -> EmitEvent:
    return EmitEvent(event=ChangeState(lifecycle_node_matcher=matches_action(node), transition_id=transition))

"""Simulated desk, policy server and bridge: `ros2 launch foreact_ros desk_demo.launch.py checkpoint:=foreact_desk`.

Three processes. The policy server and the simulator need torch and MuJoCo, which the bridge does not: `policy_python`
says which Python has them.
"""

import os
from pathlib import Path

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    IncludeLaunchDescription,
    OpaqueFunction,
    RegisterEventHandler,
    SetEnvironmentVariable,
    Shutdown,
)
from launch.event_handlers import OnProcessIO
from launch.events.process import ProcessIO
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration

ARGUMENTS = {
    "checkpoint": ("", "folder of a checkpoint, or hf://user/name"),
    "policy_python": (os.environ.get("FOREACT_POLICY_PYTHON", "python3"), "Python that has torch and MuJoCo"),
    "robot": ("desk_sim", "robot file"),
    "task": ("open_drawer", "task that the desk starts with"),
    "port": ("8000", "of the policy server"),
    "sim_transport": ("dds", "of the simulated robot: dds is pip's cyclonedds, ros is rclpy"),
    "domain_id": ("77", "ROS domain"),
    "discovery_range": ("LOCALHOST", "ROS_AUTOMATIC_DISCOVERY_RANGE"),
}


def generate_launch_description() -> LaunchDescription:
    """Everything that the desk needs."""
    declared = [DeclareLaunchArgument(name, default_value=d, description=text) for name, (d, text) in ARGUMENTS.items()]
    return LaunchDescription([
        *declared,
        SetEnvironmentVariable("ROS_DOMAIN_ID", LaunchConfiguration("domain_id")),
        SetEnvironmentVariable("ROS_AUTOMATIC_DISCOVERY_RANGE", LaunchConfiguration("discovery_range")),
        OpaqueFunction(function=_processes),
    ])  # fmt: skip


def _processes(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    given = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    foreact = [given["policy_python"], "-m", "foreact.commands.main"]
    # An activated ROS environment leads to its own site-packages, which the other Python must not see.
    theirs = {"PYTHONPATH": os.environ.get("FOREACT_POLICY_PYTHONPATH", "")} if given["sim_transport"] == "dds" else {}
    policy = ExecuteProcess(
        cmd=[*foreact, "serve", given["checkpoint"], "--robot", given["robot"], "--port", given["port"]],
        name="policy", output="screen", additional_env=theirs, on_exit=Shutdown(reason="the policy server ended"),
    )  # fmt: skip
    robot = ExecuteProcess(
        cmd=[
            *foreact, "robot", "sim", "--robot", given["robot"], "--task", given["task"],
            "--transport", given["sim_transport"],
        ],
        name="robot", output="log", additional_env=theirs, on_exit=Shutdown(reason="the simulated robot ended"),
    )  # fmt: skip
    bridge = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(Path(__file__).with_name("bridge.launch.py"))),
        launch_arguments={
            "robot": given["robot"], "url": f"ws://127.0.0.1:{given['port']}", "domain_id": given["domain_id"],
            "discovery_range": given["discovery_range"],
        }.items(),
    )  # fmt: skip
    begun: list[str] = []

    def when_ready(event: ProcessIO) -> list[LaunchDescriptionEntity]:
        if b"ready for" not in event.text or begun:
            return []
        begun.append("bridge")
        return [bridge]

    # The bridge connects when it is configured, so it is started when there is something to connect to.
    return [policy, robot, RegisterEventHandler(OnProcessIO(target_action=policy, on_stderr=when_ready))]

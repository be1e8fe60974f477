"""`foreact robot run`: the gate process."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from foreact.vla.errors import ConfigError, ForeActError, did_you_mean

if TYPE_CHECKING:
    from foreact.robot_bridge.config import Robot
    from foreact.robot_bridge.transport import Transport

TRANSPORTS = ("dds", "zenoh")

ROBOT = Annotated[str, typer.Argument(help="A name in robot_bridge/robots/, or a YAML file.")]
TRANSPORT = Annotated[str, typer.Option(help="dds: pip's cyclonedds; zenoh: experimental. The rclpy node is launched.")]
DOMAIN = Annotated[int, typer.Option(help="ROS domain; -1: ROS_DOMAIN_ID, or 0.", min=-1, max=232)]


def run(
    robot: ROBOT = "desk_sim",
    url: Annotated[str, typer.Option(help="Policy server, instead of the robot file's.")] = "",
    transport: TRANSPORT = "dds",
    domain_id: DOMAIN = -1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Make commands, show them, send none.")] = False,
    events: Annotated[str, typer.Option(help="File for the event log, one JSON object per line.")] = "",
    store: Annotated[str, typer.Option(help="Record into this trajectory store; empty: record nothing.")] = "",
    allow_network: Annotated[
        bool, typer.Option("--allow-network", help="Arm although anybody on the network could command the robot.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print each event as a line of JSON.")] = False,
) -> None:
    """Watch, limit and send: the process between a policy server and the robot's own controller. It comes up disarmed;
    Ctrl-C stops the arm and disarms."""
    from foreact.robot_bridge.assemble import assemble
    from foreact.robot_bridge.config import load_robot
    from foreact.robot_bridge.give_back import few_arenas
    from foreact.robot_bridge.line_writer import LineWriter
    from foreact.vla.serving.access import read_token

    few_arenas()
    settings = load_robot(robot)
    need_trajectories(settings, transport)
    way, refusals = open_transport(settings, transport, domain_id, allow_network)
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    bridge = assemble(
        settings, way, url=url, token=read_token(settings.policy.token_file), events=Path(events) if events else None,
        recorder=_recorder(settings, store), dry_run=dry_run, refusals=tuple(refusals),
    )  # fmt: skip
    shown = 0

    def over() -> bool:
        nonlocal shown
        total = bridge.gate.log.kinds.total()
        for event in bridge.gate.log.last(total - shown):
            console.put(json.dumps(_as_dict(event)) if as_json else f"{event.state:9} {event.message}")
        shown = total
        return ended.is_set()

    # A descriptor of its own: if the terminal is paused when this ends, nobody waits for a lock of `sys.stdout`.
    console = LineWriter[str](os.fdopen(os.dup(1), "w", encoding="utf-8", errors="replace"), str, "console")
    try:
        bridge.start()
        try:
            took = bridge.warm_up(until=ended.is_set)
        except ForeActError:
            if ended.is_set():
                return  # it was told to end, and that is no error
            raise
        sentence = (
            f"ready to be armed: {len(took)} warm-up inferences, median {1e3 * sorted(took)[len(took) // 2]:.0f} ms"
            + ("; dry run: nothing is sent" if dry_run else "")
        )
        console.put(json.dumps({"kind": "ready", "message": sentence}) if as_json else sentence)
        bridge.run(over)
    finally:
        bridge.close()
        console.close()


def need_trajectories(robot: Robot, transport: str) -> None:
    """These transports know JointTrajectory messages alone: anything else would go where nobody expects it.

    Raises:
        ConfigError: If the robot file wants another output.
    """
    if robot.output != "joint_trajectory":
        raise ConfigError(
            f"robot {robot.name} has `output: {robot.output}`, but over {transport} only `joint_trajectory` is sent; "
            "start ROS 2's node for it (`ros2 launch foreact_ros bridge.launch.py robot:=FILE`), or change `output` in "
            "the robot file"
        )


def open_transport(
    robot: Robot, name: str, domain_id: int = -1, allow_network: bool = False
) -> tuple[Transport, list[str]]:
    """A transport that is not started yet, and reasons why the robot may not be armed on it.

    Raises:
        ConfigError: If there is no transport of that name, or the environment holds a value ROS 2 does not know.
    """
    from foreact.robot_bridge.network import read_network

    if name not in TRANSPORTS:
        raise ConfigError(f"no transport {name!r}; {did_you_mean(name, TRANSPORTS)}")
    scope = read_network(domain_id=None if domain_id < 0 else domain_id)
    if name == "zenoh":
        from foreact.robot_bridge.zenoh_transport import ZenohTransport, zenoh_refusals

        return ZenohTransport(robot.topic_names(), scope, robot.name), zenoh_refusals(allow_network=allow_network)
    from foreact.robot_bridge.dds_transport import DdsTransport

    return DdsTransport(robot.topic_names(), scope, robot.name), scope.refusals(allow_network=allow_network)


def _recorder(robot: Robot, store: str):
    if not store:
        return None
    from foreact.robot_bridge.record_bridge import BridgeRecorder

    return BridgeRecorder(robot, Path(store))


def _as_dict(event) -> dict[str, object]:
    return {
        "at_s": event.at_s, "time": time.time(), "kind": event.kind, "cause": event.cause, "state": str(event.state),
        "message": event.message, **dict(event.data),
    }  # fmt: skip

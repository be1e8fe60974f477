"""From a robot file to a bridge that is ready to run: limits, gate, transport, policy, all compared."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from foreact.robot_bridge.bridge import Bridge
from foreact.robot_bridge.config import Robot
from foreact.robot_bridge.conversation import STATED
from foreact.robot_bridge.event_log import EventLog
from foreact.robot_bridge.gate import Gate, default_scheduler
from foreact.robot_bridge.gate_lease import ArmLease
from foreact.robot_bridge.gate_settings import GateSettings
from foreact.robot_bridge.kinematics import Kinematics
from foreact.robot_bridge.observe import Observer
from foreact.robot_bridge.policy_thread import PolicyThread
from foreact.robot_bridge.transport import Transport
from foreact.vla.contract import Contract
from foreact.vla.errors import ConfigError, ForeActError
from foreact.vla.serving.client import ClientSettings, connect

_ELSEWHERE = {
    "rate_hz": "contract.rate_hz", "speed_scale": "speed_scale", "cameras": "contract.cameras",
    "require_description": "topics.robot_description",
}  # fmt: skip
"""Settings of the gate that follow from another entry of the robot file: set twice, they could differ."""


class PolicyDoesNotFit(ForeActError):
    """The policy server is not one that can drive this robot."""


def policy_contract(metadata: Mapping[str, Any], url: str) -> Contract:
    """The contract that a server stated.

    Raises:
        PolicyDoesNotFit: If it stated none, or was not started for a robot.
    """
    if not metadata.get("contract"):
        raise PolicyDoesNotFit(
            f"the policy server {url} does not say what its numbers mean (no contract); a robot is only driven by "
            "`foreact serve CHECKPOINT --robot FILE`"
        )
    if not metadata.get("robot"):
        raise PolicyDoesNotFit(
            f"the policy server {url} was not started for a robot and knows no joints; start it with --robot FILE"
        )
    return Contract.from_yaml(json.dumps(json.loads(str(metadata["contract"]))), source=f"the contract of {url}")


def gate_settings(robot: Robot, identity: Mapping[str, str] | None = None) -> GateSettings:
    """The gate's settings for a robot: its own part of the file, and what follows from the rest of it.

    Raises:
        ConfigError: If an entry of `gate` is not valid, belongs elsewhere in the file, or could never be met.
    """
    if twice := [name for name in _ELSEWHERE if name in robot.gate]:
        lines = [f"  gate.{name}: set it at {_ELSEWHERE[name]} of the robot file" for name in twice]
        raise ConfigError(f"robot {robot.name}: these gate settings have a place of their own:\n" + "\n".join(lines))
    cameras = [
        {"name": c.name, "height": c.height, "width": c.width, "rate_hz": robot.contract.rate_hz}
        for c in robot.contract.cameras
    ]
    made = GateSettings.from_mapping(
        {
            "cameras": cameras,
            "rate_hz": robot.contract.rate_hz,
            "speed_scale": robot.speed_scale,
            # Neighbouring pictures of two cameras are one frame apart, and a little more by their rounded stamps.
            "sync_s": 1.0 / robot.contract.rate_hz + 0.002,
            "inference_period_s": (robot.policy.execute_steps or 1) * robot.period_s,
            "gripper_required": robot.contract.gripper != "none",
            "require_description": bool(robot.topic_names().robot_description),
            "identity": dict(identity or {}),
            **robot.gate,
        }
    )
    _refuse_unmeetable(robot, made)
    return made


def _refuse_unmeetable(robot: Robot, settings: GateSettings) -> None:
    """The gate as a library can be told more than any bridge tells it; what it waits for in vain would never arm."""
    if settings.packet_success > 0.0:
        raise ConfigError(
            f"robot {robot.name}: gate.packet_success is {settings.packet_success:g}, but no transport tells how many "
            "control packets arrive, so the gate could never be armed; remove it, and let the controller see to it"
        )
    if unknown := sorted(set(settings.identity) - set(STATED)):
        raise ConfigError(
            f"robot {robot.name}: gate.identity names {', '.join(unknown)}, which no policy server states, so the gate "
            f"could never be armed; known are {' and '.join(STATED)}"
        )


def assemble(
    robot: Robot,
    transport: Transport,
    *,
    url: str = "",
    token: str | None = None,
    events: Path | None = None,
    recorder: Any = None,
    dry_run: bool = False,
    refusals: tuple[str, ...] = (),
    stamps: Callable[[], float] = time.time,
) -> Bridge:
    """Connect the policy, compare its contract with the robot's, and put the parts together; nothing moves.

    Args:
        robot: What stands here.
        transport: Not started yet.
        url: Of the policy server, instead of the robot file's.
        token: The server's secret.
        events: File for the event log, one JSON object per line.
        recorder: Gets every observation and command.
        dry_run: Commands are made and shown, never sent.
        refusals: Reasons known beforehand why this robot may not be armed here.
        stamps: The clock that headers are stamped with [s].

    Raises:
        ForeActError: If the server cannot be reached, or what it requires is not what the robot offers.
    """
    url = url or robot.policy.url
    arm = robot.arm()
    gate_settings(robot)  # what is wrong in the file is said without a policy server
    settings = ClientSettings(
        request_timeout_s=robot.policy.timeout_s, heartbeat_s=0.02, silence_s=0.5, reconnect=False, token=token
    )
    policy = PolicyThread(lambda: connect(url, settings))
    metadata = policy.connect()
    try:
        required = policy_contract(metadata, url)
        observer = Observer(robot, Kinematics(arm), required)
        steps = robot.policy.execute_steps or int(metadata.get("execute_steps", 1))
        stated = robot.model_copy(update={"policy": robot.policy.model_copy(update={"execute_steps": steps})})
        settings_of_gate = gate_settings(stated)
        if dry_run:  # an arm that is sent nothing is always held
            settings_of_gate = settings_of_gate.model_copy(update={"leash_limit": 0})
        gate = Gate(
            arm,
            settings_of_gate,
            EventLog(events),
            scheduler=default_scheduler(arm, settings_of_gate, robot.scheduler),
            lease=ArmLease(robot.name),
        )
        return Bridge(
            stated, gate, transport, policy, observer, metadata, recorder=recorder, dry_run=dry_run, refusals=refusals,
            stamps=stamps,
        )  # fmt: skip
    except BaseException:
        policy.close()
        raise

"""Parameters of the rclpy node: name, default, range and one sentence each. All but the last hold from the moment the
node is configured until it is cleaned up, and cannot be changed in between by anybody."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from foreact.robot_bridge.config import Robot
from foreact.vla.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Setting:
    """One parameter."""

    name: str
    default: bool | int | float | str
    text: str
    low: float | None = None
    high: float | None = None
    fixed: bool = True
    """Whether it holds while the node is configured."""


SETTINGS = (
    Setting("robot", "desk_sim", "Robot file: a name that comes with the package, or the path of a YAML file."),
    Setting("url", "", "Policy server, such as ws://127.0.0.1:8000; empty: the robot file's."),
    Setting("speed_scale", 0.0, "Stretches the policy's period, never its steps; 0: the robot file's.", 0.0, 1.0),
    Setting("execute_steps", 0, "Policy steps between two plans; 0: the robot file's or the policy's.", 0, 100),
    Setting("foresight_every", -1, "Every so-many-th plan brings foresight; 0: none, -1: the robot file's.", -1, 1000),
    Setting("policy_timeout_s", 0.0, "A request that takes longer is a lost policy; 0: the robot file's.", 0.0, 60.0),
    Setting("warm_up", 20, "Plans that are timed before anything may move.", 20, 1000),
    Setting("action_rate_hz", 25.0, "With output: action, at most so many goals a second.", 5.0, 50.0),
    Setting("dry_run", False, "Make commands, show them, send none."),
    Setting("allow_network", False, "Arm although anybody on the network could command the robot."),
    Setting("store", "", "Record into this trajectory store; empty: record nothing."),
    Setting("events", "", "File for the event log, one JSON object per line."),
    Setting("token_file", "", "File whose first line is the policy server's token; empty: the robot file's."),
    Setting("foresight_quality", 90, "JPEG quality of the frames that the policy expects.", 10, 100, fixed=False),
)
FIXED = frozenset(setting.name for setting in SETTINGS if setting.fixed) | {"use_sim_time"}
"""What cannot be set while the node is configured."""


def declare(node: Any) -> None:
    """Declare all of them.

    Raises:
        ConfigError: If a value given from outside (launch file, command line) is of another type or out of its range.
    """
    from rcl_interfaces.msg import (  # type: ignore[import-not-found]
        FloatingPointRange,
        IntegerRange,
        ParameterDescriptor,
    )
    from rclpy.exceptions import (  # type: ignore[import-not-found]
        InvalidParameterTypeException,
        InvalidParameterValueException,
    )

    for setting in SETTINGS:
        descriptor = ParameterDescriptor(description=setting.text)
        if setting.fixed:
            descriptor.additional_constraints = "read-only from configure to cleanup"
        if setting.low is not None and setting.high is not None:
            if isinstance(setting.default, float):
                descriptor.floating_point_range = [FloatingPointRange(from_value=setting.low, to_value=setting.high)]
            else:
                descriptor.integer_range = [IntegerRange(from_value=int(setting.low), to_value=int(setting.high))]
        try:
            node.declare_parameter(setting.name, setting.default, descriptor)
        except (InvalidParameterTypeException, InvalidParameterValueException) as error:
            wanted = f"a {type(setting.default).__name__}"
            if setting.low is not None:
                wanted += f" from {setting.low:g} to {setting.high:g}"
            raise ConfigError(f"parameter {setting.name}: expected {wanted}; {error!s:.200}") from error


def refusal(parameters: Sequence[Any], configured: bool) -> str:
    """Why these rclpy `Parameter`s may not be set now, in a sentence; empty if they may."""
    for parameter in parameters:
        if configured and parameter.name in FIXED:
            return (
                f"{parameter.name} cannot be changed while the node is configured; clean it up first "
                "(`ros2 lifecycle set` ... cleanup), then set it"
            )
        if isinstance(parameter.value, float) and not math.isfinite(parameter.value):
            return f"{parameter.name} must be finite, found {parameter.value}"
    return ""


def apply(robot: Robot, values: dict[str, Any]) -> Robot:
    """The robot file with what the parameters say instead.

    Raises:
        ConfigError: If both together are not valid.
    """
    link: dict[str, Any] = {}
    if values["execute_steps"] > 0:
        link["execute_steps"] = values["execute_steps"]
    if values["foresight_every"] >= 0:
        link["foresight_every"] = values["foresight_every"]
    if values["policy_timeout_s"] > 0.0:
        link["timeout_s"] = values["policy_timeout_s"]
    if values["url"]:
        link["url"] = values["url"]
    if values["token_file"]:
        link["token_file"] = values["token_file"]
    changes: dict[str, Any] = {"policy": robot.policy.model_copy(update=link)}
    if values["speed_scale"] > 0.0:
        changes["speed_scale"] = values["speed_scale"]
    return robot.model_copy(update=changes)

"""One robot as it stands in one place: a YAML file that says which limits, topics, cameras and policy belong together.

`robots/` holds examples; `load_robot` finds them by name. Everything is checked when the file is read; what the policy
requires is compared when it is connected.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError, model_validator

from foreact.robot_bridge.limits import Origin, RobotLimits, load_limits
from foreact.robot_bridge.topic_names import TopicNames, make_topics
from foreact.vla.contract import Contract
from foreact.vla.errors import ConfigError, did_you_mean

_MAX_BYTES = 1 << 20


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PolicyLink(_Part):
    """Where the policy is and how it is asked."""

    url: str = "ws://127.0.0.1:8000"
    timeout_s: PositiveFloat = 1.0
    """A request that takes longer counts as a lost policy."""
    execute_steps: PositiveInt | None = None
    """Policy steps between two plans; None: as the policy says."""
    foresight_every: int = Field(default=1, ge=0)
    """Every so-many-th plan also brings the frames it expects; 0: none."""
    token_file: str = ""
    """File whose first line is the server's token; empty: none is sent."""


class Robot(_Part):
    """The whole file."""

    name: str
    limits: str
    """Name of a limits file that comes with the package, or a path."""
    speed_scale: float = Field(default=0.25, gt=0.0, le=1.0)
    """Stretches the policy's period: 0.25 takes four times as long over the same way."""
    T_world_base: Origin = Origin()
    """Where the base stands in the frame called "world" in the contract."""
    flange_to_tcp: Origin | None = None
    """The mounted tool, if it is not the one of the limits file."""
    workspace_low_base: tuple[float, float, float] | None = None
    """Corner of the box that the tool stays in here, base frame [m]; None: that of the limits file."""
    workspace_high_base: tuple[float, float, float] | None = None
    contract: Contract
    """What the robot offers: cameras as they are sent, the state the bridge computes, the actions it understands."""
    topics: Mapping[str, Any] = Field(default_factory=dict)
    """See `foreact.robot_bridge.topic_names.TopicNames`."""
    output: Literal["joint_trajectory", "action", "servo_twist"] = "joint_trajectory"
    """JointTrajectory messages, the FollowJointTrajectory action (rclpy only), or TwistStamped for MoveIt Servo."""
    policy: PolicyLink = PolicyLink()
    posture: tuple[float, ...] | None = None
    """Joints [rad] that inverse kinematics leans towards where a pose leaves a choice; None: those it starts from."""
    ik: Mapping[str, float] = Field(default_factory=dict)
    """See `foreact.robot_bridge.arm_ik.IkSettings`."""
    gate: Mapping[str, Any] = Field(default_factory=dict)
    """See `foreact.robot_bridge.gate_settings.GateSettings`; what follows from other entries of this file, such as
    `speed_scale`, is not repeated here."""
    scheduler: Mapping[str, Any] = Field(default_factory=dict)
    """See `foreact.robot_bridge.scheduler.SchedulerSettings`."""

    @model_validator(mode="after")
    def _is_complete(self) -> Robot:
        if not self.contract.cameras:
            raise ValueError("contract.cameras is empty; a policy needs to see")
        if not self.contract.action:
            raise ValueError("contract.action is empty; there would be nothing to command")
        return self

    @property
    def period_s(self) -> float:
        """One policy step [s]."""
        return 1.0 / (self.contract.rate_hz * self.speed_scale)

    def arm(self) -> RobotLimits:
        """The limits file, with this installation's tool and box.

        Raises:
            LimitsError: If there is no such file, or the result is not valid.
        """
        own = {
            "flange_to_tcp": self.flange_to_tcp and self.flange_to_tcp.model_dump(),
            "workspace_low_base": self.workspace_low_base,
            "workspace_high_base": self.workspace_high_base,
        }
        return load_limits(self.limits).changed(**{name: value for name, value in own.items() if value is not None})

    def topic_names(self) -> TopicNames:
        """Every topic of this robot.

        Raises:
            ConfigError: If an entry of `topics` is not valid; it is named.
        """
        arm = self.arm()
        return make_topics(
            self.topics,
            [(camera.name, camera.height, camera.width) for camera in self.contract.cameras],
            arm.joints,
            arm.gripper.joints,
            arm.gripper.open_m,
            arm.gripper.closed_m,
        )


def robot_names() -> list[str]:
    """Names of the files that come with the package."""
    return sorted(p.name.removesuffix(".yaml") for p in _folder().iterdir() if p.name.endswith(".yaml"))


def load_robot(name_or_path: str | Path) -> Robot:
    """Read a robot file.

    Raises:
        ConfigError: If there is none of that name, or it is not valid; each wrong entry is named.
    """
    text, source = _read(str(name_or_path))
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{source} is not YAML: {error}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{source}: expected a mapping with name, limits, contract, topics, ...; found {found!r:.80}")
    try:
        return Robot.model_validate(found)
    except ValidationError as error:
        lines = [f"  {'.'.join(map(str, e['loc'])) or '(top)'}: {e['msg']}" for e in error.errors()]
        raise ConfigError(f"{source} is not a robot file:\n" + "\n".join(lines)) from error


def _folder():
    return files("foreact.robot_bridge") / "robots"


def _read(name: str) -> tuple[str, str]:
    path = Path(name)
    if path.suffix in (".yaml", ".yml") or "/" in name:
        if not path.is_file():
            raise ConfigError(f"no robot file {path}; expected YAML as in robot_bridge/robots/")
        if path.stat().st_size > _MAX_BYTES:
            raise ConfigError(f"{path} has more than {_MAX_BYTES:,} bytes; that is no robot file")
        return path.read_text(encoding="utf-8"), str(path)
    if name not in robot_names():
        raise ConfigError(f"no robot {name!r}; {did_you_mean(name, robot_names())}, or give the path of a YAML file")
    return (_folder() / f"{name}.yaml").read_text(encoding="utf-8"), f"robot {name}"

"""Which ROS 2 topic plays which role for the bridge, of which type, and with what quality of service.

Part `topics` of a robot file; everything has a default that follows ROS conventions:

```yaml
cameras: {rgb_static: /camera/image_raw/compressed}   # default: /<camera>/image_raw; ".../compressed" is JPEG or PNG
joint_states: /joint_states
mode: {topic: /io_and_status_controller/safety_mode, type: ur_dashboard_msgs/msg/SafetyMode}
```

Names that begin with `~/` belong to the bridge's node, so `~/arm` is `/foreact/arm`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, field_validator, model_validator

from foreact.vla.errors import ConfigError

_NAME = re.compile(r"^(~/|/)?[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*$")

MODE_TYPES = ("std_msgs/msg/String", "std_msgs/msg/Bool", "ur_dashboard_msgs/msg/SafetyMode")


@dataclass(frozen=True, slots=True)
class Qos:
    """Quality of service; history is "keep last"."""

    reliable: bool = True
    transient_local: bool = False
    depth: int = 1


SENSOR = Qos(reliable=False)
"""Only the newest counts, and any publisher fits: a best-effort reader asks for nothing."""
COMMAND = Qos()
"""Arrives, but is never repeated to those who come late: an old "arm" must not arm anything. What goes out like this
also fits listeners that ask for best effort."""
BUTTON = Qos(depth=10)
"""As `COMMAND`, but the release of a button does not overtake that it was pressed."""
LATCHED = Qos(transient_local=True)
"""Those who come late get the last one."""


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """One topic as the bridge uses it."""

    role: str
    topic: str
    """Fully qualified, with the leading slash."""
    type: str
    """Such as "sensor_msgs/msg/Image"."""
    direction: Literal["in", "out"]
    """As the bridge sees it."""
    qos: Qos
    action: str = ""
    """Of the same controller: its clients command the arm as publishers of the topic do, and are counted with them."""

    @property
    def goals(self) -> str:
        """The service to which clients of `action` send their goals (ros2/design, "Actions"); "" without one."""
        return f"{self.action}/_action/send_goal" if self.action else ""

    def reversed(self) -> TopicSpec:
        """As the robot sees it."""
        return TopicSpec(self.role, self.topic, self.type, "out" if self.direction == "in" else "in", self.qos)


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CameraTopic(_Part):
    """One camera, and the size its pictures must have; nothing is resized."""

    topic: str
    height: PositiveInt
    width: PositiveInt

    @property
    def compressed(self) -> bool:
        """Whether it sends sensor_msgs/msg/CompressedImage."""
        return self.topic.endswith("/compressed")


class ModeTopic(_Part):
    """Where the robot says how it is."""

    topic: str = "/robot_mode"
    type: str = "std_msgs/msg/String"
    """String (a name of `RobotMode`), Bool (True: emergency stop), or Universal Robots' SafetyMode."""
    latched: bool = True
    """Asks for the last mode on start; false if its publisher keeps none."""

    @field_validator("type")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in MODE_TYPES:
            raise ValueError(f"cannot read a mode from {value!r}; known: {', '.join(MODE_TYPES)}")
        return value


class TopicNames(_Part):
    """All topics of one bridge; see `make_topics` for how it comes out of a robot file."""

    node: str = "foreact"
    namespace: str = "/"
    cameras: Mapping[str, CameraTopic] = Field(default_factory=dict)
    arm_joints: tuple[str, ...]
    """In the order of the limits file."""
    gripper_joints: tuple[str, ...] = ()
    """Their positions [m] add up to the opening."""
    gripper_open_m: float = 0.08
    gripper_closed_m: float = 0.0
    joint_states: str = "/joint_states"
    trajectory: str = "/joint_trajectory_controller/joint_trajectory"
    action: str = "/joint_trajectory_controller/follow_joint_trajectory"
    """With `output: action`, instead of `trajectory`."""
    twist: str = "/servo_node/delta_twist_cmds"
    """With `output: servo_twist`, instead of `trajectory`."""
    base_frame: str = "base_link"
    """Name of the base frame of the limits file, in headers of twists."""
    gripper: str = "/gripper_controller/commands"
    """std_msgs/msg/Float64MultiArray: a position [m] per finger; empty: no gripper is commanded."""
    mode: ModeTopic | None = ModeTopic()
    robot_description: str = "/robot_description"
    """The robot's URDF, as robot_state_publisher keeps it; the gate is not armed without one that fits the limits file.
    Empty: the robot sends none, and nobody checks that it is the right one."""
    instruction: str = "~/instruction"
    arm: str = "~/arm"
    stop: str = "~/stop"
    takeover: str = "~/takeover"
    reply: str = "~/reply"
    """What became of the last command, as JSON."""
    state: str = "~/state"
    diagnostics: str = "/diagnostics"
    foresight: str = "~/foresight"
    """Of a camera: `<foresight>/<camera>/compressed`."""
    stamped: bool = False
    """Whether trajectories say when they begin; if not, they begin on arrival, and clocks need not agree."""

    @model_validator(mode="after")
    def _checked(self) -> TopicNames:
        if not self.arm_joints or len(set(self.arm_joints)) != len(self.arm_joints):
            raise ValueError(f"arm_joints: expected different names, found {list(self.arm_joints)}")
        specs = self.specs()
        for spec in specs:
            if not _NAME.match(spec.topic):
                raise ValueError(
                    f"{spec.role}: {spec.topic!r:.80} is no ROS 2 name; letters, digits and _ between slashes, "
                    "such as /camera/image_raw"
                )
        topics = [spec.topic for spec in specs]
        if twice := {topic for topic in topics if topics.count(topic) > 1}:
            raise ValueError(f"{', '.join(sorted(twice))}: used for two roles; every role needs a topic of its own")
        return self

    def full(self, name: str) -> str:
        """A fully qualified name, with the leading slash."""
        inside = self.namespace.rstrip("/")
        if name.startswith("~/"):
            return f"{inside}/{self.node}/{name[2:]}"
        return name if name.startswith("/") else f"{inside}/{name}"

    def foresight_topic(self, camera: str) -> str:
        """Where the frames go that the policy expects of a camera."""
        return self.full(f"{self.foresight}/{camera}/compressed")

    def specs(self) -> tuple[TopicSpec, ...]:
        """Every topic, cameras first."""
        out: list[TopicSpec] = []

        def add(
            role: str, topic: str, kind: str, direction: Literal["in", "out"], qos: Qos, action: str = ""
        ) -> None:
            out.append(TopicSpec(role, self.full(topic), kind, direction, qos, action))

        for name, camera in self.cameras.items():
            kind = "sensor_msgs/msg/CompressedImage" if camera.compressed else "sensor_msgs/msg/Image"
            add(f"camera {name}", camera.topic, kind, "in", SENSOR)
        add("joints", self.joint_states, "sensor_msgs/msg/JointState", "in", SENSOR)
        if self.mode:
            add("mode", self.mode.topic, self.mode.type, "in", LATCHED if self.mode.latched else COMMAND)
        add("instruction", self.instruction, "std_msgs/msg/String", "in", LATCHED)
        for role in ("arm", "stop", "takeover"):
            add(role, getattr(self, role), "std_msgs/msg/Bool", "in", BUTTON)
        if self.robot_description:
            add("description", self.robot_description, "std_msgs/msg/String", "in", LATCHED)
        kind = "trajectory_msgs/msg/JointTrajectory"
        add("trajectory", self.trajectory, kind, "out", COMMAND, self.full(self.action))
        if self.gripper:
            add("gripper", self.gripper, "std_msgs/msg/Float64MultiArray", "out", COMMAND)
        add("state", self.state, "std_msgs/msg/String", "out", LATCHED)
        add("reply", self.reply, "std_msgs/msg/String", "out", BUTTON)
        add("diagnostics", self.diagnostics, "diagnostic_msgs/msg/DiagnosticArray", "out", COMMAND)
        for name in self.cameras:
            kind = "sensor_msgs/msg/CompressedImage"
            add(f"foresight {name}", self.foresight_topic(name), kind, "out", COMMAND)
        return tuple(out)

    def robot_specs(self) -> tuple[TopicSpec, ...]:
        """What a robot has to do with, directions as it sees them."""
        roles = {"joints", "mode", "description", "trajectory", "gripper"}
        return tuple(s.reversed() for s in self.specs() if s.role in roles or s.role.startswith("camera "))


def make_topics(
    settings: Mapping[str, Any],
    cameras: Iterable[tuple[str, int, int]],
    arm_joints: Sequence[str],
    gripper_joints: Sequence[str] = (),
    gripper_open_m: float = 0.08,
    gripper_closed_m: float = 0.0,
) -> TopicNames:
    """The topics of one robot.

    Args:
        settings: Part `topics` of a robot file.
        cameras: (name, height, width) of each, as the contract has them.
        arm_joints: From the limits file, in its order.
        gripper_joints: Likewise.
        gripper_open_m: Sum of their positions when open.
        gripper_closed_m: When closed.

    Raises:
        ConfigError: Naming each wrong entry.
    """
    given = dict(settings)
    chosen = given.pop("cameras", {})
    sizes = {name: (height, width) for name, height, width in cameras}
    if not isinstance(chosen, Mapping) or set(chosen) - set(sizes):
        raise ConfigError(
            f"topics.cameras: expected `camera: topic` for cameras of the contract ({', '.join(sizes)}), "
            f"found {chosen!r:.100}"
        )
    parts = {
        name: {"topic": chosen.get(name, f"/{name}/image_raw"), "height": height, "width": width}
        for name, (height, width) in sizes.items()
    }
    defaults = {
        "arm_joints": tuple(arm_joints), "gripper_joints": tuple(gripper_joints), "gripper_open_m": gripper_open_m,
        "gripper_closed_m": gripper_closed_m,
    }  # fmt: skip
    try:
        return TopicNames.model_validate({**defaults, **given, "cameras": parts})
    except ValidationError as error:
        lines = [f"  {'.'.join(map(str, e['loc'])) or 'topics'}: {e['msg']}" for e in error.errors()]
        raise ConfigError("the topics of the robot file are not valid:\n" + "\n".join(lines)) from error

"""Which ROS 2 topic gives which camera or field of a contract: a YAML file.

```yaml
max_age_s: 0.2                    # older values end an episode
speed_scale: 1.0                  # 0.25: the robot took four times as long for a step as the contract says
cameras:
  front: {topic: /front/image_raw/compressed}
state:
  joint_position: {topic: /joint_states, joints: [joint1, joint2], value: position}
  tcp_position: {topic: /tcp_pose, fields: [pose.position.x, pose.position.y, pose.position.z]}
action:
  joint_target: {topic: /commands, index: [0, 1]}
instruction: {topic: /instruction}
```
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, ValidationError, model_validator

from foreact.datasets.formats.limits import read_yaml
from foreact.vla.contract import Contract, ContractMismatch
from foreact.vla.errors import ConfigError, did_you_mean


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Picture(_Part):
    """A camera: sensor_msgs/msg/Image or CompressedImage; resized to the contract's camera if need be."""

    topic: str


class Numbers(_Part):
    """A field: numbers of one message, chosen in one of three ways; all of a MultiArray's data if in none."""

    topic: str
    joints: tuple[str, ...] = ()
    """Of a JointState, by name: their order in the message is not fixed."""
    value: Literal["position", "velocity", "effort"] = "position"
    index: tuple[int, ...] = ()
    """Of `data` in a MultiArray."""
    fields: tuple[str, ...] = ()
    """Members of any other message, such as "pose.position.x"."""

    @model_validator(mode="after")
    def _one_way(self) -> Numbers:
        if sum(map(bool, (self.joints, self.index, self.fields))) > 1:
            raise ValueError("give only one of joints, index and fields")
        return self


class Text(_Part):
    """The instruction: std_msgs/msg/String."""

    topic: str


class TopicMap(_Part):
    """The whole file."""

    cameras: Mapping[str, Picture]
    state: Mapping[str, Numbers] = Field(default_factory=dict)
    action: Mapping[str, Numbers] = Field(default_factory=dict)
    instruction: Text | None = None
    max_age_s: PositiveFloat = 0.2
    speed_scale: PositiveFloat = 1.0
    """Steps per second of the clock, as a part of the contract's rate: slow motion has the same steps, later."""

    def check(self, contract: Contract, source: str) -> None:
        """Compare with a contract.

        Raises:
            ContractMismatch: If a camera or a field has no topic, or a topic no camera or field.
        """
        parts: list[tuple[str, set[str], Mapping[str, Any]]] = [
            ("cameras", {c.name for c in contract.cameras}, self.cameras),
            ("state", {f.name for f in contract.state}, self.state),
            ("action", {f.name for f in contract.action}, self.action),
        ]
        lines = []
        for part, wanted, given in parts:
            lines += [f"{part}: {name!r} of the contract has no topic" for name in sorted(wanted - given.keys())]
            lines += [
                f"{part}: no {name!r} in the contract; {did_you_mean(name, wanted)}" for name in given.keys() - wanted
            ]
        if lines:
            raise ContractMismatch(
                f"{source} does not fit the contract:\n" + "\n".join(f"  - {line}" for line in lines)
            )


def read_topic_map(path: Path) -> TopicMap:
    """Read the file.

    Raises:
        ConfigError: If it is not a map of topics; each wrong entry is named.
    """
    found = read_yaml(path, "the map of topics")
    try:
        return TopicMap.model_validate(found)
    except ValidationError as error:
        lines = [f"  {'.'.join(map(str, e['loc'])) or '(top)'}: {e['msg']}" for e in error.errors()]
        raise ConfigError(f"{path} is not a map of topics:\n" + "\n".join(lines)) from error

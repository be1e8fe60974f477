"""Under which topics a recording is kept: what the bag is to be read with later, as a map of topics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from foreact.vla.contract import Contract

JOINTS = "/joint_states"
STATE = "/foreact/state"
ACTION = "/foreact/action"
INTERVENTION = "/foreact/intervention"
INSTRUCTION = "/foreact/instruction"


@dataclass(frozen=True, kw_only=True)
class RecordTopics:
    """Names of the topics that become an episode."""

    contract: Contract
    cameras: Mapping[str, str]
    """Camera of the contract -> topic of its pictures."""
    state: str = STATE
    action: str = ACTION
    intervention: str = INTERVENTION
    instruction: str = INSTRUCTION

    @property
    def needed(self) -> tuple[str, ...]:
        """Without which there is no frame."""
        more = (self.state,) * bool(self.contract.state) + (self.action,) * bool(self.contract.action)
        return (*(self.cameras[camera.name] for camera in self.contract.cameras), *more)

    def topic_map(self, max_age_s: float, speed_scale: float) -> str:
        """The map, as YAML, with which `foreact data convert` makes the same episode of the bag."""
        found: dict[str, Any] = {"max_age_s": max_age_s, "speed_scale": speed_scale}
        found["cameras"] = {c.name: {"topic": self.cameras[c.name]} for c in self.contract.cameras}
        for part, topic, fields in (
            ("state", self.state, self.contract.state),
            ("action", self.action, self.contract.action),
        ):
            at, chosen = 0, {}
            for field in fields:
                chosen[field.name] = {"topic": topic, "index": list(range(at, at + field.size))}
                at += field.size
            if chosen:
                found[part] = chosen
        found["instruction"] = {"topic": self.instruction}
        return yaml.safe_dump(found, sort_keys=False)


def default_topics(contract: Contract, compressed: bool = False) -> RecordTopics:
    """Pictures under /<camera>/image_raw, or /<camera>/image_raw/compressed."""
    ending = "/compressed" * compressed
    return RecordTopics(contract=contract, cameras={c.name: f"/{c.name}/image_raw{ending}" for c in contract.cameras})

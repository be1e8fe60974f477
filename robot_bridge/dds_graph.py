"""Who else is on the topics, as DDS's own topics about its participants tell it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from foreact.robot_bridge.qos_fit import misfits
from foreact.robot_bridge.ros_types import ros_name, type_hash
from foreact.robot_bridge.topic_names import TopicSpec
from foreact.robot_bridge.types import TopicReport

_HASH = re.compile(rb"typehash=(RIHS01_[0-9a-f]{64});")
_BATCH = 256


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A writer or a reader somewhere."""

    guid: bytes
    """16 bytes."""
    topic: str
    """As on DDS, such as "rt/joint_states"."""
    type: str
    """ROS name where it has one."""
    type_hash: str
    qos: Any
    here: bool
    """Whether it belongs to this participant."""


class DdsGraph:
    """Keeps track of all endpoints of a domain; one thread at a time calls `refresh`.

    Args:
        participant: cyclonedds' `DomainParticipant`.
    """

    def __init__(self, participant: Any):
        from cyclonedds.builtin import (
            BuiltinDataReader,
            BuiltinTopicDcpsPublication,
            BuiltinTopicDcpsSubscription,
        )

        self._own = participant.get_guid().bytes
        self.readers = {
            "writer": BuiltinDataReader(participant, BuiltinTopicDcpsPublication),
            "reader": BuiltinDataReader(participant, BuiltinTopicDcpsSubscription),
        }
        self._found: dict[str, dict[bytes, Endpoint]] = {"writer": {}, "reader": {}}

    def refresh(self) -> None:
        """Take in what changed."""
        for kind, reader in self.readers.items():
            known = self._found[kind]
            while samples := reader.take(_BATCH):
                for sample in samples:
                    self._note(known, sample)

    def _note(self, known: dict[bytes, Endpoint], sample: Any) -> None:
        from cyclonedds.core import InstanceState

        guid = sample.key.bytes
        if int(sample.sample_info.instance_state) != int(InstanceState.Alive) or sample.topic_name is None:
            known.pop(guid, None)
            return
        announced = _HASH.search(_user_data(sample.qos))
        known[guid] = Endpoint(
            guid=guid,
            topic=sample.topic_name,
            type=ros_name(sample.type_name),
            type_hash=announced[1].decode() if announced else "",
            qos=sample.qos,
            here=sample.participant_key.bytes == self._own,
        )

    def report(self, spec: TopicSpec, qos: Any, rate_hz: float | None, names: dict[bytes, str]) -> TopicReport:
        """What is known of one topic.

        Args:
            spec: The topic.
            qos: cyclonedds `Qos` of the endpoint here.
            rate_hz: Messages a second, if counted.
            names: Endpoint -> name of its node.
        """
        dds_topic = "rt" + spec.topic
        writers = [e for e in self._found["writer"].values() if e.topic == dds_topic]
        readers = [e for e in self._found["reader"].values() if e.topic == dds_topic]
        others = [e for e in (writers if spec.direction == "in" else readers) if not e.here]
        problems, notes = [], []
        for other in others:
            who = names.get(other.guid, "a participant without a node name")
            if other.type != spec.type:
                notes.append(f"{who} has it as {other.type}, which is never connected")
                continue
            if other.type_hash and other.type_hash != type_hash(spec.type):
                notes.append(f"{who} has another version of {spec.type}")
            offered, requested = (other.qos, qos) if spec.direction == "in" else (qos, other.qos)
            if found := misfits(offered, requested):
                problems.append(f"{spec.topic}: {who} does not fit: {', '.join(found)}")
        same = writers if spec.direction == "out" else readers
        for rival in same:
            if not rival.here:
                verb = "publishes" if spec.direction == "out" else "listens"
                notes.append(f"{names.get(rival.guid, 'a participant without a node name')} {verb} here too")
        goals = f"rq{spec.goals}Request" if spec.goals else None  # the request's topic, as rmw_cyclonedds names it
        clients = [e for e in self._found["writer"].values() if e.topic == goals]
        for client in clients:
            who = names.get(client.guid, "a participant without a node name")
            notes.append(f"{who} may send goals to {spec.action}")
        return TopicReport(
            topic=spec.topic,
            role=spec.role,
            direction=spec.direction,
            expected_type=spec.type,
            found_types=tuple(sorted({e.type for e in (*writers, *readers) if not e.here})),
            publishers=len(writers) + len(clients),
            subscribers=len(readers),
            rate_hz=rate_hz,
            qos_problem="; ".join(problems),
            notes=tuple(notes),
        )

    def matched(self, topics: Sequence[str]) -> bool:
        """Whether each of the DDS topics has an endpoint of another participant."""
        there = {e.topic for kind in self._found.values() for e in kind.values() if not e.here}
        return set(topics) <= there

    def close(self) -> None:
        """Delete the readers."""
        for reader in self.readers.values():
            reader.__del__()


def _user_data(qos: Any) -> bytes:
    for policy in qos:
        if policy.__scope__ == "Userdata":
            return bytes(policy.data or b"")
    return b""

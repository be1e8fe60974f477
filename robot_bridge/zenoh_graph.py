"""How rmw_zenoh names things, and what its liveliness tokens say about who is on the topics.

Layout from the design document of rmw_zenoh_cpp (https://github.com/ros2/rmw_zenoh, docs/design.md, Apache-2.0):
messages have the key `<domain>/<topic>/<type>/<hash>`, and each node, publisher and subscriber has a token
`@ros2_lv/<domain>/<session>/<node id>/<id>/<NN|MP|MS|...>/<enclave>/<namespace>/<node>/<topic>/<type>/<hash>/<qos>`.
"""

from __future__ import annotations

import struct
import threading
from dataclasses import dataclass

from foreact.robot_bridge.ros_types import dds_name, ros_name, type_hash
from foreact.robot_bridge.topic_names import Qos, TopicSpec
from foreact.robot_bridge.types import TopicReport

_ROOT = "@ros2_lv"


def message_key(domain_id: int, topic: str, kind: str) -> str:
    """Where messages of a topic go."""
    return f"{domain_id}/{topic.lstrip('/')}/{dds_name(kind)}/{type_hash(kind)}"


def attachment(sequence: int, stamp_ns: int, gid: bytes) -> bytes:
    """What goes with each message: its number, the time of sending, and who sent it (16 bytes)."""
    return struct.pack("<qqB16s", sequence, stamp_ns, 16, gid)


def qos_text(qos: Qos) -> str:
    """As in a token; empty where it is the default (reliable, volatile, keep last)."""
    return f"{'' if qos.reliable else 2}:{1 if qos.transient_local else ''}:,{qos.depth}:,:,:,,"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A publisher or a subscriber, or a node without topic."""

    session: str
    kind: str
    """Such as "MP", which publishes, "MS", which subscribes, or "SC", a service's client; "NN" is the node itself."""
    node: str
    """Fully qualified."""
    topic: str = ""
    type: str = ""
    hash: str = ""


def token(
    domain_id: int, session: str, number: int, kind: str, namespace: str, node: str, spec: TopicSpec | None = None
) -> str:
    """The token of a node (number 0, kind "NN") or of one of its endpoints."""
    head = f"{_ROOT}/{domain_id}/{session}/0/{number}/{kind}/%/{_escape(namespace)}/{node}"
    if spec is None:
        return head
    return f"{head}/{_escape(spec.topic)}/{dds_name(spec.type)}/{type_hash(spec.type)}/{qos_text(spec.qos)}"


def read_token(text: str) -> Endpoint | None:
    """The inverse of `token`; None if it is none."""
    parts = text.split("/")
    if len(parts) < 9 or parts[0] != _ROOT:
        return None
    node = f"{_unescape(parts[7]).rstrip('/')}/{parts[8]}"
    if parts[5] == "NN" or len(parts) < 12:
        return Endpoint(parts[2], parts[5], node)
    return Endpoint(parts[2], parts[5], node, _unescape(parts[9]), ros_name(parts[10]), parts[11])


def all_tokens(domain_id: int) -> str:
    """The key expression of all tokens of a domain."""
    return f"{_ROOT}/{domain_id}/**"


def _escape(name: str) -> str:
    return name.replace("/", "%") or "%"


def _unescape(name: str) -> str:
    return name.replace("%", "/")


class ZenohGraph:
    """All tokens of a domain.

    Args:
        session: Of this participant.
    """

    def __init__(self, session: str):
        self._session = session
        self._lock = threading.Lock()
        self._found: dict[str, Endpoint] = {}

    def note(self, key: str, there: bool) -> None:
        """A token that appeared or went; called from any thread."""
        endpoint = read_token(key)
        with self._lock:
            if endpoint and there:
                self._found[key] = endpoint
            else:
                self._found.pop(key, None)

    def report(self, spec: TopicSpec, rate_hz: float | None) -> TopicReport:
        """What is known of one topic; in Zenoh all QoS fit each other."""
        with self._lock:
            on_topic = [e for e in self._found.values() if e.topic == spec.topic and e.kind in ("MP", "MS")]
            clients = [e for e in self._found.values() if spec.goals and e.topic == spec.goals and e.kind == "SC"]
        publishers = [e for e in on_topic if e.kind == "MP"]
        others = [e for e in on_topic if e.session != self._session]
        notes = []
        for other in others:
            if other.type != spec.type:
                notes.append(f"{other.node} has it as {other.type}, which is never connected")
            elif other.hash != type_hash(spec.type):
                notes.append(f"{other.node} has another version of {spec.type}, which is never connected")
            if other.kind == ("MP" if spec.direction == "out" else "MS"):
                notes.append(f"{other.node} {'publishes' if spec.direction == 'out' else 'listens'} here too")
        notes += [f"{client.node} may send goals to {spec.action}" for client in clients]
        return TopicReport(
            topic=spec.topic,
            role=spec.role,
            direction=spec.direction,
            expected_type=spec.type,
            found_types=tuple(sorted({e.type for e in others})),
            publishers=len(publishers) + len(clients),
            subscribers=len(on_topic) - len(publishers),
            rate_hz=rate_hz,
            notes=tuple(notes),
        )

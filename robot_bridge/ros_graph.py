"""Who else is on the bridge's topics, as rclpy's graph tells it, and which of their policies do not fit.

The middleware reports an incompatible pair by an event that names one policy and nobody's name, and never takes it
back. The graph knows every endpoint with its node and its policies; so the event only makes us look again at once, and
counts by itself only where the graph shows no reason.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from foreact.robot_bridge.ros_qos import misfits, profile
from foreact.robot_bridge.topic_names import TopicSpec
from foreact.robot_bridge.types import TopicReport

_PERIOD_S = 0.4
_OLD_S = 2.0
"""What was seen so long ago is not told as if it were so now: the thread hangs, or its looks fail."""
_WORDS = {
    "DURABILITY": "durability", "DEADLINE": "deadline", "LIVELINESS": "liveliness", "RELIABILITY": "reliability",
    "HISTORY": "history", "LIFESPAN": "lifespan", "DEPTH": "depth", "LIVELINESS_LEASE_DURATION": "liveliness lease",
}  # fmt: skip


class RosGraph:
    """Looks at the graph in a thread of its own: asking takes milliseconds that the gate does not have.

    Args:
        node: rclpy's.
        more: Further reports, made in the same thread.
        clock: Steady clock [s].
    """

    def __init__(
        self,
        node: Any,
        more: Callable[[], Sequence[TopicReport]] = tuple,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._node, self._more, self._clock = node, more, clock
        self._specs: Sequence[tuple[TopicSpec, str]] = ()
        self._counts: dict[str, int] = {}
        self._rates: dict[str, tuple[float, int, float | None]] = {}
        self._events: dict[str, tuple[str, frozenset[bytes] | None]] = {}
        self._looked: tuple[float, tuple[TopicReport, ...]] = (0.0, ())
        """When the last look began, and what was seen."""
        self._look = threading.Event()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self.failed = ""
        """Why the last look failed; empty if it did not."""

    def open(self, specs: Sequence[tuple[TopicSpec, str]], counts: dict[str, int]) -> None:
        """Begin.

        Args:
            specs: Topics, each with its name after remapping.
            counts: Role -> messages that arrived; read, never written.
        """
        self._specs, self._counts = specs, counts
        self._closing.clear()
        self._thread = threading.Thread(target=self._run, name="ros graph", daemon=True)
        self._thread.start()

    def reports(self) -> Sequence[TopicReport]:
        """As of the last look; nothing if there was none, it failed, or it was longer ago than two seconds."""
        at_s, seen = self._looked
        return seen if self._clock() - at_s <= _OLD_S else ()

    def event(self, role: str, info: Any) -> None:
        """The middleware says that a pair does not fit."""
        kind = getattr(info.last_policy_kind, "name", str(info.last_policy_kind))
        self._events[role] = (_WORDS.get(kind, kind.lower()), None)
        self._look.set()

    def close(self) -> None:
        """End."""
        self._closing.set()
        self._look.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout=2.0)
        self._looked = (0.0, ())

    def _run(self) -> None:
        while not self._closing.is_set():
            began_s = self._clock()
            try:
                seen = (*(self._report(spec, topic) for spec, topic in self._specs), *self._more())
                self._looked, self.failed = (began_s, seen), ""
            except Exception as error:  # the context may be gone; the gate notices that nobody looks any more
                self._looked = (began_s, ())
                self._fail(repr(error))
            self._look.wait(_PERIOD_S)
            self._look.clear()

    def _fail(self, problem: str) -> None:
        new, self.failed = problem != self.failed, problem
        if new and not self._closing.is_set():
            self._node.get_logger().warning(f"the topics could not be looked at, so nothing is armed: {problem:.300}")

    def _report(self, spec: TopicSpec, topic: str) -> TopicReport:
        writers = self._node.get_publishers_info_by_topic(topic)
        readers = self._node.get_subscriptions_info_by_topic(topic)
        coming_in = spec.direction == "in"
        peers, same = (writers, readers) if coming_in else (readers, writers)
        own, problems, notes = profile(spec.qos), [], []
        for peer in peers:
            if peer.topic_type != spec.type:
                notes.append(f"{_who(peer)} has it as {peer.topic_type}, which is never connected")
            elif found := misfits(*((peer.qos_profile, own) if coming_in else (own, peer.qos_profile))):
                problems.append(f"{topic}: {_who(peer)} does not fit: {', '.join(found)}")
        if not problems and (policy := self._only_an_event(spec.role, peers)):
            problems.append(f"{topic}: somebody does not fit: {policy}")
        names = [_who(endpoint) for endpoint in same]
        if (mine := self._node.get_fully_qualified_name()) in names:
            names.remove(mine)  # one endpoint is ours; a second bridge may have the same name
            notes += [f"{rival} {'listens' if coming_in else 'publishes'} here too" for rival in names]
        clients = self._node.count_clients(self._node.resolve_service_name(spec.goals)) if spec.goals else 0
        if clients:
            notes.append(f"{clients} may send goals to {spec.action}")
        return TopicReport(
            topic=topic,
            role=spec.role,
            direction=spec.direction,
            expected_type=spec.type,
            found_types=tuple(sorted({peer.topic_type for peer in (*writers, *readers)})),
            publishers=len(writers) + clients,
            subscribers=len(readers),
            rate_hz=self._rate(spec.role) if coming_in else None,
            qos_problem="; ".join(problems),
            notes=tuple(notes),
        )

    def _only_an_event(self, role: str, peers: Sequence[Any]) -> str:
        """The policy that an event named, as long as the same peers are there."""
        if role not in self._events:
            return ""
        policy, then = self._events[role]
        now = frozenset(bytes(peer.endpoint_gid) for peer in peers)
        if then is None:
            self._events[role] = (policy, now)
        elif now != then:
            del self._events[role]
            return ""
        return policy if now else ""

    def _rate(self, role: str) -> float | None:
        now, count = time.monotonic(), self._counts.get(role, 0)
        since, before, rate = self._rates.setdefault(role, (now, count, None))
        if now - since >= 1.0:
            rate = (count - before) / (now - since)
            self._rates[role] = (now, count, rate)
        return rate


def _who(endpoint: Any) -> str:
    return f"{endpoint.node_namespace.rstrip('/')}/{endpoint.node_name}"

"""A participant of a ROS 2 graph over Zenoh, as rmw_zenoh lays it out, without a ROS install. Experimental.

A router has to run (`ros2 run rmw_zenoh_cpp rmw_zenohd`). This end connects to it as a client and listens on no port.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from foreact.robot_bridge.network import NetworkScope, read_network
from foreact.robot_bridge.node import OnData
from foreact.robot_bridge.topic_names import TopicSpec
from foreact.robot_bridge.transport_errors import TransportError
from foreact.robot_bridge.types import TopicReport
from foreact.robot_bridge.zenoh_graph import ZenohGraph, all_tokens, attachment, message_key, token

ROUTER = "tcp/127.0.0.1:7447"
_RATE_S = 1.0


class ZenohNode:
    """A `foreact.robot_bridge.node.Node`.

    Args:
        name: Of the node.
        namespace: Such as "/".
        scope: Whose domain id is used; default: of the environment.
        router: Where the router listens.
    """

    def __init__(self, name: str, namespace: str = "/", scope: NetworkScope | None = None, router: str = ROUTER):
        self.name, self.namespace, self.router = name, namespace, router
        self.scope = read_network() if scope is None else scope
        self.failed_reads = 0
        """Messages that whoever listens here could not cope with."""
        self._specs: list[TopicSpec] = []
        self._publishers: dict[str, tuple[Any, bytes]] = {}
        self._numbers: Counter[str] = Counter()
        self._kept: list[Any] = []
        self._subscribers: list[Any] = []
        self._threads: list[threading.Thread] = []
        self._counts: Counter[str] = Counter()
        self._rates: dict[str, float] = {}
        self._counted: tuple[float, Counter[str]] = (time.monotonic(), Counter())
        self._session: Any = None
        self._graph: ZenohGraph | None = None
        self._lock = threading.Lock()
        self._closing = threading.Event()

    def open(self, specs: Sequence[TopicSpec], on_data: OnData) -> None:
        """As `Node.open`."""
        if self._session is not None or self._closing.is_set():
            raise TransportError("this node is open, or was closed; make a new one")
        zenoh = _zenoh()
        config = zenoh.Config()
        config.insert_json5("mode", '"client"')
        config.insert_json5("connect/endpoints", json.dumps([self.router]))
        config.insert_json5("connect/timeout_ms", "3000")
        config.insert_json5("timestamping/enabled", "true")  # what keeps the last message for late listeners needs it
        config.insert_json5("scouting/multicast/enabled", "false")
        try:
            self._session = zenoh.open(config)
            self._join(zenoh, specs, on_data)
        except zenoh.ZError as error:
            self.close()
            raise TransportError(
                f"no Zenoh router at {self.router}: {error!s:.150}; start one with "
                "`ros2 run rmw_zenoh_cpp rmw_zenohd`, or give its address"
            ) from error

    def publish(self, spec: TopicSpec, data: bytes) -> None:
        """As `Node.publish`."""
        with self._lock:
            if self._closing.is_set() or (found := self._publishers.get(spec.role)) is None:
                return
            self._numbers[spec.role] += 1
            publisher, gid = found
            publisher.put(data, attachment=attachment(self._numbers[spec.role], time.time_ns(), gid))

    def reports(self) -> Sequence[TopicReport]:
        """As `Node.reports`."""
        if self._graph is None or self._closing.is_set():
            return []
        now, (since, before) = time.monotonic(), self._counted
        if now - since >= _RATE_S:
            self._rates = {s.role: (self._counts[s.role] - before[s.role]) / (now - since) for s in self._specs}
            self._counted = (now, Counter(self._counts))
        return [
            self._graph.report(spec, self._rates.get(spec.role) if spec.direction == "in" else None)
            for spec in self._specs
        ]

    def close(self) -> None:
        """As `Node.close`."""
        with self._lock:
            if self._closing.is_set():
                return
            self._closing.set()
        if self._session is None:
            return
        for entity in (*self._subscribers, *self._kept, *(p for p, _ in self._publishers.values())):
            entity.undeclare()
        self._session.close()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(timeout=2.0)

    def _join(self, zenoh: Any, specs: Sequence[TopicSpec], on_data: OnData) -> None:
        session, domain = self._session, self.scope.domain_id
        zid = str(session.zid())
        graph = self._graph = ZenohGraph(zid)
        for number, spec in enumerate(specs, start=1):
            key = message_key(domain, spec.topic, spec.type)
            kind = "MS" if spec.direction == "in" else "MP"
            lives = token(domain, zid, number, kind, self.namespace, self.name, spec)
            if spec.direction == "out":
                gid = hashlib.sha256(lives.encode()).digest()[:16]
                self._publishers[spec.role] = (_publisher(zenoh, session, key, spec), gid)
            else:
                subscriber = _subscriber(zenoh, session, key, spec)
                self._subscribers.append(subscriber)
                thread = threading.Thread(
                    target=self._listen,
                    args=(spec, subscriber.handler, on_data),
                    name=f"zenoh {spec.role}",
                    daemon=True,
                )
                self._threads.append(thread)
                thread.start()
            self._kept.append(session.liveliness().declare_token(lives))
            self._specs.append(spec)
        node = token(domain, zid, 0, "NN", self.namespace, self.name)
        self._kept.append(session.liveliness().declare_token(node))

        def changed(sample: Any) -> None:
            graph.note(str(sample.key_expr), sample.kind == zenoh.SampleKind.PUT)

        self._subscribers.append(session.liveliness().declare_subscriber(all_tokens(domain), changed, history=True))

    def _listen(self, spec: TopicSpec, newest: Any, on_data: OnData) -> None:
        while not self._closing.is_set():
            try:
                sample = newest.recv()
            except Exception:  # it was undeclared
                return
            received_s = time.monotonic()
            self._counts[spec.role] += 1
            try:
                on_data(spec, sample.payload.to_bytes(), received_s)
            except Exception:  # whatever is done with a message must not end the thread that listens
                self.failed_reads += 1


def _zenoh() -> Any:
    try:
        import zenoh
    except ImportError as error:
        raise TransportError(
            "Zenoh needs the package eclipse-zenoh, which is not installed: pip install '.[zenoh]' in ForeAct's folder"
        ) from error
    return zenoh


def _publisher(zenoh: Any, session: Any, key: str, spec: TopicSpec) -> Any:
    drop = zenoh.CongestionControl.DROP  # a command that waits is worse than one that is lost
    sure = zenoh.Reliability.RELIABLE if spec.qos.reliable else zenoh.Reliability.BEST_EFFORT
    if not spec.qos.transient_local:
        return session.declare_publisher(key, congestion_control=drop, reliability=sure)
    from zenoh import ext

    return ext.declare_advanced_publisher(
        session, key, congestion_control=drop, reliability=sure,
        cache=ext.CacheConfig(max_samples=spec.qos.depth), publisher_detection=True,
    )  # fmt: skip


def _subscriber(zenoh: Any, session: Any, key: str, spec: TopicSpec) -> Any:
    newest = zenoh.handlers.RingChannel(max(1, spec.qos.depth) if not spec.qos.reliable else 10)
    if not spec.qos.transient_local:
        return session.declare_subscriber(key, newest)
    from zenoh import ext

    history = ext.HistoryConfig(detect_late_publishers=True, max_samples=spec.qos.depth)
    return ext.declare_advanced_subscriber(session, key, newest, history=history)

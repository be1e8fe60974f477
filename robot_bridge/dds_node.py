"""A participant of a ROS 2 graph by pip's cyclonedds, without a ROS install.

Topics, type names, type hashes and `ros_discovery_info` are as rmw_cyclonedds of Jazzy has them, so ROS 2 nodes hear
it, are heard, and list it by name. Services, actions and parameters are not offered: their protocol over DDS differs
from one middleware to the next.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from foreact.robot_bridge.dds_domain import enter_domain, leave_domain
from foreact.robot_bridge.dds_graph import DdsGraph
from foreact.robot_bridge.dds_types import idl_type
from foreact.robot_bridge.network import NetworkScope, read_network
from foreact.robot_bridge.node import OnData
from foreact.robot_bridge.ros_make import RosbagsMaker
from foreact.robot_bridge.ros_types import decode, encode, type_hash
from foreact.robot_bridge.topic_names import Qos, TopicSpec
from foreact.robot_bridge.transport_errors import BadMessage, TransportError
from foreact.robot_bridge.types import TopicReport

_INFO = "rmw_dds_common/msg/ParticipantEntitiesInfo"
_WAIT_NS = 200_000_000
_MS = 1_000_000
_RATE_S = 1.0


class DdsNode:
    """A `foreact.robot_bridge.node.Node`.

    Args:
        name: Shown by `ros2 node list`.
        namespace: Such as "/" or "/left_arm".
        scope: Domain and discovery range; default: of the environment, LOCALHOST where it is silent.

    Raises:
        ConfigError: If the environment holds a value that ROS 2 does not know.
    """

    def __init__(self, name: str, namespace: str = "/", scope: NetworkScope | None = None):
        self.name, self.namespace = name, namespace
        self.scope = read_network() if scope is None else scope
        self.failed_writes = 0
        """Messages that DDS did not take, for instance since a reliable reader hung."""
        self.failed_reads = 0
        """Messages that whoever listens here could not cope with."""
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._threads: list[threading.Thread] = []
        self._writers: dict[str, Any] = {}
        self._readers: dict[str, Any] = {}
        self._specs: list[TopicSpec] = []
        self._qos: dict[str, Any] = {}
        self._counts: Counter[str] = Counter()
        self._rates: dict[str, float] = {}
        self._counted: tuple[float, Counter[str]] = (time.monotonic(), Counter())
        self._names: dict[bytes, str] = {}
        self._participants: dict[bytes, tuple[bytes, ...]] = {}
        self._present: set[bytes] = set()
        self._participant: Any = None
        self._info: Any = None

    def open(self, specs: Sequence[TopicSpec], on_data: OnData) -> None:
        """As `Node.open`."""
        if self._participant is not None or self._closing.is_set():
            raise TransportError("this node is open, or was closed; make a new one")
        enter_domain(self.scope)
        from cyclonedds.builtin import BuiltinDataReader, BuiltinTopicDcpsParticipant
        from cyclonedds.core import DDSException, GuardCondition
        from cyclonedds.domain import DomainParticipant

        try:
            enclave = f"enclave={self.scope.enclave or '/'};".encode()
            from cyclonedds.qos import Policy
            from cyclonedds.qos import Qos as DdsQos

            self._participant = DomainParticipant(self.scope.domain_id, DdsQos(Policy.Userdata(enclave)))
            self._guard = GuardCondition(self._participant)
            self._graph = DdsGraph(self._participant)
            self._presence = BuiltinDataReader(self._participant, BuiltinTopicDcpsParticipant)
            for spec in specs:
                self._add(spec)
            self._announce()
        except DDSException as error:
            self.close()
            raise TransportError(f"DDS domain {self.scope.domain_id} cannot be used: {error!s:.200}") from error
        # Cameras decode pictures, so each has a thread; joints must not wait for them; the rest is rare.
        groups: dict[str, list[TopicSpec]] = {}
        for spec in specs:
            if spec.direction == "in":
                own = spec.role.startswith("camera ") or spec.role in ("joints", "trajectory")
                groups.setdefault(spec.role if own else "", []).append(spec)
        for name, group in groups.items():
            self._start(f"dds {name or 'topics'}", [(s, self._readers[s.role]) for s in group], on_data)
        self._start("dds nodes", [(None, self._info_reader)], on_data)

    def publish(self, spec: TopicSpec, data: bytes) -> None:
        """As `Node.publish`."""
        from cyclonedds.core import DDSException

        if (writer := self._writers.get(spec.role)) is None:
            return
        try:
            writer.write(idl_type(spec.type)(data))
        except DDSException:
            self.failed_writes += 1

    def reports(self) -> Sequence[TopicReport]:
        """As `Node.reports`."""
        with self._lock:
            if self._participant is None or self._closing.is_set():
                return []
            self._graph.refresh()
            self._forget_who_left()
            now, (since, before) = time.monotonic(), self._counted
            if now - since >= _RATE_S:
                self._rates = {s.role: (self._counts[s.role] - before[s.role]) / (now - since) for s in self._specs}
                self._counted = (now, Counter(self._counts))
            return [
                self._graph.report(
                    spec, self._qos[spec.role], self._rates.get(spec.role) if spec.direction == "in" else None,
                    self._names,
                )
                for spec in self._specs
            ]  # fmt: skip

    def close(self) -> None:
        """As `Node.close`."""
        with self._lock:
            if self._closing.is_set():
                return
            self._closing.set()
        writers, self._writers = self._writers, {}
        if self._participant is None:
            return
        self._guard.set(True)
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(timeout=5.0)
        for entity in (*writers.values(), *self._readers.values(), self._info, self._participant):
            if entity is not None:
                entity.__del__()
        leave_domain(self.scope.domain_id)

    def _forget_who_left(self) -> None:
        """Whoever says its nodes' names was seen as a participant before; its names go with it."""
        from cyclonedds.core import InstanceState

        while samples := self._presence.take(100):
            for sample in samples:
                alive = int(sample.sample_info.instance_state) == int(InstanceState.Alive)
                (self._present.add if alive else self._present.discard)(sample.key.bytes)
        for gid in self._participants.keys() - self._present:
            for gone in self._participants.pop(gid):
                self._names.pop(gone, None)

    def _add(self, spec: TopicSpec) -> None:
        from cyclonedds.pub import DataWriter
        from cyclonedds.sub import DataReader
        from cyclonedds.topic import Topic

        topic = Topic(self._participant, "rt" + spec.topic, idl_type(spec.type))
        qos = _dds_qos(spec.qos, f"typehash={type_hash(spec.type)};")
        if spec.direction == "in":
            made = self._readers[spec.role] = DataReader(self._participant, topic, qos)
        else:
            made = self._writers[spec.role] = DataWriter(self._participant, topic, qos)
        self._specs.append(spec)
        self._qos[spec.role] = made.get_qos()

    def _announce(self) -> None:
        """Tell ROS 2 which node the endpoints belong to."""
        from cyclonedds.pub import DataWriter
        from cyclonedds.sub import DataReader
        from cyclonedds.topic import Topic

        make = RosbagsMaker()

        def gid(entity: Any) -> Any:
            return make.new("rmw_dds_common/msg/Gid", data=make.octets(entity.get_guid().bytes))

        node = make.new(
            "rmw_dds_common/msg/NodeEntitiesInfo",
            node_namespace=self.namespace,
            node_name=self.name,
            reader_gid_seq=[gid(reader) for reader in self._readers.values()],
            writer_gid_seq=[gid(writer) for writer in self._writers.values()],
        )
        message = make.new(_INFO, gid=gid(self._participant), node_entities_info_seq=[node])
        topic = Topic(self._participant, "ros_discovery_info", idl_type(_INFO))
        latched = Qos(transient_local=True)
        self._info = DataWriter(self._participant, topic, _dds_qos(latched, f"typehash={type_hash(_INFO)};"))
        kept = _dds_qos(Qos(transient_local=True, depth=1000), f"typehash={type_hash(_INFO)};")
        self._info_reader = DataReader(self._participant, topic, kept)
        self._readers["ros_discovery_info"] = self._info_reader
        self._info.write(idl_type(_INFO)(encode(message, _INFO)))

    def _start(self, name: str, readers: list[tuple[TopicSpec | None, Any]], on_data: OnData) -> None:
        thread = threading.Thread(target=self._listen, args=(readers, on_data), name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _listen(self, readers: list[tuple[TopicSpec | None, Any]], on_data: OnData) -> None:
        from cyclonedds.core import DDSException, InstanceState, ReadCondition, SampleState, ViewState, WaitSet

        waitset = WaitSet(self._participant)
        # The readers themselves cannot be waited for without taking their status; conditions on unread samples can.
        conditions = [
            ReadCondition(reader, ViewState.Any | SampleState.NotRead | InstanceState.Any) for _, reader in readers
        ]
        for condition in (*conditions, self._guard):
            waitset.attach(condition)
        while not self._closing.is_set():
            try:
                if not waitset.wait(_WAIT_NS):
                    continue
                received_s = time.monotonic()
                for spec, reader in readers:
                    for sample in reader.take(N=spec.qos.depth if spec else 100):
                        if self._closing.is_set():
                            break
                        self._take(spec, sample, received_s, on_data)
            except DDSException:
                if self._closing.is_set():
                    break
                time.sleep(0.01)
        for entity in (waitset, *conditions):
            entity.__del__()

    def _take(self, spec: TopicSpec | None, sample: Any, received_s: float, on_data: OnData) -> None:
        raw = getattr(sample, "raw", None)
        if raw is None:
            return  # a writer left
        if spec is not None:
            self._counts[spec.role] += 1
            try:
                on_data(spec, raw, received_s)
            except Exception:  # whatever is done with a message must not end the thread that listens
                self.failed_reads += 1
            return
        try:
            info = decode(raw, _INFO, "ros_discovery_info")
        except BadMessage:
            return
        own, names = bytes(bytearray(info.gid.data)), {}
        for node in info.node_entities_info_seq:
            full = f"{node.node_namespace.rstrip('/')}/{node.node_name}"
            names |= {bytes(bytearray(gid.data)): full for gid in (*node.reader_gid_seq, *node.writer_gid_seq)}
        with self._lock:
            for gone in self._participants.pop(own, ()):
                self._names.pop(gone, None)
            self._participants[own] = tuple(names)
            self._names |= names


def _dds_qos(qos: Qos, user_data: str) -> Any:
    from cyclonedds.qos import Policy
    from cyclonedds.qos import Qos as DdsQos

    return DdsQos(
        # "Returns at once": a reader that hangs may hold a reliable writer up by this much, and no more.
        Policy.Reliability.Reliable(10 * _MS) if qos.reliable else Policy.Reliability.BestEffort,
        Policy.Durability.TransientLocal if qos.transient_local else Policy.Durability.Volatile,
        Policy.History.KeepLast(qos.depth),
        Policy.DataRepresentation(use_cdrv0_representation=True, use_xcdrv2_representation=False),
        *([Policy.Userdata(user_data.encode())] if user_data else []),
    )

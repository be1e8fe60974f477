"""Live topics into a rosbag2 bag (MCAP), written by a thread of its own; what was flushed survives a kill.

    <folder>/<name>_0.mcap   profile ros2, schemas ros2msg, messages cdr, chunks by zstd or lz4
    <folder>/metadata.yaml   written last: a bag without it was cut off, see `foreact.robot_bridge.record_repair`

The contract and the versions of the software stand in the file, before the first message.
Formats: https://mcap.dev/spec and https://mcap.dev/spec/registry (profile ros2); rosbag2_storage (Apache-2.0).
"""

from __future__ import annotations

import os
import platform
import threading
import time
from collections import Counter, deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal

from foreact.datasets.durable import fsync_folder
from foreact.robot_bridge.record_messages import message_definition
from foreact.robot_bridge.record_metadata import (
    BagTimes,
    BagTopic,
    OfferedQos,
    bag_metadata,
    metadata_text,
    qos_text,
    write_metadata,
)
from foreact.vla.errors import ForeActError

FLUSH_S = 0.5
"""A kill loses so much at most, and what waits for the disk."""
QUEUE_BYTES = 64 << 20
CHUNK_BYTES = 4 << 20


class BagError(ForeActError):
    """A bag cannot be written, or mended."""


@dataclass(kw_only=True)
class BagReport:
    """What became of the messages."""

    path: Path
    written: Counter[str] = field(default_factory=Counter)
    """Messages by topic."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Messages that the disk was too slow for, or that came after it failed."""
    bytes: int = 0
    """Of the file."""
    problem: str = ""
    """Why writing ended early, if it did."""


@dataclass(frozen=True, slots=True)
class _NewTopic:
    topic: BagTopic
    definition: str


@dataclass(frozen=True, slots=True)
class _Item:
    topic: str
    data: bytes
    log_ns: int
    publish_ns: int


class McapRecorder:
    """Writes one bag. Every method may be called from any thread.

    Args:
        folder: Of the bag; must not exist.
        attachments: name -> (media type, bytes) that are put before the first message, such as the contract.
        information: What is said of the recording, key by key; versions of the software are added.
        compression: Of chunks: "zstd" is smaller, "lz4" takes less time, "none" neither.
        flush_s: What is older is handed to the operating system [s].
        queue_bytes: So much may wait for the disk; what comes then is dropped, and counted.
        types: rosbags' type store with further message types.

    Raises:
        BagError: If the folder exists or cannot be made.
    """

    def __init__(
        self,
        folder: Path,
        *,
        attachments: Mapping[str, tuple[str, bytes]] | None = None,
        information: Mapping[str, str] | None = None,
        compression: Literal["zstd", "lz4", "none"] = "zstd",
        flush_s: float = FLUSH_S,
        queue_bytes: int = QUEUE_BYTES,
        types: Any = None,
    ) -> None:
        self.folder = Path(folder)
        self.file = self.folder / f"{self.folder.name}_0.mcap"
        self._types = types
        self._topics: dict[str, BagTopic] = {}
        self._channels: dict[str, int] = {}
        self._schemas: dict[str, int] = {}
        self._times = BagTimes(custom=_versions() | dict(information or {}))
        self._flush_s, self._queue_bytes = flush_s, queue_bytes
        self._report = BagReport(path=self.folder)
        self._queue: deque[_Item | _NewTopic] = deque()
        self._queued_bytes = 0
        self._changed = threading.Condition()
        self._closing = False
        self._flushes = 0
        try:
            self.folder.mkdir(parents=True)
            self._stream: IO[bytes] = open(self.file, "xb")  # noqa: SIM115 - closed by the thread
        except FileExistsError as error:
            raise BagError(f"{self.folder} exists already; record under another name") from error
        except OSError as error:
            raise BagError(f"the bag {self.folder} cannot be made: {error.strerror or error}") from error
        self._writer = make_writer(self._stream, compression)
        self._begin(dict(attachments or {}))
        self._thread = threading.Thread(target=self._run, name="mcap", daemon=True)
        self._thread.start()

    def __enter__(self) -> McapRecorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def problem(self) -> str:
        """Why nothing is written any more, or ""."""
        return self._report.problem

    @property
    def flushes(self) -> int:
        """How often all that had come was handed to the operating system."""
        return self._flushes

    def topic(self, name: str, kind: str, qos: OfferedQos | None = None) -> None:
        """Make a topic known, such as "/joint_states" of "sensor_msgs/msg/JointState"; once more does nothing.

        Raises:
            BagError: If the type is unknown, or the topic has another one.
        """
        known = self._topics.get(name)
        if known is None:
            definition, digest = message_definition(kind, self._types)
            found = BagTopic(name=name, type=kind, type_hash=digest, qos=[(qos or OfferedQos()).profile()])
            with self._changed:
                known = self._topics.setdefault(name, found)
                if known is found:
                    self._queue.append(_NewTopic(found, definition))
        if known.type != kind:
            raise BagError(f"{name} is recorded as {known.type}, messages of {kind} came; one type per topic")

    def write(self, topic: str, data: bytes, log_ns: int, publish_ns: int | None = None) -> bool:
        """Take a message of a known topic; returns at once, and whether it will be written.

        Args:
            topic: As given to `topic`.
            data: CDR, with its header of four bytes.
            log_ns: When it arrived [ns since 1970].
            publish_ns: The time in its header; None: it has none.
        """
        with self._changed:
            full = self._queue and self._queued_bytes + len(data) > self._queue_bytes
            if full or self._closing or self._report.problem or topic not in self._topics:
                self._report.dropped[topic] += 1
                return False
            self._queue.append(_Item(topic, data, log_ns, log_ns if publish_ns is None else max(0, publish_ns)))
            self._queued_bytes += len(data)
            self._changed.notify()
            return True

    def close(self) -> BagReport:
        """Write what waits, the index and metadata.yaml; what happened. Calling it again does nothing more."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()
        return self._report

    def _begin(self, attachments: Mapping[str, tuple[str, bytes]]) -> None:
        from foreact import __version__

        try:
            self._writer.start("ros2", f"foreact {__version__}")
            self._writer.add_metadata("foreact", self._times.custom)
            now_ns = time.time_ns()
            for name, (media_type, data) in attachments.items():
                self._writer.add_attachment(now_ns, now_ns, name, media_type, data)
            self._stream.flush()
            fsync_folder(self.folder)
        except OSError as error:
            self._close_stream()
            raise BagError(f"the bag {self.folder} cannot be written: {error.strerror or error}") from error

    def _run(self) -> None:
        """The thread: only it writes."""
        flushed_at, unflushed = time.monotonic(), False
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._closing, self._flush_s if unflushed else None)
                items, self._queue = self._queue, deque()
                ending = self._closing
            try:
                for item in items:
                    self._put(item)
                    unflushed = True
                if unflushed and (ending or time.monotonic() - flushed_at >= self._flush_s):
                    self._writer.flush()
                    flushed_at, unflushed = time.monotonic(), False
                    self._flushes += 1
            except OSError as error:
                unflushed = False
                self._fail(error)
            with self._changed:
                self._queued_bytes = sum(len(item.data) for item in self._queue if isinstance(item, _Item))
                if ending and not self._queue:
                    break
        self._end()

    def _put(self, item: _Item | _NewTopic) -> None:
        if isinstance(item, _NewTopic):
            topic = item.topic
            if topic.type not in self._schemas:
                schema = self._writer.register_schema(topic.type, "ros2msg", item.definition.encode())
                self._schemas[topic.type] = schema
            qos = {"offered_qos_profiles": qos_text(topic.qos), "topic_type_hash": topic.type_hash}
            self._channels[topic.name] = self._writer.register_channel(
                topic.name, "cdr", self._schemas[topic.type], qos
            )
            return
        if self._report.problem:
            with self._changed:
                self._report.dropped[item.topic] += 1
            return
        topic = self._topics[item.topic]
        self._writer.add_message(
            self._channels[item.topic], item.log_ns, item.data, item.publish_ns, sequence=topic.messages
        )
        topic.messages += 1
        self._times.note(item.log_ns)
        self._report.written[item.topic] += 1

    def _end(self) -> None:
        try:
            if not self._report.problem:
                information = bag_metadata(self.file.name, list(self._topics.values()), self._times)
                self._writer.add_metadata("rosbag2", {"serialized_metadata": metadata_text(information)})
                self._writer.finish()
                self._stream.flush()
                os.fsync(self._stream.fileno())
                write_metadata(self.folder, information)
        except OSError as error:
            self._fail(error)
        self._close_stream()
        with suppress(OSError):
            self._report.bytes = self.file.stat().st_size

    def _close_stream(self) -> None:
        with suppress(OSError):  # what could not be written before cannot be written now
            self._stream.close()

    def _fail(self, error: OSError) -> None:
        self._report.problem = (
            f"the bag {self.folder} could not be written to its end: {error.strerror or error}. What was flushed "
            "before is kept; mend it with `foreact robot mend-bag`, and check the disk."
        )


def make_writer(stream: IO[bytes], compression: str) -> Any:
    """mcap's writer with chunks of our size.

    Raises:
        BagError: If the package is missing, or too old.
    """
    try:
        from mcap.writer import CompressionType, Writer
    except ImportError as error:
        raise BagError("recording bags needs the package mcap: pip install '.[robot]' in ForeAct's folder") from error
    if not hasattr(Writer, "flush"):
        raise BagError("the package mcap is too old to flush what it writes: pip install 'mcap>=1.6'")
    kinds = {"zstd": CompressionType.ZSTD, "lz4": CompressionType.LZ4, "none": CompressionType.NONE}
    return Writer(stream, chunk_size=CHUNK_BYTES, compression=kinds[compression])


def _versions() -> dict[str, str]:
    import importlib.metadata

    import numpy as np

    from foreact import __version__

    found = {"foreact": __version__, "python": platform.python_version(), "numpy": np.__version__}
    for package in ("mcap", "rosbags"):
        found[package] = importlib.metadata.version(package)
    return found

"""Records what a robot sees, does and is told, twice at once: episodes in a trajectory store, and messages in a bag.

Every input returns at once and never raises; a thread puts the messages in the order of their times, writes them into
the bag, and lets the bag importer's rule choose what belongs to each tick. So the bag, imported later, gives the same
episode, number by number.

Times are readings of the steady clock [s]; in the bag they are counted from 1970 by an offset that is taken once.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from foreact.datasets.formats.limits import short
from foreact.datasets.formats.resample import NS
from foreact.datasets.recorder import Recorder, new_name
from foreact.robot_bridge.record_episode import Command, Picture
from foreact.robot_bridge.record_mcap import McapRecorder
from foreact.robot_bridge.record_messages import IMAGE, message_definition
from foreact.robot_bridge.record_topics import JOINTS, RecordTopics, default_topics
from foreact.robot_bridge.record_worker import Measured, Raw, Recorded, Recording, RecordSettings, Take
from foreact.robot_bridge.types import CameraFrame, JointSample
from foreact.vla.contract import Contract
from foreact.vla.errors import ForeActError


@dataclass
class _Begin:
    recording: Recording
    words: str
    at_ns: int


@dataclass
class _End:
    how: str
    meta: dict[str, Any]
    dropped: Counter[str] = field(default_factory=Counter)
    done: threading.Event = field(default_factory=threading.Event)
    result: Recorded | None = None
    error: Exception | None = None


class RobotRecorder:
    """Records one robot; every method may be called from any thread.

    Args:
        store: Folder of the store, made if it is not there.
        contract: What is recorded: cameras, state and action as they are deployed.
        bags: Folder for the bags; None: no bags.
        settings: See there.
        topics: Names in the bag.
        state_of: Measured joints and the last gripper command -> state (S,) by the contract; None: `state` is called.
        on_saved: Told the name of every episode that is on the disk for good, from another thread.

    Raises:
        ForeActError: If the store is of another contract, or cannot be made.
    """

    def __init__(
        self,
        store: Path,
        contract: Contract,
        *,
        bags: Path | None = None,
        settings: RecordSettings | None = None,
        topics: RecordTopics | None = None,
        state_of: Callable[[JointSample, float], np.ndarray] | None = None,
        on_saved: Callable[[str], None] | None = None,
    ) -> None:
        self.contract, self.settings = contract, settings or RecordSettings()
        self.topics = topics or default_topics(contract, compressed=self.settings.pictures == "jpeg")
        self._recorder = Recorder(store, contract, self.settings.codec, background=True)
        self._bags, self._state_of, self._on_saved = bags, state_of, on_saved
        if bags is not None:
            message_definition(IMAGE)  # loads the types now: it takes a second, which would be missed later
        self._offset_ns = time.time_ns() - time.monotonic_ns()
        self._changed = threading.Condition()
        self._queue: deque[Take | _Begin | _End] = deque()
        self._queued_bytes = 0
        self._dropped: Counter[str] = Counter()
        self._next: dict[str, int] = {}
        """Topic -> the number of its next picture, to see what was lost."""
        self._going: Recording | None = None
        self._recording = False
        self._closed = False
        self._words = ""
        self._gripper = 1.0
        self._thread = threading.Thread(target=self._run, name="record", daemon=True)
        self._thread.start()

    def __enter__(self) -> RobotRecorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def recording(self) -> bool:
        """Whether a recording was begun and not ended."""
        return self._recording

    def begin(self, instruction: str = "", name: str | None = None, meta: Mapping[str, Any] | None = None) -> str:
        """Begin a recording; its name, after which episode and bag are called. Does not wait for the disk.

        Raises:
            ForeActError: If one is going on, or the name is taken.
        """
        if self._recording:
            raise ForeActError("a recording is going on; end it before the next one begins")
        name = name or new_name()
        if self._recorder.has(name):
            raise ForeActError(f"the store {self._recorder.path} already has an episode {name!r}; choose another name")
        if instruction:
            self._words = short(instruction)
        self._going = Recording(
            self._recorder,
            None if self._bags is None else partial(self._make_bag, self._bags / name),
            name,
            meta or {},
            self.settings,
            self.topics,
            self._offset_ns,
            self._state_of,
            self._on_saved,
        )
        begin = _Begin(self._going, self._words, time.monotonic_ns())
        with self._changed:
            self._dropped, self._next = Counter(), {}
            self._recording = True
            self._queue.append(begin)
            self._changed.notify()
        return name

    def end(self, success: bool | None = None, how: str = "done", meta: Mapping[str, Any] | None = None) -> Recorded:
        """End the recording; returns when it is on the disk for good.

        Raises:
            ForeActError: If none is going on, or the store cannot be written.
        """
        if not self._recording:
            raise ForeActError("no recording is going on")
        found = {"success": success} if success is not None else {}
        end = _End(how, found | dict(meta or {}))
        with self._changed:
            self._recording = False
            end.dropped = self._dropped
            self._queue.append(end)
            self._changed.notify()
        end.done.wait()
        result, going = end.result, self._going
        assert going is not None
        if going.bag is not None:
            report = going.bag.close()
            if result is not None:
                result.bag = report
                result.notices += [report.problem] * bool(report.problem)
        if end.error is not None:
            raise end.error
        assert result is not None
        for writer in going.saved:
            writer.wait()
            result.episodes.append(writer.name)
        return result

    def close(self) -> Recorded | None:
        """End what is going on (its episode is kept), and stop the thread."""
        recorded = self.end(how="interrupted") if self._recording else None
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()
        return recorded

    def frame(self, frame: CameraFrame) -> None:
        """A picture."""
        topic = self.topics.cameras.get(frame.camera, f"/{frame.camera}/image_raw")
        image = frame.image
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            self._drop(topic)
            return
        lost = frame.sequence - self._next.get(topic, frame.sequence)
        picture = Picture(image, frame.stamp_s, max(0, lost))
        if self._put(topic, frame.received_s, picture, image.nbytes):
            self._next[topic] = frame.sequence + 1

    def joints(self, sample: JointSample) -> None:
        """Measured joints; the state follows from them if `state_of` was given."""
        self._put(JOINTS, sample.received_s, Measured(sample, self._gripper))

    def state(self, values: np.ndarray, received_s: float) -> None:
        """(S,) by the contract, if there is no `state_of`."""
        self._put(self.topics.state, received_s, np.array(values, np.float64))

    def action(self, values: np.ndarray, due_s: float, intervention: bool = False) -> None:
        """(A,) by the contract: what is executed from `due_s` on, the beginning of its step; by a person, or not."""
        self._put(self.topics.action, due_s, Command(np.array(values, np.float64), intervention))

    def gripper(self, command: float) -> None:
        """+1 open, -1 close: what `state_of` is told with the next joints."""
        self._gripper = float(command)

    def instruction(self, text: str, received_s: float) -> None:
        """New words; remembered for the next recording if none is going on."""
        try:
            self._words = short(text)
        except ForeActError:
            self._drop(self.topics.instruction)
            return
        self._put(self.topics.instruction, received_s, self._words)

    def raw(self, topic: str, kind: str, data: bytes, received_s: float, stamp_s: float | None = None) -> None:
        """Any other message, for the bag alone: its type, as CDR, and the time in its header."""
        self._put(topic, received_s, Raw(kind, data, stamp_s), len(data))

    def _put(self, topic: str, at_s: float, value: Any, n_bytes: int = 64) -> bool:
        with self._changed:
            if not self._recording:
                return False
            if self._queued_bytes + n_bytes > self.settings.queue_bytes:
                self._dropped[topic] += 1
                return False
            self._queue.append(Take(topic, round(at_s * NS), value, n_bytes))
            self._queued_bytes += n_bytes
            self._changed.notify()
            return True

    def _drop(self, topic: str) -> None:
        with self._changed:
            self._dropped[topic] += self._recording

    def _make_bag(self, folder: Path) -> McapRecorder:
        settings = self.settings
        oldest_s = settings.oldest_s(self.contract.rate_hz)
        topic_map = self.topics.topic_map(oldest_s, settings.speed_scale).encode()
        contract = self.contract.to_yaml().encode()
        bag = McapRecorder(
            folder,
            attachments={
                "contract.yaml": ("application/yaml", contract),
                "topics.yaml": ("application/yaml", topic_map),
            },
            information={"contract": self.contract.hash, "speed_scale": f"{settings.speed_scale:g}"},
            compression=settings.compression,
            flush_s=settings.flush_s,
            queue_bytes=settings.queue_bytes,
        )
        (bag.folder / "contract.yaml").write_bytes(contract)
        (bag.folder / "topics.yaml").write_bytes(topic_map)
        return bag

    def _run(self) -> None:
        """The thread."""
        going: Recording | None = None
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._closed, self.settings.settle_s if going else None)
                items, self._queue = self._queue, deque()
                now_ns = time.monotonic_ns()  # of the line: what comes while these are worked on is not late
                if not items and self._closed:
                    return
            while items:  # one by one: what was looked at is let go of
                item = items.popleft()
                if isinstance(item, _Begin):
                    going = item.recording
                    _guarded(going, partial(going.begin, item.words, item.at_ns))
                elif isinstance(item, _End):
                    _finish(going, item)
                    going = None
                else:
                    with self._changed:
                        self._queued_bytes -= item.n_bytes
                    if going is not None:
                        _guarded(going, partial(going.take, item))
            item = None
            if going is not None:
                _guarded(going, partial(going.settle, now_ns))


def _guarded(going: Recording, step: Callable[[], None]) -> None:
    try:
        step()
    except Exception as error:  # the thread must live: others wait for it
        going.broke(error)


def _finish(going: Recording | None, end: _End) -> None:
    try:
        assert going is not None
        end.result = going.finish(end.how, end.meta, end.dropped)
    except Exception as error:  # raised where `end` was called
        end.error = error
    finally:
        end.done.set()

"""What the recorder's thread does with one recording: order, bag, ticks, episodes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import numpy as np

from foreact.datasets.formats.resample import NS
from foreact.datasets.recorder import EpisodeWriter, Recorder
from foreact.robot_bridge import record_messages as messages
from foreact.robot_bridge.live_resample import InLine, LiveResampler
from foreact.robot_bridge.record_episode import GAP_PERIODS, Command, EpisodeMaker, Picture
from foreact.robot_bridge.record_mcap import BagReport, McapRecorder
from foreact.robot_bridge.record_metadata import OfferedQos
from foreact.robot_bridge.record_topics import RecordTopics
from foreact.robot_bridge.types import JointSample
from foreact.vla.errors import ForeActError

_SNAP = 0.25
"""An action this near to its place on the grid of steps, in periods, is put there."""


@dataclass(frozen=True, kw_only=True)
class RecordSettings:
    """How it is recorded."""

    speed_scale: float = 1.0
    """Periods of the contract per period of the clock, as the gate's: frames are kept at `rate_hz * speed_scale`."""
    max_age_s: float = 0.2
    """An older value ends the episode; the next one begins when all are fresh again."""
    shortest: int = 10
    """Stretches of fewer frames are left out."""
    codec: str = "fast"
    compression: Literal["zstd", "lz4", "none"] = "lz4"
    """Of the bag's chunks."""
    pictures: Literal["raw", "jpeg"] = "raw"
    """In the bag: as they came (a camera of 640x480 at 30 Hz: 28 MB/s before compression), or a tenth of it."""
    flush_s: float = 0.5
    """Of the bag: a kill loses so much of it."""
    settle_s: float = 0.05
    """So long messages may overtake each other."""
    queue_bytes: int = 256 << 20
    """So much may wait for this process, and as much for the disk; what comes then is dropped and counted."""
    joints: tuple[str, ...] = ()
    """Names of the joints in the order of `JointSample`, for the bag; none: joints are not kept there."""

    def oldest_s(self, rate_hz: float) -> float:
        """`max_age_s`, or more where the steps are longer than that: an action is in force for its whole step."""
        return max(self.max_age_s, 1.5 / (rate_hz * self.speed_scale))


@dataclass(kw_only=True)
class Recorded:
    """What became of one recording."""

    name: str
    episodes: list[str] = field(default_factory=list)
    """Names in the store, safe on the disk."""
    frames: int = 0
    bag: BagReport | None = None
    dropped: Counter[str] = field(default_factory=Counter)
    """Messages this process was too slow for, by topic; they are in neither."""
    late: int = 0
    """Messages that came later than `settle_s`, and were given a later time."""
    notices: list[str] = field(default_factory=list)
    """What ended episodes early or went wrong, in sentences."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Joints, and the last gripper command when they came."""

    sample: JointSample
    gripper: float


@dataclass(frozen=True, slots=True)
class Raw:
    """A message for the bag alone."""

    kind: str
    data: bytes
    stamp_s: float | None


@dataclass(frozen=True, slots=True)
class Take:
    """One input on its way to the thread."""

    topic: str
    time_ns: int
    """Steady clock."""
    value: Picture | Measured | Command | np.ndarray | str | Raw
    n_bytes: int = 64


class Recording:
    """One recording; only the recorder's thread calls it, in the order of the methods below.

    Args:
        store: Takes the episodes.
        make_bag: Makes the bag that takes the messages; None: there is none.
        name, meta: Of the episode.
        settings, topics: See there.
        offset_ns: Added to the steady clock for times since 1970.
        state_of: Measured joints and the last gripper command -> state (S,).
        on_saved: Told the name of every episode that is on the disk for good.
    """

    def __init__(
        self,
        store: Recorder,
        make_bag: Callable[[], McapRecorder] | None,
        name: str,
        meta: Mapping[str, Any],
        settings: RecordSettings,
        topics: RecordTopics,
        offset_ns: int,
        state_of: Callable[[JointSample, float], np.ndarray] | None,
        on_saved: Callable[[str], None] | None,
    ) -> None:
        self._make_bag, self._settings, self._topics, self._offset_ns = make_bag, settings, topics, offset_ns
        self.bag: McapRecorder | None = None
        """Once the recording has begun."""
        self._state_of, self._on_saved = state_of, on_saved
        self._line: InLine[tuple[str, Any, int | None]] = InLine(round(settings.settle_s * NS))
        line, steps = self._line, Counter[str]()
        self._rate_hz = store.contract.rate_hz * settings.speed_scale
        self._ticks: LiveResampler[Any] = LiveResampler(
            topics.needed, self._rate_hz, settings.oldest_s(store.contract.rate_hz), kept=(topics.instruction,)
        )
        self._used = {*topics.needed, topics.instruction}
        self._grid: int | None = None
        """Time of the first action: the others stand on a grid from there."""
        self._last_command: tuple[int, int, Command] | None = None
        """The last action that came, with its time, and that of its grid."""
        self._held, self._steps = 0, steps
        """Steps for which none came: since that one, and in all."""
        self._still = np.concatenate([np.full(f.size, not f.relative) for f in store.contract.action] or [[]])
        self._arrived: dict[str, int] = {}
        self._gaps: dict[str, tuple[int, float]] = {}
        """Topic of a camera -> how many gaps it had, and how long the last one was [s]."""
        self._result = Recorded(name=name)
        self._maker = EpisodeMaker(
            store,
            topics,
            name,
            shortest=settings.shortest,
            speed_scale=settings.speed_scale,
            meta={"source": "robot", "speed_scale": settings.speed_scale, **meta},
            notice=self._result.notices.append,
            # Not by `self`: a recording that is part of a cycle would keep its pictures until the garbage collector
            # comes round, which may be an hour.
            counts=lambda: {"late_messages": line.late, "held_steps": steps["held"]},
        )
        self._told: set[str] = set()
        self.saved: list[EpisodeWriter] = []

    def begin(self, words: str, at_ns: int) -> None:
        """Open the bag, and note the instruction that is in force from the start, if any."""
        if self._make_bag is not None:
            try:
                self.bag = self._make_bag()
            except ForeActError as error:
                self._notice("bag", str(error))
        if words:
            self.take(Take(self._topics.instruction, at_ns, words))

    def take(self, item: Take) -> None:
        """A message, which waits for its turn."""
        time_ns = item.time_ns + self._offset_ns
        if isinstance(item.value, Command):
            time_ns = self._on_grid(time_ns)
        self._line.put(time_ns, (item.topic, item.value, self._grid))

    def settle(self, now_ns: int | None) -> None:
        """Record what has waited long enough; everything, if `now_ns` is None."""
        now_ns = None if now_ns is None else now_ns + self._offset_ns
        for time_ns, (topic, value, grid) in self._line.take(now_ns):
            self._hold_until(time_ns)
            if isinstance(value, Command) and grid is not None:
                self._last_command, self._held = (time_ns, grid, value), 0
            self._handle(topic, time_ns, value)

    def finish(self, how: str, meta: Mapping[str, Any], dropped: Counter[str]) -> Recorded:
        """Nothing more will come. The episodes are being saved when this returns."""
        self.settle(None)
        for tick in self._ticks.finish():
            self._tick(tick)
        self._maker.end(how, {**meta, "dropped_messages": sum(dropped.values())})
        self._note_saved()
        if self._maker.written == [] and not self._ticks.started:
            silent = [topic for topic in self._topics.needed if topic not in self._arrived]
            self._notice("silent", f"no frame was recorded: nothing came on {', '.join(silent)}")
        self._result.dropped, self._result.late = dropped, self._line.late
        self._result.frames = sum(len(writer) for writer in self._maker.written)
        return self._result

    def _hold_until(self, time_ns: int) -> None:
        """Where a step passed without an action, none was executed: record that, not the action before it again."""
        if self._last_command is None:
            return
        since_ns, grid, command = self._last_command
        while (place := self._place(grid, self._step(grid, since_ns) + self._held + 1)) < time_ns:
            if place - since_ns > self._settings.oldest_s(self._rate_hz / self._settings.speed_scale) * NS:
                return  # the action's age will end the episode
            self._held += 1
            self._steps["held"] += 1
            self._handle(self._topics.action, place, Command(np.where(self._still, command.values, 0.0), False))

    def _handle(self, topic: str, time_ns: int, value: Any) -> None:
        if isinstance(value, Measured):
            self._write(topic, messages.JOINTS, self._joint_state(value.sample), time_ns, value.sample.stamp_s)
            if self._state_of is None:
                return
            try:
                topic, value = self._topics.state, np.asarray(self._state_of(value.sample, value.gripper), np.float64)
            except ForeActError as error:
                self._notice("state", str(error))
                return
        if isinstance(value, Picture):
            value = self._with_gaps(topic, time_ns, value)
            self._write_picture(topic, value, time_ns)
        elif isinstance(value, Command):
            self._write(self._topics.intervention, messages.FLAG, messages.flag(value.intervention), time_ns)
            self._write(topic, messages.NUMBERS, messages.numbers(value.values), time_ns)
        elif isinstance(value, np.ndarray):
            self._write(topic, messages.NUMBERS, messages.numbers(value), time_ns)
        elif isinstance(value, str):
            self._write(topic, messages.TEXT, messages.text(value), time_ns)
        else:
            self._write(topic, value.kind, value.data, time_ns, value.stamp_s)
            return
        self._arrived[topic] = time_ns
        if topic in self._used:
            for tick in self._ticks.add(topic, time_ns, value):
                self._tick(tick)

    def _tick(self, tick: Any) -> None:
        self._maker.tick(tick)
        self._note_saved()

    def _note_saved(self) -> None:
        for writer in self._maker.written[len(self.saved) :]:
            self.saved.append(writer)
            assert writer.future is not None
            if self._on_saved is not None:
                writer.future.add_done_callback(partial(_tell, self._on_saved, writer.name))

    def broke(self, error: Exception) -> None:
        """Something went wrong that has no sentence of its own; the recording goes on without it."""
        self._notice(type(error).__name__, f"recording: {error!r:.200}")

    def _write_picture(self, topic: str, picture: Picture, time_ns: int) -> None:
        if self.bag is None:
            return
        if self._settings.pictures == "jpeg":
            data = messages.jpeg(picture.image, picture.stamp_s, "")
            self._write(topic, messages.JPEG, data, time_ns, picture.stamp_s)
        else:
            data = messages.image(picture.image, picture.stamp_s, "")
            self._write(topic, messages.IMAGE, data, time_ns, picture.stamp_s)

    def _write(self, topic: str, kind: str, data: bytes, time_ns: int, stamp_s: float | None = None) -> None:
        if self.bag is None or not data:
            return
        try:
            best_effort = kind in (messages.IMAGE, messages.JPEG, messages.JOINTS)
            self.bag.topic(
                topic,
                kind,
                OfferedQos(
                    reliability="best_effort" if best_effort else "reliable",
                    durability="transient_local" if topic == self._topics.instruction else "volatile",
                ),
            )
        except ForeActError as error:
            self._notice(topic, str(error))
            return
        self.bag.write(topic, data, time_ns, None if stamp_s is None else round(stamp_s * NS))

    def _joint_state(self, sample: JointSample) -> bytes:
        names = list(self._settings.joints)
        if len(names) != len(sample.position):
            return b""
        position, velocity = sample.position, sample.velocity
        if sample.gripper_width_m is not None:
            names.append("gripper_width")
            position = np.append(position, sample.gripper_width_m)
            velocity = None if velocity is None else np.append(velocity, 0.0)
        return messages.joint_state(names, position, velocity, sample.stamp_s)

    def _on_grid(self, due_ns: int) -> int:
        """Steps begin a period apart: the little by which threads miss that would take or double an action here."""
        if self._grid is None:
            self._grid = due_ns
        place = self._place(self._grid, self._step(self._grid, due_ns))
        if abs(due_ns - place) > _SNAP * NS / self._rate_hz:
            self._grid = place = due_ns  # a pause, or another clock
        return place

    def _step(self, grid: int, time_ns: int) -> int:
        return round((time_ns - grid) * self._rate_hz / NS)

    def _place(self, grid: int, step: int) -> int:
        return grid + round(step * (NS / self._rate_hz))  # as the ticks are rounded

    def _with_gaps(self, topic: str, time_ns: int, picture: Picture) -> Picture:
        silence_s = (time_ns - self._arrived.get(topic, time_ns)) / NS
        if picture.lost or silence_s * self._rate_hz > GAP_PERIODS:
            self._gaps[topic] = (self._gaps.get(topic, (0, 0.0))[0] + 1, silence_s)
        gaps, last_s = self._gaps.get(topic, (0, 0.0))
        return replace(picture, gaps=gaps, gap_s=last_s)

    def _notice(self, key: str, sentence: str) -> None:
        """Say something once."""
        if key not in self._told:
            self._told.add(key)
            self._result.notices.append(sentence)


def _tell(on_saved: Callable[[str], None], name: str, done: Future[None]) -> None:
    if done.exception() is None:
        on_saved(name)

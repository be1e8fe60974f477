"""Ticks into episodes of a trajectory store; what was late, lost or done by a person is flagged frame by frame.

Extras of each frame: `time_s` (seconds of the contract's clock since the first frame), `intervention` (1: a person
commanded), `gap` (1: since the frame before, a camera was silent for more than 1.5 periods or a picture of it was
lost), `picture_age_s` and `picture_stamp_s` (a number per camera of the contract, in its order).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np

from foreact.datasets.formats.resample import NS, spans
from foreact.datasets.recorder import EpisodeWriter, Recorder
from foreact.robot_bridge.live_resample import Tick
from foreact.robot_bridge.record_topics import RecordTopics
from foreact.vla.errors import ForeActError
from foreact.vla.images import resize_frame

GAP_PERIODS = 1.5


@dataclass(frozen=True, slots=True)
class Picture:
    """A camera's message."""

    image: np.ndarray
    """(H, W, 3) uint8 RGB."""
    stamp_s: float
    lost: int = 0
    """Pictures of the camera that came just before it and could not be taken."""
    gaps: int = 0
    """So many silences and losses this camera had until now; several pictures may come between two ticks."""
    gap_s: float = 0.0
    """How long the last of them was."""


@dataclass(frozen=True, slots=True)
class Command:
    """An executed action."""

    values: np.ndarray
    """(A,)."""
    intervention: bool


class EpisodeMaker:
    """Turns the ticks of one recording into an episode, or several where values were missing in between.

    Args:
        recorder: Of the store.
        topics: Under which names the parts are heard.
        name: Of the first episode; others get a number behind it.
        shortest: Stretches of fewer frames are left out.
        speed_scale: Periods of the contract per period of the clock.
        meta: Of every episode.
        notice: Told in a sentence what ended an episode early, or went wrong.
        counts: What else is said of an episode, asked when it ends.
    """

    def __init__(
        self,
        recorder: Recorder,
        topics: RecordTopics,
        name: str,
        *,
        shortest: int,
        speed_scale: float,
        meta: Mapping[str, Any],
        notice: Callable[[str], None],
        counts: Callable[[], Mapping[str, Any]] = dict,
    ) -> None:
        self._recorder, self._topics, self._notice = recorder, topics, notice
        self._name, self._shortest, self._speed_scale = name, shortest, speed_scale
        self._meta, self._counts = dict(meta), counts
        self._period_s = 1.0 / (recorder.contract.rate_hz * speed_scale)
        self._stretches = 0
        self._stretch: _Stretch | None = None
        self.written: list[EpisodeWriter] = []
        """Episodes that were handed over to be saved."""
        self.failed = False
        """Nothing more is recorded: the store refuses."""

    def tick(self, tick: Tick[Any]) -> None:
        """Record a frame, or end the episode if the tick is bad."""
        if not tick.good:
            if self._stretch is not None:
                self._close(self._stale(tick))
            return
        if self.failed:
            return
        try:
            if self._stretch is None:
                self._stretch = self._open()
            self._stretch.add(tick)
        except ForeActError as error:
            self.failed = self._stretch is None or not len(self._stretch.writer)  # else the next tick is tried
            self._notice(str(error))
            self._close("a frame that does not fit the contract")

    def end(self, how: str, meta: Mapping[str, Any]) -> None:
        """The recording ends."""
        self._meta |= meta
        self._close(how)

    def _open(self) -> _Stretch:
        name = self._name if not self._stretches else f"{self._name}-{self._stretches:03d}"
        self._stretches += 1
        stack = ExitStack()
        writer = stack.enter_context(self._recorder.episode(name))
        return _Stretch(writer, stack, self._topics, self._period_s, self._speed_scale)

    def _close(self, how: str) -> None:
        stretch, self._stretch = self._stretch, None
        if stretch is None:
            return
        if len(stretch.writer) < self._shortest:
            stretch.writer.discard()
            self._stretches -= 1
            self._notice(
                f"{len(stretch.writer)} frames were left out; at least {self._shortest} make an episode ({how})"
            )
        else:
            stretch.describe(self._meta | {"ended": how} | dict(self._counts()))
        try:
            stretch.stack.close()
        except ForeActError as error:
            self._notice(str(error))
            return
        if not stretch.writer.discarded:
            self.written.append(stretch.writer)

    def _stale(self, tick: Tick[Any]) -> str:
        oldest = min(self._topics.needed, key=lambda topic: tick.heard[topic].time_ns)
        return f"{oldest} was silent for {(tick.time_ns - tick.heard[oldest].time_ns) / NS:.2f} s"


class _Stretch:
    """One episode while it grows."""

    def __init__(
        self, writer: EpisodeWriter, stack: ExitStack, topics: RecordTopics, period_s: float, speed_scale: float
    ) -> None:
        self.writer, self.stack = writer, stack
        self._topics, self._period_s, self._speed_scale = topics, period_s, speed_scale
        self._sentences: list[str] = []
        self._first_ns = 0
        self._before: dict[str, int] = {}
        self._seen_gaps: dict[str, int] = {}
        self._interventions = self._gaps = self._skewed = self._repeated = 0
        self._longest_gap_s = 0.0

    def add(self, tick: Tick[Any]) -> None:
        if not len(self.writer):
            self._first_ns = tick.time_ns
        contract, heard = self._topics.contract, tick.heard
        images, ages, stamps, gap_s = {}, [], [], 0.0
        numbers: dict[str, int] = {}
        for camera in contract.cameras:
            found = heard[self._topics.cameras[camera.name]]
            picture: Picture = found.value
            images[camera.name] = resize_frame(picture.image, camera.height, camera.width)
            ages.append((tick.time_ns - found.time_ns) / NS)
            stamps.append(picture.stamp_s)
            numbers[camera.name] = found.number
            if self._seen_gaps.get(camera.name, picture.gaps) != picture.gaps:
                gap_s = max(gap_s, picture.gap_s)
            self._seen_gaps[camera.name] = picture.gaps
        command: Command | None = heard[self._topics.action].value if contract.action else None
        self.writer.add(
            images,
            heard[self._topics.state].value if contract.state else None,
            None if command is None else command.values,
            {
                "time_s": np.asarray((tick.time_ns - self._first_ns) / NS * self._speed_scale),
                "intervention": np.asarray(command is not None and command.intervention, np.float32),
                "gap": np.asarray(gap_s > 0 and bool(self._before), np.float32),
                "picture_age_s": np.array(ages, np.float32),
                "picture_stamp_s": np.array(stamps, np.float64),
            },
        )
        words = heard.get(self._topics.instruction)
        self._sentences.append("" if words is None else words.value)
        self._interventions += command is not None and command.intervention
        self._skewed += max(ages) - min(ages) > self._period_s
        if self._before:
            self._gaps += gap_s > 0
            self._longest_gap_s = max(self._longest_gap_s, gap_s)
            self._repeated += any(self._before[name] == number for name, number in numbers.items())
        self._before = numbers

    def describe(self, meta: Mapping[str, Any]) -> None:
        self.writer.instruction, self.writer.segments = spans(self._sentences)
        self.writer.meta |= dict(meta) | {
            "intervention_frames": self._interventions,
            "gaps": self._gaps,
            "longest_gap_s": self._longest_gap_s,
            "skewed_frames": self._skewed,
            "repeated_pictures": self._repeated,
        }

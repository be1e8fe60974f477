"""What the rules of `foreact data lint` are made of: limits, findings, rules, and the numbers of an episode they see.

Episodes stream: images are decoded a few dozen frames at a time and only a few numbers per frame are kept.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from foreact.datasets.table import EpisodeInfo
from foreact.vla.contract import Contract, Field

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """From where on something is reported. Times in seconds, lengths in metres, angles in radians, pixels 0 to 255."""

    frozen_s: float = 0.5
    """A camera that shows the same picture for so long while the robot moves is frozen."""
    video_tolerance: int = 8
    """Grey levels by which a pixel may differ in pictures called the same, for codecs that look at earlier frames."""
    repeated_share: float = 0.05
    """So many of the frames in motion may repeat the frame before."""
    dark: int = 8
    bright: int = 247
    flat_std: float = 2.0
    """A picture whose pixels have a smaller standard deviation shows nothing."""
    picture_share: float = 0.98
    """Share of the pixels that must be dark (bright) for a black (saturated) frame."""
    travel_m: float = 0.01
    travel_rad: float = 0.05
    """The robot moves when a field of the state changes by more than this within the time looked at."""
    stuck_s: float = 0.5
    """State that repeats exactly for so long under a command to move is not measured."""
    command: float = 0.1
    """A relative action commands motion from this share of its range on."""
    unlabelled_s: float = 1.0
    """Relative actions of zero for so long while the robot moves."""
    unlabelled_absolute_s: float = 3.0
    """The same target for so long while the robot moves; it may take a while to get there."""
    saturated_share: float = 0.5
    """So many of the frames may have an action component at its bound."""
    out_of_range: float = 0.05
    """Share of the range by which a value may lie beyond the contract's bounds."""
    speed_m_s: float = 2.0
    speed_rad_s: float = 8.0
    jump_ratio: float = 6.0
    """A jump is faster than the speed above, and so many times the 95th percentile of the episode's steps."""
    jump_z: float = 40.0
    """For fields without a known unit: so many robust standard deviations (1.4826 MAD) from the median step."""
    angle_rad: float = 2 * float(np.pi)
    length_m: float = 3.0
    quaternion: float = 0.02
    """A quaternion's length may differ from 1 by so much."""
    lag_frames: int = 3
    """An episode's lag between action and motion may differ by fewer frames from the store's."""
    lag_margin: float = 0.1
    """The correlation at its own lag must be larger by so much than at the store's."""
    correlation: float = 0.6
    """Below, motion and action are not compared; from its negative on, they contradict each other."""
    rate_share: float = 0.05
    """Share by which the rate of the timestamps may differ from the contract's."""
    jitter_share: float = 0.02
    """So many frames may come more than half a period early or late."""
    gap_periods: float = 1.5
    """A longer time between two frames is a gap: at least one was dropped."""
    short_s: float = 0.3
    short_frames: int = 10
    long_s: float = 300.0
    """A longer episode with one instruction and no segments holds more than the instruction."""
    length_ratio: float = 5.0
    """An episode is odd when it is so many times longer or shorter than the median of its task."""
    idle_s: float = 3.0
    text_chars: int = 200
    leak_share: float = 0.2
    leak_frames: int = 10
    """So many distinct frames, and such a share of the episode, in another split are a leak."""
    camera_odd: float = 50.0
    """Grey levels by which the mean picture may differ from the same camera's in other episodes of the scene."""
    camera_odd_ratio: float = 4.0
    """And it must be so many times the median of these differences."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that a rule found."""

    rule: str
    severity: Severity
    episode: str
    """Its name; empty for what concerns the whole store."""
    start: int | None
    end: int | None
    """Frames [start, end); None for the whole episode."""
    message: str

    def __str__(self) -> str:
        frames = "" if self.start is None else f" frames {self.start} to {(self.end or 0) - 1}"
        return f"{self.severity}: {self.rule}: {self.episode or 'store'}{frames}: {self.message}"


Found = tuple[int | None, int | None, str]
"""Start, end and sentence of a finding, before it gets its rule and its episode."""


@dataclass(frozen=True, kw_only=True)
class CameraScan:
    """A few numbers per frame of one camera; T frames."""

    change: np.ndarray
    """(T,) uint8 largest difference of a pixel from the frame before; 255 for the first."""
    dark: np.ndarray
    """(T,) share of dark pixels."""
    bright: np.ndarray
    """(T,) share of bright pixels."""
    std: np.ndarray
    """(T,) standard deviation of all pixels."""
    picture: np.ndarray
    """(4, 4, 3) mean picture."""


@dataclass(frozen=True, kw_only=True)
class EpisodeScan:
    """One episode as the rules see it."""

    info: EpisodeInfo
    contract: Contract
    limits: Limits
    state: np.ndarray | None
    """(T, S) float64 with angles unwrapped: they do not jump by whole turns."""
    stored_state: np.ndarray
    """(T, S) float64 as it is stored; (T, 0) without states."""
    action: np.ndarray | None
    """(T, A) float64."""
    timestamps_s: np.ndarray | None
    """(T,) float64."""
    cameras: dict[str, CameraScan] = field(default_factory=dict)
    still_codec: bool = True
    """Whether equal frames have equal bytes."""

    def frames(self, seconds: float) -> int:
        """How many frames last so long, at least 2."""
        return max(2, round(seconds * self.contract.rate_hz))

    def moves(self, start: int, end: int) -> bool:
        """Whether a field of the state changes by more than the limits in frames [start, end)."""
        if self.state is None or end - start < 2:
            return False
        window = self.state[start:end]
        spans = window.max(0) - window.min(0)
        return bool((spans > self.travel).any())

    @property
    def travel(self) -> np.ndarray:
        """(S,) by how much a component must change to count as motion; infinite for pure numbers."""
        assert self.state is not None
        spans = self.state.max(0) - self.state.min(0)
        out = np.full(self.state.shape[1], np.inf)
        for part, at in parts(self.contract.state):
            scale, kind = unit(part)
            if kind == "m":
                out[at] = self.limits.travel_m / scale
            elif kind == "rad":
                out[at] = self.limits.travel_rad / scale
            elif kind == "other":
                out[at] = np.where(spans[at] > 0, 0.1 * spans[at], np.inf)
        return out


@dataclass(frozen=True)
class Rule:
    """A rule about single episodes."""

    name: str
    severity: Severity
    what: str
    """What it finds, in a few words; the table of docs/quality.md."""
    check: Callable[[EpisodeScan], Iterable[Found]]

    def findings(self, scan: EpisodeScan) -> list[Finding]:
        """What the rule finds in one episode."""
        return [make_finding(self.name, self.severity, scan.info.name, found) for found in self.check(scan)]


def make_finding(rule: str, severity: Severity, episode: str, found: Found) -> Finding:
    """A finding of a rule."""
    start, end, message = found
    return Finding(rule=rule, severity=severity, episode=episode, start=start, end=end, message=message)


def parts(fields: Sequence[Field]) -> Iterator[tuple[Field, slice]]:
    """Each field with its place in the vector."""
    at = 0
    for part in fields:
        yield part, slice(at, at + part.size)
        at += part.size


_UNIT = re.compile(r"(?:([0-9]+(?:\.[0-9]+)?(?:e-?[0-9]+)?)\s+)?(m|rad|1)")


def unit(part: Field) -> tuple[float, Literal["m", "rad", "1", "other"]]:
    """What 1.0 of a field is: (0.02, "m") for the unit "0.02 m"; (1.0, "other") when it is not known."""
    match = _UNIT.fullmatch(part.unit.strip())
    if match is None:
        return 1.0, "other"
    kind = match.group(2)
    assert kind in ("m", "rad", "1")
    return float(match.group(1) or 1), kind


def runs(mask: np.ndarray, shortest: int = 1) -> list[tuple[int, int]]:
    """Runs [start, end) of True in a (T,) mask that are at least so long."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    pairs = zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)
    return [(a, b) for a, b in pairs if b - a >= shortest]

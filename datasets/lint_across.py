"""Rules that compare episodes with one another; of each episode a few hundred bytes are kept."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from foreact.datasets.lint_base import EpisodeScan, Finding, Limits, Severity, make_finding
from foreact.datasets.lint_control import Lag, measure_lag
from foreact.datasets.reader import EpisodeReader
from foreact.datasets.table import EpisodeInfo
from foreact.vla.contract import Contract


@dataclass(frozen=True, kw_only=True)
class Brief:
    """What is kept of an episode."""

    info: EpisodeInfo
    content: str
    """Names the numbers, or the pictures of an episode without states; not language and meta."""
    rows: np.ndarray
    """Distinct frames: (n,) uint64 hashes of state and action."""
    pictures: dict[str, np.ndarray]
    """camera -> (4, 4, 3) mean picture."""
    lag: Lag | None
    split: str


Across = Callable[[Sequence[Brief], Contract, Limits], Iterator[tuple[str, str]]]
"""Yields (episode or "", sentence)."""


@dataclass(frozen=True)
class AcrossRule:
    """A rule about a store's episodes together."""

    name: str
    severity: Severity
    what: str
    check: Across

    def findings(self, briefs: Sequence[Brief], contract: Contract, limits: Limits) -> list[Finding]:
        """What the rule finds in the store."""
        found = self.check(briefs, contract, limits)
        return [make_finding(self.name, self.severity, name, (None, None, text)) for name, text in found]


def brief_of(scan: EpisodeScan, reader: EpisodeReader) -> Brief:
    """What the rules about the whole store need of an episode."""
    info = scan.info
    numbers = [v for v in (None if scan.state is None else scan.stored_state, scan.action) if v is not None]
    rows = np.concatenate(numbers, 1).astype(np.float32) if numbers else np.zeros((0, 0), np.float32)
    if numbers:
        content = hashlib.sha256(rows.tobytes()).hexdigest()
    else:  # the digests of the encoded pictures are in the manifest
        frames = sorted((name, digest) for name, (_, digest) in reader.files.items() if ".frames/c/" in name)
        content = hashlib.sha256(repr(frames).encode()).hexdigest()
    hashes = {int.from_bytes(hashlib.blake2b(row.tobytes(), digest_size=8).digest(), "little") for row in rows}
    return Brief(
        info=info,
        content=content,
        rows=np.array(sorted(hashes), np.uint64),
        pictures={name: camera.picture for name, camera in scan.cameras.items()},
        lag=measure_lag(scan),
        split=str(info.meta.get("split", "")),
    )


def _duplicates(briefs: Sequence[Brief], contract: Contract, limits: Limits) -> Iterator[tuple[str, str]]:
    first: dict[str, Brief] = {}
    for brief in briefs:
        other = first.setdefault(brief.content, brief)
        if other is not brief and other.split == brief.split:
            texts = "the same sentence" if other.info.instruction == brief.info.instruction else "another sentence"
            yield brief.info.name, f"has the same content as {other.info.name}, with {texts}"


def _leaks(briefs: Sequence[Brief], contract: Contract, limits: Limits) -> Iterator[tuple[str, str]]:
    by_split: dict[str, list[Brief]] = defaultdict(list)
    for brief in briefs:
        if brief.split:
            by_split[brief.split].append(brief)
    if len(by_split) < 2:
        return
    seen: dict[str, tuple[str, str]] = {}
    sizes = {split: sum(len(b.rows) for b in group) for split, group in by_split.items()}
    largest = max(sizes, key=lambda s: (sizes[s], s))  # what is trained on; the others are compared with it
    known = np.unique(np.concatenate([b.rows for b in by_split[largest]]))
    for brief in by_split[largest]:
        seen.setdefault(brief.content, (brief.info.name, largest))
    for split in sorted(by_split):
        for brief in by_split[split] if split != largest else ():
            other = seen.setdefault(brief.content, (brief.info.name, split))
            if other[1] != split:
                yield brief.info.name, f"of split {split!r} has the same content as {other[0]} of split {other[1]!r}"
                continue
            shared = int(np.isin(brief.rows, known, assume_unique=True).sum())
            if shared >= limits.leak_frames and shared > limits.leak_share * len(brief.rows):
                yield (
                    brief.info.name,
                    f"of split {split!r}: {shared} of its {len(brief.rows)} distinct frames are in split {largest!r}",
                )


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).mean())


def _usual(briefs: Sequence[Brief]) -> dict[str, np.ndarray]:
    """camera -> (4, 4, 3) median of the episodes' mean pictures."""
    names = sorted({name for brief in briefs for name in brief.pictures})
    return {n: np.median([b.pictures[n] for b in briefs if n in b.pictures], axis=0) for n in names}


def _by(briefs: Sequence[Brief], *keys: str) -> Iterator[list[Brief]]:
    """Groups of at least four episodes with the same metadata."""
    groups: dict[tuple, list[Brief]] = defaultdict(list)
    for brief in briefs:
        groups[tuple(str(brief.info.meta.get(key, "")) for key in keys)].append(brief)
    yield from (group for group in groups.values() if len(group) >= 4)


def _swapped(briefs: Sequence[Brief], contract: Contract, limits: Limits) -> Iterator[tuple[str, str]]:
    for brief, a, b in _swaps(briefs):
        yield brief.info.name, f"cameras {a!r} and {b!r} look like one another in the other episodes: swapped?"


def _swaps(briefs: Sequence[Brief]) -> Iterator[tuple[Brief, str, str]]:
    for group in _by(briefs, "scene"):
        usual = _usual(group)
        for brief in group:
            names = sorted(brief.pictures)
            for i, a in enumerate(names):
                for b in names[i + 1 :]:
                    pictures = brief.pictures
                    straight = _distance(pictures[a], usual[a]) + _distance(pictures[b], usual[b])
                    crossed = _distance(pictures[a], usual[b]) + _distance(pictures[b], usual[a])
                    if crossed < 0.5 * straight:
                        yield brief, a, b


def _odd_camera(briefs: Sequence[Brief], contract: Contract, limits: Limits) -> Iterator[tuple[str, str]]:
    swapped = {brief.info.name for brief, _, _ in _swaps(briefs)}
    # A camera on the wrist sees something else in every task.
    for group in _by(briefs, "scene", "task"):
        for name, picture in _usual(group).items():
            distances = {b.info.name: _distance(b.pictures[name], picture) for b in group if name in b.pictures}
            usual = float(np.median(list(distances.values())))
            for episode, distance in distances.items():
                if distance > max(limits.camera_odd, limits.camera_odd_ratio * usual) and episode not in swapped:
                    yield (
                        episode,
                        f"camera {name!r} is {distance:.0f} grey levels away from what it shows in the other episodes "
                        f"of its scene and task; usual are {usual:.0f}",
                    )


def _unused(briefs: Sequence[Brief], contract: Contract, limits: Limits) -> Iterator[tuple[str, str]]:
    for camera in contract.cameras:
        without = [b.info.name for b in briefs if camera.name not in b.info.cameras]
        if without and len(without) == len(briefs):
            yield "", f"no episode has the contract's camera {camera.name!r}"
        elif without:
            yield (
                "",
                f"camera {camera.name!r} is missing in {len(without)} of {len(briefs)} episodes, such as {without[0]}",
            )


def _lags(briefs: Sequence[Brief], contract: Contract, limits: Limits) -> Iterator[tuple[str, str]]:
    known = [(b, b.lag) for b in briefs if b.lag and b.lag.correlations[b.lag.frames] >= limits.correlation]
    if len(known) < 4:
        return
    usual = int(np.median([lag.frames for _, lag in known]))
    for brief, lag in known:
        margin = lag.correlations[lag.frames] - lag.correlations.get(usual, -1.0)
        if abs(lag.frames - usual) >= limits.lag_frames and margin > limits.lag_margin:
            yield (
                brief.info.name,
                f"motion follows the action after {lag.frames} frames, in the other episodes after {usual}: "
                "state, action or pictures are shifted",
            )


def _lengths(briefs: Sequence[Brief], contract: Contract, limits: Limits) -> Iterator[tuple[str, str]]:
    tasks: dict[str, list[Brief]] = defaultdict(list)
    for brief in briefs:
        if "task" in brief.info.meta:
            tasks[str(brief.info.meta["task"])].append(brief)
    for task, group in tasks.items():
        usual = float(np.median([b.info.length for b in group]))
        for brief in group if len(group) >= 5 else ():
            length = brief.info.length
            if length > limits.length_ratio * usual or length * limits.length_ratio < usual:
                yield brief.info.name, f"has {length} frames; the median of task {task!r} is {usual:.0f}"


def _variants(briefs: Sequence[Brief], contract: Contract, limits: Limits) -> Iterator[tuple[str, str]]:
    written: dict[str, set[str]] = defaultdict(set)
    for brief in briefs:
        for text in (brief.info.instruction, *(s.instruction for s in brief.info.segments)):
            if text:
                written[" ".join(text.casefold().rstrip(".! ").split())].add(text)
    for found in written.values():
        if len(found) > 1:
            yield (
                "",
                "sentences that differ only in capitals, spaces or the full stop: "
                + ", ".join(repr(text) for text in sorted(found)[:4]),
            )


ACROSS_RULES = (
    AcrossRule("duplicate-episode", "warning", "the content of another episode of the same split", _duplicates),
    AcrossRule("split-leak", "error", "content of one split is in another one too", _leaks),
    AcrossRule("camera-swapped", "warning", "two cameras have changed places", _swapped),
    AcrossRule(
        "camera-odd", "note", "a camera shows something else than in episodes of the same scene and task", _odd_camera
    ),
    AcrossRule("camera-unused", "warning", "a camera of the contract is missing in some or all episodes", _unused),
    AcrossRule("lag-odd", "warning", "another lag between action and motion than in the other episodes", _lags),
    AcrossRule("episode-length", "note", "much longer or shorter than others of its task", _lengths),
    AcrossRule("language-variants", "note", "the same sentence written in several ways", _variants),
)

"""Conversions: any source into any sink, episode by episode.

A conversion can be killed and repeated; the result has the same bytes as one that was never killed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from foreact.datasets.durable import remove
from foreact.datasets.episode import EpisodeData
from foreact.datasets.formats.base import FormatError, Sink, Source
from foreact.datasets.formats.identity import (
    differences,
    identity_file,
    read_identity,
    source_identity,
    write_identity,
)
from foreact.datasets.formats.pool import parallel
from foreact.datasets.formats.registry import Opening, format_named, load, open_sink
from foreact.datasets.space import check_space
from foreact.vla.contract import Contract
from foreact.vla.errors import ForeActError

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Target:
    """What is written: where, in which format, how."""

    format: str
    path: Path
    options: Mapping[str, str] = field(default_factory=dict)

    def open(self, contract: Contract) -> Sink:
        """Open it for writing."""
        return open_sink(self.format, self.path, contract, self.options)


@dataclass(kw_only=True)
class Report:
    """What a conversion did."""

    source: str
    target: str
    episodes: int
    """Of the source, or as many of them as were asked for."""
    written: int = 0
    frames: int = 0
    """In the episodes written now."""
    skipped: int = 0
    """Were there already."""
    left_out: list[str] = field(default_factory=list)
    """Episodes that the target's format cannot hold."""
    failed: dict[str, str] = field(default_factory=dict)
    """Episode -> why it could not be read."""
    notes: list[str] = field(default_factory=list)


def convert(
    opening: Opening,
    target: Target,
    *,
    episodes: int | None = None,
    workers: int = 0,
    skip_damaged: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Convert a dataset.

    Args:
        opening: The source.
        target: What to write. What an earlier run of the same conversion has written there is kept.
        episodes: Only the first so many.
        workers: Processes that read and write, where episodes are independent (stores); 0 works in this process.
        skip_damaged: Leave episodes out that cannot be read, and list them in `Report.failed`, rather than stop.
        progress: Called with episodes done and in all.

    Raises:
        FormatError: If the source is damaged, or the target was begun by another conversion.
        NoSpace: If the disk of the target has no room for two episodes like the first.
        ForeActError: If an episode does not fit the contract.
    """
    source = opening.open()
    names = list(source.names())
    if len(set(names)) != len(names):
        raise FormatError(f"{opening.path}: episode names are not unique; this is a defect of {source.format}")
    first = _first(source, names)
    identity = {
        "source": source_identity(opening.format, opening.options, source.contract, names, first),
        "target": {"format": target.format, "options": dict(sorted(target.options.items()))},
    }
    chosen = names if episodes is None else names[:episodes]
    report = Report(source=opening.format, target=target.format, episodes=len(chosen))
    done = _check_identity(target, identity, len(chosen))
    if done:
        write_identity(target.path, identity | {"chosen": len(chosen), "complete": True})
        report.skipped = len(chosen)
        report.notes = list(dict.fromkeys([*source.notes, f"{target.path} was complete already"]))
        return report
    check_space(target.path, _largest_bytes(first, target), f"converting into {target.path}")
    write_identity(target.path, identity | {"chosen": len(chosen), "complete": False})
    try:
        sink = target.open(source.contract)
    except ForeActError:
        if not _occupied(target.path) and not _occupied(partial_path(target.path)):
            remove(identity_file(target.path))
        raise
    independent = getattr(sink, "any_order", False)
    if independent and workers > 1:
        results = parallel(opening, target, source.contract, chosen, workers)
    else:
        results = _one_by_one(source, sink, chosen)
    for count, (name, frames, error) in enumerate(results, 1):
        if error is not None:
            if not skip_damaged:
                raise error
            report.failed[name] = str(error)
        elif name in getattr(sink, "left_out", ()):
            report.left_out.append(name)
        elif frames:
            report.written += 1
            report.frames += frames
        else:
            report.skipped += 1
        if progress:
            progress(count, len(chosen))
    sink.finish()
    write_identity(target.path, identity | {"chosen": len(chosen), "complete": not report.failed})
    report.notes = list(dict.fromkeys([*source.notes, *sink.notes]))
    return report


def copy_episodes(source: Source, sink: Sink, names: Iterable[str] | None = None) -> None:
    """Write episodes of a source into a sink, in order, and finish it: the conversion of two open ends."""
    for _, _, error in _one_by_one(source, sink, source.names() if names is None else names):
        if error is not None:
            raise error
    sink.finish()


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a conversion would do, without doing it."""

    source: str
    target: str
    episodes: int
    frames: int | None
    """None where counting would mean reading everything."""
    contract: Contract
    notes: Sequence[str]
    bytes: int | None
    """Estimate of the size of the images in the target, from the first episode."""


def plan(opening: Opening, target_format: str, *, episodes: int | None = None, codec: str = "fast") -> Plan:
    """Look at a source and say what a conversion would do; nothing is written.

    Raises:
        FormatError: If the source is damaged.
    """
    source = opening.open()
    names = list(source.names())
    chosen = names if episodes is None else names[:episodes]
    known: int | None = getattr(source, "frames", None)
    frames = known if known is not None and len(chosen) == len(names) else None
    first = _first(source, chosen)
    estimate = None
    if first is not None and len(first):
        per_frame = _bytes_per_frame(first, codec if target_format == "foreact" else "raw")
        estimate = int(per_frame * (frames if frames is not None else len(first) * len(chosen)))
    return Plan(
        source=opening.format, target=target_format, episodes=len(chosen), frames=frames,
        contract=source.contract, notes=list(source.notes), bytes=estimate,
    )  # fmt: skip


def _first(source: Source, names: Sequence[str]) -> EpisodeData | None:
    for name in names[:16]:
        try:
            return source.read(name)
        except ForeActError:  # it is met again, and reported, when its turn comes
            continue
    return None


def _bytes_per_frame(episode: EpisodeData, codec: str) -> float:
    from foreact.datasets.codecs import codec_from_spec

    chosen = codec_from_spec(codec)
    total = 0.0
    for images in episode.images.values():
        encoder = chosen.encoder(*images.shape[1:3])
        some = images[: 2 * chosen.group + 8]
        for frame in some:
            encoder.add(frame)
        total += sum(map(len, encoder.finish())) / len(some)
    arrays = (episode.state, episode.action, *episode.extras.values())
    return total + sum(array.nbytes for array in arrays if array is not None) / len(episode)


def _largest_bytes(episode: EpisodeData | None, target: Target) -> float:
    """A bound for the size of an episode in the target [bytes]; images count raw where their codec is not known."""
    if episode is None:
        return 0.0
    if target.format == "foreact":
        return _bytes_per_frame(episode, target.options.get("codec", "fast")) * len(episode)
    arrays = (episode.state, episode.action, *episode.extras.values(), *episode.images.values())
    return float(sum(array.nbytes for array in arrays if array is not None))


Result = tuple[str, int, ForeActError | None]
"""Episode, frames written (0: it was there), what went wrong."""


def _one_by_one(source: Source, sink: Sink, names: Iterable[str]) -> Iterator[Result]:
    for name in names:
        try:
            yield name, transfer(source, sink, name), None
        except ForeActError as error:
            yield name, 0, error


def transfer(source: Source, sink: Sink, name: str) -> int:
    """Read one episode and write it, unless it is there; return its number of frames."""
    if sink.has(name):
        return 0
    episode = source.read(name)
    sink.write(name, episode)
    return len(episode)


def _check_identity(target: Target, identity: Mapping[str, Any], chosen: int) -> bool:
    """Whether the target is complete already; refuse one that something else has begun."""
    found = read_identity(target.path)
    parts = [path for path in (target.path, partial_path(target.path)) if _occupied(path)]
    if found is None:
        if parts:
            raise FormatError(f"{parts[0]} is there already and was not begun by a conversion; convert to another path")
        return False
    if not parts:  # the output was deleted: what is left beside it says nothing
        remove(identity_file(target.path))
        return False
    before = {key: found.get(key, {}) for key in identity}
    lines = differences(before, identity)
    same_count = found.get("chosen") == chosen
    if not lines and not same_count and target.format != "foreact":
        lines = [f"episodes: {found.get('chosen')} there, {chosen} now"]
    if lines:
        text = "\n".join(f"  - {line}" for line in itertools.islice(lines, 20))
        raise FormatError(
            f"{target.path} was begun by another conversion:\n{text}\nConvert to another path, or delete it with "
            f"{identity_file(target.path).name} beside it."
        )
    if target.path.exists() and _in_one_step(target):  # its last act was the rename, whatever came after
        remove(partial_path(target.path))
        return True
    if target.format == "foreact":
        return False  # the episodes themselves say what is missing
    return bool(found.get("complete")) and same_count and target.path.exists()


def _in_one_step(target: Target) -> bool:
    return bool(getattr(load(format_named(target.format).sink), "ONE_STEP", False))


def partial_path(output: Path) -> Path:
    """Where sinks that write one file, or that finish in one step, keep what they have so far."""
    return output.parent / f"{output.name}.partial"


def _occupied(path: Path) -> bool:
    return any(path.iterdir()) if path.is_dir() else path.exists()

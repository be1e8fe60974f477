"""`report.html`: one self-contained page about an evaluation, videos included."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import yaml

from foreact.vla.intervals import Interval
from foreact.vla.results import ChainRecord, Film, Record, Results, ResultsError, RolloutRecord, as_rollouts

MAX_VIDEO_BYTES = 1_500_000
"""A larger video is linked, not embedded."""
MAX_TOTAL_BYTES = 12_000_000
"""When so much is embedded, the other videos are linked."""
_EXAMPLES = 5


@dataclass(frozen=True)
class _Clip:
    record: Record
    source: str
    """A data URI, a path relative to the page, or empty when the file is gone."""
    embedded: bool
    video: str
    """Path relative to the results folder."""
    film: Film | None = None
    """Of a film that was made afterwards, what it shows."""

    @property
    def is_chain(self) -> bool:
        return isinstance(self.record, ChainRecord)

    @property
    def attempt(self) -> RolloutRecord:
        """The attempt that the film is about."""
        return as_rollouts([self.record])[self.film.at if self.film else 0]


@dataclass
class _Shelf:
    """Videos beside the page; they are embedded until the page is full."""

    folder: Path
    max_video_bytes: int
    left_bytes: int

    def clip(self, record: Record, video: str, film: Film | None = None) -> _Clip:
        try:
            data = (self.folder / video).read_bytes()
        except FileNotFoundError:
            return _Clip(record, "", False, video, film)
        if len(data) > min(self.left_bytes, self.max_video_bytes):
            return _Clip(record, video, False, video, film)
        self.left_bytes -= len(data)
        return _Clip(record, "data:video/mp4;base64," + base64.b64encode(data).decode(), True, video, film)


def write_report(
    results: Results,
    records: Sequence[Record],
    folder: Path,
    *,
    max_video_bytes: int = MAX_VIDEO_BYTES,
    max_total_bytes: int = MAX_TOTAL_BYTES,
) -> Path:
    """Write `folder/report.html` and return its path.

    Args:
        results: What was measured.
        records: The rollouts or chains; those with a video are shown, in this order, after `results.films`.
        folder: The results folder, to which the videos' paths are relative.
        max_video_bytes: Larger videos are linked instead of embedded.
        max_total_bytes: So much video is embedded at most; the rest is linked.
    """
    from jinja2 import Environment, StrictUndefined

    shelf = _Shelf(folder, max_video_bytes, max_total_bytes)
    films = [shelf.clip(_record_of(film, records), film.video, film) for film in results.films]
    shown = {film.video for film in results.films}
    clips = [shelf.clip(r, r.video) for r in records if r.video is not None and r.video not in shown]
    kinds = Counter[str]()
    for counts in results.failure_kinds.values():
        kinds.update(counts)
    # Everything that is not ours to trust (instructions, names, commands) is escaped by the template engine.
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    template = environment.from_string(files("foreact.vla").joinpath("report.html.jinja").read_text(encoding="utf-8"))
    minutes, seconds = divmod(round(results.wall_s), 60)
    page = template.render(
        r=results,
        bars=[*results.tasks.items(), ("all tasks", results.overall)],
        clips=clips,
        best=[clip for clip in films if clip.film and clip.film.shows == "best chain"],
        failures=[clip for clip in films if clip.film and clip.film.shows == "failure"],
        kinds=[kind for kind, _ in sorted(kinds.items(), key=lambda item: (-item[1], item[0]))],
        totals=kinds,
        examples=_examples(results),
        contract=yaml.safe_dump(results.contract, sort_keys=False),
        minutes=f"{minutes} min {seconds} s",
        percent=_percent,
        interval=_interval,
    )
    path = folder / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


def _record_of(film: Film, records: Sequence[Record]) -> Record:
    for record in records:
        if isinstance(record, ChainRecord):
            if record.chain == film.index:
                return record
        elif record.key == (film.index, film.task):
            return record
    raise ResultsError(f"{film.video} is of start or chain {film.index}, of which there is no record")


def _examples(results: Results) -> dict[str, list[int]]:
    """Task -> the first starts or chains in which it failed."""
    found: dict[str, list[int]] = {}
    for failure in results.failures:
        found.setdefault(failure.task, []).extend(failure.examples)
    return {task: sorted(starts)[:_EXAMPLES] for task, starts in found.items()}


def _percent(rate: float) -> str:
    return f"{100 * rate:.0f}\u202f%"


def _interval(interval: Interval) -> str:
    return f"{100 * interval[0]:.0f} \u2013 {100 * interval[1]:.0f}\u202f%"

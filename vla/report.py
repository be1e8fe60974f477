"""`report.html`: one self-contained page about an evaluation, videos included."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import yaml

from foreact.vla.intervals import Interval
from foreact.vla.results import ChainRecord, Record, Results

MAX_VIDEO_BYTES = 1_500_000
"""A larger video is linked, not embedded."""
MAX_TOTAL_BYTES = 12_000_000
"""When so much is embedded, the other videos are linked."""


@dataclass(frozen=True)
class _Clip:
    record: Record
    source: str
    """A data URI, a path relative to the page, or empty when the file is gone."""
    embedded: bool

    @property
    def is_chain(self) -> bool:
        return isinstance(self.record, ChainRecord)


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
        records: The rollouts or chains; those with a video are shown, in this order.
        folder: The results folder, to which the videos' paths are relative.
        max_video_bytes: Larger videos are linked instead of embedded.
        max_total_bytes: So much video is embedded at most; the rest is linked.
    """
    from jinja2 import Environment, StrictUndefined

    clips, left = [], max_total_bytes
    for record in records:
        if record.video is None:
            continue
        data = _read(folder / record.video)
        embed = data is not None and len(data) <= min(left, max_video_bytes)
        if embed and data is not None:
            left -= len(data)
            clips.append(_Clip(record, "data:video/mp4;base64," + base64.b64encode(data).decode(), True))
        else:
            clips.append(_Clip(record, record.video if data is not None else "", False))
    # Everything that is not ours to trust (instructions, names, commands) is escaped by the template engine.
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    template = environment.from_string(files("foreact.vla").joinpath("report.html.jinja").read_text(encoding="utf-8"))
    minutes, seconds = divmod(round(results.wall_s), 60)
    page = template.render(
        r=results,
        bars=[*results.tasks.items(), ("all tasks", results.overall)],
        clips=clips,
        contract=yaml.safe_dump(results.contract, sort_keys=False),
        minutes=f"{minutes} min {seconds} s",
        percent=_percent,
        interval=_interval,
    )
    path = folder / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _percent(rate: float) -> str:
    return f"{100 * rate:.0f}\u202f%"


def _interval(interval: Interval) -> str:
    return f"{100 * interval[0]:.0f} \u2013 {100 * interval[1]:.0f}\u202f%"

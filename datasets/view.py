"""One self-contained page about a trajectory store: `foreact data view`. No network is needed to look at it."""

from __future__ import annotations

import base64
import io
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from foreact.datasets.lint import LintReport, lint_store
from foreact.datasets.lint_base import Finding
from foreact.datasets.reader import EpisodeReader
from foreact.datasets.store import Store
from foreact.datasets.summary import summarize
from foreact.datasets.table import EpisodeInfo
from foreact.datasets.view_plots import HEIGHT, WIDTH, Plot, plots
from foreact.vla.video import CELL_PX, VideoError, compose, write_video

THUMBNAILS = 8
THUMBNAIL_PX = 96
VIDEO_FRAMES = 300
"""Of a longer episode, every so-many-th frame is shown, at the same speed."""
MAX_STILL_BYTES = 14_000_000
"""Pictures and curves fill at most so much of the page, about 200 episodes; the others have findings only."""


@dataclass(frozen=True, kw_only=True)
class Strip:
    """A row of pictures of one camera."""

    camera: str
    size: tuple[int, int]
    source: str
    """A data URI."""


@dataclass(frozen=True, kw_only=True)
class EpisodeView:
    """What the page shows of an episode."""

    info: EpisodeInfo
    seconds: float
    strips: list[Strip]
    video: str
    """A data URI, or empty."""
    no_video: str
    """Why there is none."""
    no_stills: str
    """Why there are neither strips nor plots."""
    plots: list[Plot]
    findings: list[Finding]


def write_page(
    store: Store,
    path: Path,
    *,
    episodes: int = 12,
    max_video_bytes: int = 12_000_000,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Write the page about the first episodes and return its size [bytes].

    Args:
        store: What to show.
        path: The page.
        episodes: How many episodes are looked at (and linted), in the order of names.
        max_video_bytes: Videos fill at most so much; the episodes after that have pictures only. With those and
            `MAX_STILL_BYTES` of pictures and curves, the page stays below 30 MB by default, whatever the store.
        workers: Processes that look for findings, where there are many episodes.
        progress: Called with the number of episodes done so far and in all.

    Raises:
        DamagedEpisode: If an episode changed since it was linted. Damaged ones are listed, not shown.
        OSError: If the page cannot be written.
    """
    from jinja2 import Environment, StrictUndefined

    report = lint_store(store.path, episodes=episodes, workers=workers)
    unreadable = {finding.episode for finding in report.findings if finding.rule == "damaged"}
    infos = [info for info in store.index[:episodes] if info.name not in unreadable]
    views, left = [], _Room(max_video_bytes, MAX_STILL_BYTES)
    for number, info in enumerate(infos, 1):
        views.append(_view(store, info, report, left))
        if progress is not None:
            progress(number, len(infos))
    # Names, sentences and metadata are not ours to trust: the template engine escapes everything.
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    template = environment.from_string(
        files("foreact.datasets").joinpath("view.html.jinja").read_text(encoding="utf-8")
    )
    page = template.render(
        s=summarize(store),
        contract=store.contract.to_yaml(),
        report=report,
        counts=report.counts(),
        general=[f for f in report.findings if f.episode not in {v.info.name for v in views}],
        views=views,
        width=WIDTH,
        height=HEIGHT,
        meta_text=meta_text,
        curve_x=lambda frame, length: f"{frame * WIDTH / max(1, length - 1):.1f}",
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    data = page.encode("utf-8", "replace")
    path.write_bytes(data)
    return len(data)


@dataclass
class _Room:
    """What is left of the page [bytes]; nothing from the first episode on that does not fit."""

    videos: int
    stills: int

    def take(self, part: str, size: int) -> bool:
        """Whether that much fits; if so, it is taken."""
        left = getattr(self, part)
        setattr(self, part, left - size if size <= left else 0)
        return size <= left


def _view(store: Store, info: EpisodeInfo, report: LintReport, left: _Room) -> EpisodeView:
    reader = store.reader(info.name)
    strips, curves, video, no_video, no_stills = [], [], "", "", ""
    if left.stills > 0:
        numbers = reader.read(cameras=(), extras=False)
        strips = [_strip(reader, info, camera) for camera in info.cameras]
        curves = list(plots(store.contract, numbers.state, numbers.action))
        used = sum(len(strip.source) for strip in strips) + sum(len(c) for plot in curves for c in plot.curves)
        if not left.take("stills", used):
            strips, curves = [], []
    if not strips:
        no_stills = "no room left for its pictures and curves; show fewer episodes"
    try:
        if left.videos > 0:  # once there is no room, no more are encoded
            data = _video(reader, info, store.contract.rate_hz)
            video = "data:video/mp4;base64," + base64.b64encode(data).decode()
            video = video if left.take("videos", len(video)) else ""
        no_video = "" if video else "no room left for its video; show fewer episodes, or give --mb"
    except VideoError as error:
        no_video = str(error)
    return EpisodeView(
        info=info,
        seconds=info.length / store.contract.rate_hz,
        strips=strips,
        video=video,
        no_video=no_video,
        no_stills=no_stills,
        plots=curves,
        findings=report.of(info.name),
    )


def _strip(reader: EpisodeReader, info: EpisodeInfo, camera: str) -> Strip:
    height, width = info.cameras[camera]
    small = (THUMBNAIL_PX, max(1, round(width * THUMBNAIL_PX / height)))
    wanted = np.unique(np.linspace(0, info.length - 1, THUMBNAILS).round().astype(int))
    row = np.concatenate(list(reader.images(camera, wanted, small)), axis=1)
    out = io.BytesIO()
    Image.fromarray(row).save(out, "JPEG", quality=85)
    source = "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()
    return Strip(camera=camera, size=(height, width), source=source)


def _video(reader: EpisodeReader, info: EpisodeInfo, rate_hz: float) -> bytes:
    every = -(-info.length // VIDEO_FRAMES)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "episode.mp4"
        write_video(path, _pictures(reader, info, rate_hz, every), rate_hz / every)
        return path.read_bytes()


def _pictures(reader: EpisodeReader, info: EpisodeInfo, rate_hz: float, every: int) -> Iterator[np.ndarray]:
    wanted = np.arange(0, info.length, every)
    size = (CELL_PX, CELL_PX)
    for first in range(0, len(wanted), 32):
        some = wanted[first : first + 32]
        seen = {camera: reader.images(camera, some, size) for camera in info.cameras}
        for row, frame in enumerate(some.tolist()):
            title = next((s.instruction for s in info.segments if s.start <= frame < s.end), info.instruction)
            pictures = {camera: images[row] for camera, images in seen.items()}
            yield compose(pictures, title=title, status=f"frame {frame}, {frame / rate_hz:.1f} s")


def meta_text(meta: dict[str, Any]) -> str:
    """The metadata in one line; long texts are cut."""
    return ", ".join(f"{key} {str(value)[:80]}" for key, value in meta.items())

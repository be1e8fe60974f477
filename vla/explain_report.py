"""`explain.html`: one self-contained page about what a policy looks at; with it `explain.mp4` and `explain.json`."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from foreact.vla.explain import Explanation
from foreact.vla.explain_numbers import numbers
from foreact.vla.explain_pictures import Painter, share_of
from foreact.vla.video import write_video

STILLS = 4
"""Plans that are shown large, evenly spread."""
MAX_VIDEO_BYTES = 12_000_000
"""A larger video is linked, not embedded."""
PLOT_WIDTH, PLOT_HEIGHT = 640, 150
_COLOURS = ("#3b6fd4", "#d97706", "#15803d", "#be185d", "#7c3aed", "#64748b")


@dataclass(frozen=True)
class Line:
    """A curve of a plot."""

    name: str
    colour: str
    points: str


@dataclass(frozen=True)
class Plot:
    """Curves over the frames of the episode, from 0 up to `top`."""

    title: str
    lines: list[Line]
    top: float
    first: int
    last: int


def write_explanation(found: Explanation, folder: Path, about: Mapping[str, str]) -> dict[str, Any]:
    """Write `explain.mp4`, `explain.json` and `explain.html` into `folder`, in this order.

    Args:
        found: From `explain_episode`.
        folder: Made when missing.
        about: What it is an explanation of, such as "checkpoint" and "episode"; shown and kept with the numbers.

    Returns:
        What is in the JSON file.

    Raises:
        VideoError, OSError: If something cannot be written.
    """
    from jinja2 import Environment, StrictUndefined

    painter = Painter(found)
    video = folder / "explain.mp4"
    write_video(video, painter.video(), found.rate_hz / 3)
    values = {"about": dict(about), **numbers(found)}
    (folder / "explain.json").write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    data = video.read_bytes()
    chosen = sorted({round(place) for place in np.linspace(0, len(found.frames) - 1, STILLS)})
    # Names and sentences are not ours to trust: the template engine escapes everything.
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    template = environment.from_string(files("foreact.vla").joinpath("explain.html.jinja").read_text(encoding="utf-8"))
    page = template.render(
        about=about,
        n=values,
        video=_uri("video/mp4", data) if len(data) <= MAX_VIDEO_BYTES else video.name,
        stills=[_uri("image/jpeg", _jpeg(painter.still(row))) for row in chosen],
        plots=_plots(found),
        width=PLOT_WIDTH,
        height=PLOT_HEIGHT,
        slow=3,
        back=found.mask_BT.shape[1] - 1,
        number=_number,
        percent=_percent,
    )
    (folder / "explain.html").write_bytes(page.encode("utf-8", "replace"))
    return values


def _plots(found: Explanation) -> list[Plot]:
    plots: list[Plot] = []
    if found.attention is not None and found.tokens is not None:
        names = [k for k in ("language", "state") if any(token.kind == k for token in found.tokens.context)]
        curves = {name: share_of(found, name) for name in [*names, *found.cameras]}
        plots.append(_plot("Share of attention, frame by frame", found, curves, top=1.0))
    curves = {"size of the plan": found.plan_size_B}
    for kind in ("paraphrase", "other task", "empty"):
        same = [change.distance_B for change in found.changes if change.kind == kind]
        if same:
            curves[f"{kind} sentences" if kind != "empty" else "no sentence"] = np.mean(same, axis=0)
    plots.append(_plot("How far the plan moves under other sentences [action units]", found, curves))
    return plots


def _plot(title: str, found: Explanation, curves: Mapping[str, np.ndarray], top: float | None = None) -> Plot:
    first, last = found.frames[0], found.frames[-1]
    high = top or max(float(np.max(curve)) for curve in curves.values()) or 1.0
    lines = []
    for colour, (name, curve) in zip(_COLOURS * len(curves), curves.items(), strict=False):
        x = [(frame - first) * PLOT_WIDTH / max(1, last - first) for frame in found.frames]
        y = PLOT_HEIGHT * (1.0 - curve / high)
        lines.append(Line(name, colour, " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))))
    return Plot(title, lines, high, first, last)


def _jpeg(picture: np.ndarray) -> bytes:
    data = io.BytesIO()
    Image.fromarray(picture).save(data, "JPEG", quality=88)
    return data.getvalue()


def _uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _number(value: float | None) -> str:
    return "\u2013" if value is None else f"{value:.3f}"


def _percent(value: float | None) -> str:
    return "\u2013" if value is None else f"{100 * value:.1f}\u202f%"

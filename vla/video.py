"""Videos of what a policy saw and what it expected to see: pictures with text, written as MP4."""

from __future__ import annotations

import bisect
import itertools
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from foreact.vla.errors import ForeActError

if TYPE_CHECKING:
    from av.video.stream import VideoStream

CELL_PX = 200
"""Every camera is shown this high and wide."""
TEXT_PX = 14
LINE_PX = 18
BACKGROUND, INK, GREEN = (24, 24, 27), (235, 235, 235), (74, 222, 128)
_CODECS: tuple[tuple[str, dict[str, str]], ...] = (
    ("libx264", {"crf": "24", "preset": "veryfast"}),
    ("libvpx-vp9", {"crf": "34", "b": "0", "deadline": "realtime", "cpu-used": "8"}),
)
"""In order of preference; browsers play both inside MP4."""


class VideoError(ForeActError):
    """A video cannot be written."""


@cache
def font(size_px: int = TEXT_PX) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font, which is everywhere the same; it has letters, but no ticks and arrows."""
    return ImageFont.load_default(size=size_px)


def compose(
    seen: Mapping[str, np.ndarray],
    predicted: Mapping[str, np.ndarray] | None = None,
    *,
    title: str = "",
    status: str = "",
    good: bool = False,
    predicted_label: str = "predicted",
) -> np.ndarray:
    """One picture: cameras seen, what was predicted beside them, text above and below.

    Args:
        seen: Camera name -> (H, W, 3) uint8, shown from top to bottom, or side by side without `predicted`.
        predicted: Camera name -> (h, w, 3) uint8; a camera that is not in it stays dark. None: no such column.
        title: The instruction; at most two lines of it are shown.
        status: A line at the bottom.
        good: Whether the status is good news, and green.
        predicted_label: Heading of the predicted column.

    Returns:
        (height, width, 3) uint8 with even height and width.
    """
    cells: list[tuple[int, int, np.ndarray | None, str]] = []
    if predicted is None:
        cells = [(0, column, frame, name) for column, (name, frame) in enumerate(seen.items())]
    else:
        for row, (name, frame) in enumerate(seen.items()):
            cells.append((row, 0, frame, name))
            cells.append((row, 1, predicted.get(name), predicted_label))
    rows, columns = 1 + max(c[0] for c in cells), 1 + max(c[1] for c in cells)
    width, top = columns * CELL_PX, 2 * LINE_PX + 6
    lines = textwrap.wrap(title, max(10, int(width / (0.52 * TEXT_PX))), max_lines=2, placeholder=" ...")
    picture = Image.new("RGB", (width, top + rows * (CELL_PX + LINE_PX) + LINE_PX + 4), BACKGROUND)
    draw = ImageDraw.Draw(picture)
    for number, line in enumerate(lines):
        draw.text((6, 3 + number * LINE_PX), line, fill=INK, font=font())
    for row, column, frame, label in cells:
        x, y = column * CELL_PX, top + row * (CELL_PX + LINE_PX)
        draw.text((x + 6, y), label, fill=INK, font=font())
        if frame is not None:
            filter_ = Image.Resampling.NEAREST if frame.shape[0] < CELL_PX / 5 else Image.Resampling.BILINEAR
            picture.paste(Image.fromarray(frame).resize((CELL_PX, CELL_PX), filter_), (x, y + LINE_PX))
    draw.text((6, picture.height - LINE_PX), status, fill=GREEN if good else INK, font=font())
    return np.asarray(picture)


def write_video(path: Path, frames: Iterable[np.ndarray], rate_hz: float) -> int:
    """Write an MP4 that browsers play; it appears under its name only when it is whole.

    Args:
        path: Ends in ".mp4"; its folder is made when missing.
        frames: (H, W, 3) uint8 RGB, all of one even size.
        rate_hz: Frames per second.

    Returns:
        Number of frames written.

    Raises:
        VideoError: If there are no frames, their sizes differ or are odd, or the file cannot be written.
    """
    import av
    import av.error

    available = [(name, options) for name, options in _CODECS if name in av.codecs_available]
    if not available:
        raise VideoError(
            f"this PyAV has none of the encoders {', '.join(n for n, _ in _CODECS)}; "
            "set videos_per_task=0 and failure_videos=0"
        )
    codec, options = available[0]
    staged = path.with_name(path.name + ".part")
    count, size = 0, (0, 0)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise VideoError(f"cannot write the video {path}: {error}") from error
    try:
        with av.open(str(staged), "w", format="mp4", options={"movflags": "+faststart"}) as container:
            rate = Fraction(rate_hz).limit_denominator(1001)
            stream = cast("VideoStream", container.add_stream(codec, rate=rate, options=options))
            stream.thread_count = 1
            for frame in frames:
                if count == 0:
                    size = frame.shape[:2]
                    if size[0] % 2 or size[1] % 2:
                        raise VideoError(f"{path}: height and width must be even, found {size[0]}x{size[1]}")
                    stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
                elif frame.shape[:2] != size:
                    raise VideoError(f"{path}: frame {count} is {frame.shape[:2]}, the first one is {size}")
                picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
                container.mux(stream.encode(picture))
                count += 1
            if count == 0:
                raise VideoError(f"{path}: no frames to write")
            container.mux(stream.encode(None))
        staged.replace(path)
    except (av.error.FFmpegError, OSError) as error:
        raise VideoError(f"cannot write the video {path}: {error}") from error
    finally:
        staged.unlink(missing_ok=True)
    return count


def write_gif(path: Path, frames: Iterable[np.ndarray], rate_hz: float, *, every: int = 3, colors: int = 128) -> int:
    """Write a looping GIF, for pages that do not play videos; larger and coarser than `write_video`.

    Args:
        path: Ends in ".gif"; its folder is made when missing.
        frames: (H, W, 3) uint8 RGB, all of one size.
        rate_hz: Frames per second.
        every: Only every so-many-th frame is kept; it is shown as long as those left out.
        colors: Size of the palette, up to 256.

    Returns:
        Number of frames kept.

    Raises:
        VideoError: If there are no frames or the file cannot be written.
    """
    kept = [Image.fromarray(frame).quantize(colors) for number, frame in enumerate(frames) if number % every == 0]
    if not kept:
        raise VideoError(f"{path}: no frames to write")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # GIF counts hundredths of a second.
        kept[0].save(path, save_all=True, append_images=kept[1:], duration=round(100 * every / rate_hz) * 10, loop=0)
    except OSError as error:
        raise VideoError(f"cannot write the picture {path}: {error}") from error
    return len(kept)


class Foreseen:
    """Predicted frames by the moment they were predicted for."""

    def __init__(self, predicted: Mapping[int, Mapping[str, np.ndarray]], steps_ahead: int) -> None:
        """`predicted`: control step at which a plan was made -> camera name -> frame expected `steps_ahead` later."""
        self._frames = {step + steps_ahead: frames for step, frames in predicted.items()}
        self._moments = sorted(self._frames)
        gaps = [after - before for before, after in itertools.pairwise(self._moments)]
        self._slack = max(2, max(gaps, default=0) // 2)

    def __bool__(self) -> bool:
        return bool(self._moments)

    def at(self, step: int) -> Mapping[str, np.ndarray]:
        """What had been predicted for the moment nearest to a control step; empty where none is near.

        Plans come every few steps, so the nearest moment is at most half as many steps away.
        """
        right = bisect.bisect_left(self._moments, step)
        near = self._moments[max(0, right - 1) : right + 1]
        moment = min(near, key=lambda found: abs(found - step), default=None)
        return self._frames[moment] if moment is not None and abs(moment - step) <= self._slack else {}


def rollout_frames(
    seen: Sequence[Mapping[str, np.ndarray]],
    predicted: Mapping[int, Mapping[str, np.ndarray]],
    *,
    steps_ahead: int,
    rate_hz: float,
    title: str,
    success: bool,
    verdict: str = "not done in time",
) -> Iterable[np.ndarray]:
    """The pictures of one rollout for `write_video`; the last one is held for a second.

    Beside each frame stands the one that had been predicted for that moment; see `Foreseen`.

    Args:
        seen: One entry per control step, from the reset on: camera name -> frame.
        predicted: Control step at which a plan was made -> camera name -> frame expected `steps_ahead` later.
        steps_ahead: How far ahead the predictions look, in control steps.
        rate_hz: Control rate.
        title: The instruction.
        success: How it ended.
        verdict: Shown at the end of a failure.
    """
    last = len(seen) - 1
    foreseen = Foreseen(predicted, steps_ahead)
    for step, frames in enumerate(seen):
        status = f"{step / rate_hz:.1f} s"
        if step == last:
            status += "  success" if success else f"  {verdict}"
        picture = compose(
            frames,
            foreseen.at(step) if foreseen else None,
            title=title,
            status=status,
            good=step == last and success,
            predicted_label=foreseen_label(steps_ahead, rate_hz),
        )
        yield from [picture] * (1 + (round(rate_hz) if step == last else 0))


def foreseen_label(steps_ahead: int, rate_hz: float) -> str:
    """Heading of the column of predicted frames."""
    return f"foreseen {steps_ahead / rate_hz:.1f} s before"

"""The film of a chain: what was seen beside what had been foreseen, and a panel that ticks the tasks off."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw

from foreact.vla.video import BACKGROUND, GREEN, INK, LINE_PX, TEXT_PX, Foreseen, compose, font, foreseen_label

PANEL_PX = 240
"""Width of the panel."""
EVERY = 2
"""Every so-many-th control step is shown, and as long as those left out."""
_MARGIN_PX, _MARK_PX, _GAP_PX, _MAX_LINES = 14, 24, 12, 3
_DIM, _RED = (128, 128, 134), (248, 113, 113)


def chain_frames(
    seen: Sequence[Mapping[str, np.ndarray]],
    predicted: Mapping[int, Mapping[str, np.ndarray]],
    *,
    steps_ahead: int,
    rate_hz: float,
    instructions: Sequence[str],
    begun: Mapping[int, int],
    solved: int,
    verdict: str = "",
    every: int = EVERY,
) -> Iterator[np.ndarray]:
    """The pictures of a chain, or of its end, for `write_video` at `rate_hz / every`; the last is held for a second.

    Args:
        seen: One entry per control step: camera name -> frame.
        predicted: Control step at which a plan was made -> camera name -> frame expected `steps_ahead` later.
        steps_ahead: How far ahead the predictions look, in control steps.
        rate_hz: Control rate.
        instructions: All of the chain.
        begun: Control step at which a task was begun -> its number, from 0; step 0 is in it.
        solved: How many tasks in a row were solved in the end.
        verdict: What was wrong with the last one, if one failed.
        every: Only every so-many-th step, and the last, is shown.

    Yields:
        (height, width, 3) uint8 with even height and width.
    """
    foreseen = Foreseen(predicted, steps_ahead)
    last, number, n = len(seen) - 1, 0, len(instructions)
    panel: np.ndarray | None = None
    for step, frames in enumerate(seen):
        if step in begun:
            number, panel = begun[step], None
        if step % every and step != last:
            continue
        if step == last:
            panel = None
        status = f"{step / rate_hz:.1f} s"
        if step == last:
            status += f"   {solved} of {n} done"
        picture = compose(
            frames,
            foreseen.at(step) if foreseen else None,
            title=f"{number + 1} of {n}: {instructions[number]}",
            status=status,
            good=step == last and solved == n,
            predicted_label=foreseen_label(steps_ahead, rate_hz),
        )
        if panel is None:
            done = solved if step == last else number
            failed = number if step == last and solved < n else None
            panel = task_panel(
                instructions, done=done, now=number, failed=failed, verdict=verdict, height_px=len(picture)
            )
        whole = np.concatenate([picture, panel], axis=1)
        yield from [whole] * (1 + (round(rate_hz / every) if step == last else 0))


def task_panel(
    instructions: Sequence[str], *, done: int, now: int, failed: int | None, height_px: int, verdict: str = ""
) -> np.ndarray:
    """The tasks of a chain from top to bottom: done ones ticked, the present one bright, the coming ones dim.

    Args:
        instructions: One per task.
        done: So many are ticked.
        now: The present one.
        failed: The one that is crossed, if there is one.
        height_px: Of the panel.
        verdict: What was wrong with it.

    Returns:
        (height_px, PANEL_PX, 3) uint8.
    """
    picture = Image.new("RGB", (PANEL_PX, height_px), BACKGROUND)
    draw = ImageDraw.Draw(picture)
    left, y = _MARGIN_PX, 3
    draw.text((left, y), f"{len(instructions)} tasks in a row, no reset", fill=_DIM, font=font())
    y += 2 * LINE_PX + 6
    for number, instruction in enumerate(instructions):
        colour = _RED if number == failed else GREEN if number < done else INK if number == now else _DIM
        if number == failed:
            _cross(draw, left, y)
        elif number < done:
            _tick(draw, left, y)
        else:
            draw.text((left, y), f"{number + 1}", fill=colour, font=font())
        letters = int((PANEL_PX - left - _MARK_PX - 6) / (0.53 * TEXT_PX))
        lines = textwrap.wrap(instruction, letters, max_lines=_MAX_LINES, placeholder=" ...")
        if number == failed and verdict:
            lines += textwrap.wrap(f"({verdict})", letters, max_lines=2, placeholder=" ...")
        for line in lines:
            draw.text((left + _MARK_PX, y), line, fill=colour, font=font())
            y += LINE_PX
        y += _GAP_PX
    return np.asarray(picture)


def _tick(draw: ImageDraw.ImageDraw, x: int, y: int) -> None:
    draw.line([(x, y + 9), (x + 4, y + 13), (x + 12, y + 3)], fill=GREEN, width=3, joint="curve")


def _cross(draw: ImageDraw.ImageDraw, x: int, y: int) -> None:
    draw.line([(x, y + 3), (x + 10, y + 13)], fill=_RED, width=3)
    draw.line([(x, y + 13), (x + 10, y + 3)], fill=_RED, width=3)

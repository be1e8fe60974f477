"""Pictures of an explanation: per camera, what was seen, heat on it, what was predicted, what came, and the error.

Shape legend: B plans, T history frames, P patches, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from foreact.vla.explain import Explanation, Maps
from foreact.vla.images import resize_frame

CELL_PX = 160
"""Every panel is shown this high and wide."""
ERROR_FULL = 64
"""This absolute error (mean over colours, of 255) has the brightest colour."""
_LINE_PX, _TEXT_PX = 18, 13
_BACKGROUND, _INK, _FAINT = (24, 24, 27), (235, 235, 235), (160, 160, 165)
_COLOURS = np.array([(0, 0, 4), (81, 18, 124), (183, 55, 121), (252, 137, 97), (252, 253, 191)], float)
"""Five colours of matplotlib's "magma" (CC0), evenly spaced from 0 to 1."""

Panel = tuple[str, np.ndarray | None]
"""A label, and (H, W, 3) uint8; None stays dark."""


def heat_colours(heat: np.ndarray) -> np.ndarray:
    """(H, W) in [0, 1] to (H, W, 3) uint8."""
    place = np.clip(heat, 0.0, 1.0) * (len(_COLOURS) - 1)
    channels = [np.interp(place, range(len(_COLOURS)), _COLOURS[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def overlay(frame: np.ndarray, heat_P: np.ndarray, grid: tuple[int, int], full: float) -> np.ndarray:
    """A frame, darkened and without colour, under its heat.

    Args:
        frame: (H, W, 3) uint8.
        heat_P: A number per patch, row by row.
        grid: Rows and columns of patches.
        full: The heat that has the brightest colour.
    """
    share = np.clip(heat_P.reshape(grid) / max(full, 1e-30), 0.0, 1.0)
    size = (CELL_PX, CELL_PX)
    smooth = Image.fromarray(share.astype(np.float32)).resize(size, Image.Resampling.BILINEAR)
    heat = np.asarray(smooth, float)
    grey = resize_frame(frame, *size).mean(axis=-1, keepdims=True) * 0.75
    weight = 0.15 + 0.75 * heat[..., None]
    return (grey * (1.0 - weight) + heat_colours(heat) * weight).round().astype(np.uint8)


def error_map(predicted: np.ndarray, came: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8: the absolute error of each pixel as heat; `came` is resized to the size of `predicted`."""
    later = resize_frame(came, *predicted.shape[:2]).astype(int)
    return heat_colours(np.abs(predicted.astype(int) - later).mean(axis=-1) / ERROR_FULL)


class Painter:
    """Makes the pictures of one explanation, all with the same scales."""

    def __init__(self, found: Explanation):
        self._found = found
        self._full = {id(maps): brightest(maps) for maps in (found.attended, found.gradients, found.integrated)}

    def panels(self, row: int, *, seen_at: int | None = None, integrated: bool = False) -> dict[str, list[Panel]]:
        """Camera -> panels of plan `row`: seen, attention, saliency, predicted, came, error.

        Args:
            row: Which plan.
            seen_at: Frame that is shown as "seen"; the plan's own by default.
            integrated: Add integrated gradients behind the saliency.
        """
        found = self._found
        frame = found.frames[row]
        now = int(found.mask_BT[row].sum()) - 1
        later = frame + found.ahead
        ahead = f"+{found.ahead / found.rate_hz:.1f} s"
        panels: dict[str, list[Panel]] = {}
        for camera, images in found.episode.images.items():
            cells: list[Panel] = [(camera, images[frame if seen_at is None else seen_at])]
            if found.tokens is not None:
                wanted = [("attention", found.attended), (f"gradient of {found.part}", found.gradients)]
                if integrated and found.integrated:
                    wanted.append(("integrated gradients", found.integrated))
                for label, maps in wanted:
                    heat = overlay(images[frame], maps[camera][row, now], found.tokens.grid, self._full[id(maps)])
                    cells.append((label, heat))
            if camera in found.predicted:
                predicted = found.predicted[camera][row]
                came = images[later] if later < len(images) else None
                cells += [
                    (f"predicted {ahead}", predicted),
                    (f"came {ahead}", came),
                    ("error", None if came is None else error_map(predicted, came)),
                ]
            panels[camera] = cells
        return panels

    def still(self, row: int) -> np.ndarray:
        """One picture of plan `row`, integrated gradients included."""
        frame = self._found.frames[row]
        return compose(self.panels(row, integrated=True), title="", status=self._when(frame, row))

    def video(self) -> Iterator[np.ndarray]:
        """One picture per recorded frame from the first plan to the last; between plans the latest one is shown."""
        found = self._found
        row = 0
        for frame in range(found.frames[0], found.frames[-1] + 1):
            while row + 1 < len(found.frames) and found.frames[row + 1] <= frame:
                row += 1
            panels = self.panels(row, seen_at=frame)
            yield compose(panels, title=found.episode.instruction, status=self._when(frame, row))

    def _when(self, frame: int, row: int) -> str:
        found = self._found
        text = f"frame {frame}, {frame / found.rate_hz:.2f} s"
        if found.attention is not None:
            for kind in ("language", "state"):
                text += f"   {kind} {100 * share_of(found, kind)[row]:.0f} %"
            for camera in found.cameras:
                text += f"   {camera} {100 * share_of(found, camera)[row]:.0f} %"
        return text


def brightest(maps: Maps) -> float:
    """The heat that has the brightest colour: all but the highest 0.5 % of all cameras, steps and plans."""
    return float(np.quantile(np.concatenate([m.ravel() for m in maps.values()]), 0.995)) if maps else 0.0


def share_of(found: Explanation, name: str, *, even: bool = False) -> np.ndarray:
    """(B,) share of attention that "language", "state" or a camera has among all context tokens, which sum to 1."""
    assert found.attention is not None and found.tokens is not None
    shares = (found.attention.even_BC if even else found.attention.context_BC).numpy()
    places = [p for p, token in enumerate(found.tokens.context) if name in (token.camera, token.kind)]
    return shares[:, places].sum(axis=1) / shares.sum(axis=1)


def compose(panels: Mapping[str, Sequence[Panel]], *, title: str, status: str) -> np.ndarray:
    """A row of panels per camera, with a title above and a line below; even height and width."""
    columns = max(len(row) for row in panels.values())
    top = _LINE_PX + 6 if title else 0
    height = top + len(panels) * (CELL_PX + _LINE_PX) + _LINE_PX + 4
    picture = Image.new("RGB", (columns * CELL_PX, height + height % 2), _BACKGROUND)
    draw = ImageDraw.Draw(picture)
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont = ImageFont.load_default(size=_TEXT_PX)
    draw.text((6, 3), title, fill=_INK, font=font)
    for number, row in enumerate(panels.values()):
        y = top + number * (CELL_PX + _LINE_PX)
        for column, (label, frame) in enumerate(row):
            x = column * CELL_PX
            draw.text((x + 4, y + 1), label, fill=_INK if column == 0 else _FAINT, font=font)
            if frame is not None:
                cell = Image.fromarray(frame)
                way = Image.Resampling.NEAREST if cell.height < CELL_PX / 2 else Image.Resampling.BILINEAR
                picture.paste(cell.resize((CELL_PX, CELL_PX), way), (x, y + _LINE_PX))
    draw.text((4, height - _LINE_PX - 1), status, fill=_INK, font=font)
    return np.asarray(picture)

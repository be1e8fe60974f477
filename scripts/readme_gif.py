"""Lay four videos of an evaluation side by side as the README's picture.

.venv/bin/python scripts/readme_gif.py outputs/demo/fixtures docs/media/demo.gif
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from PIL import Image

from foreact.vla.video import write_gif

TASKS = ("move_slider_left", "open_drawer", "turn_on_led", "turn_off_lightbulb")
RATE_HZ = 30.0
HOLD_FRAMES = 12
"""The last picture of each round stays this long."""


def read_video(path: Path) -> list[np.ndarray]:
    """All frames (H, W, 3) uint8."""
    with av.open(str(path)) as video:
        return [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]


def montage(videos: list[list[np.ndarray]], height: int) -> Iterator[np.ndarray]:
    """Frames side by side, scaled to `height`; a video that has ended shows its last frame."""
    for step in range(max(map(len, videos)) + HOLD_FRAMES):
        pictures = [Image.fromarray(video[min(step, len(video) - 1)]) for video in videos]
        scaled = [p.resize((round(p.width * height / p.height), height), Image.Resampling.LANCZOS) for p in pictures]
        yield np.concatenate([np.asarray(p) for p in scaled], axis=1)


if __name__ == "__main__":
    folder, target = Path(sys.argv[1]), Path(sys.argv[2])
    # Of each task the shortest recording: the one that succeeds soonest.
    films = [min(map(read_video, (folder / "videos").glob(f"{task}-*.mp4")), key=len) for task in TASKS]
    print(write_gif(target, montage(films, 240), RATE_HZ, every=3, colors=64), "frames")

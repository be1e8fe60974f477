"""Which of CALVIN's scenes a frame number belongs to, and in which order its blocks are listed.

The ranges are those of the published splits (mees/calvin_env and mees/calvin, MIT), as the frames themselves show them;
a list that circulates has A first and D last, which is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from foreact.datasets.formats.base import FormatError

SPLITS: dict[str, tuple[tuple[str, int, int], ...]] = {
    "D": (("D", 0, 611098),),
    "ABC": (("B", 0, 598909), ("C", 598910, 1191338), ("A", 1191339, 1795044)),
    "ABCD": (("D", 0, 611098), ("B", 611099, 1210008), ("C", 1210009, 1802437), ("A", 1802438, 2406143)),
}
"""Training split -> scene, first and last frame number, both inclusive."""

_BLOCK_SLOTS = {"A": (2, 1, 0), "B": (0, 1, 2), "C": (1, 0, 2), "D": (0, 1, 2)}
"""Scene -> slot of the red, the blue and the pink block in `scene_obs`: A lists pink, blue, red; C blue, red, pink."""

_FOLDER = re.compile(r"(?:^|[/_-])task_(D|ABC|ABCD)_D(?:$|[/_-])")


def by_colour(scene_obs: np.ndarray, scene: str) -> np.ndarray:
    """(T, 24) `scene_obs` with the blocks in the order red, blue, pink, whatever the scene's own order."""
    blocks = [scene_obs[:, 6 + 6 * slot : 12 + 6 * slot] for slot in _BLOCK_SLOTS[scene]]
    return np.concatenate([scene_obs[:, :6], *blocks], axis=1)


def find_split(folder: Path, last_frame: int, scenes: Sequence[str] = ()) -> tuple[str, str]:
    """The training split of a folder, and by what it was recognised.

    Args:
        folder: The folder with the frames.
        last_frame: The highest frame number.
        scenes: Letters that the folder's own `scene_info.npy` names; () if there is none.
    """
    match = _FOLDER.search(str(folder.resolve()))
    if match:
        return match[1], "the name of the folder"
    letters = "".join(sorted(scenes))
    if letters in SPLITS:
        return letters, "scene_info.npy"
    if last_frame > SPLITS["ABC"][-1][2]:
        return "ABCD", "its frame numbers"
    if last_frame > SPLITS["D"][-1][2]:
        return "ABC", "its frame numbers"
    return "D", "its frame numbers"


def scene_of(split: str, frame: int) -> str:
    """The scene letter of a frame of a training split.

    Raises:
        FormatError: If the split has no such frame.
    """
    for scene, first, last in SPLITS[split]:
        if first <= frame <= last:
            return scene
    raise FormatError(f"frame {frame} is in no scene of the split {split}; say which by --set split=D, ABC or ABCD")

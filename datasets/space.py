"""Whether a disk has room for what is about to be written: asked before, so that no recording stops in its middle."""

from __future__ import annotations

import os
from pathlib import Path

from foreact.datasets.layout import StoreError
from foreact.vla.contract import Contract

EPISODES_AHEAD = 2
"""There must be room for so many episodes before one is begun: the files of one, and the next."""
ASSUMED_S = 10.0
"""Length of an episode as long as none has been seen [s]."""
_LOSSLESS = ("raw", "zstd", "png")
_LOSSY_SHARE = 0.4
"""Encoded size by a lossy codec, of the raw size: grainy pictures as JPEG at quality 95. Pure noise may take more;
from the second episode on, what the first one took is known."""
_NUMBERS = 4096
"""Bytes of metadata per array and camera, generously."""


class NoSpace(StoreError):
    """The disk has no room for two more episodes."""


def free_bytes(folder: Path) -> int | None:
    """Bytes that this user may still write where `folder` is, or will be; None where the file system does not say."""
    place = os.path.abspath(folder)
    while not os.path.exists(place) and place != os.path.dirname(place):
        place = os.path.dirname(place)
    try:
        found = os.statvfs(place)
    except OSError:
        return None
    return found.f_bavail * found.f_frsize if found.f_blocks else None


def check_space(folder: Path, episode_bytes: float, doing: str) -> None:
    """Refuse to begin where fewer than two episodes of that size fit.

    Args:
        folder: Where they are written; it need not exist yet.
        episode_bytes: Size of one episode, or a bound for it [bytes].
        doing: For the message, such as "recording into data/arm".

    Raises:
        NoSpace: If there is less room.
    """
    free, needed = free_bytes(folder), EPISODES_AHEAD * episode_bytes
    if free is not None and free < needed:
        raise NoSpace(
            f"{doing} was not begun: its disk has {free / 1e6:,.1f} MB free, and {EPISODES_AHEAD} episodes may need "
            f"{needed / 1e6:,.1f} MB. Make room, or choose a folder on another disk."
        )


def episode_bound(contract: Contract, codec: str, seconds: float = ASSUMED_S) -> float:
    """Bytes that an episode of pictures, with that contract and length, takes at most [bytes].

    Args:
        contract: Cameras, state, action and rate.
        codec: Name of a codec with its settings, such as "jpeg:quality=90".
        seconds: Length of the episode [s].
    """
    share = 1.0 if codec.partition(":")[0] in _LOSSLESS else _LOSSY_SHARE
    pixels = sum(camera.height * camera.width * 3 for camera in contract.cameras)
    numbers = 4 * (contract.state_size + contract.action_size) + 24 * len(contract.cameras)
    return seconds * contract.rate_hz * (share * pixels + numbers) + _NUMBERS * (len(contract.cameras) * 2 + 2)

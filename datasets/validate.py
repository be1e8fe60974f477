"""What an episode must satisfy before it may enter a store."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from foreact.datasets.arrays import EpisodeHeader
from foreact.datasets.layout import InvalidEpisode, check_name
from foreact.vla.contract import Contract
from foreact.vla.errors import did_you_mean

MAX_INSTRUCTION_BYTES = 512


def check_frame(
    contract: Contract,
    name: str,
    frame: int,
    images: Mapping[str, np.ndarray],
    state: np.ndarray | None,
    action: np.ndarray | None,
    extras: Mapping[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """Check one frame and return its rows of numbers under their array names.

    Raises:
        InvalidEpisode: Naming episode, frame, array, the expected and the found.
    """
    where = f"episode {name}, frame {frame}"
    known = {camera.name: camera for camera in contract.cameras}
    if not images:
        raise InvalidEpisode(f"{where}: no image; {did_you_mean('', known)}")
    for camera, image in images.items():
        if camera not in known:
            raise InvalidEpisode(f"{where}: no camera {camera!r} in the contract; {did_you_mean(camera, known)}")
        expected = (known[camera].height, known[camera].width, 3)
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.shape != expected:
            raise InvalidEpisode(f"{where}: camera {camera!r} must be uint8 {expected}, found {_describe(image)}")
    rows: dict[str, np.ndarray] = {}
    for key, value, size in (("state", state, contract.state_size), ("action", action, contract.action_size)):
        if value is None:
            continue
        row = _finite(where, key, value).astype(np.float32)
        if row.shape != (size,) or size == 0:
            raise InvalidEpisode(f"{where}: {key} must have shape ({size},) by the contract, found {row.shape}")
        rows[key] = row
    for key, value in extras.items():
        check_name(key, "name of an extra")
        row = _finite(where, f"extra {key!r}", value)
        rows[f"extras.{key}"] = row if row.dtype == np.float64 else row.astype(np.float32)
    return rows


def check_rows(name: str, frame: int, rows: Mapping[str, np.ndarray], before: Mapping[str, list[np.ndarray]]) -> None:
    """Check that rows have the shape of those before.

    Raises:
        InvalidEpisode: If one does not.
    """
    for key, row in rows.items():
        if before[key] and before[key][-1].shape != row.shape:
            raise InvalidEpisode(
                f"episode {name}, frame {frame}: {key} has shape {row.shape}, before it had {before[key][-1].shape}"
            )


def check_header(name: str, header: EpisodeHeader) -> None:
    """Check instruction, segments and meta.

    Raises:
        InvalidEpisode: If they could not be read back, or mean nothing.
    """
    where = f"episode {name}"
    for text in (header.instruction, *(segment.instruction for segment in header.segments)):
        if not isinstance(text, str) or len(text.encode("utf-8", "replace")) > MAX_INSTRUCTION_BYTES:
            raise InvalidEpisode(
                f"{where}: an instruction is a text of at most {MAX_INSTRUCTION_BYTES} bytes, found {text!r:.80}"
            )
    for segment in header.segments:
        if not 0 <= segment.start < segment.end <= header.length:
            raise InvalidEpisode(
                f"{where}: segment [{segment.start}, {segment.end}) does not lie in its {header.length} frames"
            )
    for key, value in header.meta.items():
        scalar = value is None or isinstance(value, str | bool | int | float)
        if not isinstance(key, str) or not scalar or (isinstance(value, float) and not math.isfinite(value)):
            raise InvalidEpisode(
                f"{where}: meta holds texts, finite numbers, booleans and None by name, found {key!r}: {value!r:.80}"
            )


def _finite(where: str, key: str, value: np.ndarray) -> np.ndarray:
    array = np.asarray(value)
    if array.dtype.kind not in "fiub":
        raise InvalidEpisode(f"{where}: {key} must be numbers, found {_describe(value)}")
    if not np.isfinite(array).all():
        raise InvalidEpisode(f"{where}: {key} holds a number that is not finite: {array!r:.200}")
    return array


def _describe(value: object) -> str:
    return f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__

"""An episode as the files of one Zarr v3 group, built in memory by zarr-python.

Arrays, each one chunk with a crc32c codec and no compression:

- `camera.<name>.frames`: (bytes,) uint8, the encoded frames of a camera one after another;
- `camera.<name>.index`: (T, 3) uint64, the offset, size and crc32c of each frame in `frames`, so that a few frames are
  read and checked without the others;
- `state`: (T, S) float32 and `action`: (T, A) float32, absent for action-free video;
- `extras.<name>`: (T, ...) float32 or float64.

The group's attribute "foreact" holds the rest (see `EpisodeHeader`); its metadata is consolidated. `manifest.json` is
the last file: a sealed list of every other file with its size and SHA-256.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import google_crc32c
import numpy as np

from foreact.datasets.episode import EpisodeData, Segment
from foreact.datasets.layout import GROUP, MANIFEST, check_version
from foreact.datasets.sealed import seal

EPISODE_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class EpisodeHeader:
    """What is known of an episode without its arrays; stored as the Zarr group's attribute "foreact"."""

    length: int
    """Frames."""
    codec: str
    cameras: dict[str, tuple[int, int]]
    """camera -> (height, width) in pixels."""
    instruction: str
    segments: list[Segment]
    meta: dict[str, Any]
    has_state: bool
    has_action: bool

    def to_json(self) -> dict[str, Any]:
        """As JSON values, with the version of the episode format."""
        return {"version": EPISODE_VERSION, **asdict(self)}

    @classmethod
    def from_json(cls, values: dict[str, Any], what: str) -> EpisodeHeader:
        """Read what `to_json` gave.

        Raises:
            NewerFormat: If a later ForeAct wrote it; `what` is named.
        """
        check_version(values.get("version"), what, EPISODE_VERSION)
        known = {key: value for key, value in values.items() if key in cls.__dataclass_fields__}
        known["cameras"] = {name: (int(h), int(w)) for name, (h, w) in values["cameras"].items()}
        known["segments"] = [Segment(**segment) for segment in values["segments"]]
        return cls(**known)


def pack_frames(blobs: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Join blobs to the arrays `frames` and `index`."""
    sizes = np.array([len(blob) for blob in blobs], np.uint64)
    index = np.empty((len(blobs), 3), np.uint64)
    index[:, 0] = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    index[:, 1] = sizes
    index[:, 2] = [google_crc32c.value(blob) for blob in blobs]
    return np.frombuffer(b"".join(blobs), np.uint8), index


def episode_files(
    header: EpisodeHeader, frames: Mapping[str, Sequence[bytes]], episode: EpisodeData
) -> dict[str, bytes]:
    """All files of an episode (path inside its folder -> bytes), the manifest last.

    Args:
        header: What the arrays cannot say.
        frames: camera -> one encoded blob per frame.
        episode: Where state, action and extras are taken from; its images are not looked at.
    """
    arrays: dict[str, np.ndarray] = {}
    for camera, blobs in frames.items():
        arrays[f"camera.{camera}.frames"], arrays[f"camera.{camera}.index"] = pack_frames(blobs)
    if episode.state is not None:
        arrays["state"] = episode.state
    if episode.action is not None:
        arrays["action"] = episode.action
    arrays |= {f"extras.{name}": value for name, value in episode.extras.items()}
    files = _zarr_group({"foreact": header.to_json()}, arrays)
    listing = {name: [len(data), hashlib.sha256(data).hexdigest()] for name, data in sorted(files.items())}
    files[MANIFEST] = seal({"format": "foreact-episode", "version": EPISODE_VERSION, "files": listing})
    return files


def _zarr_group(attributes: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> dict[str, bytes]:
    import zarr
    from zarr.codecs import BytesCodec, Crc32cCodec
    from zarr.storage import MemoryStore

    buffers: dict[str, Any] = {}
    group = zarr.create_group(MemoryStore(buffers), zarr_format=3, attributes=attributes)
    for name, value in arrays.items():
        array = group.create_array(
            name,
            shape=value.shape,
            dtype=value.dtype,
            chunks=value.shape,
            filters=None,
            serializer=BytesCodec(endian="little" if value.dtype.itemsize > 1 else None),
            compressors=[Crc32cCodec()],
            config={"write_empty_chunks": True},  # else zarr leaves an array of zeros out
        )
        array[...] = value
    files = {key: value.to_bytes() for key, value in buffers.items()}
    # Consolidated by hand: zarr-python's own call warns on every episode that Zarr v3 has not standardised it yet.
    root = json.loads(files[GROUP])
    metadata = {name: json.loads(files[f"{name}/{GROUP}"]) for name in arrays}
    root["consolidated_metadata"] = {"kind": "inline", "must_understand": False, "metadata": metadata}
    files[GROUP] = json.dumps(root, separators=(",", ":")).encode()
    return files

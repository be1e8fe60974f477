"""A store as a recording for the rerun viewer (https://rerun.io, MIT/Apache-2.0)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from foreact.datasets.lint_base import parts
from foreact.datasets.store import Store
from foreact.vla.errors import ForeActError

_CHUNK = 32


class NoRerun(ForeActError):
    """rerun-sdk is not installed."""


def write_rerun(store: Store, path: Path, *, episodes: int = 12) -> int:
    """Write the first episodes to a .rrd file, each under its own name, and return their number of frames.

    Raises:
        NoRerun: If rerun-sdk is missing or too old.
        DamagedEpisode: If a checksum is wrong.
    """
    try:
        import rerun as rr  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        raise NoRerun(f"a rerun recording needs rerun-sdk: `pip install rerun-sdk` ({error})") from error
    if not hasattr(rr, "Scalars") or not hasattr(rr.RecordingStream, "set_time"):
        raise NoRerun(f"rerun-sdk {rr.__version__} is too old: `pip install -U 'rerun-sdk>=0.23'`")
    path.parent.mkdir(parents=True, exist_ok=True)
    recording = rr.RecordingStream("foreact", recording_id=store.hash)
    recording.save(str(path))
    frames = 0
    for info in store.index[:episodes]:
        _log(rr, recording, store, info.name)
        frames += info.length
    recording.flush()
    return frames


def _log(rr: Any, recording: Any, store: Store, name: str) -> None:
    reader = store.reader(name)
    contract, header = store.contract, reader.header
    numbers = reader.read(cameras=(), extras=False)
    fields = [
        (f"{name}/{kind}/{part.name}", values[:, at])
        for kind, described, values in (
            ("state", contract.state, numbers.state),
            ("action", contract.action, numbers.action),
        )
        if values is not None
        for part, at in parts(described)
    ]
    sentences = {0: header.instruction} if header.instruction else {}
    sentences |= {segment.start: segment.instruction for segment in header.segments}
    for first in range(0, header.length, _CHUNK):
        some = np.arange(first, min(first + _CHUNK, header.length))
        images = {camera: reader.images(camera, some) for camera in header.cameras}
        for row, frame in enumerate(some.tolist()):
            recording.set_time("frame", sequence=frame)
            recording.set_time("time", duration=frame / contract.rate_hz)
            if frame in sentences:
                recording.log(f"{name}/instruction", rr.TextDocument(sentences[frame]))
            for camera, pictures in images.items():
                recording.log(f"{name}/{camera}", rr.Image(pictures[row]).compress(jpeg_quality=90))
            for path, values in fields:
                recording.log(path, rr.Scalars(values[frame]))

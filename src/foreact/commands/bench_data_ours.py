"""The measuring process of ForeAct's own stores; `python -m foreact.commands.bench_data_ours` is run by bench_data.py.

Batches are made as training makes them: `WindowSampler` with cache="none", so that each window is decoded when it is
needed, by as many threads as asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np

from foreact.commands.bench_data_loop import serve, time_windows
from foreact.datasets.store import Store
from foreact.datasets.windows import WindowSampler, WindowSpec
from foreact.vla.batch import WindowBatch

HISTORY, AHEAD, CHUNK = 5, 5, 10
"""A window is the frames t-4 to t+5 of each camera, and the ten actions from t on."""
FRAMES = HISTORY + AHEAD


def window_sampler(path: str, batch_size: int, cache: str = "none") -> WindowSampler:
    """Windows of `FRAMES` different frames of each camera, at the sizes of the store."""
    store = Store.open(path)
    spec = WindowSpec(
        cameras={camera.name: (camera.height, camera.width) for camera in store.contract.cameras},
        history=HISTORY,
        history_stride=1,
        foresight_steps=AHEAD,
        chunk=CHUNK,
    )
    return WindowSampler(store, spec, seed=0, batch_size=batch_size, cache="memory" if cache == "memory" else "none")


def frames_of(batch: WindowBatch) -> dict[str, np.ndarray]:
    """camera -> (B, FRAMES, height, width, 3) of the windows that lie within their episode, as views or copies."""
    return {camera: np.concatenate([batch.images[camera], batch.future[camera]], axis=1) for camera in batch.images}


_sampler = cache(window_sampler)


def _measure(request: dict[str, Any]) -> dict[str, Any]:
    sampler = _sampler(request["path"], request["batch_size"], request.get("cache", "none"))
    batches: Iterator[WindowBatch] = sampler.iterate(workers=request["workers"])
    try:
        asked = (request["batch_size"], request["windows"], request["least_s"])
        return time_windows(batches, *asked, 2 * request["workers"] + 2)
    finally:
        batches.close()  # type: ignore[attr-defined]  # ends the threads


def _check(request: dict[str, Any]) -> dict[str, Any]:
    """Save the pictures of the first batch, and where they come from."""
    batch = _sampler(request["path"], request["batch_size"]).batch_at(0)
    for part in (batch.images, batch.future):
        for camera, pictures in part.items():
            if not pictures.flags.c_contiguous or pictures.dtype != np.uint8:
                raise TypeError(f"{camera}: a batch should be one block of bytes, ready for pinned memory")
    np.savez(request["out"], index=batch.index, **frames_of(batch))  # pyright: ignore[reportArgumentType]
    return {}


if __name__ == "__main__":
    serve({"measure": _measure, "check": _check})

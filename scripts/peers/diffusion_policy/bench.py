"""diffusion_policy's side of `foreact bench data`: its `ReplayBuffer`, read by its own `SequenceSampler`.

Run by that command with `--diffusion-policy-python`, an environment with zarr 2, PyTorch, and diffusion_policy on its
path:

    git clone https://github.com/real-stanford/diffusion_policy
    python -m venv .venv-dp
    .venv-dp/bin/pip install "zarr<3" "numcodecs<0.16" "numpy<2" numba "imagecodecs<2024.9" torch
    .venv-dp/bin/pip install --no-deps -e diffusion_policy

The buffer is held encoded in memory (`copy_from_path` into a `zarr.MemoryStore`), as its datasets of real robots do
it, so nothing is read from the disk while the clock runs. It answers JSON lines, see `bench_data_loop.py`.
"""

# diffusion_policy is in an environment of its own.
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr
from diffusion_policy.common.replay_buffer import ReplayBuffer
from diffusion_policy.common.sampler import SequenceSampler

_LOOP = Path(__file__).parents[3] / "src/foreact/commands/bench_data_loop.py"
_spec = importlib.util.spec_from_file_location("bench_data_loop", _LOOP)
assert _spec is not None and _spec.loader is not None
loop = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(loop)


def about(request: dict[str, Any]) -> dict[str, Any]:
    """Versions, and which image codecs work here."""
    kinds = ["blosc"]
    version = "not installed"
    if importlib.util.find_spec("imagecodecs"):
        import imagecodecs

        version = imagecodecs.__version__
        kinds += ["jpeg2k", *(["jpegxl"] if imagecodecs.JPEGXL else [])]
    return {"zarr": zarr.__version__, "torch": torch.__version__, "imagecodecs": version, "kinds": kinds}


def _image_codec(kind: str) -> Any:
    """The compressors that diffusion_policy's own code uses for pictures, with its settings."""
    if kind == "blosc":
        return "disk"  # ReplayBuffer's name for Blosc with Zstandard, level 5, bits shuffled
    from diffusion_policy.codecs.imagecodecs_numcodecs import Jpeg2k, get_default_image_compressor, register_codecs

    register_codecs()
    return Jpeg2k(level=50) if kind == "jpeg2k" else get_default_image_compressor()


def write(request: dict[str, Any]) -> dict[str, Any]:
    """Record raw episodes with `add_episode`: one chunk per picture, or Blosc chunks as ReplayBuffer chooses them."""
    root = Path(request["out"])
    shutil.rmtree(root, ignore_errors=True)
    raw = json.loads((Path(request["raw"]) / "episodes.json").read_text())
    codec = _image_codec(request["kind"])
    buffer = ReplayBuffer.create_empty_zarr(storage=zarr.DirectoryStore(str(root)))
    compressors = dict.fromkeys(raw["cameras"], codec)
    chunks: Any = {}
    if request["kind"] != "blosc":
        chunks = {camera: (1, *size, 3) for camera, size in raw["cameras"].items()}
    for file, _ in raw["episodes"]:
        with np.load(Path(request["raw"]) / file) as arrays:
            buffer.add_episode({k: arrays[k] for k in arrays.files}, chunks=chunks, compressors=compressors)
    return {}


class _Windows(torch.utils.data.Dataset):
    """diffusion_policy's sampler behind the interface of PyTorch; pictures stay bytes."""

    def __init__(self, sampler: Any) -> None:
        self.sampler = sampler

    def __len__(self) -> int:
        return len(self.sampler)

    def __getitem__(self, row: int) -> dict[str, torch.Tensor]:
        return {key: torch.from_numpy(value) for key, value in self.sampler.sample_sequence(row).items()}


class _Order(torch.utils.data.Sampler):
    """The same windows as everybody's, over and over."""

    def __init__(self, rows: list[int]) -> None:
        self._rows = rows

    def __iter__(self) -> Iterator[int]:
        return cycle(self._rows)


_open: dict[str, Any] = {}


def _windows(request: dict[str, Any]) -> tuple[_Windows, list[int]]:
    if not _open:
        if request["kind"] != "blosc":
            _image_codec(request["kind"])
        buffer = ReplayBuffer.copy_from_path(request["path"], store=zarr.MemoryStore())
        before, after = request["before"], request["after"]
        sampler = SequenceSampler(
            buffer, sequence_length=before + 1 + after, pad_before=before, pad_after=after
        )  # one window per frame
        starts = [0, *buffer.episode_ends[:].tolist()]
        assert len(sampler) == starts[-1], "one window per frame"
        _open["windows"] = _Windows(sampler)
        _open["rows"] = [starts[episode] + frame for episode, frame in request["index"]]
    return _open["windows"], _open["rows"]


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """Time a DataLoader, as diffusion_policy's workspaces make it."""
    windows, rows = _windows(request)
    loader = torch.utils.data.DataLoader(
        windows, batch_size=request["batch_size"], sampler=_Order(rows), num_workers=request["workers"]
    )
    asked = (request["batch_size"], request["windows"], request["least_s"])
    return loop.time_windows(iter(loader), *asked, 2 * request["workers"] + 2)


def check(request: dict[str, Any]) -> dict[str, Any]:
    """Save the pictures of the first windows."""
    windows, rows = _windows(request)
    count = request["batch_size"]
    items = [windows[row] for row in rows[:count]]
    pictures: Any = {key: torch.stack([item[key] for item in items]).numpy() for key in request["cameras"]}
    np.savez(request["out"], index=np.array(request["index"][:count]), **pictures)
    return {}


if __name__ == "__main__":
    loop.serve({"about": about, "write": write, "measure": measure, "check": check})

"""LeRobot's side of `foreact bench data`: writes a dataset with LeRobot's own writer, and times LeRobot's own loader.

Run by that command with `--lerobot-python`, an environment of `setup.sh` (LeRobot with datasets v3.0). By hand:

    outputs/peers/lerobot_v30/bin/python scripts/peers/lerobot/bench.py

It answers JSON lines, see `bench_data_loop.py`. One process measures one way of loading: LeRobot's video decoders must
not be used both in a process and in workers forked from it.
"""

# LeRobot is in an environment of its own.
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

from __future__ import annotations

import importlib.util
import json
import logging
import os
import shutil
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("SVT_LOG", "1")

import lerobot
import numpy as np
import torch
from lerobot.datasets.lerobot_dataset import LeRobotDataset

_LOOP = Path(__file__).parents[3] / "src/foreact/commands/bench_data_loop.py"
_spec = importlib.util.spec_from_file_location("bench_data_loop", _LOOP)
assert _spec is not None and _spec.loader is not None
loop = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(loop)


def about(request: dict[str, Any]) -> dict[str, Any]:
    """Versions, and which decoders of videos work here."""
    backends = ["pyav"]
    try:
        import torchcodec
        import torchcodec.decoders

        backends.append("torchcodec")
        version = torchcodec.__version__
    except Exception as error:
        version = f"not usable ({type(error).__name__})" if importlib.util.find_spec("torchcodec") else "not installed"
    # LeRobot 0.5 made "video_reader" another name of "pyav"
    return {"lerobot": lerobot.__version__, "torch": torch.__version__, "torchcodec": version, "backends": backends}


def write(request: dict[str, Any]) -> dict[str, Any]:
    """Record raw episodes with create, add_frame, save_episode and finalize; every setting is LeRobot's default."""
    root = Path(request["out"])
    shutil.rmtree(root, ignore_errors=True)
    raw = json.loads((Path(request["raw"]) / "episodes.json").read_text())
    features: dict[str, Any] = {
        f"observation.images.{camera}": {
            "dtype": request["kind"], "shape": (*size, 3), "names": ["height", "width", "channels"],
        }
        for camera, size in raw["cameras"].items()
    }  # fmt: skip
    features["observation.state"] = {"dtype": "float32", "shape": (raw["state"],), "names": None}
    features["action"] = {"dtype": "float32", "shape": (raw["action"],), "names": None}
    dataset: Any = LeRobotDataset.create(
        "local/bench", raw["fps"], features, root=root, use_videos=request["kind"] == "video", image_writer_threads=2
    )
    for file, instruction in raw["episodes"]:
        with np.load(Path(request["raw"]) / file) as arrays:
            episode = {key: arrays[key] for key in arrays.files}
        for t in range(len(episode["state"])):
            frame = {f"observation.images.{camera}": episode[camera][t] for camera in raw["cameras"]}
            dataset.add_frame(
                {**frame, "observation.state": episode["state"][t], "action": episode["action"][t], "task": instruction}
            )
        dataset.save_episode()
    dataset.finalize()
    shutil.rmtree(root / "images", ignore_errors=True)
    return {}


class _Order(torch.utils.data.Sampler):
    """The same windows as everybody's, over and over."""

    def __init__(self, rows: list[int]) -> None:
        self._rows = rows

    def __iter__(self) -> Iterator[int]:
        return cycle(self._rows)


_open: dict[str, Any] = {}


def _dataset(request: dict[str, Any]) -> tuple[Any, list[int]]:
    if not _open:
        root = Path(request["path"])
        plain = LeRobotDataset("local/bench", root=root)
        cameras, fps = plain.meta.camera_keys, plain.fps
        before, after, chunk = request["before"], request["after"], request["chunk"]
        times = {camera: [t / fps for t in range(-before, after + 1)] for camera in cameras}
        times["action"] = [t / fps for t in range(chunk)]
        backend = request["backend"] or None
        _open["dataset"] = LeRobotDataset(
            "local/bench", root=root, delta_timestamps=times, video_backend=backend, return_uint8=True
        )
        starts = [int(plain.meta.episodes[e]["dataset_from_index"]) for e in range(plain.meta.total_episodes)]
        _open["rows"] = [starts[episode] + frame for episode, frame in request["index"]]
    return _open["dataset"], _open["rows"]


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """Time a DataLoader as LeRobot's training script makes it."""
    dataset, rows = _dataset(request)
    loader = torch.utils.data.DataLoader(
        dataset, batch_size=request["batch_size"], sampler=_Order(rows), num_workers=request["workers"]
    )
    asked = (request["batch_size"], request["windows"], request["least_s"])
    return loop.time_windows(iter(loader), *asked, 2 * request["workers"] + 2)


def check(request: dict[str, Any]) -> dict[str, Any]:
    """Save the pictures of the first windows, height before width before colours."""
    dataset, rows = _dataset(request)
    count = request["batch_size"]
    items = [dataset[row] for row in rows[:count]]
    pictures = {}
    for key in dataset.meta.camera_keys:
        stacked = torch.stack([item[key] for item in items]).permute(0, 1, 3, 4, 2)
        if stacked.dtype != torch.uint8:
            stacked = (stacked * 255).round().to(torch.uint8)
        pictures[key.removeprefix("observation.images.")] = stacked.numpy()
    np.savez(request["out"], index=np.array(request["index"][:count]), **pictures)
    return {}


if __name__ == "__main__":
    logging.disable(logging.INFO)
    loop.serve({"about": about, "write": write, "measure": measure, "check": check})

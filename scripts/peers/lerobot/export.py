"""Export episodes of a store as LeRobot datasets, with what they must hold beside them, for `check.py`.

Run with ForeAct's environment:

    python scripts/peers/lerobot/export.py data/desk_d /tmp/peer --episodes 6
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np

from foreact.datasets.episode import Segment
from foreact.datasets.formats.lerobot_source import LeRobotSource
from foreact.datasets.formats.lerobot_v3 import LeRobotV3Source
from foreact.datasets.formats.lerobot_v3_sink import LeRobotV3Sink
from foreact.datasets.formats.lerobot_v21 import LeRobotV21Source
from foreact.datasets.formats.lerobot_v21_sink import LeRobotV21Sink
from foreact.datasets.store import Store


def main() -> None:
    """Write `<out>/<kind>` and `<out>/<kind>.npz` for every version and codec."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--episodes", type=int, default=6)
    arguments = parser.parse_args()
    store = Store.open(arguments.store)
    step = max(1, len(store) // arguments.episodes)
    numbers = range(0, len(store), step)[: arguments.episodes]
    arguments.out.mkdir(parents=True, exist_ok=True)
    small = {"data_mb": 1, "video_mb": 1}  # many files
    for name, sink_type, source_type, options in (
        ("v30_png", LeRobotV3Sink, LeRobotV3Source, {"codec": "png"}),
        ("v30_av1", LeRobotV3Sink, LeRobotV3Source, {"codec": "av1"}),
        ("v30_h264", LeRobotV3Sink, LeRobotV3Source, {"codec": "h264"}),
        ("v30_png_files", LeRobotV3Sink, LeRobotV3Source, {"codec": "png", **small}),
        ("v30_av1_files", LeRobotV3Sink, LeRobotV3Source, {"codec": "av1:crf=1", **small}),
        ("v21_png", LeRobotV21Sink, LeRobotV21Source, {"codec": "png"}),
        ("v21_av1", LeRobotV21Sink, LeRobotV21Source, {"codec": "av1"}),
        ("v21_h264", LeRobotV21Sink, LeRobotV21Source, {"codec": "h264"}),
    ):
        path = arguments.out / name
        start_s = time.monotonic()
        sink = sink_type(path, store.contract, **options)
        for number in numbers:
            episode = store.read(number)
            half = len(episode) // 2  # sentences that change within an episode
            episode.segments = [Segment(start=1, end=half, instruction=f"first half of: {episode.instruction}")]
            if not sink.has(episode.name):
                sink.write(episode.name, episode)
        sink.finish()
        took_s = time.monotonic() - start_s
        worst = write_truth(store, source_type(path), path.with_suffix(".npz"))
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        print(f"{name}: {size / 1e6:.2f} MB, written in {took_s:.1f} s, worst frame {worst:.1f} dB")


def write_truth(store: Store, source: LeRobotSource, out: Path) -> float:
    """What LeRobot must find: the store's own numbers, and the pictures as our reader decodes them.

    Returns:
        The lowest PSNR of a frame against the store's [dB].
    """
    truth: dict[str, Any] = {}
    tasks, worst_db = [], float("inf")
    for number, name in enumerate(source.names()):
        ours, back = store.read(name), source.read(name)
        arrays = {f"observation.images.{camera}": frames for camera, frames in back.images.items()}
        arrays |= {f"original.{camera}": ours.images[camera] for camera in back.images}
        arrays |= {f"extras.{key}": value.reshape(len(value), -1) for key, value in ours.extras.items()}
        arrays |= {"observation.state": ours.state, "action": ours.action}
        truth |= {f"{number}/{key}": value for key, value in arrays.items() if value is not None}
        half = len(ours) // 2
        first = f"first half of: {ours.instruction}"
        tasks.append([first if 1 <= t < half else ours.instruction for t in range(len(ours))])
        for camera, frames in back.images.items():
            error = ((frames.astype(float) - ours.images[camera]) ** 2).mean(axis=(1, 2, 3)).max()
            worst_db = min(worst_db, 10 * math.log10(255**2 / error) if error else worst_db)
    truth["tasks"] = np.array(json.dumps(tasks))
    np.savez(out, **truth)
    return worst_db


if __name__ == "__main__":
    main()

"""Write small datasets with LeRobot's own writer, and what is in them, as fixtures for ForeAct's reader.

Run with an environment of `setup.sh`; the version of the dataset is that of the installed LeRobot:

    outputs/peers/lerobot_v30/bin/python scripts/peers/lerobot/write.py tests/datasets/fixtures/lerobot
    outputs/peers/lerobot_v21/bin/python scripts/peers/lerobot/write.py tests/datasets/fixtures/lerobot
"""

# LeRobot is in an environment of its own.
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import lerobot
import numpy as np
from lerobot.datasets.lerobot_dataset import CODEBASE_VERSION, LeRobotDataset

FPS = 20
LENGTHS = (4, 2, 6, 3)
TASKS = ("open the drawer", "push the block", "open the drawer", "put the cup away; close the door")
SIZES = {"front": (64, 80), "wrist": (64, 64)}
JOINTS = ["shoulder.pos", "elbow.pos", "gripper.pos"]


def main() -> None:
    """Write `<version>_video`, `<version>_rolled` (v3.0: a new file for every episode or so) and `<version>_image`."""
    out = Path(sys.argv[1])
    version = CODEBASE_VERSION.replace(".", "")
    kinds = ("video", "image") if version == "v21" else ("video", "rolled", "image")
    for kind in kinds:
        root = out / f"{version}_{kind}"
        shutil.rmtree(root, ignore_errors=True)
        write(root, kind)
        truth: Any = read_back(root) | {"lerobot": np.array(lerobot.__version__)}
        np.savez_compressed(out / f"{version}_{kind}.npz", **truth)
        print(f"wrote {root} with lerobot {lerobot.__version__}, datasets {CODEBASE_VERSION}")


def write(root: Path, kind: str) -> None:
    """Record with create, add_frame, save_episode and, where there is one, finalize."""
    picture = "image" if kind == "image" else "video"
    features: dict[str, Any] = {
        "observation.images.front": {
            "dtype": picture, "shape": (*SIZES["front"], 3), "names": ["height", "width", "channels"],
        },
        "observation.images.wrist": {
            "dtype": picture, "shape": (3, *SIZES["wrist"]), "names": ["channels", "height", "width"],
        },
        "observation.state": {"dtype": "float32", "shape": (3,), "names": JOINTS},
        "action": {"dtype": "float32", "shape": (2,), "names": {"motors": ["left", "right"]}},
        "observation.environment_state": {"dtype": "float32", "shape": (4,), "names": None},
        "next.reward": {"dtype": "float32", "shape": (1,), "names": None},
        "next.done": {"dtype": "bool", "shape": (1,), "names": None},
        "grid": {"dtype": "float64", "shape": (2, 3), "names": None},
    }  # fmt: skip
    dataset: Any = LeRobotDataset.create(
        "local/fixture", FPS, features, root=root, robot_type="fixture_arm", use_videos=picture == "video"
    )
    if kind == "rolled":
        dataset.meta.info.data_files_size_in_mb = 1e-6
        dataset.meta.info.video_files_size_in_mb = 0.0015
    for number, length in enumerate(LENGTHS):
        for t in range(length):
            task = TASKS[number] if number != 3 else TASKS[number].split("; ")[t >= 2]
            frame = make_frame(number, t, length)
            if CODEBASE_VERSION == "v2.1":
                dataset.add_frame(frame, task)
            else:
                dataset.add_frame({**frame, "task": task})
        dataset.save_episode()
    if hasattr(dataset, "finalize"):
        dataset.finalize()


def make_frame(number: int, t: int, length: int) -> dict[str, np.ndarray]:
    """A frame whose numbers and pictures tell which one it is."""
    rng = np.random.default_rng([number, t])
    frame = {f"observation.images.{camera}": make_picture(number, t, *size) for camera, size in SIZES.items()}
    return frame | {
        "observation.state": rng.normal(size=3).astype(np.float32),
        "action": rng.normal(size=2).astype(np.float32),
        "observation.environment_state": np.array([number, t, 0.25, -1], np.float32),
        "next.reward": np.array([t / 10], np.float32),
        "next.done": np.array([t == length - 1]),
        "grid": rng.normal(size=(2, 3)),
    }


def make_picture(number: int, t: int, height: int, width: int) -> np.ndarray:
    """A slope of brightness that a video codec keeps well; red tells the frame, green the episode."""
    y, x = np.mgrid[:height, :width]
    return np.stack([20 * t + x / 4, 60 * number + y / 4, 100 + (x + y) / 2], -1).astype(np.uint8)


def read_back(root: Path) -> dict[str, np.ndarray]:
    """Everything as LeRobot reads it; of pictures, the difference to those that were recorded."""
    dataset: Any = LeRobotDataset("local/fixture", root=root, video_backend="pyav")
    truth: dict[str, np.ndarray] = {}
    tasks, items = [], iter(range(len(dataset)))
    for number, length in enumerate(LENGTHS):
        rows = [dataset[next(items)] for _ in range(length)]
        tasks.append([row["task"] for row in rows])
        for key in dataset.meta.features:
            array = np.stack([row[key].numpy() for row in rows])
            if "images" in key:
                size = SIZES[key.rpartition(".")[2]]
                made = np.stack([make_picture(number, t, *size) for t in range(length)])
                array = (np.round(array.transpose(0, 2, 3, 1) * 255) - made).astype(np.int16)  # small: packs well
            elif key not in ("timestamp", "frame_index", "episode_index", "index", "task_index", "grid"):
                made = np.stack([make_frame(number, t, length)[key] for t in range(length)])
                assert np.array_equal(array.reshape(made.shape), made), key
                array = made
            elif key == "grid":  # torch.tensor() makes float32 of it
                array = np.stack([make_frame(number, t, length)[key] for t in range(length)])
            truth[f"{number}/{key}"] = array
    shutil.rmtree(root / "images", ignore_errors=True)  # left by LeRobot 0.3
    return truth | {"tasks": np.array(json.dumps(tasks))}


if __name__ == "__main__":
    main()

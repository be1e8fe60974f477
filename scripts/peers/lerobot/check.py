"""Open exported datasets with LeRobot's own `LeRobotDataset` and compare every item with what must be there.

Run with an environment of `setup.sh`, after `export.py`; nothing is downloaded:

    HF_HUB_OFFLINE=1 outputs/peers/lerobot_v30/bin/python scripts/peers/lerobot/check.py /tmp/peer/v30_*.npz
"""

# LeRobot is in an environment of its own.
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import lerobot
import numpy as np
from lerobot.datasets.compute_stats import aggregate_stats, get_feature_stats, sample_indices
from lerobot.datasets.lerobot_dataset import CODEBASE_VERSION, LeRobotDataset

try:
    from lerobot.utils.feature_utils import dataset_to_policy_features
except ImportError:  # 0.3
    from lerobot.datasets.utils import dataset_to_policy_features

WINDOW = (-2, -1, 0, 1, 3)
"""Frames around the current one, asked for through delta_timestamps."""
STAT_KEYS = ("min", "max", "mean", "std", "count")


def main() -> None:
    """Check the datasets beside the given files; exit with 1 if anything differs."""
    print(f"lerobot {lerobot.__version__}, datasets {CODEBASE_VERSION}")
    failed = False
    for name in sys.argv[1:]:
        path = Path(name)
        with np.load(path) as file:
            truth = {key: file[key] for key in file.files}
        problems, report = check(path.with_suffix(""), truth)
        failed |= bool(problems)
        print(f"{path.stem}: {report}" + "".join(f"\n  WRONG {problem}" for problem in problems[:20]))
    sys.exit(failed)


def check(root: Path, truth: dict[str, np.ndarray]) -> tuple[list[str], str]:
    """Compare one dataset; return what is wrong, and a summary."""
    tasks = json.loads(str(truth.pop("tasks")))
    dataset: Any = LeRobotDataset("local/peer", root=root, video_backend="pyav")
    keys = sorted({key.partition("/")[2] for key in truth if not key.partition("/")[2].startswith("original.")})
    fps = dataset.meta.fps
    lengths = [len(truth[f"{number}/action"]) for number in range(len(tasks))]
    problems, worst, items = [], 0.0, 0
    if (dataset.num_episodes, dataset.num_frames) != (len(tasks), sum(lengths)):
        problems.append(f"counts {dataset.num_episodes} episodes and {dataset.num_frames} frames")
    for number, length in enumerate(lengths):
        for t in range(length):
            item = dataset[items]
            items += 1
            expected = {"episode_index": number, "frame_index": t, "index": items - 1}
            problems += [f"item {items}: {k} is {item[k]}" for k, v in expected.items() if item[k].item() != v]
            if item["task"] != tasks[number][t] or abs(item["timestamp"].item() - t / fps) > 1e-6:
                problems.append(f"item {items}: task {item['task']!r} at {item['timestamp'].item()} s")
            for key in keys:
                difference = distance(item[key], truth[f"{number}/{key}"][t])
                worst = max(worst, difference if "images" in key else 0.0)
                if difference > (1.0 if "images" in key else 0.0):
                    problems.append(f"item {items}: {key} differs by {difference}")
    given = set(dataset_to_policy_features(dataset.meta.features))
    if given != {key for key in keys if not key.startswith("extras.")}:
        problems.append(f"a policy would be given {sorted(given)}")
    windows = check_windows(root, truth, keys, lengths, fps, problems)
    compared = check_stats(dataset, truth, len(tasks), problems)
    report = f"{len(tasks)} episodes, {items} items, {windows} windows, {compared} statistics"
    return problems, f"{report}; pictures differ by at most {worst:.0f} of 255"


def check_windows(
    root: Path, truth: dict[str, np.ndarray], keys: list[str], lengths: list[int], fps: int, problems: list[str]
) -> int:
    """Windows over time, as policies are trained on; frames beyond the ends repeat the last one and are marked."""
    deltas = {key: [d / fps for d in WINDOW] for key in keys}
    dataset: Any = LeRobotDataset("local/peer", root=root, video_backend="pyav", delta_timestamps=deltas)
    start = count = 0
    for number, length in enumerate(lengths):
        for t in sorted({0, 1, length // 2, length - 2, length - 1} & set(range(length))):
            item = dataset[start + t]
            wanted = np.array([t + d for d in WINDOW])
            inside = np.clip(wanted, 0, length - 1)
            count += 1
            for key in keys:
                if not np.array_equal(item[f"{key}_is_pad"].numpy(), wanted != inside):
                    problems.append(f"window at {start + t}: padding of {key}")
                for row, frame in enumerate(inside):
                    difference = distance(item[key][row], truth[f"{number}/{key}"][frame])
                    if difference > (1.0 if "images" in key else 0.0):
                        problems.append(f"window at {start + t}, {key}, row {row}: differs by {difference}")
        start += length
    return count


def check_stats(dataset: Any, truth: dict[str, np.ndarray], episodes: int, problems: list[str]) -> int:
    """Compare the stored statistics with those that LeRobot's functions compute from the same frames.

    They are given float64: in float32 their sums over all pixels are off by up to a thousandth.
    """
    per_episode = []
    for number in range(episodes):
        found = {}
        for key in dataset.meta.features:
            camera = key.removeprefix("observation.images.")
            if f"{number}/original.{camera}" in truth:
                frames = truth[f"{number}/original.{camera}"].transpose(0, 3, 1, 2)
                frames = frames[sample_indices(len(frames))].astype(np.float64)
                stats = get_feature_stats(frames, axis=(0, 2, 3), keepdims=True)
                found[key] = {k: v if k == "count" else np.squeeze(v / 255.0, axis=0) for k, v in stats.items()}
            elif f"{number}/{key}" in truth:
                values = truth[f"{number}/{key}"].astype(np.float64)
                found[key] = get_feature_stats(values, axis=0, keepdims=values.ndim == 1)
        per_episode.append(found)
    expected = aggregate_stats(per_episode)
    has_quantiles = "q01" in dataset.meta.stats["action"]  # what LeRobot's own converter makes of v2.1 has none
    compared = 0
    for key, stats in expected.items():
        span = np.maximum(stats["max"] - stats["min"], 1e-6)
        for name, value in stats.items():
            if name not in dataset.meta.stats[key] and name.startswith("q") and not has_quantiles:
                continue
            compared += 1
            stored = np.asarray(dataset.meta.stats[key][name])
            tolerance = 0 if name == "count" else 1e-6 if name in STAT_KEYS else 1 / 2500  # two bins of its histogram
            if name.startswith("q") and "images" in key:
                tolerance = 1.01 / 255  # a histogram of 5000 bins between whole levels
            if stored.shape != value.shape or (np.abs(stored - value) > tolerance * span + 1e-7).any():
                problems.append(f"statistics of {key}: {name} is {stored.ravel()[:3]}, LeRobot: {value.ravel()[:3]}")
    return compared


def distance(found: Any, expected: np.ndarray) -> float:
    """Largest difference; pictures come as (3, H, W) of 0..1 and count in levels of 255."""
    array = found.numpy()
    if array.ndim == 3 and array.shape[0] == 3:
        array = np.round(array.transpose(1, 2, 0) * 255.0)
    if array.size != expected.size:
        return float("inf")
    return float(np.abs(array.reshape(expected.shape).astype(np.float64) - expected.astype(np.float64)).max())


if __name__ == "__main__":
    main()

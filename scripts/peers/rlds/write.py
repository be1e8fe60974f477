"""Writes a small dataset with TensorFlow Datasets' own writer, with features as in Open X-Embodiment.

What TFDS reads back is kept beside it, in `read_by_tfds.npz`; tests/datasets/test_formats_rlds.py compares ForeAct's
reader with it. Runs in an environment of its own, with TensorFlow but without ForeAct:

    python -m venv .venv-tfds
    .venv-tfds/bin/pip install tensorflow-cpu tensorflow-datasets importlib_resources
    .venv-tfds/bin/python scripts/peers/rlds/write.py tests/datasets/fixtures/rlds_tfds
"""

# TensorFlow is in an environment of its own.
# pyright: reportMissingImports=false

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

F = tfds.features
STEP = {
    "observation": F.FeaturesDict(
        {
            "image": F.Image(shape=(16, 24, 3), encoding_format="png"),
            "wrist_image": F.Image(shape=(None, None, 3), encoding_format="jpeg"),
            "depth": F.Image(shape=(16, 24, 1), dtype=np.uint16, encoding_format="png"),
            "state": F.Tensor(shape=(7,), dtype=np.float32),
            "gripper_closed": F.Tensor(shape=(1,), dtype=np.float64),
            "base_moves": F.Scalar(dtype=np.bool_),
            "workspace_bounds": F.Tensor(shape=(3, 3), dtype=np.float32),
            "natural_language_instruction": F.Text(),
            "natural_language_embedding": F.Tensor(shape=(16,), dtype=np.float32),
        }
    ),
    "action": F.FeaturesDict(
        {
            "world_vector": F.Tensor(shape=(3,), dtype=np.float32),
            "rotation_delta": F.Tensor(shape=(3,), dtype=np.float32),
            "gripper_closedness_action": F.Tensor(shape=(1,), dtype=np.float32),
            "terminate_episode": F.Tensor(shape=(3,), dtype=np.int32),
        }
    ),
    "reward": F.Scalar(dtype=np.float32),
    "discount": F.Scalar(dtype=np.float32),
    "is_first": F.Scalar(dtype=np.bool_),
    "is_last": F.Scalar(dtype=np.bool_),
    "is_terminal": F.Scalar(dtype=np.bool_),
}


class OxeLike(tfds.core.GeneratorBasedBuilder):
    """Five episodes of 3 to 7 steps to train on in two shards, two to validate on."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> Any:
        episode = {"steps": F.Dataset(STEP), "episode_metadata": F.FeaturesDict({"file_path": F.Text()})}
        return tfds.core.DatasetInfo(builder=self, features=F.FeaturesDict(episode))

    def _split_generators(self, dl_manager: Any) -> Any:
        return {"train": self._generate_examples(0, 5), "val": self._generate_examples(100, 2)}

    def _generate_examples(self, first: int, count: int) -> Iterator[tuple[str, Any]]:
        for number in range(first, first + count):
            steps = [_step(number, t, 3 + number % 100) for t in range(3 + number % 100)]
            yield f"{number}", {"steps": steps, "episode_metadata": {"file_path": f"/data/{number}.npy"}}


def _step(number: int, t: int, length: int) -> dict[str, Any]:
    rng = np.random.default_rng([number, t])
    y, x = np.mgrid[:12, :20]
    return {
        "observation": {
            "image": rng.integers(0, 255, (16, 24, 3), np.uint8),
            "wrist_image": np.stack([10 * x + t, 20 * y, 0 * x + 30 * (number % 7)], -1).astype(np.uint8),
            "depth": np.full((16, 24, 1), 1000 + t, np.uint16),
            "state": rng.normal(size=7).astype(np.float32),
            "gripper_closed": rng.random(1),
            "base_moves": bool(t % 2),
            "workspace_bounds": np.eye(3, dtype=np.float32),
            "natural_language_instruction": f"lift block {number}, größer" if t < 4 else "put it down",
            "natural_language_embedding": np.ones(16, np.float32),
        },
        "action": {
            "world_vector": rng.normal(size=3).astype(np.float32),
            "rotation_delta": rng.normal(size=3).astype(np.float32),
            "gripper_closedness_action": np.array([1.0 - 2.0 * (t % 2)], np.float32),
            "terminate_episode": np.array([t == length - 1, t, -1], np.int32),
        },
        "reward": float(t == length - 1),
        "discount": 1.0,
        "is_first": t == 0,
        "is_last": t == length - 1,
        "is_terminal": t == length - 1,
    }


def main(out: Path) -> None:
    """Write the dataset, read it back with TFDS, and keep both in `out`."""
    with tempfile.TemporaryDirectory() as folder:
        builder = OxeLike(data_dir=folder)
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(num_shards=2))
        found: dict[str, np.ndarray] = {}
        for split in ("train", "val"):
            read = tfds.as_numpy(builder.as_dataset(split=split, shuffle_files=False))
            for number, episode in enumerate(read):
                steps = list(episode["steps"])
                for part, keys in (("observation", STEP["observation"]), ("action", STEP["action"])):
                    for key in keys:
                        values = np.stack([step[part][key] for step in steps])
                        found[f"{split}/{number}/{part}/{key}"] = (
                            np.array([text.decode() for text in values]) if values.dtype.kind in "OS" else values
                        )
                found[f"{split}/{number}/reward"] = np.stack([step["reward"] for step in steps])
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(Path(folder) / "oxe_like/1.0.0", out)
        np.savez_compressed(out / "read_by_tfds.npz", **found)  # pyright: ignore[reportArgumentType]
    print(f"{out}: written and read by tensorflow_datasets {tfds.__version__}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

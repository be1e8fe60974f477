"""robomimic HDF5 out. Layout: https://robomimic.github.io/docs/datasets/overview.html (MIT)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from foreact.datasets.episode import EpisodeData
from foreact.datasets.formats.base import FormatError
from foreact.datasets.formats.convert import partial_path
from foreact.datasets.formats.embedded import dataset_json, episode_json, key_map, state_columns
from foreact.datasets.formats.guess import one_of
from foreact.datasets.formats.staged import Staged, put_in_place
from foreact.vla.contract import Contract

_GYM = 2
"""robomimic's EnvType for environments that it makes by gymnasium."""


class RobomimicSink:
    """One file: `data/demo_<i>` with `actions`, `rewards`, `dones`, `obs/<camera>_image` and `obs/<state field>`."""

    format = "robomimic"
    ONE_STEP = True
    OPTIONS = {
        "compress": "yes (gzip, default) or no: how images are kept",
        "next_obs": "no (default) or yes: also write next_obs, which doubles the file; only off-policy methods need it",
    }

    def __init__(self, path: Path, contract: Contract, *, compress: str = "yes", next_obs: str = "no"):
        if not contract.action:
            raise FormatError("robomimic needs actions; this dataset has none (action-free video)")
        self.path, self.contract = path, contract
        self._compress = one_of(compress, "compress", ("yes", "no")) == "yes"
        self._next_obs = one_of(next_obs, "next_obs", ("yes", "no")) == "yes"
        self._keys = key_map(contract, camera_suffix="_image")
        self._staged = Staged(partial_path(path), ".hdf5")
        self.left_out: list[str] = []
        """Episodes that the format cannot hold."""

    @property
    def notes(self) -> Sequence[str]:
        """What the format has no place for."""
        notes = [
            "instruction, segments, meta and the contract are in attributes named 'foreact', which robomimic ignores",
            "extras are in data/demo_<i>/extras, which robomimic ignores; simulator states ('states') are not written",
            "rewards are the extra 'reward' if there is one, else 0; dones are 1 in the last frame",
            "env_args name no environment that robomimic could make: its rollouts need one of yours",
        ]
        bounds = [f.name for f in self.contract.action if f.low is None or f.high is None or f.low < -1 or f.high > 1]
        if bounds:
            notes.append(f"robomimic expects actions in [-1, 1]; beyond may be: {', '.join(bounds)}")
        if self.left_out:
            notes.append(f"left out, without actions: {', '.join(self.left_out)}")
        return notes

    def has(self, name: str) -> bool:
        """Whether the episode was written by an earlier, interrupted run."""
        return name in self._staged

    def write(self, name: str, episode: EpisodeData) -> None:
        """Write one demonstration aside; an episode without actions is left out, and noted."""
        if episode.action is None:
            self.left_out.append(name)
            return
        self._staged.add(name, lambda path: self._write_demo(path, name, episode))

    def finish(self) -> None:
        """Put the file together.

        Raises:
            FormatError: If there is no episode with actions.
        """
        import h5py

        if not self._staged.files:
            raise FormatError(f"{self.path}: no episode has actions; there is nothing to write")
        part = self._staged.scratch("whole")
        splits: dict[str, list[bytes]] = {}
        with h5py.File(part, "w") as file:
            data = file.create_group("data")
            total = 0
            for number, path in enumerate(self._staged.files.values()):
                with h5py.File(path, "r") as staged:
                    staged.copy("demo", data, name=f"demo_{number}")
                    length = int(staged["demo"].attrs["num_samples"])  # pyright: ignore[reportArgumentType]
                    split = _split(staged["demo"].attrs["foreact"])
                total += length
                if split:
                    splits.setdefault(split, []).append(f"demo_{number}".encode())
            data.attrs["total"] = total
            data.attrs["env_args"] = json.dumps(self._env_args())
            data.attrs["foreact"] = json.dumps(dataset_json(self.contract, self._keys))
            for split, demos in sorted(splits.items()):
                file.create_dataset(f"mask/{split}", data=np.array(demos, "S"))
        put_in_place(part, self.path)
        self._staged.clear()

    def _env_args(self) -> dict[str, Any]:
        kwargs = {"control_freq": self.contract.rate_hz}
        return {"env_name": self.contract.embodiment, "type": _GYM, "env_kwargs": kwargs}

    def _write_demo(self, path: Path, name: str, episode: EpisodeData) -> None:
        import h5py

        length = len(episode)
        assert episode.action is not None
        with h5py.File(path, "w") as file:
            demo = file.create_group("demo")
            demo.attrs["num_samples"] = length
            demo.attrs["model_file"] = ""
            demo.attrs["foreact"] = json.dumps(episode_json(name, episode))
            reward = episode.extras.get("reward")
            rewards = reward if reward is not None and reward.shape == (length,) else np.zeros(length)
            demo.create_dataset("actions", data=episode.action)
            demo.create_dataset("rewards", data=rewards.astype(np.float64))
            demo.create_dataset("dones", data=(np.arange(length) == length - 1).astype(np.int64))
            self._write_obs(demo.create_group("obs"), episode, 0)
            if self._next_obs:
                self._write_obs(demo.create_group("next_obs"), episode, 1)
            for key, value in sorted(episode.extras.items()):
                demo.create_dataset(f"extras/{key}", data=value)

    def _write_obs(self, group: Any, episode: EpisodeData, shift: int) -> None:
        later = np.minimum(np.arange(len(episode)) + shift, len(episode) - 1)
        gzip = {"compression": "gzip", "compression_opts": 4} if self._compress else {}
        for camera, images in sorted(episode.images.items()):
            group.create_dataset(self._keys.cameras[camera], data=images[later], chunks=(1, *images.shape[1:]), **gzip)
        if episode.state is not None:
            for key, columns in zip(self._keys.state, state_columns(self.contract), strict=True):
                group.create_dataset(key, data=episode.state[later, columns])


def _split(text: Any) -> str:
    """robomimic's filter key for the split that an episode names in its meta."""
    found = json.loads(text)["meta"].get("split")
    return {"train": "train", "val": "valid", "valid": "valid", "validation": "valid", "test": "test"}.get(found, "")

"""Reads a robomimic file that ForeAct wrote with robomimic's own `SequenceDataset`, and compares every number.

Runs in an environment of its own, with robomimic (MIT) but without ForeAct:

    python -m venv .venv-robomimic
    .venv-robomimic/bin/pip install torch h5py tqdm psutil imageio termcolor six
    .venv-robomimic/bin/pip install --no-deps robomimic
    foreact data convert data/desk_d desk_d.hdf5
    .venv-robomimic/bin/python scripts/peers/robomimic/read_ours.py desk_d.hdf5
"""

# robomimic is in an environment of its own.
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false, reportArgumentType=false

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import robomimic
import robomimic.utils.obs_utils as ObsUtils
import torch
from robomimic.utils.dataset import SequenceDataset


def main() -> None:
    """Print what was read; exit status 1 on the first difference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--next-obs", action="store_true", help="the file was written with --set next_obs=yes")
    arguments = parser.parse_args()
    file: Any
    with h5py.File(arguments.file) as file:
        demos = sorted(file["data"], key=lambda name: int(name.removeprefix("demo_")))
        keys = sorted(file["data/demo_0/obs"])
        rgb = [key for key in keys if file[f"data/demo_0/obs/{key}"].ndim == 4]
        low = [key for key in keys if key not in rgb]
        actions = np.concatenate([file[f"data/{demo}/actions"][:] for demo in demos])
        obs = {key: np.concatenate([file[f"data/{demo}/obs/{key}"][:] for demo in demos]) for key in keys}
        env = json.loads(file["data"].attrs["env_args"])
        masks = sorted(file["mask"]) if "mask" in file else []
        sizes = {demo: len(file[f"data/{demo}/actions"]) for demo in demos}
        split = {mask: [name.decode() for name in file[f"mask/{mask}"][:]] for mask in masks}
    ObsUtils.initialize_obs_utils_with_obs_specs({"obs": {"low_dim": low, "rgb": rgb}})
    print(
        f"robomimic {robomimic.__version__}, torch {torch.__version__}, h5py {h5py.__version__}, numpy {np.__version__}"
    )
    print(f"environment: {json.dumps(env)}")

    options: dict[str, Any] = dict(
        obs_keys=keys, dataset_keys=("actions", "rewards", "dones"), frame_stack=1, seq_length=1, pad_frame_stack=True,
        pad_seq_length=True, get_pad_mask=False, goal_mode=None, hdf5_use_swmr=True, load_next_obs=arguments.next_obs,
    )  # fmt: skip
    for cache in (None, "low_dim", "all"):
        dataset = SequenceDataset(hdf5_path=str(arguments.file), hdf5_cache_mode=cache, **options)
        assert len(dataset) == len(actions), (len(dataset), len(actions))
        for number in np.unique(np.linspace(0, len(actions) - 1, 500).astype(int)):
            item = dataset[int(number)]
            assert np.array_equal(item["actions"][0], actions[number]), number
            for key in keys:
                found = item["obs"][key][0]
                if key in rgb and found.shape != obs[key][number].shape:  # robomimic puts channels first, in 0 to 1
                    found = np.moveaxis(found, 0, -1)
                expected = obs[key][number]
                scaled = expected / 255.0 if key in rgb and found.dtype != np.uint8 else expected
                assert np.allclose(found, scaled, atol=1e-6), (number, key)
        print(f"cache {cache}: {len(dataset)} samples of {len(demos)} demonstrations agree")
    for mask, names in split.items():
        part = SequenceDataset(hdf5_path=str(arguments.file), hdf5_cache_mode=None, filter_by_attribute=mask, **options)
        assert len(part) == sum(sizes[name] for name in names), mask
        print(f"filter {mask!r}: {len(part)} samples")
    loader = torch.utils.data.DataLoader(dataset, batch_size=16, shuffle=True)
    batch = next(iter(loader))
    print({key: tuple(value.shape) for key, value in batch["obs"].items()}, tuple(batch["actions"].shape))


if __name__ == "__main__":
    main()

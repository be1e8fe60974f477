"""Reads a replay buffer that ForeAct wrote with diffusion_policy's own `ReplayBuffer` and `SequenceSampler`.

Runs in an environment of its own, with zarr 2 as diffusion_policy needs it, but without ForeAct:

    git clone https://github.com/real-stanford/diffusion_policy
    python -m venv .venv-dp && .venv-dp/bin/pip install "zarr<3" "numcodecs<0.16" "numpy<2" numba
    foreact data convert data/desk_d desk_d.zarr
    .venv-dp/bin/python scripts/peers/diffusion_policy/read_ours.py diffusion_policy desk_d.zarr

A `.zarr.zip` is read too, as diffusion_policy reads those of UMI: through `zarr.ZipStore`, copied into memory.
"""

# diffusion_policy is in an environment of its own.
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import zarr


def main() -> None:
    """Print what was read; exit status 1 on the first difference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clone", type=Path, help="a clone of diffusion_policy")
    parser.add_argument("buffer", type=Path)
    arguments = parser.parse_args()
    sys.path.insert(0, str(arguments.clone))
    from diffusion_policy.common.replay_buffer import ReplayBuffer
    from diffusion_policy.common.sampler import SequenceSampler

    path = str(arguments.buffer)
    print(f"zarr {zarr.__version__}, numpy {np.__version__}")
    if path.endswith(".zip"):
        with zarr.ZipStore(path, mode="r") as archive:
            buffers = [ReplayBuffer.copy_from_store(src_store=archive, store=zarr.MemoryStore())]
    else:
        buffers = [ReplayBuffer.create_from_path(path), ReplayBuffer.copy_from_path(path)]
    for buffer in buffers:
        print(f"{buffer.n_episodes} episodes, {buffer.n_steps} steps: ", {k: v.shape for k, v in buffer.items()})
        assert buffer.n_steps == buffer.episode_ends[-1]
        episode = buffer.get_episode(1)
        start, stop = int(buffer.episode_ends[0]), int(buffer.episode_ends[1])
        for key, value in episode.items():
            assert np.array_equal(value, np.asarray(buffer[key])[start:stop]), key
        sampler = SequenceSampler(buffer, sequence_length=8, pad_before=1, pad_after=7)
        lengths = np.diff(np.concatenate([[0], buffer.episode_ends[:]]))
        assert len(sampler) == int(np.sum(lengths + 1)), "one window per frame, and one that begins before it"
        sample = sampler.sample_sequence(len(sampler) // 2)
        print(f"{len(sampler)} windows of 8: ", {key: value.shape for key, value in sample.items()})


if __name__ == "__main__":
    main()

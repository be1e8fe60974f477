"""Training checkpoints: a policy's folder plus `training/`, from which a killed run goes on bit for bit.

`model.safetensors` holds the averaged weights, ready to act with; `training/state.safetensors` holds the live weights,
the optimiser and the average; `training/state.json` the step and what the run was. No generator state is needed: every
random number of a step follows from (seed, step).
"""

from __future__ import annotations

import json
import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from foreact.vla.checkpoint import CheckpointError, policy_files, read_tensors, tensor_file, to_json
from foreact.vla.files import DamagedFolder, sweep, verify_folder, write_folder
from foreact.vla.trainable import TrainablePolicy
from foreact.vla.training.ema import Ema
from foreact.vla.training.ranks import put, whole

STATE_FORMAT = 1
_NAME = re.compile(r"step_(\d{8})")
_MOMENTS = ("exp_avg", "exp_avg_sq", "step")


def gather(policy: TrainablePolicy, optimizer: torch.optim.Optimizer, ema: Ema) -> dict[str, Tensor]:
    """All that a run goes on from, whole and on the CPU: "model/", "ema/" and the optimiser's moments.

    Where weights are split between processes, all of them must call this.
    """
    tensors = {f"model/{name}": _kept(value) for name, value in policy.state_dict().items()}
    tensors |= {f"ema/{name}": _kept(value) for name, value in ema.weights.items()}
    for name, parameter in trainable(policy).items():
        for key in _MOMENTS:
            if parameter in optimizer.state:
                tensors[f"{key}/{name}"] = _kept(torch.as_tensor(optimizer.state[parameter][key]))
    return tensors


def _kept(tensor: Tensor) -> Tensor:
    return whole(tensor.detach()).cpu()


def averaged(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights to act with, out of `gather`: averages where there are any."""
    live = {name.removeprefix("model/"): value for name, value in tensors.items() if name.startswith("model/")}
    return live | {name.removeprefix("ema/"): value for name, value in tensors.items() if name.startswith("ema/")}


def save_training(
    parent: Path, policy: TrainablePolicy, tensors: dict[str, Tensor], info: dict[str, Any], keep: int
) -> Path:
    """Write `parent/step_<step>` atomically, check it, then remove all but the newest `keep`.

    Args:
        parent: Folder of this run's training checkpoints.
        policy: The policy, for its config, contract and statistics.
        tensors: From `gather`.
        info: JSON values to keep, among them "step": optimiser steps done.
        keep: How many checkpoints stay.
    """
    files = policy_files(policy, averaged(tensors))
    files["training/state.json"] = to_json({"format": STATE_FORMAT, **info})
    files["training/state.safetensors"] = tensor_file(tensors)
    folder = parent / f"step_{info['step']:08d}"
    write_folder(folder, files)
    verify_folder(folder)
    for old in checkpoints(parent)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return folder


def checkpoints(parent: Path) -> list[Path]:
    """Training checkpoints in `parent`, oldest first."""
    found = [path for path in parent.glob("step_*") if _NAME.fullmatch(path.name) and path.is_dir()]
    return sorted(found, key=lambda path: path.name)


def newest(parent: Path, note: Callable[[str], None] = warnings.warn) -> Path | None:
    """The newest undamaged training checkpoint, or None if there is none; damaged ones are reported to `note`.

    Raises:
        CheckpointError: If there are checkpoints, but all are damaged.
    """
    sweep(parent)
    folders = checkpoints(parent)
    for folder in reversed(folders):
        try:
            verify_folder(folder)
        except DamagedFolder as error:
            note(f"{error}\nfalling back to the checkpoint before it")
            continue
        return folder
    if folders:
        raise CheckpointError(f"all {len(folders)} checkpoints in {parent} are damaged; start again in another folder")
    return None


def load_training(folder: Path, policy: TrainablePolicy, optimizer: torch.optim.Optimizer, ema: Ema) -> dict[str, Any]:
    """Put policy, optimiser and average back where they were; returns the saved `info`.

    Raises:
        CheckpointError: If the checkpoint is of another format or another policy.
    """
    info = read_info(folder)
    tensors = read_tensors(folder / "training/state.safetensors")
    live = trainable(policy)
    expected = {f"model/{name}": value for name, value in policy.state_dict().items()}
    wrong = [name for name, value in expected.items() if name not in tensors or tensors[name].shape != value.shape] + [
        name for name in tensors if name.startswith("model/") and name not in expected
    ]
    if wrong:
        raise CheckpointError(
            f"{folder} was trained with other sizes: {', '.join(wrong[:4])} differ; "
            "use the settings of that run, or init_from=DIR to take only what fits"
        )
    with torch.no_grad():
        for name, value in policy.state_dict().items():
            put(value, tensors[f"model/{name}"])
        for name, parameter in live.items():
            put(ema.weights[name], tensors[f"ema/{name}"])
            if f"step/{name}" in tensors:
                state = {key: torch.empty_like(parameter) for key in ("exp_avg", "exp_avg_sq")}
                for key, moment in state.items():
                    put(moment, tensors[f"{key}/{name}"])
                state["step"] = tensors[f"step/{name}"].float().to(parameter.device)
                optimizer.state[parameter] = state
    return info


def read_info(folder: Path) -> dict[str, Any]:
    """What a training checkpoint says of its run: step, settings, identity.

    Raises:
        CheckpointError: If it is of another format.
    """
    info = json.loads((folder / "training/state.json").read_text())
    if info.get("format") != STATE_FORMAT:
        raise CheckpointError(f"{folder}: training format {info.get('format')!r}; this ForeAct reads {STATE_FORMAT}")
    return info


def trainable(policy: TrainablePolicy) -> dict[str, torch.nn.Parameter]:
    """Name -> parameter, those that are trained."""
    return {name: parameter for name, parameter in policy.named_parameters() if parameter.requires_grad}

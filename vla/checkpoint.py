"""A policy in a folder that needs nothing else.

config.json         format, name of the policy, its sizes
model.safetensors   all weights, frozen towers included
statistics.json     of the training data's state
contract.yaml       what it requires of an environment or a robot
text/, vision/      tokenizer and config of pretrained towers, if it has any
provenance.json     data hashes and settings of its training, if it was trained
README.md           its model card, see `foreact.vla.model_card`
manifest.json       sizes and SHA-256 of the above, written last
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from foreact.vla.contract import Contract
from foreact.vla.errors import ForeActError
from foreact.vla.files import DamagedFolder, verify_folder, write_folder
from foreact.vla.hub import local_checkpoint
from foreact.vla.model_card import CARD, Facts, plain_provenance, render
from foreact.vla.registry import policy_class
from foreact.vla.trainable import TrainablePolicy

CHECKPOINT_FORMAT = 1
PROVENANCE = "provenance.json"

Files = dict[str, bytes | Callable[[Path], None]]


class CheckpointError(ForeActError):
    """A checkpoint cannot be read."""


def to_json(value: object) -> bytes:
    """Readable JSON bytes."""
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()


def tensor_file(tensors: Mapping[str, Tensor]) -> Callable[[Path], None]:
    """A function that writes `tensors` as a safetensors file."""
    plain = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}

    def write(path: Path) -> None:
        try:
            save_file(plain, path)
        except SafetensorError as error:  # a full disk, among others
            raise OSError(f"{path.name}: {error}") from error

    return write


def policy_files(policy: TrainablePolicy, weights: Mapping[str, Tensor] | None = None) -> Files:
    """The files of a policy's checkpoint, with `weights` instead of its own (an average of them, for instance)."""
    head = {"format": CHECKPOINT_FORMAT, "policy": policy.name, "config": policy.config.to_dict()}
    tensors, towers = weights or policy.state_dict(), policy.tower_files()
    provenance = None if policy.provenance is None else plain_provenance(policy.provenance)
    card = Facts(
        policy=policy.name, config=policy.config.to_dict(), contract=policy.contract, provenance=provenance,
        parameters=sum(tensor.numel() for tensor in tensors.values()),
        towers=sorted({name.split("/")[0] for name in towers}),
    )  # fmt: skip
    return {
        "config.json": to_json(head),
        "statistics.json": to_json(policy.statistics),
        "contract.yaml": policy.contract.to_yaml().encode(),
        **towers,
        **({} if provenance is None else {PROVENANCE: to_json(provenance)}),
        CARD: render(card).encode(),
        "model.safetensors": tensor_file(tensors),
    }


def save_policy(policy: TrainablePolicy, folder: Path, weights: Mapping[str, Tensor] | None = None) -> None:
    """Write a checkpoint, atomically.

    Raises:
        ForeActError: If it cannot be written.
    """
    write_folder(Path(folder), policy_files(policy, weights))


def load_policy(
    folder: Path | str, device: str | torch.device = "cpu", *, revision: str | None = None
) -> TrainablePolicy:
    """Read a checkpoint; the policy is in evaluation mode.

    Args:
        folder: A folder, or "hf://user/name" of a model hub, see `foreact.vla.hub`.
        device: Where the weights go.
        revision: Branch, tag or commit on the hub.

    Raises:
        DamagedFolder: If a file is missing or damaged.
        CheckpointError: If it is of another format, or its parts do not fit together.
        HubError: If it cannot be had from the hub.
    """
    folder = local_checkpoint(folder, revision)
    names = verify_folder(folder)
    head = _read_json(folder / "config.json")
    if head.get("format") != CHECKPOINT_FORMAT:
        raise CheckpointError(
            f"{folder}: checkpoint format {head.get('format')!r}; this ForeAct reads {CHECKPOINT_FORMAT}"
        )
    kind = policy_class(str(head.get("policy")))
    contract = Contract.load(folder / "contract.yaml")
    statistics = _read_json(folder / "statistics.json")
    try:
        policy = kind.from_parts(head.get("config", {}), contract, statistics, folder)
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder}: config, contract and statistics do not fit together: {error}") from error
    weights = read_tensors(folder / "model.safetensors")
    if any(name in weights and not torch.equal(value, weights[name]) for name, value in policy.normaliser().items()):
        raise CheckpointError(f"{folder}: statistics.json is not what the weights were trained with")
    load_weights(policy, weights, source=str(folder))
    if PROVENANCE in names:
        policy.provenance = _read_json(folder / PROVENANCE)
    return policy.to(device).eval()


def load_weights(policy: TrainablePolicy, weights: Mapping[str, Tensor], source: str) -> None:
    """Copy weights into a policy; every name and shape must fit.

    Raises:
        CheckpointError: Naming what is missing, unknown or of another shape.
    """
    own = policy.state_dict()
    problems = [
        f"{name} has shape {tuple(weights[name].shape)}, expected {tuple(tensor.shape)}"
        for name, tensor in own.items()
        if name in weights and weights[name].shape != tensor.shape
    ]
    problems += [f"lacks {name}" for name in own if name not in weights]
    problems += [f"has unknown {name}" for name in weights if name not in own]
    if problems:
        lines = "\n".join(f"  - {line}" for line in problems[:8])
        more = f"\n  and {len(problems) - 8} more" if len(problems) > 8 else ""
        raise CheckpointError(f"the weights in {source} do not fit its config:\n{lines}{more}")
    policy.load_state_dict(dict(weights), strict=True)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file.

    Raises:
        DamagedFolder: If it is not one.
    """
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise DamagedFolder(f"{path} is not a safetensors file: {error}") from error


def _read_json(path: Path) -> dict:
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: expected an object, found {type(value).__name__}")
    return value

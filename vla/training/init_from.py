"""Begin with another checkpoint's weights: all that have the same name and shape, and a list of what was not taken."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from foreact.vla.checkpoint import CheckpointError, read_tensors
from foreact.vla.files import verify_folder
from foreact.vla.trainable import TrainablePolicy

_OWN = ("encode_state.",)
"""Statistics belong to the data that is trained on now."""


@dataclass(frozen=True)
class Taken:
    """What `init_from` did, by tensor name."""

    taken: list[str]
    fresh: list[str]
    """Of the policy, but not (or in another shape) in the checkpoint: stays as initialised."""
    unused: list[str]
    """Only in the checkpoint."""

    def __str__(self) -> str:
        return "\n".join(
            f"  {label}: {len(names)} tensors ({_groups(names)})"
            for label, names in (("taken", self.taken), ("fresh", self.fresh), ("unused", self.unused))
        )


def init_from(policy: TrainablePolicy, folder: Path) -> Taken:
    """Copy weights from a checkpoint folder.

    Raises:
        DamagedFolder: If the checkpoint is damaged.
        CheckpointError: If nothing fits.
    """
    verify_folder(folder)
    weights = read_tensors(folder / "model.safetensors")
    own = {name: tensor for name, tensor in policy.state_dict().items() if not name.startswith(_OWN)}
    taken = [name for name, tensor in own.items() if name in weights and weights[name].shape == tensor.shape]
    if not taken:
        raise CheckpointError(f"nothing in {folder} fits this policy; was it trained with another policy?")
    with torch.no_grad():
        for name in taken:
            own[name].copy_(weights[name])
        policy.after_init_from(taken)
    return Taken(
        taken=taken,
        fresh=[name for name in own if name not in taken],
        unused=[name for name in weights if name not in own and not name.startswith(_OWN)],
    )


def _groups(names: list[str]) -> str:
    return ", ".join(dict.fromkeys(name.split(".")[0] for name in names)) or "none"

"""Which of the published files of the GR-1 family this is, and whether it holds exactly what that one holds.

| kind          | made by                                 | differs from GR-1                                         |
| ------------- | --------------------------------------- | --------------------------------------------------------- |
| gr1           | bytedance/GR-1: snapshot_ABC(D).pt      |                                                           |
| gr1_training  | EDiRobotics/GR1-Training                | a query per action of a chunk; perhaps a position table   |
| grmg_video    | bytedance/GR-MG: pretrained.pt          | prefix "model."; no robot; goal pictures, which we drop   |
| mae           | facebookresearch/mae: mae_pretrain_...  | the picture encoder alone                                 |
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from foreact.policies.gr1.published_config import PublishedGR1Config
from foreact.vla.errors import ForeActError

IGNORED = re.compile(
    r"transformer\.h\.\d+\.attn\.(bias|masked_bias)"  # the causal mask, in code that kept it as a buffer
    r"|model_clip\.(visual\..+|logit_scale|initial_\w+)"  # CLIP's other half
    r"|model_mae\.(head|fc_norm|decoder_\w+|mask_token).*"  # MAE's decoder or a classifier
)
"""What may be in a file though the network does not have it."""
GOAL = re.compile(r"embed_goal_(image|patch)\.(weight|bias)")
"""What GR-MG's pre-training has besides."""
OPTIONAL = ("transformer.wte.weight",)
"""What may be missing: it is never read."""
TITLES = {
    "gr1": "GR-1 (bytedance/GR-1)",
    "gr1_training": "GR-1 by GR1-Training (EDiRobotics/GR1-Training)",
    "grmg_video": "GR-MG's video pre-training (bytedance/GR-MG)",
    "mae": "MAE (facebookresearch/mae)",
}


class WrongWeights(ForeActError):
    """A file's tensors are not those of the network it should be for."""


@dataclass(frozen=True)
class Family:
    """A recognised file."""

    kind: str
    weights: dict[str, Tensor]
    """By GR-1's names, without prefixes; towers under `model_mae.` and `model_clip.`."""

    @property
    def title(self) -> str:
        """For people."""
        return TITLES[self.kind]


def recognise(weights: Mapping[str, Tensor], source: str) -> Family:
    """Name the kind by its tensors' names.

    Raises:
        WrongWeights: If it is none of the four.
    """
    names = dict(weights)
    if names and all(name.startswith("model.") for name in names):
        names = {name.removeprefix("model."): tensor for name, tensor in names.items()}
        names = {re.sub(r"^text_encoder\.", "model_clip.", name): tensor for name, tensor in names.items()}
    if any(name.startswith(("pred_style_vector.", "decode_action.", "progress_queries.")) for name in names):
        raise WrongWeights(
            f"{source} is a policy of GR-MG, whose action head (a conditional VAE) is not GR-1's; its pre-trained "
            "video network (pretrained.pt) can be converted"
        )
    if any(GOAL.fullmatch(name) for name in names):
        return Family("grmg_video", names)
    if any(name.startswith(("transformer.", "perceiver_resampler.")) for name in names):
        chunked = {"action_chunk_queries.weight", "transformer.wpe.weight"} & set(names)
        return Family("gr1_training" if chunked else "gr1", names)
    if "patch_embed.proj.weight" in names and "pos_embed" in names:
        return Family("mae", {f"model_mae.{name}": tensor for name, tensor in names.items()})
    first = ", ".join(list(names)[:4])
    raise WrongWeights(f"{source} is none of {', '.join(TITLES.values())}; its {len(names)} tensors begin with {first}")


def config_of(family: Family, base: PublishedGR1Config) -> PublishedGR1Config:
    """`base`, with the history, chunk and position table that a file of GR1-Training says."""
    changes: dict[str, int | bool] = {}
    if family.kind != "gr1_training":
        return base
    tables = {"history": "embed_timestep", "chunk": "action_chunk_queries", "positions": "transformer.wpe"}
    for field, name in tables.items():
        table = family.weights.get(f"{name}.weight")
        if table is not None and table.ndim == 2:
            changes[field] = len(table)
    changes["chunk_queries"] = "action_chunk_queries.weight" in family.weights
    return dataclasses.replace(base, **changes)


def check(family: Family, expected: Mapping[str, Tensor], source: str) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors that the network takes, as float32, and the names of those it ignores.

    Args:
        family: From `recognise`, text tower left out.
        expected: The network's own state dict, likewise.
        source: Name of the file, for the message.

    Raises:
        WrongWeights: One message with every tensor that is missing, unknown, misshapen, not finite or no float.
    """
    ignored = [name for name in family.weights if IGNORED.fullmatch(name)]
    if family.kind == "grmg_video":
        ignored += [name for name in family.weights if GOAL.fullmatch(name)]
    given = {name: tensor for name, tensor in family.weights.items() if name not in set(ignored)}
    problems = [f"lacks {name}" for name in expected if name not in given and name not in OPTIONAL]
    problems += [f"has unknown {name} {tuple(given[name].shape)}" for name in given if name not in expected]
    taken: dict[str, Tensor] = {}
    for name in expected:
        if name not in given:
            continue
        tensor, shape = given[name], expected[name].shape
        if tensor.shape != shape:
            problems.append(f"{name} has shape {tuple(tensor.shape)}, expected {tuple(shape)}")
        elif not tensor.is_floating_point():
            problems.append(f"{name} holds {tensor.dtype}, expected floating-point numbers")
        elif not torch.isfinite(tensor).all():
            problems.append(f"{name} holds {int((~torch.isfinite(tensor)).sum())} numbers that are not finite")
        else:
            taken[name] = tensor.float()
    fixed = "decoder_pos_embed"
    if fixed in taken and (taken[fixed] - expected[fixed]).abs().max() > 1e-3:
        problems.append(f"{fixed} is not MAE's table of sines and cosines, which never changes")
    if problems:
        lines = "\n".join(f"  - {line}" for line in problems)
        raise WrongWeights(f"{source}, read as {family.title}, does not fit in {len(problems)} places:\n{lines}")
    return taken, ignored

"""The page that goes with converted weights: where they come from, and what to know before using them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from foreact.policies.gr1.published_import import Converted

_ABOUT = {
    "gr1": (
        "GR-1 as released: fine-tuned on CALVIN. One action per plan. Two groups outside of its authors measured 3.24 "
        "and 3.25 tasks in a row for the weights of split ABC on scene D, where the paper has 3.06; nobody published a "
        "re-measurement for split ABCD (paper: 4.21).",
        "Apache-2.0 (bytedance/GR-1)",
    ),
    "gr1_training": (
        "GR-1's network trained by others. Execute one action of each chunk: its author measured 3.56 tasks in a row "
        "on split ABC that way, and 2.15 when executing two. It was trained with antialiased pictures, which this "
        "network does not make; the difference is small on smooth pictures and was not measured on scores.",
        "Apache-2.0 (EDiRobotics/GR1-Training)",
    ),
    "grmg_video": (
        "Not a policy: the trunk that GR-MG's authors pre-trained on Ego4D video, to begin a training with "
        "(`foreact train policy=gr1_published init_from=THIS`). It was trained with ten goal-picture tokens in front, "
        "which GR-1 does not have and which were left out, and predicts three window frames ahead.",
        "Apache-2.0 (bytedance/GR-MG)",
    ),
    "mae": (
        "Not a policy: the two frozen towers, and random weights for everything else, to train from the beginning "
        "(`foreact train policy=gr1_published policy.towers=THIS`).",
        "see the towers",
    ),
}


def model_card(kind: str, file_name: str, converted: Converted) -> str:
    """Markdown for the checkpoint's README.md."""
    about, licence = _ABOUT[kind]
    ignored = ", ".join(dict.fromkeys(name.split(".")[0] for name in converted.ignored)) or "nothing"
    towers = "\n".join(f"- {line}" for line in converted.towers)
    return f"""---
library_name: foreact
pipeline_tag: robotics
license: cc-by-nc-4.0
tags: [robotics, vision-language-action, "policy:gr1_published"]
datasets: []
---

# {converted.title}, converted

{about}

- file: {file_name}, SHA-256 {converted.sha256}
- tensors taken: {converted.taken}; left out: {len(converted.ignored)} ({ignored})
- trainable parameters: {converted.trainable:,}

Towers:
{towers}

Licences: trunk and heads {licence}; MAE's encoder, a part of these weights, CC BY-NC 4.0 (facebookresearch/mae,
not for commercial use); CLIP's text tower MIT (openai/CLIP).

The network is `gr1_published` of ForeAct; its docs/gr1.md says how agreement with the authors' code was measured.
"""

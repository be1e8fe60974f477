"""What the published GR-1 is trained on: L = L_arm + L_gripper + L_video (arXiv 2312.13139, section 3.3).

Shape legend: as in published.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from foreact.vla.batch import WindowBatch
from foreact.vla.masked import masked_mean

if TYPE_CHECKING:
    from foreact.policies.gr1.published import PublishedGR1


def standardised(patches_NPY: Tensor) -> Tensor:
    """Each patch with its own mean 0 and (unbiased) standard deviation 1; 1e-6 is added to the deviation."""
    mean, std = patches_NPY.mean(dim=-1, keepdim=True), patches_NPY.std(dim=-1, keepdim=True)
    return (patches_NPY - mean) / (std + 1e-6)


def loss_counts(policy: PublishedGR1, batch: WindowBatch) -> dict[str, float]:
    """How many elements the means of `published_losses` are taken over, from masks alone."""
    counts: dict[str, float] = {}
    if policy.contract.action:
        counts["gripper"] = float(batch.action_numbers[..., -1].sum())
        counts["arm"] = float(batch.action_numbers.sum()) - counts["gripper"]
    if policy.config.video_weight > 0:
        counts["pictures"] = float(future_mask(policy, batch).sum())
    return counts


def published_losses(
    policy: PublishedGR1, batch: WindowBatch, counts: Mapping[str, float] | None = None
) -> dict[str, Tensor]:
    """All losses of one batch, or of a piece of one: every frame of a window is asked for its action and, where the
    frame `foresight_steps` later lies inside the same window, for its future.

    Args:
        policy: The policy.
        batch: Windows.
        counts: The sums of `loss_counts` over all pieces, when `batch` is one of several; results are then shares.

    Returns:
        "total"; "arm" (smooth-L1, beta 1), "gripper" (binary cross-entropy) and "video/<camera>" (mean squared error of
        standardised patches), before their weights; metrics without gradient "arm_error" and "gripper_accuracy".
    """
    config, device = policy.config, policy.decoder_pos_embed.device
    B, T = batch.history_mask.shape

    def tensor(array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(device, non_blocking=True)

    own = loss_counts(policy, batch) if counts is None else counts
    mask_BT = tensor(batch.history_mask)
    flat = {name: rearrange(tensor(batch.images[name]), "b t h w c -> (b t) h w c") for name in policy.cameras}
    state_NS = tensor(batch.state).float().reshape(B * T, -1)
    seen = None
    if batch.features is not None:
        seen = {name: tensor(batch.features[name]).flatten(0, 1) for name in policy.cameras}
    frames = policy.encode_frames(flat, state_NS, tensor(batch.state_mask).reshape(B * T), seen)
    raw, pictures = policy.answer(
        rearrange(frames, "(b t) f d -> b t f d", t=T), policy.encode_text(batch.instruction), mask_BT,
        step_BI=torch.arange(T, device=device).expand(B, T), actions=True, images=own.get("pictures", 0.0) > 0,
    )  # fmt: skip

    parts: dict[str, Tensor] = {}
    total = frames.new_zeros(())
    if policy.contract.action:
        parts |= action_losses(raw, tensor(batch.action), tensor(batch.action_numbers), own)
        total = total + config.arm_weight * parts["arm"] + config.gripper_weight * parts["gripper"]
    future_BT = tensor(future_mask(policy, batch))
    for name, painted in pictures.items():
        then = rearrange(tensor(batch.future[name]), "b t h w c -> (b t) h w c")
        target = policy.patches(policy.preprocess(then))
        target = standardised(target) if config.normalise_patches else target
        error = (painted.float() - rearrange(target, "(b t) p y -> b t p y", t=T)) ** 2
        parts[f"video/{name}"] = masked_mean(error.mean(dim=(-2, -1)), future_BT, own["pictures"])
        total = total + config.video_weight * parts[f"video/{name}"]
    return {"total": total, **parts}


def action_losses(actions: Tensor, target: Tensor, mask: Tensor, counts: Mapping[str, float]) -> dict[str, Tensor]:
    """Smooth-L1 (beta 1) on the arm and BCE on the gripper logit, averaged over the numbers that exist and are to be
    learned.

    Args:
        actions: (B, T, K, A) raw outputs; the last of the A numbers is the gripper's logit.
        target: (B, T, K, A) recorded actions; the gripper is +1 or -1.
        mask: (B, T, K, A) True where a number exists.
        counts: Numbers to average over, "arm" and "gripper", of the whole batch.
    """
    arm, gripper = actions[..., :-1], actions[..., -1]
    wanted = (target[..., -1] > 0).float()
    entropy = F.binary_cross_entropy_with_logits(gripper, wanted, reduction="none")
    right = ((gripper.detach() > 0) == (wanted > 0)).float()
    error = F.smooth_l1_loss(arm, target[..., :-1], reduction="none")
    return {
        "arm": masked_mean(error, mask[..., :-1], counts["arm"]),
        "arm_error": masked_mean((arm.detach() - target[..., :-1]).abs(), mask[..., :-1], counts["arm"]),
        "gripper": masked_mean(entropy, mask[..., -1], counts["gripper"]),
        "gripper_accuracy": masked_mean(right, mask[..., -1], counts["gripper"]),
    }


def future_mask(policy: PublishedGR1, batch: WindowBatch) -> np.ndarray:
    """(B, T) bool: the frame `foresight_steps` later exists in the same window, for 7 of 10 frames as published.

    With frames further apart than that, no window holds such a frame; the data's own mask decides alone then.
    """
    config, mask = policy.config, batch.history_mask
    shift, between = divmod(config.foresight_steps, config.history_stride)
    if between or not shift:
        return batch.future_mask & mask
    later = np.zeros_like(mask)
    later[:, : max(mask.shape[1] - shift, 0)] = mask[:, shift:]
    return batch.future_mask & later

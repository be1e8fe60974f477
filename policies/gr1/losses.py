"""What the policy is trained on: actions, the gripper, and the pixels of future frames.

Shape legend: as in model.py; I is the number of history frames whose future is painted.
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
    from foreact.policies.gr1.model import GR1

MOVED = 16.0 / 255.0
"""A pixel has moved when one of its channels changes by more than this until the predicted moment."""


def loss_counts(policy: GR1, batch: WindowBatch) -> dict[str, float]:
    """How many elements the means of `policy_losses` are taken over: numbers of "arm" and "gripper", and "pictures".

    They follow from masks alone, so that the pieces of a batch can agree on them before any is computed.
    """
    counts: dict[str, float] = {}
    if policy.contract.action:
        mask, gripper = batch.action_numbers, policy.gripper_index
        counts["gripper"] = float(mask[..., gripper].sum()) if gripper is not None else 0.0
        counts["arm"] = float(mask.sum()) - counts["gripper"]
    if policy.config.foresight_weight > 0:
        future = batch.future_mask & batch.history_mask
        counts["pictures"] = float((future if policy.config.foresight_positions == "all" else future.any(axis=1)).sum())
    return counts


def policy_losses(policy: GR1, batch: WindowBatch, counts: Mapping[str, float] | None = None) -> dict[str, Tensor]:
    """All losses of one batch, or of a piece of one.

    Args:
        policy: The policy.
        batch: Windows.
        counts: The sums of `loss_counts` over all pieces, when `batch` is one of several: every returned number is
            then this piece's share, and the shares add up to the numbers of the whole batch.

    Returns:
        "total"; "arm" (smooth-L1), "gripper" (BCE) and "pixels/<camera>" (weighted MSE, pixels of unit variance), the
        parts before their weights; metrics without gradient: "arm_error" (mean absolute error, action units),
        "gripper_accuracy", and the sums "moved_error/<camera>" and "moved_copy_error/<camera>", squared errors of the
        prediction and of a copy of the current frame on pixels that move (their quotient, over as many batches as
        one likes, is the ratio to beat: 1.0 is copying).
    """
    config = policy.config
    device = policy.embed_timestep_TD.device
    B, T = batch.history_mask.shape

    def tensor(array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(device, non_blocking=True)

    mask_BT = tensor(batch.history_mask)
    images = {name: tensor(batch.images[name]) for name in policy.cameras}
    flat = {name: rearrange(image, "b t h w c -> (b t) h w c") for name, image in images.items()}
    state = tensor(batch.state).float().reshape(B * T, -1)
    seen = None
    if batch.features is not None:
        seen = {name: tensor(batch.features[name]).flatten(0, 1) for name in policy.cameras}
    frames = policy.encode_frames(flat, state, tensor(batch.state_mask).reshape(B * T), seen)
    frames_BTFD = rearrange(frames, "(b t) f d -> b t f d", t=T)
    language_BD = policy.encode_text(batch.instruction)

    future_BT = tensor(batch.future_mask) & mask_BT
    own = loss_counts(policy, batch) if counts is None else counts
    # Decided by the whole batch: a piece without any future frame still takes part in the decoder's gradient.
    paint = own.get("pictures", 0.0) > 0
    lottery = None if policy.rows is None else policy.rows.uniform(T)
    step_BI = choose_steps(future_BT, config.foresight_positions, lottery) if paint else None
    actions, pictures = policy.answer(frames_BTFD, language_BD, mask_BT, last_only=False, image_step_BI=step_BI)

    parts: dict[str, Tensor] = {}
    total = frames.new_zeros(())
    if policy.contract.action:
        mask_BTKA = tensor(batch.action_numbers)
        parts |= action_losses(actions, tensor(batch.action), mask_BTKA, policy.gripper_index, config.arm_beta, own)
        total = total + config.arm_weight * parts["arm"] + config.gripper_weight * parts.get("gripper", 0.0)
    if step_BI is not None:
        valid_BI = future_BT.gather(1, step_BI)
        rows = torch.arange(B, device=device)[:, None]
        for name in policy.cameras:
            now = _pixels(images[name][rows, step_BI])
            then = _pixels(tensor(batch.future[name])[rows, step_BI])
            painted = policy.decoder(rearrange(pictures[name], "b i q d -> (b i) q d"), now)
            losses = pixel_losses(painted, now, then, valid_BI.reshape(-1), config.moved_weight, own["pictures"])
            parts |= {f"{key}/{name}": value for key, value in losses.items()}
            total = total + config.foresight_weight * losses["pixels"]
    return {"total": total, **parts}


def _pixels(frames_BIHWC: Tensor) -> Tensor:
    return rearrange(frames_BIHWC, "b i h w c -> (b i) c h w").float() / 255.0


def choose_steps(valid_BT: Tensor, positions: str, lottery_BT: Tensor | None = None) -> Tensor:
    """(B, I) history frames whose future is painted: all of them, or one random valid one per window (numbers in
    [0, 1) decide; by default those of torch's CPU generator, so that a run can be repeated)."""
    B, T = valid_BT.shape
    if positions == "all":
        return torch.arange(T, device=valid_BT.device).expand(B, T)
    drawn = torch.rand(B, T) if lottery_BT is None else lottery_BT
    lottery = drawn.to(valid_BT.device) + valid_BT.float()
    return lottery.argmax(dim=1, keepdim=True)


def action_losses(
    actions: Tensor,
    target: Tensor,
    mask: Tensor,
    gripper: int | None,
    beta: float,
    counts: Mapping[str, float] | None = None,
) -> dict[str, Tensor]:
    """Smooth-L1 on the arm and BCE on the gripper logit, averaged over the numbers that exist and are to be learned.

    Args:
        actions: (B, T, K, A) raw outputs.
        target: (B, T, K, A) recorded actions; the gripper is +1 or -1.
        mask: (B, T, K) True where an action exists, or (B, T, K, A) where a number does.
        gripper: Position of the gripper in the action vector, or None.
        beta: See `GR1Config.arm_beta`.
        counts: Numbers to average over, "arm" and "gripper": of the whole batch, if this is a piece of one; by default
            those here.
    """
    mask_BTKA = mask if mask.ndim == 4 else mask[..., None].expand(target.shape)
    counts = counts or {}
    arm = [i for i in range(target.shape[-1]) if i != gripper]
    error = F.smooth_l1_loss(actions[..., arm], target[..., arm], beta=beta, reduction="none")
    absolute = (actions[..., arm].detach() - target[..., arm]).abs()
    parts = {
        "arm": masked_mean(error, mask_BTKA[..., arm], counts.get("arm")),
        "arm_error": masked_mean(absolute, mask_BTKA[..., arm], counts.get("arm")),
    }
    if gripper is not None:
        logit, wanted = actions[..., gripper], (target[..., gripper] > 0).float()
        entropy = F.binary_cross_entropy_with_logits(logit, wanted, reduction="none")
        right = ((logit.detach() > 0) == (wanted > 0)).float()
        parts["gripper"] = masked_mean(entropy, mask_BTKA[..., gripper], counts.get("gripper"))
        parts["gripper_accuracy"] = masked_mean(right, mask_BTKA[..., gripper], counts.get("gripper"))
    return parts


def pixel_losses(
    painted: Tensor, now: Tensor, then: Tensor, valid_N: Tensor, moved_weight: float, count: float | None = None
) -> dict[str, Tensor]:
    """Weighted squared error of painted frames and the error sums on pixels that move.

    Args:
        painted: (N, 3, H, W) predicted frames, pixels in [0, 1].
        now: (N, 3, H, W) current frames.
        then: (N, 3, H, W) true future frames.
        valid_N: (N,) bool, False where there is no future frame.
        moved_weight: See `GR1Config.moved_weight`.
        count: Pictures to average over: of the whole batch, if these are a piece of one; by default those valid here.
    """
    valid = valid_N[:, None, None, None].float()
    moved = ((then - now).abs().amax(dim=1, keepdim=True) > MOVED).float() * valid
    error = (painted - then) ** 2
    pictures = valid.sum() if count is None else valid.new_tensor(float(count))
    weighted = (error * (valid + moved_weight * moved)).sum() / (3 * moved[0].numel() * pictures.clamp(min=1.0))
    return {
        # Pixels spread by about 0.25: divided by its square, the error of a constant guess is about 1.
        "pixels": weighted / 0.25**2,
        "moved_error": (error.detach() * moved).sum(),
        "moved_copy_error": ((now - then) ** 2 * moved).sum(),
    }

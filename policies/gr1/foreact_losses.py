"""What the improved policy is trained on: actions, the gripper, and future frames as pixels or as latent tokens.

Shape legend: as in foreact.py; I is the number of history frames whose future is predicted, N = B * I pictures.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor

from foreact.vla.batch import WindowBatch
from foreact.vla.vision import to_pixels

if TYPE_CHECKING:
    from foreact.policies.gr1.foreact import ForeAct

MOVED = 16.0 / 255.0
"""A pixel has moved when one of its channels changes by more than this until the predicted moment."""


def foreact_counts(policy: ForeAct, batch: WindowBatch) -> dict[str, float]:
    """How many elements the means of `foreact_losses` are taken over: numbers of "arm" and "gripper", and "pictures".

    They follow from masks alone, so that the pieces of a batch can agree on them before any is computed.
    """
    counts: dict[str, float] = {}
    if policy.contract.action:
        mask = batch.action_numbers
        gripper = policy.gripper_index
        counts["gripper"] = float(mask[..., gripper].sum()) if gripper is not None else 0.0
        counts["arm"] = float(mask.sum()) - counts["gripper"]
    if policy.config.foresight_weight > 0:
        future = batch.future_mask & batch.history_mask
        counts["pictures"] = float((future if policy.config.foresight_positions == "all" else future.any(axis=1)).sum())
    return counts


def foreact_losses(policy: ForeAct, batch: WindowBatch, counts: Mapping[str, float] | None = None) -> dict[str, Tensor]:
    """All losses of one batch, or of a piece of one.

    Args:
        policy: The policy.
        batch: Windows.
        counts: The sums of `foreact_counts` over all pieces, when `batch` is one of several: every returned number is
            then this piece's share, and the shares add up to the numbers of the whole batch.

    Returns:
        "total"; before their weights "arm", "gripper" (see heads.py) and per camera "pixels/<camera>" (weighted MSE,
        pixels of unit variance) and "latent/<camera>"; metrics without gradient: "arm_error", "gripper_accuracy", and
        the sums "moved_error/<camera>" and "moved_copy_error/<camera>" (see `pixel_losses`).
    """
    config = policy.config
    device = policy.embed_timestep_TD.device
    B, T = batch.history_mask.shape
    own = foreact_counts(policy, batch) if counts is None else counts

    def tensor(array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(device, non_blocking=True)

    mask_BT, future_BT = tensor(batch.history_mask), tensor(batch.future_mask & batch.history_mask)
    images = {name: tensor(batch.images[name]) for name in policy.cameras}
    state_BTS = tensor(batch.state).float()
    flat = {name: rearrange(image, "b t h w c -> (b t) h w c") for name, image in images.items()}
    seen = None
    if batch.features is not None:
        seen = {name: tensor(batch.features[name]).flatten(0, 1) for name in policy.cameras}
    frames = policy.encode_frames(flat, state_BTS.reshape(B * T, -1), tensor(batch.state_mask).reshape(B * T), seen)
    frames_BTFD = rearrange(frames, "(b t) f d -> b t f d", t=T)
    language_BD = policy.encode_text(batch.instruction)

    # Decided by the whole batch: a piece without any future frame still takes part in the decoder's gradient.
    step_BI = None
    if own.get("pictures", 0.0) > 0:
        lottery = None if policy.rows is None else policy.rows.uniform(T)
        step_BI = choose_steps(future_BT, config.foresight_positions, lottery)
    answers = policy.answer(frames_BTFD, language_BD, mask_BT, last_only=False, image_step_BI=step_BI)

    parts: dict[str, Tensor] = {}
    total = frames.new_zeros(())
    if policy.contract.action:
        target_BTKA, mask_BTKA = tensor(batch.action).float(), tensor(batch.action_numbers)
        if config.action_frame == "tool":
            assert policy.tool is not None
            target_BTKA = policy.tool.to_tool(target_BTKA, policy.tool.rotation(state_BTS)[:, :, None])
        features, target, mask = (x.flatten(0, 1) for x in (answers.actions_BTKD, target_BTKA, mask_BTKA))
        parts |= policy.action_head.losses(features, target, mask, own, policy.rows)
        total = total + config.arm_weight * parts["arm"] + config.gripper_weight * parts.get("gripper", 0.0)
    if step_BI is not None:
        valid_N = future_BT.gather(1, step_BI).reshape(-1)
        rows = torch.arange(B, device=device)[:, None]
        for name in policy.cameras:
            now = rearrange(images[name][rows, step_BI], "b i h w c -> (b i) h w c")
            then = rearrange(tensor(batch.future[name])[rows, step_BI], "b i h w c -> (b i) h w c")
            queries = rearrange(answers.images[name], "b i q d -> (b i) q d")
            losses = _foresight(policy, queries, now, then, valid_N, own["pictures"])
            parts |= {f"{key}/{name}": value for key, value in losses.items()}
            total = total + config.foresight_weight * (losses["pixels"] + losses.get("latent", 0.0))
    return {"total": total, **parts}


def choose_steps(valid_BT: Tensor, positions: str, lottery_BT: Tensor | None = None) -> Tensor:
    """(B, I) history frames whose future is painted: all of them, or one random valid one per window (numbers in
    [0, 1) decide; by default those of torch's CPU generator, so that a run can be repeated)."""
    B, T = valid_BT.shape
    if positions == "all":
        return torch.arange(T, device=valid_BT.device).expand(B, T)
    drawn = torch.rand(B, T) if lottery_BT is None else lottery_BT
    lottery = drawn.to(valid_BT.device) + valid_BT.float()
    return lottery.argmax(dim=1, keepdim=True)


def _foresight(
    policy: ForeAct, queries: Tensor, now: Tensor, then: Tensor, valid_N: Tensor, count: float
) -> dict[str, Tensor]:
    """Losses of one camera's N pictures, (N, H, W, 3) uint8."""
    now, then = to_pixels(now), to_pixels(then)
    features = policy.decoder.features(queries, now)
    latent: dict[str, Tensor] = {}
    if policy.config.foresight_target == "latent":
        latent = {"latent": _latent_loss(policy, features, now, then, valid_N, count)}
        # Pictures are painted all the same, for people to look at, but teach nothing but the brush.
        features = features.detach()
    painted = policy.decoder.picture(features, now)
    return pixel_losses(painted, now, then, valid_N, policy.config.moved_weight, count) | latent


def pixel_losses(
    painted: Tensor, now: Tensor, then: Tensor, valid_N: Tensor, moved_weight: float, count: float
) -> dict[str, Tensor]:
    """Weighted squared error of painted frames and the error sums on pixels that move.

    Args:
        painted: (N, 3, H, W) predicted frames, pixels in [0, 1].
        now: (N, 3, H, W) current frames.
        then: (N, 3, H, W) true future frames.
        valid_N: (N,) bool, False where there is no future frame.
        moved_weight: See `ForeActConfig.moved_weight`.
        count: Pictures to average over: of the whole batch, if these are a piece of one.
    """
    valid = valid_N[:, None, None, None].float()
    moved = ((then - now).abs().amax(dim=1, keepdim=True) > MOVED).float() * valid
    error = (painted - then) ** 2
    weighted = (error * (valid + moved_weight * moved)).sum() / (3 * moved[0].numel() * max(count, 1.0))
    return {
        # Pixels spread by about 0.25: divided by its square, the error of a constant guess is about 1.
        "pixels": weighted / 0.25**2,
        "moved_error": (error.detach() * moved).sum(),
        "moved_copy_error": ((now - then) ** 2 * moved).sum(),
    }


def _latent_loss(policy: ForeAct, features: Tensor, now: Tensor, then: Tensor, valid_N: Tensor, count: float) -> Tensor:
    """Squared error of predicted patch tokens against those of the target tower, each normalised to unit variance.

    Patches in which a pixel moves count `1 + moved_weight`. Sources: J.-B. Grill et al., "Bootstrap Your Own Latent",
    NeurIPS 2020, for targets that follow the network; M. Assran et al., "I-JEPA", CVPR 2023, for patches.
    """
    with torch.no_grad():
        tokens = policy.target_vision(then)[0].float()
        target_NPD = F.layer_norm(tokens, tokens.shape[-1:])
    error_NP = ((policy.latent(features).float() - target_NPD) ** 2).mean(dim=-1)
    rows, columns = policy.vision.grid
    moved = ((then - now).abs().amax(dim=1) > MOVED).float()
    moved_NP = reduce(moved, "n (r p) (c q) -> n (r c)", "max", r=rows, c=columns)
    weight_NP = (1.0 + policy.config.moved_weight * moved_NP) * valid_N[:, None].float()
    return (error_NP * weight_NP).sum() / (error_NP.shape[1] * max(count, 1.0))

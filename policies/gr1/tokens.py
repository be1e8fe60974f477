"""What the tokens of the two GR-1 policies are, and which of their modules attend; for `foreact explain`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from foreact.policies.gr1.visual_tokens import Resampled
from foreact.vla.explain_tokens import Token, TokenMap, action_queries, context_tokens
from foreact.vla.vision import SmallVision, VisionTower

if TYPE_CHECKING:
    from foreact.policies.gr1.foreact import ForeAct
    from foreact.policies.gr1.published import PublishedGR1


def foreact_tokens(policy: ForeAct) -> TokenMap:
    """Of the policy "foreact", whichever parts it is made of."""
    config, contract = policy.config, policy.contract
    attends = isinstance(policy.visual_tokens, Resampled)
    queries = action_queries(config.chunk)
    if config.action_sees == "foresight":
        seen = [(camera, n) for camera in policy.cameras for n in range(config.image_queries)]
        queries = (*(Token(kind="image query", step=-1, camera=c, number=n) for c, n in seen), *queries)

    def raw_actions(frames_BTFD: Tensor, language_BD: Tensor, mask_BT: Tensor) -> Tensor:
        answers = policy.answer(frames_BTFD, language_BD, mask_BT, last_only=True, image_step_BI=None)
        raw_BKA = policy.action_head(answers.actions_BTKD[:, 0])
        if config.action_frame == "tool" and policy.tool is not None:
            rows = torch.arange(len(mask_BT), device=mask_BT.device)
            state_BS = frames_BTFD[rows, mask_BT.sum(dim=1) - 1, 0, : contract.state_size]
            raw_BKA = policy.tool.to_base(raw_BKA, policy.tool.rotation(state_BS)[:, None])
        return raw_BKA

    return TokenMap(
        context=context_tokens(
            history=config.history, state=bool(contract.state), cameras=policy.cameras, pictures=config.visual_count
        ),
        queries=queries,
        trunk=tuple(f"blocks.{n}.attention" for n in range(config.layers)),
        tower="vision",
        tower_layers=_tower_layers(policy.vision),
        grid=policy.vision.grid,
        reducer="visual_tokens",
        reducer_layers=tuple(f"visual_tokens.resampler.attention.{n}" for n in range(config.resampler_depth))
        if attends
        else (),
        raw_actions=raw_actions,
    )


def published_tokens(policy: PublishedGR1) -> TokenMap:
    """Of the policy "gr1_published"."""
    config = policy.config

    def raw_actions(frames_BTFD: Tensor, language_BD: Tensor, mask_BT: Tensor) -> Tensor:
        last_B1 = mask_BT.sum(dim=1, keepdim=True) - 1
        answers = policy.answer(frames_BTFD, language_BD, mask_BT, step_BI=last_B1, actions=True, images=False)
        return answers[0][:, 0]

    side = config.image_size // config.patch_size
    return TokenMap(
        context=context_tokens(
            history=config.history, state=bool(policy.contract.state), cameras=policy.cameras,
            pictures=config.resampler_latents,
        ),
        queries=action_queries(config.chunk),
        trunk=tuple(f"transformer.h.{n}.attn" for n in range(config.layers)),
        tower="model_mae",
        tower_layers=tuple(f"model_mae.blocks.{n}.attn" for n in range(config.vision_layers)),
        grid=(side, side),
        reducer="perceiver_resampler",
        reducer_layers=tuple(f"perceiver_resampler.layers.{n}.0" for n in range(config.resampler_depth)),
        raw_actions=raw_actions,
    )  # fmt: skip


def _tower_layers(tower: VisionTower) -> tuple[str, ...]:
    """Pretrained towers attend in code that is not ours and cannot be watched."""
    return (
        tuple(f"vision.blocks.{n}.attention" for n in range(len(tower.blocks)))
        if isinstance(tower, SmallVision)
        else ()
    )

"""The published GR-1 laid out for acting: the same numbers up to rounding, with work left out that cannot change them.

What is left out, beside what every policy is spared by the runtime (old frames are not encoded again, nor sentences):

- frames that do not exist, and image queries unless pictures are asked for;
- in the last layer of the trunk, everything of the context but its keys and values;
- in the resampler, the keys and values of 196 patches: few latents ask, so their questions are brought into the space
  of the patches instead, q . (Wk m) = (Wk^T q) . m, and what they take is projected afterwards;
- matrices in a row with nothing between: the action head is one, the state's encoder another;
- LayerNorm of queries, which never change.

Keys and values of old frames are *not* kept. Once the window slides, each frame gets another row of the time table and
loses its oldest context, so all of them change; before that, in the ten steps after an instruction, keeping them would
save about 6 % of a step.

Shape legend: N frames, B windows, T frames of a window, P patches, M = P + L, L latents, H heads, E head width, V width
of pictures, F tokens of a frame, C = T (F + 1) context tokens, Q queries, D width, K actions, A action size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from einops import rearrange
from torch import Tensor, nn

from foreact.policies.gr1.published import PublishedGR1
from foreact.policies.gr1.published_parts import Affine, Resampler, ResamplerAttention, Trunk, TrunkBlock
from foreact.vla.layers import attend
from foreact.vla.policy import Plan
from foreact.vla.runtime_linear import ActingLinear, for_acting
from foreact.vla.runtime_stages import stage


class FastGR1:
    """Acts like `policy`; implements `foreact.vla.runtime_acting.PlansOnDevice`. Made anew when weights change.

    Args:
        policy: On its device, in evaluation mode.
        dtype: What matrices are multiplied in. Sums along the network, LayerNorms and both heads stay in float32.
    """

    @torch.no_grad()
    def __init__(self, policy: PublishedGR1, dtype: torch.dtype = torch.float32):
        self.policy = policy
        self.foresight_steps = policy.config.foresight_steps
        self.mae = for_acting(policy.model_mae, dtype)
        self.resampler = FastResampler(policy.perceiver_resampler, dtype)
        self.trunk = FastTrunk(policy.transformer, dtype)
        self.action_query_KD = policy.action_query()
        self.image_query_QD = torch.cat([policy.image_query(camera) for camera in policy.cameras])
        self.head_DA, self.head_A = _fold_head(policy)
        if policy.contract.state:
            self.state_SD, self.gripper_2D = _fold_state(policy)

    # --- frames ------------------------------------------------------------------------------------------------------

    def encode_frames(self, images: Mapping[str, Tensor], state_NS: Tensor, state_mask_N: Tensor) -> Tensor:
        """Tokens of N frames (N, F, D); all cameras go through the encoder together. See `PublishedGR1`."""
        policy, N = self.policy, len(state_mask_N)
        with stage("resize"):
            pixels = torch.cat([policy.preprocess(images[camera]) for camera in policy.cameras])
        with stage("vision"):
            picture_NV, patches_NPV = self.mae(pixels)
        with stage("resampler"):
            latents_NLV = self.resampler(patches_NPV)
        with stage("embed"):
            tokens = [self._embed_robot(state_NS.float())] if policy.contract.state else []
            for camera, picture, latents in zip(policy.cameras, picture_NV.split(N), latents_NLV.split(N), strict=True):
                tokens.append(policy.embed_view(camera, picture, latents))
            return torch.cat(tokens, dim=1)

    def _embed_robot(self, state_NS: Tensor) -> Tensor:
        opened_N1 = state_NS[:, -1:] > 0
        gripper_ND = torch.where(opened_N1, self.gripper_2D[1], self.gripper_2D[0])
        return (state_NS[:, :-1] @ self.state_SD + gripper_ND)[:, None]

    def encode_text(self, sentences: Sequence[str]) -> Tensor:
        """Language tokens (B, D)."""
        return self.policy.encode_text(sentences)

    # --- plan --------------------------------------------------------------------------------------------------------

    def plan_tensors(
        self, frames_BTFD: Tensor, language_BD: Tensor, mask_BT: Tensor, current: Mapping[str, Tensor] | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Actions (B, K, A) and, with `current`, pictures: camera -> (B, H, W, 3) uint8. Never waits for the device."""
        policy, K = self.policy, len(self.action_query_KD)
        with stage("trunk"):
            context_BTFD = policy.embed(frames_BTFD, language_BD)
            queries_QD = self.action_query_KD
            if current is not None:
                queries_QD = torch.cat([queries_QD, self.image_query_QD])
            x_BQD = self._ask(context_BTFD, mask_BT, queries_QD)
        with stage("head"):
            raw_BKA = torch.addmm(self.head_A, x_BQD[:, :K].flatten(0, 1), self.head_DA).unflatten(0, (-1, K))
            gripper_BK1 = torch.where(raw_BKA[..., -1:] > 0, 1.0, -1.0)
            actions = torch.cat([raw_BKA[..., :-1], gripper_BK1], dim=-1)
        pictures = {}
        if current is not None:
            with stage("foresight"):
                parts = x_BQD[:, K:].split(policy.config.image_queries, dim=1)
                for camera, part_BQD in zip(policy.cameras, parts, strict=True):
                    pictures[camera] = policy.paint(policy.decode(part_BQD), current[camera])
        return actions, pictures

    def _ask(self, context_BTFD: Tensor, mask_BT: Tensor, queries_QD: Tensor) -> Tensor:
        """Outputs (B, Q, D) of queries that ask at each window's last frame; masks as in `PublishedGR1.trunk`."""
        (B, T, F1, _), device, config = context_BTFD.shape, context_BTFD.device, self.policy.config
        C, Q = T * F1, len(queries_QD)
        step_C = torch.arange(T, device=device).repeat_interleave(F1)
        exists_BC = mask_BT.repeat_interleave(F1, dim=1)
        causal_CC = torch.ones(C, C, dtype=torch.bool, device=device).tril()
        position_BN = None
        if self.policy.transformer.wpe is not None:
            chunk = config.chunk if self.policy.contract.action else 0
            stride = F1 + len(self.policy.cameras) * config.image_queries + chunk
            place_C = step_C * stride + torch.arange(F1, device=device).repeat(T)
            last_B1 = mask_BT.sum(dim=1, keepdim=True) - 1
            place_BQ = last_B1 * stride + F1 + torch.arange(Q, device=device)
            position_BN = torch.cat([place_C.expand(B, -1), place_BQ], dim=1)
        return self.trunk(
            rearrange(context_BTFD, "b t f d -> b (t f) d"),
            queries_QD.expand(B, -1, -1),
            position_BN,
            causal_CC & exists_BC[:, None],
            exists_BC[:, None].expand(B, Q, C),
        )

    def plan_from(
        self, frames_BTFD: Tensor, language_BD: Tensor, mask_BT: Tensor, current: Mapping[str, Tensor] | None
    ) -> Plan:
        """A plan; see `PublishedGR1.plan_from`."""
        actions, pictures = self.plan_tensors(frames_BTFD, language_BD, mask_BT, current)
        with stage("download"):
            foresight = {camera: picture.cpu().numpy() for camera, picture in pictures.items()}
            return Plan(
                actions=actions.cpu().numpy(),
                foresight=None if current is None else foresight,
                foresight_steps=0 if current is None else self.foresight_steps,
            )


class FastResampler(nn.Module):
    """`Resampler` without keys and values of its own."""

    def __init__(self, resampler: Resampler, dtype: torch.dtype):
        super().__init__()
        self.dtype = dtype
        self.inner = cast(Resampler, for_acting(resampler, dtype))
        self.kv = []  # per layer: (H, E, V) for keys and for values
        for pair in resampler.layers:
            attention = cast(ResamplerAttention, next(pair.children()))
            weight = attention.to_kv.weight.detach().to(dtype)
            self.kv.append(rearrange(weight, "(two h e) v -> two h e v", two=2, h=attention.heads).contiguous())

    def forward(self, patches_NPV: Tensor) -> Tensor:
        """(N, P, V) to (N, L, V)."""
        media = patches_NPV + self.inner.media_pos_emb[0]
        x_NLV = self.inner.latents.expand(len(media), -1, -1)
        for pair, (keys_HEV, values_HEV) in zip(self.inner.layers, self.kv, strict=True):
            attention, mlp = pair.children()
            x_NLV = x_NLV + self._attend(cast(ResamplerAttention, attention), keys_HEV, values_HEV, media, x_NLV)
            x_NLV = x_NLV + mlp(x_NLV)
        return self.inner.norm(x_NLV)

    def _attend(
        self, attention: ResamplerAttention, keys_HEV: Tensor, values_HEV: Tensor, media_NPV: Tensor, x_NLV: Tensor
    ) -> Tensor:
        latents_NLV = attention.norm_latents(x_NLV)
        seen_NMV = torch.cat([attention.norm_media(media_NPV), latents_NLV], dim=1).to(self.dtype)
        q_NHLE = rearrange(attention.to_q(latents_NLV), "n l (h e) -> n h l e", h=attention.heads)
        asks = rearrange(q_NHLE * q_NHLE.shape[-1] ** -0.5 @ keys_HEV, "n h l v -> n (h l) v")
        taken = (asks @ seen_NMV.mT).softmax(dim=-1) @ seen_NMV
        y_NHLE = rearrange(taken, "n (h l) v -> n h l v", h=attention.heads) @ values_HEV.mT
        return attention.to_out(rearrange(y_NHLE, "n h l e -> n l (h e)"))


class FastTrunk(nn.Module):
    """`Trunk` that gives the outputs of queries only, so that its last layer has little to do."""

    def __init__(self, trunk: Trunk, dtype: torch.dtype):
        super().__init__()
        inner = cast(Trunk, for_acting(trunk, dtype, transposed=(Affine,)))
        blocks = [cast(TrunkBlock, block) for block in inner.h]
        self.wpe, self.ln_f = inner.wpe, inner.ln_f
        self.blocks, self.last = nn.ModuleList(blocks[:-1]), blocks[-1]
        whole = cast(TrunkBlock, trunk.h[-1]).attn.c_attn
        width = len(whole.weight)
        self.q = ActingLinear(whole.weight[:, :width].T, whole.bias[:width], dtype)
        self.kv = ActingLinear(whole.weight[:, width:].T, whole.bias[width:], dtype)

    def forward(
        self, context_BCD: Tensor, queries_BQD: Tensor, position_BN: Tensor | None, mask_BCC: Tensor, asks_BQC: Tensor
    ) -> Tensor:
        """(B, C, D) and (B, Q, D) to (B, Q, D); masks are True where a token may look at a context token."""
        C = context_BCD.shape[1]
        x_BND = torch.cat([context_BCD, queries_BQD], dim=1)
        if self.wpe is not None:
            x_BND = x_BND + self.wpe(position_BN)
        mask_B1NC = torch.cat([mask_BCC, asks_BQC], dim=1)[:, None]
        for block in self.blocks:
            x_BND = block(x_BND, mask_B1NC, C)

        last, heads = self.last, self.last.attn.heads
        normed = last.ln_1(x_BND)
        q = rearrange(self.q(normed[:, C:]), "b q (h e) -> b h q e", h=heads)
        k, v = rearrange(self.kv(normed[:, :C]), "b c (two h e) -> two b h c e", two=2, h=heads)
        y = rearrange(attend(q, k, v, asks_BQC[:, None]), "b h q e -> b q (h e)")
        x_BQD = x_BND[:, C:] + last.attn.c_proj(y)
        return self.ln_f(x_BQD + last.mlp(last.ln_2(x_BQD)))


def _fold_head(policy: PublishedGR1) -> tuple[Tensor, Tensor]:
    """The action head as x @ (D, A) + (A,); multiplied out in float64."""
    layers = [*policy.pred_act_mlps, nn.ModuleList([policy.pred_arm_act, policy.pred_gripper_act])]
    matrix = torch.eye(policy.config.width, dtype=torch.float64, device=policy.decoder_pos_embed.device)
    offset = matrix.new_zeros(policy.config.width)
    for layer in layers:
        parts = [cast(nn.Linear, part) for part in (layer if isinstance(layer, nn.ModuleList) else [layer])]
        weight = torch.cat([part.weight for part in parts]).double().T
        matrix, offset = matrix @ weight, offset @ weight + torch.cat([part.bias for part in parts]).double()
    return matrix.float(), offset.float()


def _fold_state(policy: PublishedGR1) -> tuple[Tensor, Tensor]:
    """The state's token as arm @ (S - 1, D) + (2, D)[gripper: closed, open]; multiplied out in float64."""
    D = policy.config.width
    arm, gripper = policy.embed_arm_state, policy.embed_gripper_state
    of_arm, of_gripper = policy.embed_state.weight.double().T.split(D)
    offset = policy.embed_state.bias.double() + arm.bias.double() @ of_arm
    table = (gripper.weight.double().T + gripper.bias.double()) @ of_gripper + offset
    return (arm.weight.double().T @ of_arm).float(), table.float()

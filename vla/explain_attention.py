"""Where an action looks: attention rolled out from the action queries to the patches of each camera frame.

Roll-out: S. Abnar, W. Zuidema, "Quantifying Attention Flow in Transformers", ACL 2020, section 3: in each layer half of
a token comes from itself (the residual connection) and half from what it attends to (the mean over heads); the layers'
matrices are multiplied. It knows nothing of values, perceptrons and signs: a picture of where information can have come
from, not of what was done with it.

Shape legend: B windows, T history frames, N tokens, S sources, C context tokens, Q queries, P patches, L tokens that a
camera's patches are reduced to, R frames of all cameras (camera outermost, then window, then step).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn

from foreact.vla.attention_probe import AttentionProbe
from foreact.vla.explain_tokens import TokenMap
from foreact.vla.explain_windows import Windows, encode
from foreact.vla.trainable import TrainablePolicy


def roll_out(layers: Sequence[Tensor], sources_BNS: Tensor) -> Tensor:
    """How much of each token comes from each source after all layers, (B, N, S).

    Args:
        layers: Attention weights (B, n, m) of each layer: the last n of the N tokens look at the first m. Tokens that
            do not look stay what they are.
        sources_BNS: What the tokens come from before the first layer; often the identity. Where its rows sum to 1,
            so do those of the result.
    """
    x = sources_BNS
    for weights_Bnm in layers:
        n, m = weights_Bnm.shape[1:]
        looked = 0.5 * x[:, x.shape[1] - n :] + 0.5 * weights_Bnm @ x[:, :m]
        x = torch.cat([x[:, : x.shape[1] - n], looked], dim=1)
    return x


@dataclass(frozen=True, kw_only=True)
class Attention:
    """Where the actions that are executed look, for B windows. All shares of a window sum to 1 with `own_B`."""

    context_BC: Tensor
    """Share of each context token."""
    even_BC: Tensor
    """The same if every token looked at all it may look at alike: what the masks alone bring about."""
    own_B: Tensor
    """Share of the queries themselves, action and image queries: learned, the same whatever is seen."""
    patches: dict[str, Tensor]
    """Camera -> (B, T, P): share of each patch, reached through the camera's context tokens."""
    constants: dict[str, Tensor]
    """Camera -> (B, T): share that ends in what is learned and always the same, the reduction's latents and the tower's
    summary token. With `patches` it sums to the camera's part of `context_BC`."""


def trace_attention(policy: TrainablePolicy, tokens: TokenMap, windows: Windows, language_BD: Tensor) -> Attention:
    """Run the policy once and follow its attention back to the pixels' patches.

    Args:
        policy: In evaluation mode.
        tokens: From its `describe_tokens`.
        windows: What it sees.
        language_BD: From `encode_text`.
    """
    config = policy.config
    with torch.no_grad(), AttentionProbe(policy, tokens.names, inputs=(tokens.reducer,)) as probe:
        tokens.raw_actions(encode(policy, windows), language_BD, windows.mask_BT)
    C, Q = len(tokens.context), len(tokens.queries)
    shares = [_from_queries(probe, tokens, config.chunk, config.execute_steps, even=even) for even in (False, True)]
    trunk_BN = shares[0]

    cameras = [camera.name for camera in policy.contract.cameras]
    flow = _to_patches(policy, tokens, probe, len(cameras))
    B, T = windows.mask_BT.shape
    flow = rearrange(flow, "(v b t) l p -> v b t l p", v=len(cameras), b=B, t=T)
    patches, constants = {}, {}
    for number, camera in enumerate(cameras):
        places = [place for place, token in enumerate(tokens.context) if token.camera == camera]
        of_camera = rearrange(trunk_BN[:, places], "b (t l) -> b t l", t=T)
        patches[camera] = torch.einsum("btl,btlp->btp", of_camera, flow[number])
        constants[camera] = of_camera.sum(dim=-1) - patches[camera].sum(dim=-1)
    return Attention(
        context_BC=trunk_BN[:, :C],
        even_BC=shares[1][:, :C],
        own_B=trunk_BN[:, C : C + Q].sum(dim=1),
        patches=patches,
        constants=constants,
    )


def _from_queries(probe: AttentionProbe, tokens: TokenMap, chunk: int, executed: int, *, even: bool) -> Tensor:
    """(B, C + Q): the mean over the queries of the actions that are executed."""
    layers = [probe.weights(name, even=even) for name in tokens.trunk]
    N = len(tokens.context) + len(tokens.queries)
    identity = torch.eye(N, device=layers[0].device).expand(len(layers[0]), -1, -1)
    reached = roll_out(layers, identity)
    return reached[:, N - chunk : N - chunk + executed].mean(dim=1)


def _to_patches(policy: nn.Module, tokens: TokenMap, probe: AttentionProbe, cameras: int) -> Tensor:
    """(R, L + 1, P): from a camera's context tokens, the summary last, to the patches of its frame."""
    P = tokens.grid[0] * tokens.grid[1]
    given = [torch.cat(parts) for parts in zip(*probe.given(tokens.reducer), strict=True)]
    R, device = len(given[0]), given[0].device
    if tokens.tower_layers:
        layers = [probe.weights(name) for name in tokens.tower_layers]
        # What comes from the summary's own start comes from no patch.
        tower = roll_out(layers, torch.eye(P + 1, device=device).expand(R, -1, -1))[:, :, 1:]
    else:
        tower = torch.cat([torch.zeros(1, P, device=device), torch.eye(P, device=device)])[None].expand(R, -1, -1)
    if tokens.reducer_layers:
        layers = [probe.weights(name) for name in tokens.reducer_layers]
        L = layers[0].shape[1]
        reduced = roll_out(layers, torch.eye(P + L, device=device).expand(R, -1, -1))[:, P:, :P]
    else:
        reduced = _sums_of_patches(policy.get_submodule(tokens.reducer), *given)
    return torch.cat([reduced @ tower[:, 1:], tower[:, :1]], dim=1)


def _sums_of_patches(reduce: nn.Module, patches_RPD: Tensor, *others: Tensor) -> Tensor:
    """(R, L, P): how much each patch weighs in each token, where every token is a weighted sum of patches.

    The weights are the derivative of any one number of a token in the same number of the patches. Without their signs
    (frequencies have some) they are made to sum to 1.
    """
    with torch.enable_grad():
        patches = patches_RPD.detach().requires_grad_()
        few_RLD = reduce(patches, *others)
        rows = [
            torch.autograd.grad(few_RLD[:, place, 0].sum(), patches, retain_graph=True)[0][..., 0]
            for place in range(few_RLD.shape[1])
        ]
    weights = torch.stack(rows, dim=1).abs()
    return weights / weights.sum(dim=-1, keepdim=True).clamp(min=1e-12)

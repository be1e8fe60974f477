"""Which pixels would change an action: its gradient in the pixels, and integrated gradients.

Gradient: K. Simonyan, A. Vedaldi, A. Zisserman, "Deep Inside Convolutional Networks", ICLR workshop 2014.
Integrated gradients: M. Sundararajan, A. Taly, Q. Yan, "Axiomatic Attribution for Deep Networks", ICML 2017.

Shape legend: B windows, T history frames, H x W pixels, K actions of a chunk, A action size, h x w cells.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MethodType

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from foreact.vla.contract import Contract
from foreact.vla.errors import ConfigError, ForeActError, did_you_mean
from foreact.vla.explain_tokens import TokenMap
from foreact.vla.explain_windows import Windows, encode
from foreact.vla.trainable import TrainablePolicy

Pixels = Mapping[str, Tensor]
"""Camera name -> (B, T, H, W, 3) float in 0..255."""


class NoGradient(ForeActError):
    """Saliency was asked of something that cannot be differentiated."""


def action_places(contract: Contract, wanted: str) -> list[int]:
    """Which numbers of an action are meant.

    Args:
        contract: The policy's.
        wanted: "arm" (all but the gripper), a field ("delta_position"), or one number of it ("delta_position.2").

    Raises:
        ConfigError: If there is no such thing.
    """
    places: dict[str, list[int]] = {}
    start = 0
    for field in contract.action:
        places[field.name] = list(range(start, start + field.size))
        for number in range(field.size):
            places[f"{field.name}.{number}"] = [start + number]
        start += field.size
    if wanted == "arm":
        return arm_places(contract)
    if wanted not in places:
        raise ConfigError(f"no part {wanted!r} of an action; {did_you_mean(wanted, ['arm', *places])}")
    return places[wanted]


def arm_places(contract: Contract) -> list[int]:
    """All numbers of an action but the gripper's (all, where there is nothing else)."""
    of_gripper = [field.is_gripper for field in contract.action for _ in range(field.size)]
    return [place for place, its in enumerate(of_gripper) if not its] or list(range(contract.action_size))


def action_score(raw_BKA: Tensor, places: list[int], executed: int) -> Tensor:
    """(B,) what is explained: the length of these numbers, the mean over the actions that are executed; of a single
    number its value, with its sign."""
    part = raw_BKA[:, :executed, places]
    return (part[..., 0] if len(places) == 1 else part.norm(dim=-1)).mean(dim=1)


def score_of(
    policy: TrainablePolicy, tokens: TokenMap, windows: Windows, language_BD: Tensor, places: list[int]
) -> Callable[[Pixels], Tensor]:
    """A function from pixels to what is explained (B,)."""

    def score(pixels: Pixels) -> Tensor:
        frames = encode(policy, windows, pixels)
        return action_score(
            tokens.raw_actions(frames, language_BD, windows.mask_BT), places, policy.config.execute_steps
        )

    return score


@contextmanager
def open_tower(policy: TrainablePolicy, tokens: TokenMap) -> Iterator[None]:
    """Let gradients through a frozen tower, whose `forward` is closed to them by `torch.no_grad` or unless it is
    `adapted`, and save the work of gradients of weights."""
    tower: nn.Module = policy.get_submodule(tokens.tower)
    forward = inspect.unwrap(type(tower).forward)
    adapted = tower.__dict__.get("adapted")
    learned = [weight for weight in policy.parameters() if weight.requires_grad]
    for weight in learned:
        weight.requires_grad_(False)
    tower.forward = MethodType(forward, tower)  # of this object alone
    if adapted is not None:
        tower.__dict__["adapted"] = True
    try:
        yield
    finally:
        del tower.forward
        if adapted is not None:
            tower.__dict__["adapted"] = adapted
        for weight in learned:
            weight.requires_grad_(True)


def gradient(score: Callable[[Pixels], Tensor], pixels: Pixels) -> tuple[Tensor, dict[str, Tensor]]:
    """The score (B,) and, camera by camera, its derivative (B, T, H, W, 3) per grey level of each pixel.

    Raises:
        NoGradient: If the score does not depend on the pixels in a way that torch follows.
    """
    leaves = {camera: image.detach().float().requires_grad_() for camera, image in pixels.items()}
    with torch.enable_grad():
        value = score(leaves)
        if not value.requires_grad:
            raise NoGradient(
                "no gradient reaches the pixels: `raw_actions` and `encode_frames` must be differentiable, and the "
                "`forward` of the tower that `describe_tokens` names may be closed to gradients by a decorator at most"
            )
        found = torch.autograd.grad(value.sum(), list(leaves.values()), allow_unused=True, materialize_grads=True)
    return value.detach(), dict(zip(leaves, found, strict=True))


def integrated_gradients(
    score: Callable[[Pixels], Tensor], pixels: Pixels, baseline: Pixels, steps: int
) -> dict[str, Tensor]:
    """Camera -> (B, T, H, W, 3): what each pixel contributes to score(pixels) - score(baseline).

    The path between them is straight; the integral is taken by the midpoint rule, so that the contributions sum to the
    difference as `steps` grow.
    """
    total = {camera: torch.zeros(image.shape, device=image.device) for camera, image in pixels.items()}
    way = {camera: pixels[camera].float() - baseline[camera] for camera in pixels}
    for step in range(steps):
        share = (step + 0.5) / steps
        between = {camera: baseline[camera] + share * way[camera] for camera in pixels}
        for camera, slope in gradient(score, between)[1].items():
            total[camera] += slope / steps
    return {camera: total[camera] * way[camera] for camera in pixels}


def mean_colour(pixels: Pixels, mask_BT: Tensor) -> dict[str, Tensor]:
    """Each camera's mean colour over all frames that exist, as pictures: "nothing to be seen", yet nothing unusual."""
    weight = mask_BT[..., None, None, None].float()
    return {
        camera: ((image.float() * weight).sum(dim=(0, 1, 2, 3)) / (weight.sum() * image.shape[2] * image.shape[3]))
        .expand(image.shape)
        .clone()
        for camera, image in pixels.items()
    }


def over_patches(values_BTHWC: Tensor, grid: tuple[int, int], *, signed: bool) -> Tensor:
    """(B, T, h * w): means over the pixels of each patch. `signed`: what adds up may cancel within a patch; the sign
    is dropped behind the mean, not before it."""
    values = values_BTHWC.sum(dim=-1) if signed else values_BTHWC.abs().sum(dim=-1)
    B, T = values.shape[:2]
    cells = F.adaptive_avg_pool2d(rearrange(values, "b t h w -> (b t) 1 h w"), grid).abs()
    return rearrange(cells, "(b t) 1 h w -> b t (h w)", b=B, t=T)

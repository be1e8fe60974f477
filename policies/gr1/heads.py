"""From the outputs of the action queries to a chunk of actions: three heads, one interface.

Shape legend: N chunks, K actions of a chunk, D width, A action size. The gripper is one of the A numbers: positive
opens, as in the contract.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foreact.vla.errors import ConfigError, did_you_mean
from foreact.vla.layers import Block
from foreact.vla.masked import masked_mean
from foreact.vla.rows import Rows

HEADS = ("linear", "mlp", "flow")


class ActionHead(nn.Module):
    """What the policy asks of a head.

    Args:
        gripper: Position of the gripper among the A numbers, or None.
        beta: Where the arm's smooth-L1 turns from squared to absolute [action units].
    """

    def __init__(self, gripper: int | None, beta: float):
        super().__init__()
        self.gripper, self.beta = gripper, beta

    def forward(self, features_NKD: Tensor) -> Tensor:
        """(N, K, D) to actions (N, K, A) as they are executed, but for clipping and the sign of the gripper."""
        raise NotImplementedError

    def losses(
        self, features_NKD: Tensor, target_NKA: Tensor, mask_NKA: Tensor, counts: Mapping[str, float], rows: Rows | None
    ) -> dict[str, Tensor]:
        """What to minimise, "arm" and "gripper", and the metrics "arm_error" (mean absolute, action units) and
        "gripper_accuracy".

        Args:
            features_NKD: Outputs of the queries; N = windows x steps.
            target_NKA: Recorded actions; the gripper is +1 or -1.
            mask_NKA: True for numbers that were recorded.
            counts: How many numbers the means are taken over, "arm" and "gripper"; see `masked_mean`.
            rows: Which windows these are, for what is drawn at random; None: torch's own generator draws.
        """
        raise NotImplementedError

    def _means(
        self, values: Mapping[str, Tensor], actions: Tensor, target: Tensor, mask: Tensor, counts: Mapping[str, float]
    ) -> dict[str, Tensor]:
        """Means of the losses "arm" and "gripper" (each with the shape of its part of the actions), and the metrics."""
        arm = [i for i in range(target.shape[-1]) if i != self.gripper]
        error = (actions.detach()[..., arm] - target[..., arm]).abs()
        parts = {
            "arm": masked_mean(values["arm"], mask[..., arm], counts["arm"]),
            "arm_error": masked_mean(error, mask[..., arm], counts["arm"]),
        }
        if self.gripper is not None:
            right = (actions.detach()[..., self.gripper] > 0) == (target[..., self.gripper] > 0)
            for name, value in (("gripper", values["gripper"]), ("gripper_accuracy", right.float())):
                parts[name] = masked_mean(value, mask[..., self.gripper], counts["gripper"])
        return parts


class PointHead(ActionHead):
    """One answer per query, by smooth-L1 for the arm and cross-entropy for the gripper: an affine map, which is what
    GR-1's released weights amount to, or a perceptron with one hidden layer (`hidden`)."""

    def __init__(self, width: int, actions: int, gripper: int | None, beta: float, *, hidden: bool):
        super().__init__(gripper, beta)
        self.read = nn.Sequential(nn.Linear(width, width), nn.GELU()) if hidden else nn.Identity()
        self.answer = nn.Linear(width, actions)

    def forward(self, features_NKD: Tensor) -> Tensor:
        return self.answer(self.read(features_NKD)).float()

    def losses(
        self, features_NKD: Tensor, target_NKA: Tensor, mask_NKA: Tensor, counts: Mapping[str, float], rows: Rows | None
    ) -> dict[str, Tensor]:
        actions = self(features_NKD)
        arm = [i for i in range(target_NKA.shape[-1]) if i != self.gripper]
        values = {"arm": F.smooth_l1_loss(actions[..., arm], target_NKA[..., arm], beta=self.beta, reduction="none")}
        if self.gripper is not None:
            wanted = (target_NKA[..., self.gripper] > 0).float()
            entropy = F.binary_cross_entropy_with_logits(actions[..., self.gripper], wanted, reduction="none")
            values["gripper"] = entropy
        return self._means(values, actions, target_NKA, mask_NKA, counts)


class FlowHead(ActionHead):
    """Draws a chunk by flow matching: noise is carried to actions along a learned velocity field, in `steps` steps.

    Sources: Y. Lipman et al., "Flow Matching for Generative Modeling", ICLR 2023; K. Black et al., "pi_0", 2024
    (arXiv 2410.24164), for action chunks. Noise levels and steps are those of diffusers'
    FlowMatchEulerDiscreteScheduler: x_sigma = sigma * noise + (1 - sigma) * action, velocity = noise - action.

    The noise that acting begins with is one fixed draw, so that a plan depends on what is seen alone.
    """

    start_KA: Tensor

    def __init__(
        self, width: int, actions: int, gripper: int | None, beta: float, *, chunk: int, heads: int, steps: int
    ):
        super().__init__(gripper, beta)
        self.steps = steps
        self.embed = nn.Linear(actions, width)
        self.level = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(2))
        self.norm = nn.LayerNorm(width)
        self.velocity = nn.Linear(width, actions)
        start = torch.randn(chunk, actions, generator=torch.Generator().manual_seed(0))
        self.register_buffer("start_KA", start)

    def field(self, features_NKD: Tensor, noisy_NKA: Tensor, sigma_N: Tensor) -> Tensor:
        """The velocity (N, K, A) at the noise level sigma (N,) in [0, 1]."""
        level_ND = self.level(_waves(sigma_N, features_NKD.shape[-1]))
        x = features_NKD + self.embed(noisy_NKA) + level_ND[:, None]
        for block in self.blocks:
            x = block(x)
        return self.velocity(self.norm(x)).float()

    def forward(self, features_NKD: Tensor) -> Tensor:
        from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler

        scheduler: Any = FlowMatchEulerDiscreteScheduler()
        scheduler.set_timesteps(sigmas=torch.linspace(1.0, 1.0 / self.steps, self.steps).tolist())
        x = self.start_KA.expand(len(features_NKD), -1, -1)
        for step in range(self.steps):
            sigma = scheduler.sigmas[step]
            velocity = self.field(features_NKD, x, sigma.expand(len(x)).to(x.device))
            x = scheduler.step(velocity, scheduler.timesteps[step], x, return_dict=False)[0]
        return x

    def losses(
        self, features_NKD: Tensor, target_NKA: Tensor, mask_NKA: Tensor, counts: Mapping[str, float], rows: Rows | None
    ) -> dict[str, Tensor]:
        noise, level = _draw(target_NKA, rows)
        noisy = level * noise + (1.0 - level) * target_NKA
        velocity = self.field(features_NKD, noisy, level[:, 0, 0])
        squared = (velocity - (noise - target_NKA)) ** 2
        arm = [i for i in range(target_NKA.shape[-1]) if i != self.gripper]
        values = {"arm": squared[..., arm]}
        if self.gripper is not None:
            values["gripper"] = squared[..., self.gripper]
        # In training the action is guessed in one step, which costs nothing; when judged it is drawn.
        actions = noisy - level * velocity if self.training else self(features_NKD)
        return self._means(values, actions, target_NKA, mask_NKA, counts)


def _draw(target_NKA: Tensor, rows: Rows | None) -> tuple[Tensor, Tensor]:
    """Noise (N, K, A) and noise levels (N, 1, 1) in [0, 1)."""
    N, K, A = target_NKA.shape
    if rows is None:
        noise, level = torch.randn(N, K, A), torch.rand(N)
    else:
        steps = N // rows.count
        noise = rows.normal(steps, K, A, stream=1).reshape(N, K, A)
        level = rows.uniform(steps, stream=2).reshape(N)
    return noise.to(target_NKA), level.to(target_NKA)[:, None, None]


def _waves(sigma_N: Tensor, width: int) -> Tensor:
    """(N,) in [0, 1] to sines and cosines (N, width)."""
    rate = torch.exp(torch.linspace(0.0, 7.0, width // 2, device=sigma_N.device))
    angle = sigma_N[:, None] * rate
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


def build_head(
    name: str, width: int, actions: int, gripper: int | None, *, beta: float, chunk: int, heads: int, steps: int
) -> ActionHead:
    """The head called `name`, one of `HEADS`.

    Raises:
        ConfigError: If there is none of that name.
    """
    if name == "flow":
        return FlowHead(width, actions, gripper, beta, chunk=chunk, heads=heads, steps=steps)
    if name not in HEADS:
        raise ConfigError(f"policy.action_head: {did_you_mean(name, HEADS)}")
    return PointHead(width, actions, gripper, beta, hidden=name == "mlp")

"""What the streaming runtime calls, and the general way to run it in half precision.

By default that is the policy itself. `TrainablePolicy.for_acting` returns something faster that computes the same
numbers where there is such a thing; a policy of your own may override it.

Shape legend: N frames, B windows, T frames of a window, F tokens of a frame, D width, S state size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from torch import Tensor

from foreact.vla.errors import ConfigError, did_you_mean
from foreact.vla.policy import Plan

if TYPE_CHECKING:
    from foreact.vla.trainable import TrainablePolicy

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Names of the precisions that a policy can act in."""

_FASTER = {"gr1_published": ("foreact.policies.gr1.published_fast", "FastGR1")}
"""Policy -> (module, class) of something that acts like it, made from a policy and a dtype; imported when asked for."""


class Acting(Protocol):
    """The three steps of acting; see `TrainablePolicy`, which has them too."""

    def encode_frames(self, images: Mapping[str, Tensor], state_NS: Tensor, state_mask_N: Tensor) -> Tensor:
        """Tokens (N, F, D) of N frames, each by itself."""
        ...

    def encode_text(self, sentences: Sequence[str]) -> Tensor:
        """Language features (N, D)."""
        ...

    def plan_from(
        self, frames_BTFD: Tensor, language_BD: Tensor, mask_BT: Tensor, current: Mapping[str, Tensor] | None
    ) -> Plan:
        """A plan from encoded frames and text."""
        ...


@runtime_checkable
class PlansOnDevice(Acting, Protocol):
    """Acting whose plan can be had as tensors, without waiting for the device: what CUDA graphs can hold.

    Windows may be shorter than the policy's history: T is what its longest history needs.
    """

    foresight_steps: int

    def plan_tensors(
        self, frames_BTFD: Tensor, language_BD: Tensor, mask_BT: Tensor, current: Mapping[str, Tensor] | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Actions (B, K, A) float32, and with `current` the frames foreseen: camera -> (B, H, W, 3) uint8."""
        ...


class Autocast:
    """A policy in half precision as PyTorch's autocast does it; answers come back in float32.

    Heads run in half precision as well, where a policy does not keep them out of it itself.
    """

    def __init__(self, policy: TrainablePolicy, dtype: torch.dtype):
        self.policy = policy
        self._kind = next(policy.parameters()).device.type
        self._dtype = dtype

    def encode_frames(self, images: Mapping[str, Tensor], state_NS: Tensor, state_mask_N: Tensor) -> Tensor:
        """See `Acting`."""
        with torch.autocast(self._kind, self._dtype):
            return self.policy.encode_frames(images, state_NS, state_mask_N).float()

    def encode_text(self, sentences: Sequence[str]) -> Tensor:
        """See `Acting`; in float32, since a sentence is encoded once."""
        return self.policy.encode_text(sentences)

    def plan_from(
        self, frames_BTFD: Tensor, language_BD: Tensor, mask_BT: Tensor, current: Mapping[str, Tensor] | None
    ) -> Plan:
        """See `Acting`."""
        with torch.autocast(self._kind, self._dtype):
            return self.policy.plan_from(frames_BTFD, language_BD, mask_BT, current)


def acting_for(policy: TrainablePolicy, dtype: torch.dtype) -> Acting:
    """The fastest thing we have that acts like `policy`, in that precision."""
    from foreact.vla.registry import policy_class

    # A subclass may compute something else, so it must be the class itself.
    if policy.name in _FASTER and type(policy) is policy_class(policy.name):
        module, name = _FASTER[policy.name]
        return getattr(import_module(module), name)(policy, dtype)
    return policy if dtype == torch.float32 else Autocast(policy, dtype)


def find_precision(name: str) -> torch.dtype:
    """The torch dtype called `name`.

    Raises:
        ConfigError: If a policy cannot act in it.
    """
    if name not in PRECISIONS:
        raise ConfigError(f"precision {name!r} is not one to act in; {did_you_mean(name, PRECISIONS)}")
    return PRECISIONS[name]

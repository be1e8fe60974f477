"""Watch attention while a model runs: who looks at whom, without changing a number of what it computes.

    with AttentionProbe(policy, names) as probe:
        policy.plan(...)
    probe.weights("blocks.0.attention")  # (B, N, M)

`foreact.vla.layers.attend` tells the probe its queries, keys and mask; the probe works out the weights beside it. When
no probe is open, all that `attend` does more is to compare one name with None.

Shape legend: B batch, H heads, N queries, M keys, E head width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from foreact.vla import layers
from foreact.vla.errors import ForeActError


class ProbeError(ForeActError):
    """Attention cannot be watched as asked."""


@dataclass(frozen=True)
class Looked:
    """One call of one attention module."""

    weights_BNM: Tensor
    """Softmax weights, the mean over heads; rows sum to 1, and what may not be looked at has exactly 0."""
    even_BNM: Tensor
    """What the weights would be if each query looked at all it may look at alike."""


class AttentionProbe:
    """Records what the named modules look at, while it is open; one probe at a time.

    Args:
        model: Holds the modules.
        names: Modules (as in `named_modules`) whose `forward` calls `attend`.
        inputs: Further modules whose positional arguments are kept, call by call.

    Raises:
        ProbeError: If the model has no module of a name.
    """

    def __init__(self, model: nn.Module, names: Iterable[str], inputs: Iterable[str] = ()):
        known = dict(model.named_modules())
        self._names, self._inputs = tuple(names), tuple(inputs)
        for name in (*self._names, *self._inputs):
            if name not in known:
                raise ProbeError(f"{type(model).__name__} has no module {name!r} whose attention could be watched")
        self._modules = known
        self._running: list[str] = []
        self._handles: list[Any] = []
        self._looked: dict[str, list[Looked]] = {name: [] for name in self._names}
        self._given: dict[str, list[tuple[Any, ...]]] = {name: [] for name in self._inputs}

    def __enter__(self) -> Self:
        if layers.watcher is not None:
            raise ProbeError("another attention probe is open; close it first")
        for name in self._names:
            module = self._modules[name]
            self._handles.append(module.register_forward_pre_hook(self._begin(name)))
            self._handles.append(module.register_forward_hook(self._end, always_call=True))
        for name in self._inputs:
            self._handles.append(self._modules[name].register_forward_pre_hook(self._keep(name)))
        layers.watcher = self._watch
        return self

    def __exit__(self, *exception: object) -> None:
        layers.watcher = None
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._running.clear()

    def looked(self, name: str) -> Sequence[Looked]:
        """All calls of a module, in order."""
        return self._looked[name]

    def weights(self, name: str, *, even: bool = False) -> Tensor:
        """(B, N, M) of all calls of a module, one behind the other; `even`, see `Looked.even_BNM`.

        Raises:
            ProbeError: If the module did not attend.
        """
        if not self._looked[name]:
            raise ProbeError(f"module {name!r} did not attend while it was watched")
        return torch.cat([call.even_BNM if even else call.weights_BNM for call in self._looked[name]])

    def given(self, name: str) -> Sequence[tuple[Any, ...]]:
        """Positional arguments of all calls of a module of `inputs`."""
        return self._given[name]

    def _begin(self, name: str) -> Callable[..., None]:
        return lambda *_: self._running.append(name)

    def _end(self, *_: object) -> None:
        self._running.pop()

    def _keep(self, name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        return lambda module, arguments: self._given[name].append(arguments)

    @torch.no_grad()
    def _watch(self, q_BHNE: Tensor, k_BHME: Tensor, mask_B1NM: Tensor | None) -> None:
        if not self._running:
            return  # attention that nobody asked about: the text tower's, the decoder's
        scores = (q_BHNE.float() * q_BHNE.shape[-1] ** -0.5) @ k_BHME.float().transpose(-1, -2)
        allowed = torch.ones_like(scores[:, 0], dtype=torch.bool)
        if mask_B1NM is not None:
            allowed = allowed & mask_B1NM[:, 0]
            scores = scores.masked_fill(~mask_B1NM, -torch.inf)
        # A query that may look at nothing looks at nothing.
        weights = scores.softmax(dim=-1).nan_to_num(0.0).mean(dim=1)
        even = allowed / allowed.sum(dim=-1, keepdim=True).clamp(min=1)
        self._looked[self._running[-1]].append(Looked(weights, even.to(weights.dtype)))

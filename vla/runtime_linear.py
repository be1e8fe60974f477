"""Linear layers laid out for acting: on a CPU in the order oneDNN multiplies in, elsewhere cast to half precision."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_ROWS = 256
"""What oneDNN is told about the number of rows; measured from 9 to 3152 rows, the layout does not depend on it."""


def can_pack(weight: Tensor) -> bool:
    """Whether this build of PyTorch has oneDNN's layout for it (inductor uses the same two operators)."""
    return (
        weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    )


class ActingLinear(nn.Module):
    """x @ weight.T + bias, without gradients.

    On a CPU the weights are also kept in oneDNN's order, once more in memory: a plain `F.linear` reorders them at each
    call, or goes to MKL, which is slower on AMD's processors. Rounding differs, nothing else.

    Args:
        weight: (out, in); shared, not copied, while it stays in float32.
        bias: (out,) or None.
        dtype: What to multiply in; inputs are cast to it, so that a residual stream can stay in float32.
    """

    packed: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype = torch.float32):
        super().__init__()
        self.weight = nn.Parameter(weight.detach().to(dtype), requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias.detach().to(dtype), requires_grad=False)
        self.packed = None
        if can_pack(self.weight):
            self.packed = _mkldnn()._reorder_linear_weight(self.weight.detach().contiguous(), _ROWS)

    def forward(self, x: Tensor) -> Tensor:
        if self.packed is None or torch.compiler.is_compiling():
            return F.linear(x.to(self.weight.dtype), self.weight, self.bias)
        return _mkldnn()._linear_pointwise(x, self.packed, self.bias, "none", [], "")


def _mkldnn() -> Any:
    return torch.ops.mkldnn


def for_acting(
    module: nn.Module, dtype: torch.dtype = torch.float32, transposed: tuple[type[nn.Module], ...] = ()
) -> nn.Module:
    """A copy of `module` in evaluation mode that shares its parameters, with an `ActingLinear` in each `nn.Linear`'s
    place, and in that of layers of the `transposed` classes, which keep `weight` as (in, out)."""
    shared = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    twin = copy.deepcopy(module, shared)
    for parent in list(twin.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear):
                setattr(parent, name, ActingLinear(child.weight, child.bias, dtype))
            elif isinstance(child, transposed):
                assert isinstance(child.weight, Tensor) and isinstance(child.bias, Tensor)
                setattr(parent, name, ActingLinear(child.weight.T, child.bias, dtype))
    return twin.eval()

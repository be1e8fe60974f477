"""Getting to the device and back: which device, uploads through pinned memory, functions recorded as CUDA graphs.

None of it needs a GPU to be tested: without one, the same static buffers are filled and the functions run on them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from foreact.vla.errors import ConfigError

_WARM_UP = 3
"""Runs before a graph is recorded, so that libraries choose their kernels outside of it. Source: PyTorch's notes."""


def find_device(name: str) -> torch.device:
    """The torch device called `name`.

    Raises:
        ConfigError: If it is not there.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device {name!r} is not one; use cpu, cuda or cuda:N") from error
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        raise ConfigError(
            f"device {name!r} is not there: torch {torch.__version__} sees {torch.cuda.device_count()} GPUs"
        )
    return device


class Uploader:
    """Rows of host memory as one tensor on the device.

    For a GPU they are gathered in pinned memory, kept per name and shape, and copied on a stream of their own while the
    program goes on; the current stream waits for the copy where it needs it.

    Args:
        device: Where to.
        staged: Go through kept buffers; by default only for a GPU.
    """

    def __init__(self, device: torch.device, staged: bool | None = None):
        self.device = device
        self._cuda = device.type == "cuda"
        self._staged = self._cuda if staged is None else staged
        self._buffers: dict[tuple, Tensor] = {}
        self._copied: dict[tuple, torch.cuda.Event] = {}
        self._stream = torch.cuda.Stream(device) if self._cuda else None

    def __call__(self, name: str, rows: Sequence[np.ndarray]) -> Tensor:
        """Rows of equal shape, stacked; `name` tells buffers of one step apart."""
        if not self._staged:
            return torch.from_numpy(np.stack(rows)).to(self.device)
        key = (name, len(rows), rows[0].shape, rows[0].dtype.str)
        if key not in self._buffers:
            like = torch.from_numpy(np.stack(rows))
            self._buffers[key] = torch.empty(like.shape, dtype=like.dtype, pin_memory=self._cuda)
        buffer = self._buffers[key]
        if self._cuda:
            self._copied.setdefault(key, torch.cuda.Event()).synchronize()  # what was in the buffer must have left it
        np.stack(rows, out=buffer.numpy())
        if self._stream is None:
            return buffer.to(self.device, copy=True)
        with torch.cuda.stream(self._stream):
            there = buffer.to(self.device, non_blocking=True)
            self._copied[key].record(self._stream)
        current = torch.cuda.current_stream(self.device)
        current.wait_stream(self._stream)
        there.record_stream(current)
        return there


class Recorded:
    """A function of tensors that runs on static buffers, one set for each combination of input shapes.

    With `graphs` it is recorded as a CUDA graph when a combination first comes, and replayed from then on, which spares
    the launch of each kernel. What it returns are copies, so the next call does not change them.

    Args:
        function: Tensors to a tuple of tensors. It must not look at values on the host, and depend on nothing else.
        graphs: Record CUDA graphs; else the function is called.
    """

    def __init__(self, function: Callable[..., tuple[Tensor, ...]], *, graphs: bool):
        self._function = function
        self._graphs = graphs
        self._runs: dict[tuple, _Run] = {}

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        key = tuple((tensor.shape, tensor.dtype) for tensor in inputs)
        if key not in self._runs:
            self._runs[key] = _Run(self._function, inputs, self._graphs)
        return self._runs[key](inputs)

    def __len__(self) -> int:
        """How many combinations of shapes have come."""
        return len(self._runs)


class _Run:
    def __init__(self, function: Callable[..., tuple[Tensor, ...]], inputs: Sequence[Tensor], graphs: bool):
        self.inputs = [tensor.clone() for tensor in inputs]
        self.graph: torch.cuda.CUDAGraph | None = None
        self.outputs: tuple[Tensor, ...] = ()
        self._function = function
        if not graphs:
            return
        device = self.inputs[0].device
        with torch.cuda.device(device):
            aside = torch.cuda.Stream(device)
            aside.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(aside):
                for _ in range(_WARM_UP):
                    function(*self.inputs)
            torch.cuda.current_stream(device).wait_stream(aside)
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self.outputs = function(*self.inputs)

    def __call__(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        for kept, new in zip(self.inputs, inputs, strict=True):
            kept.copy_(new, non_blocking=True)
        if self.graph is None:
            self.outputs = self._function(*self.inputs)
        else:
            self.graph.replay()
        return tuple(tensor.clone() for tensor in self.outputs)

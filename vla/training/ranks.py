"""One training process, or several that `accelerate launch` started and that share each batch.

accelerate starts the processes, opens their group and assigns devices; torch averages gradients (DDP) or also splits
weights and optimiser between the processes (FSDP2, `fully_shard` per transformer block). A single process needs
neither: accelerate is imported only when there are several.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from datetime import timedelta

import torch
from torch import Tensor, nn

from foreact.vla.batch import WindowBatch
from foreact.vla.errors import ConfigError
from foreact.vla.layers import Block
from foreact.vla.runtime import find_device
from foreact.vla.trainable import TrainablePolicy

_TIMEOUT = timedelta(minutes=30)
"""How long one process waits for the others: longer than the slowest validation or checkpoint."""


class Ranks:
    """This process among `size` that train one policy together.

    Args:
        device: "cpu", "cuda" or "cuda:N"; with several processes accelerate chooses each one's GPU.
        shard: Split weights, gradients and optimiser between the processes (FSDP2) instead of copying them (DDP).

    Raises:
        ConfigError: If the device is not there, or accelerate is missing.
    """

    def __init__(self, device: str, shard: bool = False):
        self.rank, self.size = 0, int(os.environ.get("WORLD_SIZE", "1"))
        self.shard = False
        self.device: torch.device
        self._wrapped: nn.Module | None = None
        self._policy: TrainablePolicy | None = None
        if self.size == 1:
            self.device = find_device(device)
            return
        try:
            from accelerate import PartialState
        except ImportError as error:
            raise ConfigError(
                "training in several processes needs accelerate: pip install '.[train]' in ForeAct's folder"
            ) from error
        if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true":
            raise ConfigError(
                "say trainer.shard=true instead of accelerate's --use_fsdp: it works on CPUs and GPUs alike"
            )
        cpu = torch.device(device).type == "cpu"
        if not cpu:
            find_device("cuda" if device.startswith("cuda") else device)
        state = PartialState(cpu=cpu, timeout=_TIMEOUT)
        if state.num_processes != self.size:
            raise ConfigError(f"WORLD_SIZE is {self.size}, but accelerate opened a group of {state.num_processes}")
        assert state.device is not None
        self.rank, self.device, self.shard = state.process_index, state.device, shard

    @property
    def main(self) -> bool:
        """Whether this process writes, prints and logs."""
        return self.rank == 0

    @property
    def validates(self) -> bool:
        """Whether this process takes part in validation: with split weights, no forward pass works alone."""
        return self.main or self.shard

    def prepare(self, policy: TrainablePolicy) -> None:
        """Wrap a policy that lies on `device`; call before making its optimiser, since FSDP2 replaces parameters."""
        self._policy = policy
        if self.shard:
            from torch.distributed.device_mesh import init_device_mesh
            from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

            mesh = init_device_mesh(self.device.type, (self.size,))
            for block in [part for part in policy.modules() if isinstance(part, Block)]:
                fully_shard(block, mesh=mesh)
            fully_shard(policy, mesh=mesh)
            for name in ("loss", "plan"):
                register_fsdp_forward_method(policy, name)
        elif self.size > 1:
            self._wrapped = nn.parallel.DistributedDataParallel(
                _Loss(policy), broadcast_buffers=False, find_unused_parameters=True, gradient_as_bucket_view=True,
                device_ids=None if self.device.type == "cpu" else [self.device.index],
            )  # fmt: skip

    def loss(self, batch: WindowBatch, counts: Mapping[str, float] | None) -> dict[str, Tensor]:
        """The policy's losses of this process's piece; their gradients are shared between the processes."""
        assert self._policy is not None
        if self._wrapped is not None:
            return self._wrapped(batch, counts)
        return self._policy.loss(batch) if counts is None else self._policy.loss(batch, counts)

    def backward(self, loss: Tensor) -> None:
        """Gradients are averaged between processes, but the pieces' losses add up: hence the factor."""
        (loss * self.size if self.size > 1 else loss).backward()

    @contextmanager
    def piece(self, last: bool) -> Iterator[None]:
        """Around forward and backward of one piece of this process's share: only the last one shares gradients."""
        if self.shard:
            self._policy.set_requires_gradient_sync(last)  # type: ignore[union-attr, operator]
        alone = self._wrapped.no_sync() if self._wrapped is not None and not last else nullcontext()  # type: ignore[operator]
        with alone:
            yield

    def add_up(self, values: Mapping[str, float | Tensor]) -> dict[str, float]:
        """The sums of these numbers over all processes, in float64."""
        if self.size == 1:
            return {name: float(value) for name, value in values.items()}
        names = sorted(values)
        parts = [
            torch.as_tensor(values[name], dtype=torch.float64).detach().to(self.device).reshape(()) for name in names
        ]
        sums = torch.stack(parts)
        torch.distributed.all_reduce(sums)
        return dict(zip(names, sums.tolist(), strict=True))

    @contextmanager
    def weights_change(self) -> Iterator[None]:
        """Around code that writes into weights: FSDP2 must not go on with a gathered copy of the old ones."""
        self._reshard()
        try:
            yield
        finally:
            self._reshard()

    def _reshard(self) -> None:
        if self.shard and self._policy is not None:
            for part in self._policy.modules():
                if hasattr(part, "reshard"):
                    part.reshard()  # type: ignore[operator]

    def close(self) -> None:
        """Leave the group: all processes end together."""
        if self.size > 1 and torch.distributed.is_initialized():
            torch.distributed.barrier()
            torch.distributed.destroy_process_group()


class _Loss(nn.Module):
    """What DDP wraps: it shares the gradients of what its `forward` computes."""

    def __init__(self, policy: TrainablePolicy):
        super().__init__()
        self.policy = policy

    def forward(self, batch: WindowBatch, counts: Mapping[str, float] | None) -> dict[str, Tensor]:
        return self.policy.loss(batch, counts)


def whole(tensor: Tensor) -> Tensor:
    """A weight, gathered from all processes if it is split between them (then all must call this)."""
    gather = getattr(tensor, "full_tensor", None)
    return tensor if gather is None else gather()


def own_part(tensor: Tensor) -> Tensor:
    """The part of a weight that lies in this process, sharing its memory."""
    local = getattr(tensor, "to_local", None)
    return tensor if local is None else local()


def put(target: Tensor, value: Tensor) -> None:
    """Write a whole tensor into a weight, which may be split between processes."""
    if hasattr(target, "full_tensor"):
        from torch.distributed.tensor import distribute_tensor

        value = distribute_tensor(value.to(target.device, target.dtype), target.device_mesh, target.placements)  # type: ignore[attr-defined]
    target.copy_(value)

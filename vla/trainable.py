"""The base class of policies that can be trained: a torch module with a loss, a plan, and a folder it lives in."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from foreact.vla.batch import WindowBatch
from foreact.vla.contract import Contract


class TrainablePolicy(nn.Module):
    """What training, checkpoints and the streaming runtime ask of a policy.

    Subclasses name themselves (`name`, see `foreact.vla.registry`) and bring a frozen config dataclass with
    `to_dict`, `from_dict` and the fields `history`, `history_stride`, `foresight_steps` and `chunk`.
    """

    name: ClassVar[str]

    def __init__(self, config: Any, contract: Contract, statistics: Mapping[str, Mapping[str, Sequence[float]]]):
        super().__init__()
        self.config = config
        self.contract = contract
        self.statistics = {key: {k: list(v) for k, v in value.items()} for key, value in statistics.items()}

    @abstractmethod
    def loss(self, batch: WindowBatch) -> dict[str, Tensor]:
        """Losses of one batch, "total" among them."""

    @property
    def gripper_index(self) -> int | None:
        """Position of the gripper command in the action vector, None if it has none."""
        start = 0
        for field in self.contract.action:
            if "gripper" in field.name and field.size == 1:
                return start
            start += field.size
        return None

"""The base class of policies that can be trained: a torch module with a loss, a plan, and a folder it lives in.

Shape legend: N frames, B windows, T history frames, F tokens of a frame, D width, S state size, K chunk, A action size.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from einops import rearrange
from torch import Tensor, nn

from foreact.vla.batch import WindowBatch
from foreact.vla.contract import Contract
from foreact.vla.errors import ConfigError
from foreact.vla.policy import Plan
from foreact.vla.rows import Rows, set_rows

if TYPE_CHECKING:
    from foreact.vla.frozen_vision import FrozenVision
    from foreact.vla.runtime_acting import Acting

Statistics = Mapping[str, Mapping[str, Sequence[float]]]


class TrainablePolicy(nn.Module):
    """What training, checkpoints and the streaming runtime ask of a policy.

    Subclasses name themselves (`name`, see `foreact.vla.registry`) and bring a frozen config dataclass with
    `to_dict`, `from_dict` and the fields `history`, `history_stride`, `foresight_steps`, `chunk` and `execute_steps`.
    """

    name: ClassVar[str]
    config_class: ClassVar[Any]

    def __init__(self, config: Any, contract: Contract, statistics: Statistics):
        super().__init__()
        self.config = config
        self.contract = contract
        self.statistics = {key: {k: list(v) for k, v in value.items()} for key, value in statistics.items()}

    # --- training ----------------------------------------------------------------------------------------------------

    @abstractmethod
    def loss(self, batch: WindowBatch, counts: Mapping[str, float] | None = None) -> dict[str, Tensor]:
        """Losses and metrics of one batch; "total" is what to minimise.

        With `counts`, the batch is a piece of a larger one, and each number is this piece's share: the shares of all
        pieces add up to the numbers of the whole. Only a policy that brings `loss_counts` is asked so.
        """

    def loss_counts(self, batch: WindowBatch) -> dict[str, float] | None:
        """How many elements each mean of `loss` is taken over, by name, from masks alone; sums over the pieces of a
        batch come back as `counts`. None (the default): this policy's batches cannot be cut into pieces."""
        return None

    provenance: Mapping[str, Any] | None = None
    """What it was trained on: "data" hashes, "settings", "code" versions, "step"; kept in its checkpoints."""

    rows: Rows | None = None
    """Which windows of a step's batch the next `loss` is for, set by the training loop: what a policy draws at random
    should follow from it, so that it does not depend on how many processes share the batch."""

    def set_rows(self, rows: Rows | None) -> None:
        """Say which windows come next; every `RowDropout` inside is told too."""
        self.rows = rows
        set_rows(self, rows, next(self.parameters()).device)

    def after_step(self) -> None:
        """Called by the training loop after each optimiser step, for weights that follow others; does nothing here."""

    def after_init_from(self, taken: Collection[str]) -> None:
        """Called when the tensors of these names were copied from another checkpoint, for weights that follow others;
        does nothing here."""

    # --- acting, in three steps so that a runtime can keep what does not change ---------------------------------------

    @abstractmethod
    def encode_frames(self, images: Mapping[str, Tensor], state_NS: Tensor, state_mask_N: Tensor) -> Tensor:
        """Tokens (N, F, D) of N frames, each by itself, from uint8 images (N, H, W, 3) and state (N, S)."""

    def frozen_vision(self) -> FrozenVision:
        """Its frozen vision tower, for policies whose `loss` takes `WindowBatch.features` in place of `images`.

        Raises:
            ConfigError: If it has none, or the tower is trained.
        """
        raise ConfigError(f"the policy {self.name!r} cannot use kept features: set data.features=live")

    @abstractmethod
    def encode_text(self, sentences: Sequence[str]) -> Tensor:
        """Language features (N, D) of N sentences."""

    @abstractmethod
    def plan_from(
        self, frames_BTFD: Tensor, language_BD: Tensor, mask_BT: Tensor, current: Mapping[str, Tensor] | None
    ) -> Plan:
        """A plan from encoded frames and text. With `current` (camera -> (B, H, W, 3) uint8) also predict frames."""

    def for_acting(self, dtype: torch.dtype = torch.float32) -> Acting:
        """What the streaming runtime calls instead of the three steps above: itself, or something faster that computes
        the same numbers up to rounding; in half precision if `dtype` says so. Made once, from weights that stay."""
        from foreact.vla.runtime_acting import acting_for

        return acting_for(self, dtype)

    @torch.no_grad()
    def plan(
        self,
        images: Mapping[str, Tensor],
        state_BTS: Tensor,
        state_mask_BT: Tensor,
        history_mask_BT: Tensor,
        instruction: Sequence[str],
        *,
        foresight: bool = False,
    ) -> Plan:
        """The full forward pass for B windows.

        Args:
            images: Camera name -> (B, T, H, W, 3) uint8; frames that exist come first.
            state_BTS: (B, T, S) contract state.
            state_mask_BT: (B, T) bool, False where the state is unknown.
            history_mask_BT: (B, T) bool, True for frames that exist.
            instruction: B sentences.
            foresight: Also predict the frames `foresight_steps` after the current ones.
        """
        B, T = history_mask_BT.shape
        flat = {name: rearrange(image, "b t h w c -> (b t) h w c") for name, image in images.items()}
        frames = self.encode_frames(flat, state_BTS.reshape(B * T, -1), state_mask_BT.reshape(B * T))
        current = None
        if foresight:
            rows, last = torch.arange(B), history_mask_BT.sum(dim=1) - 1
            current = {name: image[rows.to(image.device), last] for name, image in images.items()}
        frames_BTFD = rearrange(frames, "(b t) f d -> b t f d", t=T)
        return self.plan_from(frames_BTFD, self.encode_text(instruction), history_mask_BT, current)

    def to_commands(self, raw_BKA: Tensor) -> Tensor:
        """Raw outputs to actions of the contract."""
        columns: list[Tensor] = []
        for field in self.contract.action:
            start = sum(column.shape[-1] for column in columns)
            part = raw_BKA[..., start : start + field.size]
            if start == self.gripper_index:
                part = torch.where(part > 0, 1.0, -1.0)
            elif field.low is not None or field.high is not None:
                part = part.clamp(field.low, field.high)
            columns.append(part)
        return torch.cat(columns, dim=-1) if columns else raw_BKA

    # --- the folder it lives in --------------------------------------------------------------------------------------

    def tower_files(self) -> dict[str, bytes | Callable[[Path], None]]:
        """Files besides weights that pretrained towers need to be built again offline (none by default)."""
        return {}

    def normaliser(self) -> dict[str, Tensor]:
        """Tensors of the state dict that follow from `statistics` alone."""
        return {}

    @classmethod
    @abstractmethod
    def from_parts(cls, config: Mapping, contract: Contract, statistics: Statistics, folder: Path) -> Self:
        """Build with unset weights from what a checkpoint folder says; `folder` holds `tower_files`."""

    def save_pretrained(self, folder: Path | str) -> None:
        """Write a self-contained checkpoint folder, atomically; see `foreact.vla.checkpoint`."""
        from foreact.vla.checkpoint import save_policy

        save_policy(self, Path(folder))

    @classmethod
    def from_pretrained(cls, folder: Path | str, device: str = "cpu", *, revision: str | None = None) -> Self:
        """Read a checkpoint of this policy: a folder, "hf://user/name", or, where there is no such folder, "user/name"
        on a model hub.

        Args:
            folder: Which.
            device: Where the weights go.
            revision: Branch, tag or commit on the hub; None: the newest.

        Raises:
            ForeActError: If it is damaged, of another format, of another policy, or cannot be had.
        """
        from foreact.vla.checkpoint import CheckpointError, load_policy
        from foreact.vla.hub import SCHEME, HubError, is_hub_name

        remote = isinstance(folder, str) and is_hub_name(folder) and not Path(folder).exists()
        try:
            policy = load_policy(f"{SCHEME}{folder}" if remote else folder, device, revision=revision)
        except HubError as error:
            raise HubError(f"{error}\n(there is no folder {folder} here)") if remote else error from error
        if not isinstance(policy, cls):
            raise CheckpointError(
                f"{folder} holds a {policy.name!r} policy, not {getattr(cls, 'name', cls.__name__)!r}"
            )
        return policy

    @property
    def gripper_index(self) -> int | None:
        """Position of the gripper command in the action vector, None if it has none."""
        start = 0
        for field in self.contract.action:
            if field.is_gripper:
                return start
            start += field.size
        return None

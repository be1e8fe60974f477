"""What a run writes down: one JSON object per line, TensorBoard, optionally W&B."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from foreact.vla.errors import ConfigError
from foreact.vla.files import drop_unfinished_line


class RunLog:
    """Scalars by step into `log.jsonl`, `tensorboard/`, and W&B when asked for."""

    def __init__(
        self,
        folder: Path,
        *,
        tensorboard: bool = True,
        wandb: bool = False,
        config: Mapping[str, Any] = {},
        silent: bool = False,
    ):
        """Open the files; `silent` writes nothing (of several processes, one keeps the log)."""
        self._file = self._board = self._wandb = None
        if silent:
            return
        folder.mkdir(parents=True, exist_ok=True)
        drop_unfinished_line(folder / "log.jsonl")
        self._file = (folder / "log.jsonl").open("a", encoding="utf-8")
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(folder / "tensorboard"))
        if wandb:
            try:
                import wandb as service  # pyright: ignore[reportMissingImports]
            except ImportError as error:
                raise ConfigError("trainer.wandb=true needs the package wandb: pip install wandb") from error
            self._wandb = service.init(project="foreact", dir=str(folder), config=dict(config))

    def scalars(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Write numbers of optimiser step `step`; `kind` is "train", "validation" or "event"."""
        if self._file is None:
            return
        self._file.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")
        self._file.flush()
        numbers = {f"{kind}/{name}": value for name, value in values.items() if isinstance(value, (int, float))}
        if self._board is not None:
            for name, value in numbers.items():
                self._board.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log(numbers, step=step)

    def picture(self, name: str, step: int, picture_HWC: Any) -> None:
        """Show an (H, W, 3) uint8 picture."""
        if self._board is not None:
            self._board.add_image(name, picture_HWC, step, dataformats="HWC")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._file is not None:
            self._file.close()
        if self._board is not None:
            self._board.close()
        if self._wandb is not None:
            self._wandb.finish()

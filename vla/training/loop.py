"""The training loop: batches in, checkpoints out; what a step does depends on (seed, step) alone."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from foreact.vla.checkpoint import save_policy
from foreact.vla.errors import ConfigError, ForeActError
from foreact.vla.files import sweep
from foreact.vla.layers import Block
from foreact.vla.trainable import TrainablePolicy
from foreact.vla.training.changes import check_unchanged
from foreact.vla.training.config import TrainerConfig
from foreact.vla.training.ema import Ema
from foreact.vla.training.guard import Spikes, dump_spike, stop_non_finite
from foreact.vla.training.logs import RunLog
from foreact.vla.training.meter import Meter, line
from foreact.vla.training.optimizer import make_optimizer, use_bf16
from foreact.vla.training.pieces import BatchAt, Piece, Pieces, RowsAt
from foreact.vla.training.ranks import Ranks, whole
from foreact.vla.training.schedule import learning_rate
from foreact.vla.training.state import averaged, gather, load_training, newest, read_info, save_training, trainable
from foreact.vla.training.validate import foresight_strip, save_png, validate

_MEASURED_STEPS = 3
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)


class Trainer:
    """One run in one folder.

    Args:
        policy: What is trained, in place.
        batch_at: Training batch of a step, a pure function.
        config: Settings.
        out: The run's folder: `checkpoints/step_*`, `policy/` (newest averaged weights), `log.jsonl`, `tensorboard/`,
            `strips/*.png`.
        val_at: Validation batch of a number; None: no validation.
        provenance: JSON values kept in every training checkpoint (data hashes, settings).
        console: Where to print.
        rows_at: Windows [first, stop) of a step's batch, so that each of several processes makes only its own.
        ranks: The processes that train together; by default those that `accelerate launch` started, else one.

    Raises:
        ConfigError: If the batch cannot be cut into as many pieces as the settings ask for.
    """

    def __init__(
        self,
        policy: TrainablePolicy,
        batch_at: BatchAt,
        config: TrainerConfig,
        out: Path,
        *,
        val_at: BatchAt | None = None,
        provenance: dict[str, Any] | None = None,
        console: Console | None = None,
        rows_at: RowsAt | None = None,
        ranks: Ranks | None = None,
    ):
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        self.ranks = ranks or Ranks(config.device, config.shard)
        self.device = self.ranks.device
        self.policy = policy.to(self.device).train()
        self.config, self.out = config, out
        self.val_at = val_at
        self.pieces = Pieces(batch_at, config, self.ranks.rank, self.ranks.size, rows_at)
        if self.pieces.split and policy.loss_counts(self.pieces.at(0)[0].batch) is None:
            raise ConfigError(
                f"the policy {policy.name!r} has no loss_counts, so its batches cannot be cut into pieces: "
                "train it in one process with trainer.accumulate=1"
            )
        blocks = [part for part in policy.modules() if isinstance(part, Block)]
        for block in blocks:
            block.recompute = config.recompute
        if config.compile:
            if self.ranks.shard:
                raise ConfigError("trainer.compile=true and trainer.shard=true do not go together; choose one")
            for block in blocks:
                block.compile()
        self.ranks.prepare(policy)
        self.provenance = provenance or {}
        self.console = console or Console()
        self.bf16 = use_bf16(config.precision, self.device)
        self.optimizer = make_optimizer(policy, config)
        self.ema = Ema(policy, config.ema_decay)
        self.step = 0
        self.max_steps = config.max_steps
        self.seconds = 0.0
        self._signal: int | None = None
        self._stop: int | None = None
        self._over = False

    # --- the whole run -----------------------------------------------------------------------------------------------

    def resume(self, allow_changed: Sequence[str] = ()) -> bool:
        """Go on from the newest undamaged checkpoint of this folder; False if there is none.

        Args:
            allow_changed: Names of settings that may differ from that run's, such as "trainer.learning_rate".

        Raises:
            ConfigError: If data, contract, a setting or the release differ and are not named there.
        """
        if self.ranks.main:
            sweep(self.out)  # what a killed run left of `policy/`
        folder = newest(self.out / "checkpoints", note=lambda text: self._say(f"warning: {text}"))
        if folder is None:
            return False
        info = read_info(folder)
        for text in check_unchanged(info, self._info(), allow_changed, str(folder)):
            self._say(f"allowed to differ: {text}")
        with self.ranks.weights_change():
            load_training(folder, self.policy, self.optimizer, self.ema)
        self.step, self.seconds = info["step"], info["seconds"]
        same = self.config.max_minutes == info["trainer"]["max_minutes"]
        self.max_steps = self.config.max_steps or (info["max_steps"] if same else None)  # None: counted anew
        self._say(f"resumed {folder} at step {self.step}")
        return True

    def run(self) -> dict[str, float]:
        """Train to the end; returns the last validation (or training) numbers.

        Raises:
            NonFinite: Before a step that would spoil the weights.
            SystemExit: 143 after SIGTERM, 130 after Ctrl-C, when the checkpoint is written.
        """
        self._announce()
        assert self.max_steps is not None
        last: dict[str, float] = {}
        began, saved = time.monotonic() - self.seconds, self.step
        with (
            RunLog(
                self.out, tensorboard=self.config.tensorboard, wandb=self.config.wandb, config=self.provenance,
                silent=not self.ranks.main,
            ) as log,
            self._signals(),
            self.pieces.ahead(self.step) as batches,
            self._progress() as bar,
        ):  # fmt: skip
            meter, spikes = Meter(self.config.batch_size), Spikes()
            self._agree()
            while self.step < self.max_steps and self._stop is None and not self._over:
                pieces = next(batches)
                values = self._train_step(pieces)
                self.step += 1
                self.seconds = time.monotonic() - began
                self._agree()
                meter.add(values)
                done = self.step == self.max_steps or self._over
                if spike := spikes.add(values["total"]):
                    path = dump_spike(pieces, values, spike, self.step, self.out, self.ranks.rank)
                    log.scalars("event", self.step, {"loss_spike": spike, "windows": str(path.relative_to(self.out))})
                    self._say(
                        f"warning: at step {self.step} the loss is {spike:.0f} standard deviations above the last 200; "
                        f"its windows are listed in {path}"
                    )
                if self.step % self.config.log_every == 0 or done:
                    last = meter.flush()
                    log.scalars("train", self.step, {**last, "hours": self.seconds / 3600})
                    bar(self.step, last)
                if self.val_at and (done or self.config.validate_every and self.step % self.config.validate_every == 0):
                    last = self._validate(log)
                if done or self._stop is not None or self.step % self.config.save_every == 0:
                    self._save()
                    saved = self.step
            if saved != self.step:
                self._save()
        self.ranks.close()
        if self.step < self.max_steps and self._stop is None:
            minutes = self.config.max_minutes
            self._say(f"stopped at step {self.step} of {self.max_steps}: trainer.max_minutes={minutes} are over")
        if self._stop is not None:
            self._say(f"stopped by signal {self._stop}; checkpoint at step {self.step} written")
            raise SystemExit(128 + self._stop)
        return last

    # --- one step ----------------------------------------------------------------------------------------------------

    def _train_step(self, pieces: list[Piece]) -> dict[str, float]:
        config = self.config
        assert self.max_steps is not None
        rate = learning_rate(
            self.step, max_steps=self.max_steps, warmup_steps=config.warmup_steps, peak=config.learning_rate,
            least=config.min_learning_rate,
        )  # fmt: skip
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        losses = self._backward(pieces)
        norm = float(whole(torch.nn.utils.clip_grad_norm_(trainable(self.policy).values(), config.clip_norm)))
        for what, value in (("the loss", losses["total"]), ("the gradient", norm)):
            if not math.isfinite(value):
                raise stop_non_finite(self.policy, pieces, losses, what, self.step, self.out, self.ranks)
        self.optimizer.step()
        self.policy.after_step()
        self.ema.update(self.step)
        return {**losses, "gradient_norm": norm, "learning_rate": rate}

    def _backward(self, pieces: list[Piece]) -> dict[str, float]:
        """Gradients of the whole batch into this process's weights; returns the whole batch's losses."""
        self.optimizer.zero_grad(set_to_none=True)
        counts = self._counts(pieces) if self.pieces.split else None
        sums: dict[str, torch.Tensor] = {}
        for piece in pieces:
            # For what a policy draws by itself; the augmentation, and what asks `policy.rows`, needs no generator.
            torch.manual_seed(piece.rows.torch_seed)
            self.policy.set_rows(piece.rows)
            try:
                with self.ranks.piece(last=piece is pieces[-1]):
                    with self._autocast():
                        losses = self.ranks.loss(piece.batch, counts)
                    self.ranks.backward(losses["total"])
            except torch.OutOfMemoryError as error:
                raise ForeActError(
                    f"step {self.step}: {self.device} has not enough memory for {len(piece.batch)} windows at once; "
                    f"the weights were not touched. Raise trainer.accumulate, or say trainer.recompute=true.\n{error}"
                ) from error
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + value.detach().double()
        self.policy.set_rows(None)
        return self.ranks.add_up(sums)

    def _counts(self, pieces: list[Piece]) -> dict[str, float]:
        sums: dict[str, float] = {}
        for piece in pieces:
            for name, value in (self.policy.loss_counts(piece.batch) or {}).items():
                sums[name] = sums.get(name, 0.0) + value
        return self.ranks.add_up(sums)

    def _autocast(self):
        return torch.autocast(self.device.type, dtype=torch.bfloat16) if self.bf16 else nullcontext()

    # --- around it ---------------------------------------------------------------------------------------------------

    def _announce(self) -> None:
        """Measure a few steps without changing anything, then say how long it will take."""
        seconds = []
        for _ in range(_MEASURED_STEPS):
            start = time.perf_counter()
            self._backward(self.pieces.at(self.step))
            seconds.append(time.perf_counter() - start)
        self.optimizer.zero_grad(set_to_none=True)
        rate = self.config.batch_size / min(seconds)
        if self.max_steps is None:
            assert self.config.max_minutes is not None
            # A margin of 5% for the optimiser, validation and checkpoints.
            left = 0.95 * (60.0 * self.config.max_minutes - self.seconds) * rate / self.config.batch_size
            steps = float(max(1, self.step + int(left)))
            self.max_steps = int(self.ranks.add_up({"steps": steps if self.ranks.main else 0.0})["steps"])
        hours = (self.max_steps - self.step) * self.config.batch_size / rate / 3600
        count = sum(p.numel() for p in trainable(self.policy).values())
        self._say(
            f"{count / 1e6:.2f} M weights to train, {'bf16' if self.bf16 else 'fp32'} on {self.device}, "
            f"{torch.get_num_threads()} threads{self._processes()}: {rate:.0f} windows/s; "
            f"steps {self.step} to {self.max_steps} of {self.config.batch_size} windows: about {hours:.2f} hours"
        )

    def _processes(self) -> str:
        kind = "weights split" if self.ranks.shard else "weights copied"
        return f" in each of {self.ranks.size} processes ({kind})" if self.ranks.size > 1 else ""

    def _validate(self, log: RunLog) -> dict[str, float]:
        assert self.val_at is not None
        if not self.ranks.validates:
            return {}
        with self.ranks.weights_change(), self.ema.applied():
            with self._autocast():
                values = validate(self.policy, self.val_at, self.config.validate_batches, self.config.seed)
            strip = foresight_strip(self.policy, self.val_at(0))
        if not self.ranks.main:
            return {}
        save_png(strip, self.out / "strips" / f"step_{self.step:08d}.png")
        log.scalars("validation", self.step, values)
        log.picture("foresight", self.step, strip)
        self._say(f"validation at step {self.step}: {line(values)}")
        return {f"validation/{name}": value for name, value in values.items()}

    def _say(self, text: str) -> None:
        if self.ranks.main:
            self.console.print(text, soft_wrap=True, highlight=False, markup=False)

    def _late(self) -> bool:
        return self.config.max_minutes is not None and self.seconds >= 60.0 * self.config.max_minutes

    def _agree(self) -> None:
        """All processes stop after the same step: a signal to any of them, or the first one's clock, stops all."""
        flags = {str(int(number)): float(self._signal == number) for number in _SIGNALS}
        sums = self.ranks.add_up({**flags, "late": float(self.ranks.main and self._late())})
        self._stop = next((int(number) for number in _SIGNALS if sums[str(int(number))]), None)
        self._over = bool(sums["late"])

    def _save(self) -> None:
        tensors = gather(self.policy, self.optimizer, self.ema)
        if self.ranks.main:
            if self.provenance:  # for the model card
                self.policy.provenance = {**self.provenance, "step": self.step}
            save_training(self.out / "checkpoints", self.policy, tensors, self._info(), self.config.keep)
            save_policy(self.policy, self.out / "policy", averaged(tensors))

    def _info(self) -> dict[str, Any]:
        identity = {
            "seed": self.config.seed, "batch_size": self.config.batch_size, "data": self.provenance.get("data"),
            "contract": self.policy.contract.hash,
        }  # fmt: skip
        return {
            "step": self.step, "seconds": self.seconds, "max_steps": self.max_steps, "identity": identity,
            "trainer": self.config.to_dict(), "provenance": self.provenance,
        }  # fmt: skip

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGTERM, SIGUSR1 and SIGUSR2 (warnings of clusters), Ctrl-C: finish this step, save, exit."""

        def note(number: int, _frame: object) -> None:
            self._signal = number

        try:
            old = {number: signal.signal(number, note) for number in _SIGNALS}
        except ValueError:  # not in the main thread
            yield
            return
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)

    @contextmanager
    def _progress(self) -> Iterator[Callable[[int, dict[str, float]], None]]:
        if not self.console.is_terminal or not self.ranks.main:
            yield lambda step, values: self._say(f"step {step}: {line(values)}")
            return
        columns = (
            TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[text]}"),
            TimeElapsedColumn(), TimeRemainingColumn(),
        )  # fmt: skip
        with Progress(*columns, console=self.console) as progress:
            task = progress.add_task("", total=self.max_steps, completed=self.step, text="")
            yield lambda step, values: progress.update(task, completed=step, text=line(values, short=True))

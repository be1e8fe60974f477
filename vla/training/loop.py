"""The training loop: batches in, checkpoints out; what a step does depends on (seed, step) alone."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from foreact.vla.batch import WindowBatch
from foreact.vla.checkpoint import save_policy
from foreact.vla.errors import ConfigError
from foreact.vla.runtime import find_device
from foreact.vla.trainable import TrainablePolicy
from foreact.vla.training.augment import augment_batch
from foreact.vla.training.config import TrainerConfig
from foreact.vla.training.ema import Ema
from foreact.vla.training.guard import Spikes, stop_non_finite
from foreact.vla.training.logs import RunLog
from foreact.vla.training.schedule import learning_rate
from foreact.vla.training.state import load_training, newest, save_training, trainable
from foreact.vla.training.validate import BatchAt, foresight_strip, save_png, validate, with_ratios

_MEASURED_STEPS = 3


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
    ):
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        self.device = find_device(config.device)
        self.policy = policy.to(self.device).train()
        self.config, self.out = config, out
        self.batch_at, self.val_at = batch_at, val_at
        self.provenance = provenance or {}
        self.console = console or Console()
        self.bf16 = use_bf16(config.precision, self.device)
        self.optimizer = make_optimizer(policy, config)
        self.ema = Ema(policy, config.ema_decay)
        self.step = 0
        self.max_steps = config.max_steps
        self.seconds = 0.0
        self._stop: int | None = None

    # --- the whole run -----------------------------------------------------------------------------------------------

    def resume(self) -> bool:
        """Go on from the newest undamaged checkpoint of this folder; False if there is none.

        Raises:
            ConfigError: If that run had other data, seed or batch size: the batches would not be the same.
        """
        folder = newest(self.out / "checkpoints", note=lambda text: self._say(f"warning: {text}"))
        if folder is None:
            return False
        info = load_training(folder, self.policy, self.optimizer, self.ema)
        for name, value in self._identity().items():
            if info["identity"].get(name) != value:
                raise ConfigError(
                    f"{folder} was trained with {name}={info['identity'].get(name)!r}, now {value!r}; "
                    "resume with the same, or start in another folder with init_from"
                )
        self.step, self.seconds = info["step"], info["seconds"]
        self.max_steps = self.config.max_steps or info["max_steps"]
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
                self.out, tensorboard=self.config.tensorboard, wandb=self.config.wandb, config=self.provenance
            ) as log,
            self._signals(),
            self._batches() as batches,
            self._progress() as bar,
        ):
            meter, spikes = _Meter(self.config.batch_size), Spikes()
            while self.step < self.max_steps and self._stop is None and not self._late():
                values = self._train_step(next(batches))
                self.step += 1
                self.seconds = time.monotonic() - began
                meter.add(values)
                done = self.step == self.max_steps or self._late()
                if spike := spikes.add(float(values["total"])):
                    log.scalars("event", self.step, {"loss_spike": spike})
                    self._say(
                        f"warning: at step {self.step} the loss is {spike:.0f} standard deviations above the last 200"
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
        if self.step < self.max_steps and self._stop is None:
            minutes = self.config.max_minutes
            self._say(f"stopped at step {self.step} of {self.max_steps}: trainer.max_minutes={minutes} are over")
        if self._stop is not None:
            self._say(f"stopped by signal {self._stop}; checkpoint at step {self.step} written")
            raise SystemExit(128 + self._stop)
        return last

    # --- one step ----------------------------------------------------------------------------------------------------

    def _train_step(self, batch: WindowBatch) -> dict[str, torch.Tensor]:
        config = self.config
        assert self.max_steps is not None
        rate = learning_rate(
            self.step, max_steps=self.max_steps, warmup_steps=config.warmup_steps, peak=config.learning_rate,
            least=config.min_learning_rate,
        )  # fmt: skip
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        losses = self._backward(batch, self.step)
        norm = torch.nn.utils.clip_grad_norm_(trainable(self.policy).values(), config.clip_norm)
        for what, value in (("the loss", losses["total"]), ("the gradient", norm)):
            if not bool(torch.isfinite(value)):
                raise stop_non_finite(self.policy, batch, losses, what, self.step, self.out)
        self.optimizer.step()
        self.ema.update(self.step)
        return {
            **{k: v.detach() for k, v in losses.items()},
            "gradient_norm": norm,
            "learning_rate": torch.tensor(rate),
        }

    def _backward(self, batch: WindowBatch, step: int) -> dict[str, torch.Tensor]:
        torch.manual_seed((self.config.seed << 32) + step)
        self.optimizer.zero_grad(set_to_none=True)
        with self._autocast():
            losses = self.policy.loss(batch)
        if bool(torch.isfinite(losses["total"])):
            losses["total"].backward()
        return losses

    def _autocast(self):
        return torch.autocast(self.device.type, dtype=torch.bfloat16) if self.bf16 else nullcontext()

    def _batch(self, step: int) -> WindowBatch:
        return augment_batch(self.batch_at(step), self.config.augment, self.config.seed, step)

    @contextmanager
    def _batches(self) -> Iterator[Iterator[WindowBatch]]:
        if not self.config.prefetch:
            yield (self._batch(step) for step in _count(self.step))
            return

        def ahead(pool: ThreadPoolExecutor) -> Iterator[WindowBatch]:
            waiting = pool.submit(self._batch, self.step)
            for step in _count(self.step + 1):
                batch = waiting.result()
                waiting = pool.submit(self._batch, step)
                yield batch

        with ThreadPoolExecutor(1, thread_name_prefix="batches") as pool:
            yield ahead(pool)

    # --- around it ---------------------------------------------------------------------------------------------------

    def _announce(self) -> None:
        """Measure a few steps without changing anything, then say how long it will take."""
        seconds = []
        for _ in range(_MEASURED_STEPS):
            start = time.perf_counter()
            self._backward(self._batch(self.step), self.step)
            seconds.append(time.perf_counter() - start)
        self.optimizer.zero_grad(set_to_none=True)
        rate = self.config.batch_size / min(seconds)
        if self.max_steps is None:
            assert self.config.max_minutes is not None
            # A margin of 5% for the optimiser, validation and checkpoints.
            left = 0.95 * (60.0 * self.config.max_minutes - self.seconds) * rate / self.config.batch_size
            self.max_steps = max(1, self.step + int(left))
        hours = (self.max_steps - self.step) * self.config.batch_size / rate / 3600
        count = sum(p.numel() for p in trainable(self.policy).values())
        self._say(
            f"{count / 1e6:.2f} M weights to train, {'bf16' if self.bf16 else 'fp32'} on {self.device}, "
            f"{torch.get_num_threads()} threads: {rate:.0f} windows/s; steps {self.step} to {self.max_steps} of "
            f"{self.config.batch_size} windows: about {hours:.2f} hours"
        )

    def _validate(self, log: RunLog) -> dict[str, float]:
        assert self.val_at is not None
        with self.ema.applied(), self._autocast():
            values = validate(self.policy, self.val_at, self.config.validate_batches, self.config.seed)
        with self.ema.applied():
            strip = foresight_strip(self.policy, self.val_at(0))
        save_png(strip, self.out / "strips" / f"step_{self.step:08d}.png")
        log.scalars("validation", self.step, values)
        log.picture("foresight", self.step, strip)
        self._say(f"validation at step {self.step}: {_line(values)}")
        return {f"validation/{name}": value for name, value in values.items()}

    def _say(self, text: str) -> None:
        self.console.print(text, soft_wrap=True, highlight=False, markup=False)

    def _late(self) -> bool:
        return self.config.max_minutes is not None and self.seconds >= 60.0 * self.config.max_minutes

    def _save(self) -> None:
        info = {
            "step": self.step, "seconds": self.seconds, "max_steps": self.max_steps, "identity": self._identity(),
            "trainer": self.config.to_dict(), "provenance": self.provenance,
        }  # fmt: skip
        save_training(self.out / "checkpoints", self.policy, self.optimizer, self.ema, info, self.config.keep)
        save_policy(self.policy, self.out / "policy", self.policy.state_dict() | self.ema.weights)

    def _identity(self) -> dict[str, Any]:
        return {
            "seed": self.config.seed,
            "batch_size": self.config.batch_size,
            "data": self.provenance.get("data"),
            "contract": self.policy.contract.hash,
        }

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGTERM, SIGUSR1 (a cluster's warning) and Ctrl-C: finish this step, write a checkpoint, exit."""

        def note(number: int, _frame: object) -> None:
            self._stop = number

        try:
            old = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
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
        if not self.console.is_terminal:
            yield lambda step, values: self._say(f"step {step}: {_line(values)}")
            return
        columns = (
            TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[text]}"),
            TimeElapsedColumn(), TimeRemainingColumn(),
        )  # fmt: skip
        with Progress(*columns, console=self.console) as progress:
            task = progress.add_task("", total=self.max_steps, completed=self.step, text="")
            yield lambda step, values: progress.update(task, completed=step, text=_line(values, short=True))


class _Meter:
    """Means since the last flush, and the speed."""

    def __init__(self, batch_size: int):
        self._batch_size = batch_size
        self._sums: dict[str, torch.Tensor] = {}
        self._count = 0
        self._since = time.perf_counter()

    def add(self, values: dict[str, torch.Tensor]) -> None:
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value.float()  # type: ignore[operator]
        self._count += 1

    def flush(self) -> dict[str, float]:
        now = time.perf_counter()
        values = with_ratios({name: float(value) / self._count for name, value in self._sums.items()})
        values["windows_per_s"] = self._count * self._batch_size / (now - self._since)
        self._sums, self._count, self._since = {}, 0, now
        return values


def _line(values: dict[str, float], short: bool = False) -> str:
    wanted = ("total", "arm_error", "gripper_accuracy", "foresight_ratio", "windows_per_s")
    shown = {k: v for k, v in values.items() if k in wanted or not short and k.startswith("foresight_ratio")}
    return ", ".join(f"{name} {value:.4g}" for name, value in shown.items() if not math.isnan(value))


def _count(start: int) -> Iterator[int]:
    while True:
        yield start
        start += 1


def make_optimizer(policy: TrainablePolicy, config: TrainerConfig) -> torch.optim.AdamW:
    """AdamW; matrices decay, vectors and learned tokens do not."""
    live = trainable(policy)
    matrices = {
        name for name, module in policy.named_modules() if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d))
    }
    decayed = [p for name, p in live.items() if name.endswith(".weight") and name.removesuffix(".weight") in matrices]
    chosen = {id(p) for p in decayed}
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": [p for p in live.values() if id(p) not in chosen], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, fused=True)


def use_bf16(precision: str, device: torch.device) -> bool:
    """Whether to compute in bfloat16 (weights stay float32)."""
    if precision != "auto":
        return precision == "bf16"
    return device.type == "cuda" or torch.cpu._is_avx512_bf16_supported()

"""A step's batch, cut into the pieces that processes and gradient accumulation compute one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace

from foreact.vla.batch import WindowBatch
from foreact.vla.errors import ConfigError, ForeActError
from foreact.vla.rows import Rows
from foreact.vla.training.augment import augment_batch
from foreact.vla.training.config import TrainerConfig

BatchAt = Callable[[int], WindowBatch]
RowsAt = Callable[[int, int, int], WindowBatch]
"""(step, first, stop) -> windows [first, stop) of the step's batch."""


@dataclass(frozen=True)
class Piece:
    """Some windows of a step's batch."""

    batch: WindowBatch
    rows: Rows


class Pieces:
    """This process's pieces of every step: `config.accumulate` of them, together 1 / `size` of the batch.

    Args:
        batch_at: The whole batch of a step, a pure function.
        config: Settings.
        rank: This process.
        size: How many processes there are.
        rows_at: The same for a range of rows, so that each process makes only its own windows; None: cut `batch_at`.

    Raises:
        ConfigError: If there are more pieces than windows.
    """

    def __init__(
        self, batch_at: BatchAt, config: TrainerConfig, rank: int = 0, size: int = 1, rows_at: RowsAt | None = None
    ):
        self._batch_at, self._rows_at, self._config = batch_at, rows_at, config
        total, count = config.batch_size, size * config.accumulate
        if count > total:
            raise ConfigError(
                f"trainer.batch_size={total} windows cannot be cut into {size} processes x "
                f"trainer.accumulate={config.accumulate} pieces; raise the first or lower the others"
            )
        bounds = [total * number // count for number in range(count + 1)]
        mine = range(rank * config.accumulate, (rank + 1) * config.accumulate)
        self.bounds = [(bounds[number], bounds[number + 1]) for number in mine]
        self.split = count > 1

    def at(self, step: int) -> list[Piece]:
        """The pieces of step `step`, augmented.

        Raises:
            ForeActError: If the data cannot be read; names the step.
        """
        try:
            return self._make(step)
        except ForeActError:
            raise
        except Exception as error:
            raise ForeActError(
                f"the batch of step {step} could not be made: {type(error).__name__}: {error}\n"
                "Check the data (`foreact data verify STORE`), then go on from the last checkpoint with resume=true."
            ) from error

    def _make(self, step: int) -> list[Piece]:
        config, total = self._config, self._config.batch_size
        whole = self._batch_at(step) if self._rows_at is None else None
        pieces: list[Piece] = []
        for first, stop in self.bounds:
            if self._rows_at is not None:
                batch = self._rows_at(step, first, stop)
            else:
                assert whole is not None
                batch = cut(whole, first, stop) if self.split else whole
            rows = Rows(config.seed, step, first, stop - first, total)
            pieces.append(Piece(augment_batch(batch, config.augment, rows), rows))
        return pieces

    @contextmanager
    def ahead(self, step: int) -> Iterator[Iterator[list[Piece]]]:
        """The pieces of `step` and of all later steps, made ahead by `config.workers` threads (0: when asked for)."""
        workers = self._config.workers
        if workers == 0:
            yield map(self.at, _count(step))
            return

        def made(pool: ThreadPoolExecutor) -> Iterator[list[Piece]]:
            waiting: list[Future[list[Piece]]] = []
            for number in _count(step):
                waiting.append(pool.submit(self.at, number))
                if len(waiting) > workers:
                    yield waiting.pop(0).result()

        pool = ThreadPoolExecutor(workers, thread_name_prefix="batches")
        try:
            yield made(pool)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def cut(batch: WindowBatch, first: int, stop: int) -> WindowBatch:
    """Windows [first, stop) of a batch."""
    parts = {}
    for field in fields(batch):
        value = getattr(batch, field.name)
        if isinstance(value, dict):
            parts[field.name] = {name: array[first:stop] for name, array in value.items()}
        elif value is not None:
            parts[field.name] = value[first:stop]
    return replace(batch, **parts)


def _count(start: int) -> Iterator[int]:
    while True:
        yield start
        start += 1

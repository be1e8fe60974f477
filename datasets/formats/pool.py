"""A conversion in several processes; they end with their parent, whatever ends it."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, Any

from foreact.datasets.formats.base import FormatError, Sink, Source
from foreact.datasets.formats.registry import Opening
from foreact.vla.contract import Contract
from foreact.vla.errors import ForeActError
from foreact.vla.processes import end_with_parent

if TYPE_CHECKING:
    from foreact.datasets.formats.convert import Target

_AHEAD = 4
"""Episodes per worker that are handed out before their turn."""

_open: dict[str, Any] = {}


def parallel(
    opening: Opening, target: Target, contract: Contract, names: Sequence[str], workers: int
) -> Iterator[tuple[str, int, ForeActError | None]]:
    """Read and write episodes in processes of their own; results come in the order of `names`.

    Raises:
        FormatError: If a process dies.
    """
    context = multiprocessing.get_context("spawn")  # a fork would share open files and the threads of codecs
    arguments = (opening, target, contract.to_yaml())
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=arguments) as pool:
        waiting: list[tuple[str, Future[tuple[int, str]]]] = []
        todo = iter(names)
        try:
            while True:
                while len(waiting) < workers * _AHEAD and (name := next(todo, None)) is not None:
                    waiting.append((name, pool.submit(_transfer, name)))
                if not waiting:
                    return
                name, future = waiting.pop(0)
                frames, problem = future.result()
                yield name, frames, FormatError(problem) if problem else None
        except BrokenProcessPool as error:
            raise FormatError(
                "a process of the conversion died (was it killed, for memory perhaps?). What it had finished is kept: "
                "run the same command again, with fewer --workers"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _begin(opening: Opening, target: Target, contract_yaml: str) -> None:
    end_with_parent()
    _open["source"] = opening.open()
    _open["sink"] = target.open(Contract.from_yaml(contract_yaml))


def _transfer(name: str) -> tuple[int, str]:
    from foreact.datasets.formats.convert import transfer

    source: Source = _open["source"]
    sink: Sink = _open["sink"]
    try:
        return transfer(source, sink, name), ""
    except ForeActError as error:
        return 0, str(error)

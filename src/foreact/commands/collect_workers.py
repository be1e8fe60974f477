"""Several processes that record: each has a pipe of its own, so that the end of one never blocks another."""

from __future__ import annotations

import multiprocessing
import signal
import traceback
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path
from types import TracebackType
from typing import Any

from foreact.commands.collect_plan import Job
from foreact.commands.collect_record import Outcome
from foreact.commands.collect_settings import CollectSettings
from foreact.commands.terminate import signals_wait
from foreact.vla.errors import ForeActError
from foreact.vla.processes import end_with_parent, one_thread_each


class CollectError(ForeActError):
    """A collection cannot begin, go on or finish."""


@dataclass(frozen=True)
class _Failed:
    message: str
    exit_code: int


class Workers:
    """Processes that record jobs; use it in a `with`. Leaving it ends them, wherever they are."""

    def __init__(self, settings: CollectSettings, count: int) -> None:
        """Start `count` processes. With one core they still are processes: what draws is never shared."""
        # Spawned, not forked: a GL context must not be shared with a child.
        context = multiprocessing.get_context("spawn")
        self._pipes: dict[Any, Any] = {}
        with one_thread_each():
            for number in range(count):
                ours, theirs = context.Pipe()
                process = context.Process(target=_work, args=(settings, theirs), daemon=True, name=f"worker {number}")
                with signals_wait():  # they reach the whole group; the parent ends its workers
                    process.start()
                theirs.close()
                self._pipes[ours] = process

    @property
    def processes(self) -> list[Any]:
        """The processes, in the order of their numbers."""
        return list(self._pipes.values())

    def run(self, jobs: Iterable[Job], out: Path) -> Iterator[Outcome]:
        """Record the jobs into the store at `out`; yields each outcome when it is there.

        Raises:
            CollectError: If a process dies or the code in it fails.
            ForeActError: What a worker could explain.
        """
        todo = deque(jobs)
        busy: dict[Any, Job] = {}
        for pipe in self._pipes:
            self._give(pipe, todo, busy, out)
        while busy:
            for pipe in connection.wait(list(busy)):
                yield self._take(pipe, busy)
                self._give(pipe, todo, busy, out)

    def _give(self, pipe: Any, todo: deque[Job], busy: dict[Any, Job], out: Path) -> None:
        if not todo:
            return
        job = busy[pipe] = todo.popleft()
        try:
            pipe.send((job, out))
        except OSError:  # it died meanwhile; the next look at its pipe explains
            return

    def _take(self, pipe: Any, busy: dict[Any, Job]) -> Outcome:
        job = busy.pop(pipe)
        try:
            answer = pipe.recv()
        except (EOFError, OSError):
            process = self._pipes[pipe]
            process.join()
            code = process.exitcode or 0
            why = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit status {code}"
            raise CollectError(
                f"{process.name} {why} while it recorded {job.name} (out of memory?). What is finished is safe; run "
                "the same command again to go on, perhaps with fewer workers."
            ) from None
        if isinstance(answer, _Failed):
            error = CollectError(answer.message)
            error.exit_code = answer.exit_code
            raise error
        return answer

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pipe, process in self._pipes.items():
            pipe.close()  # an idle worker ends by this
            process.join(timeout=5 if kind is None else 0)
            if process.is_alive():
                process.kill()  # what it was writing lies aside and is swept
                process.join()


def _work(settings: CollectSettings, pipe: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers
    end_with_parent()
    try:
        from foreact.commands.collect_record import Worker

        worker = Worker(settings)
        while True:
            job, out = pipe.recv()
            pipe.send(worker.record(job, out))
    except (EOFError, BrokenPipeError):
        return
    except ForeActError as error:
        pipe.send(_Failed(str(error), error.exit_code))
    except Exception as error:
        trace = "".join(traceback.format_exception(error))
        pipe.send(_Failed(f"a worker failed, which is a bug in ForeAct:\n{trace}", 1))

"""Finishes episodes in a thread of its own, in order, so that a robot's loop never waits for a disk."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

MAX_WAITING = 4
"""So many finished episodes may wait for the disk, in memory; the end of the next one then waits for the first."""


class BackgroundCommits:
    """One thread that writes finished episodes. What goes wrong is kept until somebody asks: nothing is lost silently.

    The thread is waited for when the program ends, so that a plain end of the program loses no finished episode.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="commit")
        self._room = threading.Semaphore(MAX_WAITING)
        self._lock = threading.Lock()
        self._waiting: dict[str, Future[None]] = {}
        self._failed: list[BaseException] = []

    def __contains__(self, name: str) -> bool:
        """Whether the episode of that name is waiting or being written."""
        with self._lock:
            return name in self._waiting

    def submit(self, name: str, commit: Callable[[], None]) -> Future[None]:
        """Let `commit` run when those before are done. Waits only while `MAX_WAITING` episodes are not on the disk."""
        self._room.acquire()

        def run() -> None:
            try:
                commit()
            except BaseException as error:
                with self._lock:
                    self._failed.append(error)
                raise
            finally:
                self._room.release()
                with self._lock:
                    self._waiting.pop(name, None)

        with self._lock:
            future = self._pool.submit(run)
            self._waiting[name] = future
        return future

    def raise_failed(self) -> None:
        """Raise what went wrong since the last call, the first of it with the rest as notes.

        Raises:
            ForeActError: As the commit raised it.
        """
        with self._lock:
            failed, self._failed = self._failed, []
        if failed:
            first, *others = failed
            for other in others:
                first.add_note(f"and then: {other}")
            raise first

    def forget(self, error: BaseException) -> None:
        """Take back one error that was raised elsewhere."""
        with self._lock:
            self._failed = [kept for kept in self._failed if kept is not error]

    def wait(self) -> None:
        """Wait until every submitted episode is on the disk or has failed; raises nothing."""
        while True:
            with self._lock:
                waiting = list(self._waiting.values())
            if not waiting:
                return
            for future in waiting:
                future.exception()

"""Threads between rclpy and the bridge, so that neither ever waits for the other."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Hashable

_JOIN_S = 2.0


class Latest:
    """A thread that does what it was given last, one thing per key; what it had no time for is forgotten.

    Args:
        name: Of the thread.
        on_error: Gets what a job raised; the thread goes on.
    """

    def __init__(self, name: str, on_error: Callable[[Exception], None] = lambda error: None):
        self._jobs: dict[Hashable, Callable[[], object]] = {}
        self._news = threading.Condition()
        self._closing = False
        self._on_error = on_error
        self.replaced = 0
        """Jobs that were never done because a newer one came."""
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, key: Hashable, job: Callable[[], object]) -> None:
        """Do this next, instead of what waits under the same key; returns at once."""
        with self._news:
            if self._closing:
                return
            self.replaced += key in self._jobs
            self._jobs[key] = job
            self._news.notify()

    def close(self) -> None:
        """Do what waits, then end; at most two seconds."""
        with self._news:
            self._closing = True
            self._news.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join(_JOIN_S)

    def _run(self) -> None:
        while True:
            with self._news:
                while not self._jobs and not self._closing:
                    self._news.wait()
                if not self._jobs:
                    return
                job = self._jobs.pop(next(iter(self._jobs)))
            try:
                job()
            except Exception as error:  # a thread that ended would be silent ever after
                self._on_error(error)


class Queue:
    """A thread that does one thing after another; of more than `waiting` the newest are refused.

    Args:
        name: Of the thread.
        on_error: As for `Latest`.
        waiting: How many may wait.
    """

    def __init__(self, name: str, on_error: Callable[[Exception], None] = lambda error: None, waiting: int = 16):
        self._jobs: deque[Callable[[], object]] = deque()
        self._news = threading.Condition()
        self._closing = False
        self._on_error, self._waiting = on_error, waiting
        self.refused = 0
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, job: Callable[[], object]) -> bool:
        """Do this after what waits; False if too much does. Returns at once."""
        with self._news:
            if self._closing or len(self._jobs) >= self._waiting:
                self.refused += 1
                return False
            self._jobs.append(job)
            self._news.notify()
        return True

    def close(self) -> None:
        """Do what waits, then end; at most two seconds."""
        with self._news:
            self._closing = True
            self._news.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join(_JOIN_S)

    def _run(self) -> None:
        while True:
            with self._news:
                while not self._jobs and not self._closing:
                    self._news.wait()
                if not self._jobs:
                    return
                job = self._jobs.popleft()
            try:
                job()
            except Exception as error:
                self._on_error(error)

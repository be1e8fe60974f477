"""Asks the policy process, one question at a time, in a thread that the gate never waits for.

Questions are asked in order, so that the policy's history is that of the robot. An answer says which question it is
for; a policy that fails, or does not answer in time, is lost until the thread is told to connect again.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from foreact.vla.errors import ForeActError

_WAITING = 8


class PolicyClient(Protocol):
    """What `foreact.vla.serving` offers, whichever dialect is spoken."""

    metadata: Mapping[str, Any]
    """What the server said when it was connected."""

    def infer(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """One question, one answer.

        Raises:
            ForeActError: If the server refuses, is gone, or does not answer within the client's timeout.
        """
        ...

    def alive(self) -> bool:
        """Whether the connection stands, as far as this end can tell; returns at once."""
        ...

    def close(self) -> None:
        """Hang up."""
        ...


@dataclass(frozen=True, kw_only=True)
class Question:
    """One request."""

    kind: Literal["plan", "observe", "reset"]
    request: Mapping[str, Any]
    step: int
    """Policy step at which it was asked."""
    observed_s: float
    """Steady clock [s] of the newest frame in it."""
    instruction_id: int
    asked_s: float
    stamp_s: float = 0.0
    """Header time [s] of the newest frame in it."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came of a question."""

    question: Question
    reply: Mapping[str, Any] | None
    """None if it failed."""
    error: str
    took_s: float


class PolicyThread:
    """The client's only user.

    Args:
        connect: Makes a connected client.
        clock: Steady clock [s].
    """

    def __init__(self, connect: Callable[[], PolicyClient], clock: Callable[[], float] = time.monotonic):
        self._connect, self._clock = connect, clock
        self._client: PolicyClient | None = None
        self._questions: queue.Queue[Question | None] = queue.Queue(_WAITING)
        self._answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self._asked = 0
        self._done = [0]
        self._thread: threading.Thread | None = None
        self._later: Future[Mapping[str, Any]] | None = None
        self._lock = threading.Lock()  # one connects at a time

    def connect(self) -> Mapping[str, Any]:
        """Connect, or connect again; the server's metadata.

        Raises:
            ForeActError: If it cannot be reached.
        """
        self._later = None
        with self._lock:
            return self._connect_now()

    def _connect_now(self) -> Mapping[str, Any]:
        self._hang_up()
        self._client = client = self._connect()
        # Of this connection alone: a thread that still waits for the last one must not answer for this one.
        self._questions, self._answers = queue.Queue(_WAITING), queue.SimpleQueue()
        self._asked, self._done = 0, [0]
        work = (client, self._questions, self._answers, self._done)
        self._thread = threading.Thread(target=self._work, args=work, name="policy", daemon=True)
        self._thread.start()
        return client.metadata

    def connect_later(self) -> None:
        """`connect`, by a thread of its own; until `connected` said so, nothing can be asked."""
        self._later = later = Future()

        def work() -> None:
            with self._lock:
                if self._later is not later:
                    return  # somebody connected, or hung up, meanwhile
                try:
                    later.set_result(self._connect_now())
                except Exception as error:  # a thread that dies silently would look like one that still connects
                    later.set_exception(error if isinstance(error, ForeActError) else ForeActError(repr(error)))

        threading.Thread(target=work, name="policy connects", daemon=True).start()

    def connected(self) -> Mapping[str, Any] | None:
        """The server's metadata; None while `connect_later` is at work.

        Raises:
            ForeActError: If it could not be reached.
        """
        if self._later is None or not self._later.done():
            return None
        later, self._later = self._later, None
        return later.result()

    @property
    def alive(self) -> bool:
        """Whether the policy process can be asked, as far as is known now."""
        return self._later is None and self._client is not None and self._client.alive()

    @property
    def heard_s(self) -> float:
        """Steady clock [s] of the policy process's last sign of life; now, if the client does not tell."""
        heard = getattr(self._client, "heard_s", None)
        return self._clock() if heard is None else float(heard)

    @property
    def busy(self) -> bool:
        """Whether a question waits for its answer."""
        return self._asked > self._done[0]

    def ask(self, question: Question) -> bool:
        """Hand over a question; False if too many wait already."""
        if self._client is None or self._later is not None:
            return False
        try:
            self._questions.put_nowait(question)
        except queue.Full:
            return False
        self._asked += 1
        return True

    def answers(self) -> list[Answer]:
        """All answers since the last call."""
        out: list[Answer] = []
        while not self._answers.empty():
            out.append(self._answers.get())
        return out

    def close(self) -> None:
        """Hang up and end the thread; questions that wait are forgotten."""
        self._later = None
        with self._lock:
            self._hang_up()

    def _hang_up(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                self._questions.get_nowait()
        if self._client is not None:
            self._client.close()
        if self._thread is not None:
            self._questions.put(None)
            self._thread.join(timeout=2.0)
        self._client = self._thread = None
        self._asked, self._done = 0, [0]

    def _work(
        self, client: PolicyClient, questions: queue.Queue[Question | None], answers: queue.SimpleQueue[Answer],
        done: list[int],
    ) -> None:  # fmt: skip
        while (question := questions.get()) is not None:
            began, reply, error = self._clock(), None, ""
            try:
                reply = client.infer(question.request)
            except ForeActError as problem:
                error = str(problem)
            except Exception as problem:  # a thread that dies silently would look like a slow policy
                error = f"the policy client failed: {problem!r}"
            answers.put(Answer(question=question, reply=reply, error=error, took_s=self._clock() - began))
            done[0] += 1

"""Asks the policy process, one question at a time, in a thread that the gate never waits for.

Questions are asked in order, so that the policy's history is that of the robot. An answer says which question it is
for; a policy that fails, or does not answer in time, is lost until the thread is told to connect again.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping
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
        self._busy = threading.Event()
        self._thread: threading.Thread | None = None

    def connect(self) -> Mapping[str, Any]:
        """Connect, or connect again; the server's metadata.

        Raises:
            ForeActError: If it cannot be reached.
        """
        self.close()
        self._client = self._connect()
        self._thread = threading.Thread(target=self._work, args=(self._client,), name="policy", daemon=True)
        self._thread.start()
        return self._client.metadata

    @property
    def alive(self) -> bool:
        """Whether the policy process can be asked, as far as is known now."""
        return self._client is not None and self._client.alive()

    @property
    def busy(self) -> bool:
        """Whether a question waits for its answer."""
        return self._busy.is_set() or not self._questions.empty()

    def ask(self, question: Question) -> bool:
        """Hand over a question; False if too many wait already."""
        try:
            self._questions.put_nowait(question)
        except queue.Full:
            return False
        return True

    def answers(self) -> list[Answer]:
        """All answers since the last call."""
        out: list[Answer] = []
        while not self._answers.empty():
            out.append(self._answers.get())
        return out

    def close(self) -> None:
        """Hang up and end the thread; questions that wait are forgotten."""
        while not self._questions.empty():
            self._questions.get_nowait()
        if self._client is not None:
            self._client.close()
        if self._thread is not None:
            self._questions.put(None)
            self._thread.join(timeout=2.0)
        self._client = self._thread = None
        self._questions = queue.Queue(_WAITING)

    def _work(self, client: PolicyClient) -> None:
        questions = self._questions
        while (question := questions.get()) is not None:
            self._busy.set()
            began, reply, error = self._clock(), None, ""
            try:
                reply = client.infer(question.request)
            except ForeActError as problem:
                error = str(problem)
            except Exception as problem:  # a thread that dies silently would look like a slow policy
                error = f"the policy client failed: {problem!r}"
            self._answers.put(Answer(question=question, reply=reply, error=error, took_s=self._clock() - began))
            self._busy.clear()

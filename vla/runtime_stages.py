"""Where the time of a step goes: named stages, recorded only while somebody listens."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

_listening: Stages | None = None


class Stages:
    """What was recorded: the seconds of each stage, one number for each time it ran."""

    def __init__(self, device: torch.device):
        self.device = device
        self.seconds: dict[str, list[float]] = {}

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """Time a block. A GPU works on behind the program's back, so it is waited for on both sides."""
        self._wait()
        began = time.perf_counter()
        yield
        self._wait()
        self.seconds.setdefault(name, []).append(time.perf_counter() - began)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def stage(name: str) -> AbstractContextManager[None]:
    """`with stage("vision"): ...` marks a part of a step; without a listener it does nothing."""
    return nullcontext() if _listening is None else _listening.span(name)


@contextmanager
def listen(device: torch.device | str = "cpu") -> Iterator[Stages]:
    """Record every stage that runs inside, in this process. Not for several threads at once."""
    global _listening
    before, _listening = _listening, Stages(torch.device(device))
    try:
        yield _listening
    finally:
        _listening = before

"""The watches: each looks at one input and says what is wrong with it now. Pure: no clock, no threads.

A watch is told what came (`on_...`) and asked in every tick (`findings`); `missing` says what keeps from arming.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from foreact.robot_bridge.causes import Finding


class Watch(Protocol):
    """What the gate asks of each."""

    def findings(self, now_s: float) -> Sequence[Finding]:
        """What is wrong now; nothing, almost always. No generator: in every tick it would cost more than the look."""
        ...

    def missing(self, now_s: float) -> Iterable[Finding]:
        """What must be there before the gate arms, and is not; what is in `findings` need not be said again."""
        ...


def milliseconds(seconds: float) -> str:
    """For messages."""
    return f"{1000 * seconds:.0f} ms"

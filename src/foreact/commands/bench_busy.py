"""Whether others use the machine while something is to be measured."""

from __future__ import annotations

import os
import sys
import time

BUSY = 0.2
"""With a larger share of the cores in use, timings are not to be trusted."""


def busy_share(seconds: float = 0.5) -> float:
    """The share of all cores [0, 1] that others use, watched for so long while this process sleeps.

    Unlike the load average of the last minute it does not count what this program itself did before. Where there is no
    /proc/stat it is that load average.
    """
    try:
        began = _ticks()
        time.sleep(seconds)
        ended = _ticks()
    except OSError:
        return min(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
    spent = [b - a for a, b in zip(began, ended, strict=True)]
    idle = spent[3] + spent[4]
    return max(0.0, 1.0 - idle / max(1, sum(spent)))


def _ticks() -> list[int]:
    """user, nice, system, idle, iowait, irq, softirq, steal of all cores together. Source: proc_stat(5)."""
    with open("/proc/stat", encoding="ascii") as file:
        return [int(word) for word in file.readline().split()[1:9]]


def warn_if_busy(share: float) -> None:
    """Say on standard error that timings are not to be trusted, if they are not."""
    if share > BUSY:
        print(
            f"warning: this machine was busy ({100 * share:.0f} % of its cores were used by others); "
            "measure again when it is idle",
            file=sys.stderr,
        )

"""The stopwatch of `foreact bench data`, shared by ForeAct and its peers.

It imports nothing but the standard library, because the peers' scripts load it by its path in their own environments. A
measuring process reads one JSON object per line, does what it says, and answers with one line.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

Handler = Callable[[dict[str, Any]], dict[str, Any]]


def serve(handlers: dict[str, Handler]) -> None:
    """Answer requests {"do": name, ...} from standard input until it ends; "ready" is answered by {}.

    An exception ends the process, with its text as the last answer. Whatever else is printed goes to standard error.
    """
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {} if request["do"] == "ready" else handlers[request["do"]](request)
        except Exception as error:
            answers.write(json.dumps({"error": f"{type(error).__name__}: {error}"[:2000]}) + "\n")
            answers.flush()
            raise
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def time_windows(
    batches: Iterator[Any], batch_size: int, windows: int, least_s: float, warm_batches: int
) -> dict[str, float]:
    """Windows per second of an endless iterator of batches, once it flows: of so many, and for so long at least.

    The clock starts when a batch has arrived and stops when another has, so what was made ahead at the beginning is
    made up for by what is being made at the end.

    Returns:
        windows_per_s; cpu_ms: processor time per window of this process and its children.
    """
    for _ in range(max(1, warm_batches)):
        next(batches)
    count, wall = 0, 0.0
    cpu, began = cpu_s(), time.perf_counter()
    while count * batch_size < windows or wall < least_s:
        next(batches)
        count += 1
        wall = time.perf_counter() - began
    cpu = cpu_s() - cpu
    return {"windows_per_s": count * batch_size / wall, "cpu_ms": 1e3 * cpu / (count * batch_size)}


def cpu_s() -> float:
    """Processor time [s] of this process and of its living and dead children."""
    dead = os.times()
    ticks = 0
    try:
        for task in os.listdir("/proc/self/task"):
            with open(f"/proc/self/task/{task}/children", encoding="ascii") as file:
                for child in file.read().split():
                    with open(f"/proc/{child}/stat", encoding="utf-8") as stat:
                        words = stat.read().rsplit(")", 1)[1].split()
                    ticks += int(words[11]) + int(words[12])
    except OSError:
        pass  # a child that ended meanwhile is counted among the dead, or there is no /proc
    return time.process_time() + dead.children_user + dead.children_system + ticks / os.sysconf("SC_CLK_TCK")

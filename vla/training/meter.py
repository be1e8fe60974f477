"""Means of what a run reports between two lines of its log, and the speed."""

from __future__ import annotations

import math
import time

from foreact.vla.training.validate import with_ratios


class Meter:
    """Means since the last flush, and the speed."""

    def __init__(self, batch_size: int):
        self._batch_size = batch_size
        self._sums: dict[str, float] = {}
        self._count = 0
        self._since = time.perf_counter()

    def add(self, values: dict[str, float]) -> None:
        """Take in the numbers of one step."""
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._count += 1

    def flush(self) -> dict[str, float]:
        """The means, "windows_per_s", and the ratios of error sums."""
        now = time.perf_counter()
        values = with_ratios({name: value / self._count for name, value in self._sums.items()})
        values["windows_per_s"] = self._count * self._batch_size / (now - self._since)
        self._sums, self._count, self._since = {}, 0, now
        return values


def line(values: dict[str, float], short: bool = False) -> str:
    """The numbers a person looks at first, in one line."""
    wanted = ("total", "arm_error", "gripper_accuracy", "foresight_ratio", "windows_per_s")
    shown = {k: v for k, v in values.items() if k in wanted or not short and k.startswith("foresight_ratio")}
    return ", ".join(f"{name} {value:.4g}" for name, value in shown.items() if not math.isnan(value))

"""Count how often the scripted experts succeed, in every scene and task. Exit status 1 if one drops below 95 %.

With `make nightly`: 200 starts each. By hand: .venv/bin/python scripts/check_experts.py STARTS
"""

from __future__ import annotations

import sys

from rich.progress import Progress

from foreact.sim.expert_check import check_experts
from foreact.sim.scenes import SCENES
from foreact.sim.tasks import TASKS

LOWEST_RATE = 0.95


def main(starts: int) -> int:
    """Print one line per scene and task; return the exit status."""
    results = []
    with Progress() as progress:
        bar = progress.add_task("experts", total=len(SCENES) * len(TASKS) * starts)
        for scene in SCENES:
            results += check_experts(scene, list(TASKS), starts, tick=lambda: progress.advance(bar))
    low = False
    for row in (result.summary() for result in results):
        low |= row["success_rate"] < LOWEST_RATE
        interval = "{:.1%} - {:.1%}".format(*row["ci95"])
        rate, failed = row["success_rate"], row["failed_starts"]
        print(f"{row['scene']} {row['task']:20} {rate:7.1%}  [{interval}]  failed starts: {failed}")
    return int(low)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 200))

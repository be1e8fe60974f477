"""`foreact bench`: speed, with the settings it was measured under."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer

app = typer.Typer(
    help="Measure speed.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

_BUSY = 0.4


@app.callback()
def _root() -> None:
    pass


@app.command()
def sim(
    steps: Annotated[int, typer.Option(help="Control steps per measurement.", min=10)] = 200,
    repeats: Annotated[int, typer.Option(help="Measurements; their median is reported.", min=1)] = 5,
    scene: Annotated[str, typer.Option(help="A, B, C or D.")] = "D",
    processes: Annotated[int | None, typer.Option(help="Processes; one per core by default.", min=1)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Control steps per second of the desk, in one process and in several; memory; where a step's time goes."""
    from foreact.commands.bench_sim import measure_sim

    found = measure_sim(steps, repeats, scene, processes)
    print(json.dumps(found, indent=2) if as_json else report(found, steps, repeats))
    if found["busy_before"] > _BUSY:
        print(
            f"warning: this machine was busy (load average {100 * found['busy_before']:.0f} % of its cores); "
            "measure again when it is idle",
            file=sys.stderr,
        )


def report(found: dict[str, Any], steps: int, repeats: int) -> str:
    """What `measure_sim` found, as text for people."""
    width = max(map(len, [*found["steps_per_s"], *found["memory_mb"]]))
    lines = [f"{'':{width}}  steps/s (range of {repeats} x {steps} steps)   processor time per step"]
    for name, speed in found["steps_per_s"].items():
        low, high = found["range_steps_per_s"][name]
        lines.append(
            f"{name:{width}}  {speed:7.0f} ({low:.0f} - {high:.0f})".ljust(width + 45)
            + f"{found['cpu_us_per_step'][name] / 1e3:6.2f} ms"
        )
    lines.append("\na step with both cameras takes, in one process [us]:")
    lines += [f"{part:{width}}  {spent:7.0f}" for part, spent in found["split_us"].items()]
    lines.append("\nmemory (PSS) [MB]:")
    lines += [f"{name:{width}}  {mb:7.0f}" for name, mb in found["memory_mb"].items()]
    lines.append("\n" + ", ".join(f"{key}: {value}" for key, value in found["settings"].items()))
    return "\n".join(lines)

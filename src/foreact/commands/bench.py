"""`foreact bench`: speed, with the settings it was measured under."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from foreact.commands.bench_busy import warn_if_busy
from foreact.commands.bench_gate import gate
from foreact.commands.bench_inference import inference
from foreact.commands.bench_serve import serve

app = typer.Typer(
    help="Measure speed.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.callback()
def _root() -> None:
    pass


app.command()(inference)
app.command()(gate)
app.command()(serve)


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
    warn_if_busy(found["busy_before"])


@app.command()
def data(
    store: Annotated[Path | None, typer.Argument(help="Take episodes of this store; without: draw play.")] = None,
    episodes: Annotated[int, typer.Option(help="How many.", min=1)] = 12,
    length: Annotated[int, typer.Option(help="Frames per drawn episode.", min=20)] = 300,
    codecs: Annotated[list[str] | None, typer.Option(help="Codec or preset; repeatable. Default: a curve.")] = None,
    windows: Annotated[int, typer.Option(help="Windows per measurement, at least.", min=8)] = 256,
    seconds: Annotated[float, typer.Option(help="Wall time per measurement, at least [s].", min=0)] = 1.0,
    repeats: Annotated[int, typer.Option(help="Rounds; medians are reported.", min=1)] = 5,
    lerobot_python: Annotated[
        Path | None, typer.Option(help="Python with LeRobot (scripts/peers/lerobot/setup.sh): measures its loader too.")
    ] = None,
    diffusion_policy_python: Annotated[
        Path | None,
        typer.Option(help="Python with diffusion_policy (scripts/peers/diffusion_policy/bench.py): its loader too."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table of docs/data-speed.md.")] = False,
) -> None:
    """Random training windows per second and stored bytes: our codecs, LeRobot's loader, diffusion_policy's."""
    from foreact.commands.bench_data import CURVE, DataBench, measure_data
    from foreact.commands.bench_data_report import as_markdown, as_text

    bench = DataBench(
        store=store,
        codecs=tuple(codecs or CURVE),
        episodes=episodes,
        length=length,
        windows=windows,
        seconds=seconds,
        repeats=repeats,
        lerobot_python=lerobot_python,
        diffusion_policy_python=diffusion_policy_python,
    )
    found = measure_data(bench, note=lambda text: print(f"{text} ...", file=sys.stderr))
    print(json.dumps(found, indent=2) if as_json else as_markdown(found) if markdown else as_text(found))
    warn_if_busy(found["busy_before"])


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

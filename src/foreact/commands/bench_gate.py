"""`foreact bench gate`: what a tick of the safety gate costs."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from foreact.commands.bench_busy import busy_share, warn_if_busy


def gate(
    ticks: Annotated[int, typer.Option(help="Ticks of 10 ms that are timed.", min=1000)] = 20_000,
    robot: Annotated[str, typer.Option(help="Limits file: panda, fr3, ur5e or a path.")] = "panda",
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Time of a tick with everything healthy and the arm moving, and whether memory grows."""
    from foreact.robot_bridge.gate_bench import bench_gate

    before = busy_share()
    found = bench_gate(ticks, robot)
    print(json.dumps({**asdict(found), "busy_before": before}, indent=2) if as_json else "\n".join(found.lines()))
    warn_if_busy(before)

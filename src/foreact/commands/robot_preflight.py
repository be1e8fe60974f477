"""`foreact robot preflight`: everything that has to fit before an arm is armed, as a table; nothing is sent."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from typing import Annotated

import typer

from foreact.commands.robot_run import DOMAIN, ROBOT, TRANSPORT, need_trajectories, open_transport


def preflight(
    robot: ROBOT = "desk_sim",
    url: Annotated[str, typer.Option(help="Policy server, instead of the robot file's; none: it is not asked.")] = "",
    transport: TRANSPORT = "dds",
    domain_id: DOMAIN = -1,
    seconds: Annotated[float, typer.Option(help="Listen for so long.", min=0.5)] = 3.0,
    policy: Annotated[bool, typer.Option("--policy/--no-policy", help="Also ask the policy server.")] = True,
    allow_network: Annotated[bool, typer.Option("--allow-network", help="As for `robot run`.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Topics, types, rates, quality of service, pictures, joints, limits, network and policy, compared with the robot
    file. Ends with 1 if anything does not fit."""
    from rich.console import Console
    from rich.table import Table

    from foreact.robot_bridge.assemble import gate_settings
    from foreact.robot_bridge.config import load_robot
    from foreact.robot_bridge.mailbox import Mailbox
    from foreact.robot_bridge.preflight import check

    settings = load_robot(robot)
    gate_settings(settings)
    need_trajectories(settings, transport)
    way, refusals = open_transport(settings, transport, domain_id, allow_network)
    box = Mailbox(frames=4096)
    began = time.monotonic()
    way.start(box)
    try:
        time.sleep(seconds)
        graph = list(way.graph())
    finally:
        way.close()
    lines = check(
        settings,
        box.take(),
        graph,
        time.monotonic() - began,
        refusals,
        url=(url or settings.policy.url) if policy else "",
    )
    if as_json:
        print(
            json.dumps({"fits": all(line.fits for line in lines), "lines": [asdict(line) for line in lines]}, indent=2)
        )
    else:
        table = Table("", "what", "expected", "found", "what to do", title=f"robot {settings.name}")
        for line in lines:
            table.add_row("ok" if line.fits else "NO", line.what, line.expected, line.found, line.advice)
        Console().print(table)
    raise typer.Exit(0 if all(line.fits for line in lines) else 1)

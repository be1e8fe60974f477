"""`foreact robot selftest`: whole stands of processes, treated badly or for long."""

from __future__ import annotations

import json
import random
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Treat a simulated robot, its policy and its gate badly.", no_args_is_help=True)

CHECKPOINT = Annotated[str, typer.Option(help="Checkpoint folder; default: the one in the source tree.")]
OUT = Annotated[str, typer.Option(help="Folder for logs; default: a temporary one.")]
DOMAIN = Annotated[int, typer.Option(help="ROS domain; -1: one at random.", min=-1, max=232)]


@app.command()
def kills(
    n: Annotated[int, typer.Option(help="Signals of each kind: SIGKILL and SIGSTOP, of gate and policy.", min=1)] = 300,
    seed: Annotated[int, typer.Option(help="Draws the instants.")] = 0,
    checkpoint: CHECKPOINT = "",
    robot: Annotated[str, typer.Option(help="Robot file of the simulated robot.")] = "desk_sim",
    out: OUT = "",
    domain_id: DOMAIN = -1,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """End or stop the gate or the policy while the arm moves; exit status 1 if the arm does not rest within half a
    second, or moves again before somebody arms it."""
    from foreact.commands.demo import find_checkpoint
    from foreact.commands.robot_kills import kill_test
    from foreact.commands.terminate import orderly_end

    folder = _folder(out)
    with orderly_end(f"logs are in {folder}"):
        report = kill_test(
            checkpoint or str(find_checkpoint()), robot, folder, n, _domain(domain_id), seed=seed, say=_say
        )
    print(json.dumps(report.as_dict(), indent=2) if as_json else report.table())
    raise typer.Exit(1 if report.misses or len(report.trials) < report.wanted else 0)


@app.command()
def soak(
    minutes: Annotated[float, typer.Option(help="How long.", min=0.5)] = 60.0,
    checkpoint: CHECKPOINT = "",
    robot: Annotated[str, typer.Option(help="Robot file of the simulated robot.")] = "desk_sim",
    out: OUT = "",
    domain_id: DOMAIN = -1,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Let the policy drive in real time, with new words every half minute; exit status 1 if a process grows, a tick is
    late by more than 50 ms, or the gate stops for good."""
    from foreact.commands.demo import find_checkpoint
    from foreact.commands.robot_soak import soak_test
    from foreact.commands.terminate import orderly_end

    folder = _folder(out)
    with orderly_end(f"logs are in {folder}"):
        report = soak_test(
            checkpoint or str(find_checkpoint()), robot, folder, 60.0 * minutes, _domain(domain_id), say=_say
        )
    print(json.dumps(report.as_dict(), indent=2) if as_json else report.table())
    raise typer.Exit(1 if report.problems() else 0)


def _folder(out: str) -> Path:
    return Path(out) if out else Path(tempfile.mkdtemp(prefix="foreact-selftest-"))


def _domain(domain_id: int) -> int:
    return random.SystemRandom().randrange(60, 100) if domain_id < 0 else domain_id


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)

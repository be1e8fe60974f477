"""`foreact robot`: the bridge to a real or simulated arm, and everything around it."""

from __future__ import annotations

import typer

from foreact.commands.robot_demo import demo
from foreact.commands.robot_operator import arm, disarm, say, stop
from foreact.commands.robot_preflight import preflight
from foreact.commands.robot_record import mend_bag, record
from foreact.commands.robot_replay import replay
from foreact.commands.robot_run import run
from foreact.commands.robot_selftest import app as selftest
from foreact.commands.robot_sim import sim
from foreact.commands.robot_teleop import teleop

app = typer.Typer(
    help="Drive an arm: the gate between a policy and its controller, a simulated robot, and what an operator needs.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for command in (demo, sim, run, preflight, say, arm, disarm, stop, teleop, record, mend_bag, replay):
    app.command()(command)
app.add_typer(selftest, name="selftest")

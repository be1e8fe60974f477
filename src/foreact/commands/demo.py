"""`foreact demo`: the shipped policy on the eight fixture tasks."""

from __future__ import annotations

import shlex
from pathlib import Path

from foreact.vla.errors import ForeActError

SHIPPED = Path("checkpoints/foreact_desk")


class NoDemo(ForeActError):
    """There is no checkpoint to show."""


def find_checkpoint() -> Path:
    """The shipped checkpoint, below the current directory or in the source tree this package runs from.

    Raises:
        NoDemo: If it is in neither.
    """
    # src/foreact/commands/demo.py -> the repository; an installed wheel has no such folder.
    places = [Path.cwd(), Path(__file__).resolve().parents[3]]
    for place in places:
        if (place / SHIPPED).is_dir():
            return place / SHIPPED
    looked = "\n".join(f"  {place / SHIPPED}" for place in dict.fromkeys(places))
    raise NoDemo(
        f"the shipped checkpoint was not found; looked for\n{looked}\n"
        "It is part of the source repository, not of the installed package: run `foreact demo` inside a clone, "
        "or give another one by --checkpoint DIR."
    )


def run(*, checkpoint: str, out: str, workers: int, starts_per_task: int, as_json: bool) -> None:
    """Evaluate and print; `foreact demo --help` says what the arguments mean."""
    from rich.console import Console

    from foreact.commands.evaluate import evaluate
    from foreact.commands.evaluate_settings import EvaluateSettings
    from foreact.commands.evaluate_table import print_summary

    folder = Path(checkpoint) if checkpoint else find_checkpoint()
    tasks = (
        "move_slider_left", "move_slider_right", "open_drawer", "close_drawer",
        "turn_on_lightbulb", "turn_off_lightbulb", "turn_on_led", "turn_off_led",
    )  # fmt: skip
    settings = EvaluateSettings.parse(
        {
            "checkpoint": folder,
            "benchmark": {"kind": "tasks", "tasks": tasks, "starts_per_task": starts_per_task, "max_steps": 180},
            "workers": workers,
            "out": out,
        }
    )
    console = Console(stderr=as_json)
    words = ["foreact", "demo", "--checkpoint", str(folder), "--out", out, "--starts-per-task", str(starts_per_task)]
    results = evaluate(settings, command=shlex.join(words), console=console)
    print_summary(results, settings.folder, console)
    if as_json:
        print(results.model_dump_json(indent=2))
    else:
        page = settings.folder / "report.html"
        console.print(f"Open {page}: its videos show what the policy saw beside what it expected.", soft_wrap=True)

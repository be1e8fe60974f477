"""`foreact demo`: the shipped policy in chains of five tasks and on the eight fixture tasks, with a film."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from foreact.vla.errors import ForeActError

if TYPE_CHECKING:
    from foreact.commands.evaluate_settings import EvaluateSettings

FILM = "film.mp4"
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


def demo_settings(
    checkpoint: Path, out: Path, *, workers: int, starts: int, chains: int
) -> tuple[EvaluateSettings, EvaluateSettings]:
    """What is evaluated: the eight fixture tasks, and the first of CALVIN's chains."""
    from foreact.commands.evaluate_settings import EvaluateSettings

    single = {"kind": "tasks", "tasks": "fixtures", "starts_per_task": starts, "max_steps": 180}
    both = {"checkpoint": checkpoint, "workers": workers}
    return (
        EvaluateSettings.parse({**both, "benchmark": single, "out": out / "fixtures"}),
        EvaluateSettings.parse(
            {
                **both,
                "benchmark": {"kind": "chains", "chains": chains},
                "out": out / "chains",
                "videos_per_task": 0,
                "failure_videos": 2,
                "best_video": True,
            }
        ),
    )


def run(*, checkpoint: str, out: str, workers: int, starts: int, chains: int, as_json: bool) -> None:
    """Evaluate twice, write a page about both, and print; `foreact demo --help` says what the arguments mean."""
    from rich.console import Console

    from foreact.commands.demo_page import print_demo, write_demo
    from foreact.commands.evaluate import evaluate

    source, folder = Path(checkpoint) if checkpoint else find_checkpoint(), Path(out)
    console = Console(stderr=as_json)
    words = ["foreact", "demo", "--checkpoint", str(source), "--out", out]
    command = shlex.join([*words, "--starts-per-task", str(starts), "--chains", str(chains)])
    found = []
    for settings, what in zip(
        demo_settings(source, folder, workers=workers, starts=starts, chains=chains),
        ("Single tasks: door, drawer and lamps", "Chains of five tasks, blocks included"),
        strict=True,
    ):
        console.print(what)
        found.append(evaluate(settings, command=command, console=console))
    fixtures, in_a_row = found
    shown = write_demo(folder, fixtures, in_a_row)
    print_demo(fixtures, in_a_row, shown, folder, console)
    if as_json:
        film = None if shown is None else str(folder / FILM)
        both = {"film": film, "chains": in_a_row.model_dump(mode="json"), "fixtures": fixtures.model_dump(mode="json")}
        print(json.dumps(both, indent=2))

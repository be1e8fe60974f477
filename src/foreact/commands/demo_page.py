"""What a demo shows in the end: a page with the film of the best chain and its numbers, and the same in a few lines."""

from __future__ import annotations

import base64
import shutil
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from foreact.commands.demo import FILM
from foreact.vla.results import ALL_CAMERAS, Results, read_chains

if TYPE_CHECKING:
    from rich.console import Console

Row = tuple[str, str, str, str]
"""What was measured, the result, its interval, n."""


@dataclass(frozen=True)
class Shown:
    """The chain in the film."""

    chain: int
    solved: int
    tasks: int
    n: int
    """Of so many it is the best."""
    average: float
    """... whose average this is."""

    def __str__(self) -> str:
        return (
            f"chain {self.chain}, {self.solved} of {self.tasks} tasks in a row: the best of {self.n}; "
            f"their average was {self.average:.2f}"
        )


def write_demo(folder: Path, fixtures: Results, chains: Results) -> Shown | None:
    """Write `film.mp4` and `report.html` into the demo's folder, in which `chains/` and `fixtures/` lie.

    Returns:
        What the film shows; None if there is no film, because the chain went differently the second time.
    """
    from jinja2 import Environment, StrictUndefined

    shown, film = _film(folder, chains), ""
    if shown is not None:
        film = "data:video/mp4;base64," + base64.b64encode((folder / FILM).read_bytes()).decode()
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    text = files("foreact.vla").joinpath("demo.html.jinja").read_text(encoding="utf-8")
    page = environment.from_string(text).render(
        actor=chains.actor, rows=rows(fixtures, chains), shown=shown, film=film, command=chains.command
    )
    (folder / "report.html").write_text(page, encoding="utf-8")
    return shown


def _film(folder: Path, chains: Results) -> Shown | None:
    assert chains.chains is not None
    film = next((film for film in chains.films if film.shows == "best chain"), None)
    if film is None:
        return None
    shutil.copyfile(folder / "chains" / film.video, folder / FILM)
    record = next(r for r in read_chains(folder / "chains" / "chains.jsonl") if r.chain == film.index)
    average = chains.chains.average_length
    return Shown(film.index, record.length, len(record.tasks), chains.chains.n, average)


def rows(fixtures: Results, chains: Results) -> list[Row]:
    """The lines of the table, for the terminal and the page."""
    row = chains.chains
    assert row is not None
    found = [
        (
            "chains of five tasks: average length",
            f"{row.average_length:.2f}",
            f"{row.ci95[0]:.2f} - {row.ci95[1]:.2f}",
            str(row.n),
        )
    ]
    for number, (rate, interval) in enumerate(zip(row.success_at, row.success_at_ci95, strict=True), start=1):
        found.append((f"chains with at least {number} solved", f"{100 * rate:.0f} %", _interval(interval), str(row.n)))
    single, heard = fixtures.overall, fixtures.listening
    found.append(
        ("the eight fixture tasks", f"{100 * single.success_rate:.0f} %", _interval(single.ci95), str(single.n))
    )
    other = f"{100 * heard.other_task_rate:.0f} %"
    found.append(("... another task happened", other, _interval(heard.ci95), str(heard.n_rollouts)))
    if fixtures.foresight is not None:
        score = fixtures.foresight.cameras[ALL_CAMERAS]
        low, high = score.ci95
        found.append(
            (
                "... squared error of foreseen frames, copying = 1",
                f"{score.error_ratio:.2f}",
                f"{low:.2f} - {high:.2f}",
                f"{score.n_frames}",
            )
        )
    return found


def _interval(interval: tuple[float, float]) -> str:
    return f"{100 * interval[0]:.0f} - {100 * interval[1]:.0f} %"


def print_demo(fixtures: Results, chains: Results, shown: Shown | None, folder: Path, console: Console) -> None:
    """The table, what the film shows, and where everything lies."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=f"{escape(chains.actor)}, scene D")
    for heading, justify in (("what", "left"), ("result", "right"), ("95 % interval", "right"), ("n", "right")):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    for row in rows(fixtures, chains):
        table.add_row(*row)
    console.print(table)
    if shown is not None:
        console.print(f"film     {folder / FILM}: {shown}", soft_wrap=True, markup=False)
    console.print(f"page     {folder / 'report.html'}", soft_wrap=True, markup=False)
    for what in ("chains", "fixtures"):
        console.print(f"details  {folder / what / 'report.html'}", soft_wrap=True, markup=False)
    minutes, seconds = divmod(round(fixtures.wall_s + chains.wall_s), 60)
    console.print(f"took {minutes} min {seconds} s; rendered by {escape(chains.gl_renderer)}")

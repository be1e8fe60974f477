"""`foreact compare`: two evaluations of the same starts or chains, pair by pair."""

from __future__ import annotations

import json
from pathlib import Path

from foreact.vla.compare import Comparison, Difference, compare_folders


def run(first: str, second: str, *, as_json: bool) -> None:
    """Compare two results folders and print a table, or JSON.

    Raises:
        ForeActError: If they cannot be read or asked for different things.
    """
    found = compare_folders(Path(first), Path(second))
    if as_json:
        print(json.dumps(found.as_dict(), indent=2))
        return
    _print(found)


def _print(found: Comparison) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    table = Table(title=f"{escape(found.second)} against {escape(found.first)}")
    headings = ("", escape(found.first), escape(found.second), "difference", "95 % interval", "pairs")
    for heading in headings:
        table.add_column(heading, justify="left" if not heading else "right")
    lengths = found.what == "average length"
    for name, row in found.details.items():
        table.add_row(name, *_cells(row, 100.0, " %"))
    table.add_section()
    table.add_row(found.what, *_cells(found.overall, *((1.0, "") if lengths else (100.0, " %"))))
    console.print(table)
    equal = found.overall.n - found.better - found.worse
    console.print(f"better in {found.better} pairs, worse in {found.worse}, the same in {equal}")
    if not found.overall.decided:
        console.print("the interval of the difference includes 0: these pairs do not tell the two apart")
    for note in found.notes:
        console.print(f"note: {note}", markup=False)


def _cells(row: Difference, scale: float, unit: str) -> tuple[str, ...]:
    digits = 1 if unit else 3
    low, high = (scale * value for value in row.ci95)
    return (
        f"{scale * row.first:.{digits}f}{unit}",
        f"{scale * row.second:.{digits}f}{unit}",
        f"{scale * row.difference:+.{digits}f}{unit}",
        f"{low:+.{digits}f} .. {high:+.{digits}f}{unit}",
        str(row.n),
    )

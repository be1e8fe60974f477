"""`foreact preflight`: does this checkpoint fit that store, environment or robot?"""

from __future__ import annotations

import json
from pathlib import Path

from foreact.vla.contract import Contract
from foreact.vla.errors import ConfigError, ForeActError, did_you_mean
from foreact.vla.hub import local_checkpoint
from foreact.vla.preflight import Head, Line, as_json, compare, read_head


class DoesNotFit(ForeActError):
    """At least one line does not fit."""


def run(checkpoint: str, *, store: str, env: str, contract: str, as_json_text: bool) -> None:
    """Compare a checkpoint with what one side offers and print a table, or JSON.

    Raises:
        ForeActError: If something cannot be read, or does not fit.
    """
    given = [(kind, value) for kind, value in (("store", store), ("env", env), ("contract", contract)) if value]
    if len(given) != 1:
        raise ConfigError("say what to compare with: one of --store FOLDER, --env NAME, --contract FILE")
    head = read_head(local_checkpoint(checkpoint))
    kind, value = given[0]
    lines = compare(head.contract, _offered(kind, value))
    if as_json_text:
        print(json.dumps(as_json(head, lines), indent=2))
    else:
        _print(head, f"{kind} {value}", lines)
    bad = sum(line.verdict == "does not fit" for line in lines)
    if bad:
        raise DoesNotFit(f"{checkpoint} does not fit the {kind} {value}: {bad} of {len(lines)} lines")


def _offered(kind: str, value: str) -> Contract:
    if kind == "store":
        from foreact.datasets.root import read_root

        return read_root(Path(value))
    if kind == "contract":
        return Contract.load(Path(value))
    from foreact.sim.embodiment import desk_contract

    known = {"desk": desk_contract}
    if value not in known:
        raise ConfigError(
            f"--env {value!r}; {did_you_mean(value, known)}. Other simulators: write their contract to a file, "
            "--contract FILE"
        )
    return known[value]()


def _print(head: Head, other: str, lines: list[Line]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console.print(
        f"{head.folder}: policy {head.policy}, {head.weights_bytes / 1e6:.1f} MB of weights",
        highlight=False,
        markup=False,
    )
    table = Table(show_edge=False)
    for heading in ("", "the checkpoint expects", f"{other} offers", "", "what to do"):
        table.add_column(heading)
    style = {"fits": "green", "adapted": "yellow", "does not fit": "bold red"}
    for line in lines:
        verdict = f"[{style[line.verdict]}]{line.verdict}[/]"
        cells = [text.replace("[", r"\[") for text in (line.what, line.required, line.offered, line.advice)]
        table.add_row(cells[0], cells[1], cells[2], verdict, cells[3])
    console.print(table)

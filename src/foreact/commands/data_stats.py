"""`foreact data stats`: mean, spread, range and quantiles of every field, and what in them looks wrong."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from foreact.vla.errors import ConfigError, did_you_mean

_COLUMNS = ("mean", "std", "low", "0.01", "0.5", "0.99", "high")


def run(paths: Sequence[str], *, fields: Sequence[str], pixels: int, check: Path | None, as_json: bool) -> None:
    """Print the statistics of each store, and of all together if there are several of one contract.

    Raises:
        StoreError: If a store cannot be opened or has no episode, or `check` does not belong to it.
        ConfigError: If no store has a field of a name.
    """
    from foreact.commands.data import _progress
    from foreact.datasets.statistics import Moments, Statistics, compute_pixels, pool
    from foreact.datasets.statistics_cache import cached_statistics, load_statistics
    from foreact.datasets.store import Store
    from foreact.vla.contract import Contract

    if check is not None and len(paths) != 1:
        raise ConfigError(f"--check compares a file with one store, found {len(paths)}")
    stores = [Store.open(path) for path in paths]
    known = [field.name for store in stores for field in (*store.contract.state, *store.contract.action)]
    for name in fields:
        if name not in known:
            raise ConfigError(f"--field: no store has a field {name!r}; {did_you_mean(name, set(known))}")
    notes: list[str] = []
    found: list[Statistics] = []
    for store in stores:
        if check is not None:
            found.append(load_statistics(check, store))
        else:
            with _progress(f"statistics of {store.path.name}") as progress:
                found.append(cached_statistics(store, progress=progress, note=notes.append))
    pictures = [compute_pixels(store, pixels) if pixels else {} for store in stores]
    said = [
        _store(store.address, store.contract, statistics, seen, fields)
        for store, statistics, seen in zip(stores, found, pictures, strict=True)
    ]
    contracts: list[Contract] = [store.contract for store in stores]
    if len(stores) > 1 and all((c.state, c.action) == (contracts[0].state, contracts[0].action) for c in contracts):

        def together(parts: Sequence[Moments | None]) -> Moments | None:
            having = [part for part in parts if part is not None]
            return pool(having) if having else None

        whole = Statistics(
            together([s.state for s in found]), together([s.action for s in found]), "",
            sum(s.episodes for s in found), sum(s.frames for s in found),
        )  # fmt: skip
        said.append(_store("all together", contracts[0], whole, {}, fields))
    if as_json:
        print(json.dumps({"stores": said, "notes": notes}, indent=2))
        return
    for note in notes:
        print(f"note: {note}")
    for one in said:
        _print(one)


def _store(
    name: str, contract: Any, statistics: Any, pictures: dict[str, Any], fields: Sequence[str]
) -> dict[str, Any]:
    """What is said about one store, as JSON values."""
    from foreact.datasets.statistics_report import rows

    found = {"state": statistics.state, "action": statistics.action}
    listed = [row for key in found for row in rows(key, getattr(contract, key), found[key])]
    shown = [row for row in listed if not fields or row.field.name in fields]
    return {
        "store": name,
        "source": statistics.source,
        "episodes": statistics.episodes,
        "frames": statistics.frames,
        "frames_with": {key: value.count if value else 0 for key, value in found.items()},
        "quantile_error": max((value.resolution for value in found.values() if value), default=0.0),
        "components": [
            {
                "name": row.name, "unit": row.field.unit, "frame": row.field.frame,
                **{key: value for key, value in asdict(row).items() if key != "field"},
            }
            for row in shown
        ],
        "cameras": pictures,
    }  # fmt: skip


def _print(one: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    # As wide as the table needs: a number that is cut in the middle is worse than a line that wraps.
    console = Console(width=200, soft_wrap=True, highlight=False, markup=False)
    of = ", ".join(f"{count:,} with {key}" for key, count in one["frames_with"].items())
    source = f"; contents {one['source']}" if one["source"] else ""
    console.print(f"{one['store']}: {one['episodes']:,} episodes, {one['frames']:,} frames ({of}){source}")
    table = Table(box=None, pad_edge=False)
    for title in ("", "field", "unit", "frame"):
        table.add_column(title, no_wrap=True)
    for title in _COLUMNS:
        table.add_column({"0.01": "1%", "0.5": "50%", "0.99": "99%"}.get(title, title), justify="right", no_wrap=True)
    for row in one["components"]:
        numbers = {**row["quantiles"], **{key: row[key] for key in ("mean", "std", "low", "high")}}
        mark = "!" if row["warnings"] else ""
        texts = [f"{numbers[column]:.4g}" for column in _COLUMNS]
        table.add_row(f"{row['key']}{mark}", row["name"], row["unit"], row["frame"] or "-", *texts)
    if one["components"]:
        console.print(table)
    for name, seen in one["cameras"].items():
        mean, std = (", ".join(f"{x:.3f}" for x in seen[key]) for key in ("mean", "std"))
        console.print(f"camera {name}: {seen['frames']} frames, red, green, blue mean {mean}, std {std} (of 0 to 1)")
    for row in one["components"]:
        for warning in row["warnings"]:
            console.print(f"warning: {row['key']} {row['name']}: {warning}")

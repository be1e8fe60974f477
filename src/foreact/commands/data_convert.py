"""`foreact data convert`: between trajectory stores and the formats of others."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from foreact.vla.errors import ConfigError, ForeActError

if TYPE_CHECKING:
    from foreact.datasets.formats.convert import Plan, Report
    from foreact.datasets.formats.registry import Opening


def run(
    source: Path,
    target: Path,
    *,
    to: str,
    from_format: str,
    contract: Path | None,
    episodes: int | None,
    workers: int,
    codec: str,
    options: list[str],
    skip_damaged: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Convert, or say what would be done.

    Raises:
        ConfigError: If a format or an option is unknown.
        ForeActError: If the source is damaged or does not fit its contract; episodes left out end with status 1.
    """
    from foreact.commands.data import _progress
    from foreact.datasets.formats.convert import Target, convert, plan
    from foreact.datasets.formats.registry import Opening, format_for_output, recognise
    from foreact.vla.contract import Contract

    reading = from_format or recognise(source)
    writing = to or format_for_output(target) or ("" if reading == "foreact" else "foreact")
    if not writing:
        raise ConfigError(f"a store can become many things: say which by --to, such as --to lerobot-v3 ({_written()})")
    for_source, for_target = split_options(options, reading, writing)
    if codec:
        if writing != "foreact":
            raise ConfigError(f"--codec is for stores; {writing} has options of its own (--formats lists them)")
        for_target["codec"] = codec
    yaml_text = Contract.load(contract).to_yaml() if contract else ""
    opening = Opening(reading, source, yaml_text, for_source)
    if dry_run:
        _print_plan(plan(opening, writing, episodes=episodes, codec=codec or "fast"), opening, target, as_json)
        return
    with _progress("convert") as progress:
        report = convert(
            opening,
            Target(writing, target, for_target),
            episodes=episodes,
            workers=workers,
            skip_damaged=skip_damaged,
            progress=progress,
        )
    _print_report(report, target, as_json)
    if report.failed:
        raise ForeActError(f"{len(report.failed)} of {report.episodes} episodes were left out, see above")


def split_options(options: list[str], reading: str, writing: str) -> tuple[dict[str, str], dict[str, str]]:
    """KEY=VALUE for the format that is read and for the one that is written.

    Raises:
        ConfigError: If neither takes a key, or the text is not KEY=VALUE.
    """
    from foreact.datasets.formats.registry import format_named, load
    from foreact.vla.errors import did_you_mean

    known = []
    for where in (format_named(reading).source, format_named(writing).sink):
        known.append(getattr(load(where), "OPTIONS", {}) if where else {})
    found: tuple[dict[str, str], dict[str, str]] = ({}, {})
    for option in options:
        key, equals, value = option.partition("=")
        if not equals:
            raise ConfigError(f"--set {option!r}: expected KEY=VALUE")
        takers = [part for part, keys in zip(found, known, strict=True) if key in keys]
        if not takers:
            raise ConfigError(f"--set {key!r}: no such option; {did_you_mean(key, {*known[0], *known[1]})}")
        for part in takers:
            part[key] = value
    return found


def list_formats() -> None:
    """Print every format that this installation has, with its options."""
    from foreact.datasets.formats.registry import FORMATS, available, load

    for spec in FORMATS:
        parts = [(word, where) for word, where in (("in", spec.source), ("out", spec.sink)) if where]
        parts = [(word, where) for word, where in parts if available(where)]
        if parts:
            print(f"{spec.name}: {spec.title} ({', '.join(word for word, _ in parts)})")
        for word, where in parts:
            for key, text in getattr(load(where), "OPTIONS", {}).items():
                print(f"    {word}: --set {key}=...  {text}")


def _written() -> str:
    from foreact.datasets.formats.registry import names_of

    return "known: " + ", ".join(names_of("sink"))


def _print_plan(found: Plan, opening: Opening, target: Path, as_json: bool) -> None:
    if as_json:
        values = asdict(found) | {"contract": found.contract.model_dump(mode="json"), "notes": list(found.notes)}
        print(json.dumps(values, indent=2))
        return
    frames = "not counted" if found.frames is None else f"{found.frames:,}"
    size = "unknown" if found.bytes is None else f"about {found.bytes / 1e6:,.1f} MB, by the first episode"
    print(f"{opening.path} ({found.source}) would become {target} ({found.target})")
    print(f"episodes: {found.episodes:,}\nframes:   {frames}\nsize:     {size}\n\n{found.contract.to_yaml()}")
    for note in found.notes:
        print(f"note: {note}")


def _print_report(report: Report, target: Path, as_json: bool) -> None:
    if as_json:
        print(json.dumps(asdict(report) | {"path": str(target)}, indent=2))
        return
    for note in report.notes:
        print(f"note: {note}", file=sys.stderr)
    for name, reason in report.failed.items():
        print(f"LEFT OUT: {name}: {reason}", file=sys.stderr)
    before = f", {report.skipped:,} were there" if report.skipped else ""
    before += f", {len(report.left_out):,} left out" if report.left_out else ""
    print(f"{target}: {report.written:,} episodes, {report.frames:,} frames written as {report.target}{before}")

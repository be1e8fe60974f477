"""`foreact data`: look at, check, convert and pack trajectory stores."""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    help="Look at, check, convert and pack trajectory stores.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

selftest = typer.Typer(help="Break stores on purpose and see what is noticed.", no_args_is_help=True)
app.add_typer(selftest, name="selftest")

StorePath = Annotated[Path, typer.Argument(help="Folder of the store.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]


def _list_formats(wanted: bool) -> None:
    if wanted:
        from foreact.commands.data_convert import list_formats

        list_formats()
        raise typer.Exit


@app.command()
def info(
    store: StorePath,
    as_json: AsJson = False,
    contract: Annotated[bool, typer.Option("--contract", help="Print the contract alone, as a YAML file.")] = False,
) -> None:
    """Print what a store holds: episodes, frames, hours, tasks, bytes, contract, codec."""
    from foreact.datasets.store import Store
    from foreact.datasets.summary import summarize

    if contract:
        print(Store.open(store).contract.to_yaml(), end="")
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the damaged are listed below
        found = summarize(Store.open(store))
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        _print_summary(found)


@app.command()
def verify(
    store: StorePath,
    decode: Annotated[bool, typer.Option("--decode", help="Also decode every frame.")] = False,
    as_json: AsJson = False,
) -> None:
    """Compare every byte with its checksums. Exit status 1 and the names of the files if something is wrong."""
    from foreact.datasets.verify import verify_store

    with _progress("verify") as progress:
        report = verify_store(store, decode, progress)
    if as_json:
        print(json.dumps({"ok": not report.problems, **asdict(report), "mb_per_s": report.mb_per_s}, indent=2))
    else:
        for note in report.notes:
            print(f"note: {note}")
        for problem in report.problems:
            print(f"DAMAGED: {problem}")
        verdict = f"{len(report.problems)} problems" if report.problems else "all intact"
        size = f"{report.bytes / 1e6:.1f} MB in {report.seconds:.1f} s ({report.mb_per_s:.0f} MB/s)"
        print(f"{store}: {report.episodes} episodes, {size}, {verdict}")
    if report.problems:
        raise typer.Exit(1)


@app.command()
def lint(
    store: StorePath,
    episodes: Annotated[int | None, typer.Option(help="Only the first so many.", min=1)] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit status 1 on warnings too.")] = False,
    workers: Annotated[int | None, typer.Option(help="Processes; default: one per core.", min=1)] = None,
    as_json: AsJson = False,
) -> None:
    """Look for what will spoil a training: frozen cameras, jumps, wrong units, leaks; docs/quality.md has the rules."""
    from foreact.commands.data_lint import run

    run(store, episodes=episodes, strict=strict, as_json=as_json, workers=workers)


@app.command()
def stats(
    stores: Annotated[list[str], typer.Argument(help="Folders or addresses of stores.")],
    field: Annotated[list[str] | None, typer.Option(help="NAME of a field to show; repeatable.")] = None,
    pixels: Annotated[int, typer.Option(help="Also the pixels of about so many frames per camera.", min=0)] = 0,
    check: Annotated[Path | None, typer.Option(help="A file of statistics: show it if it is of this store.")] = None,
    as_json: AsJson = False,
) -> None:
    """Print mean, spread, range and quantiles of every field, and what in them looks wrong; docs/mixtures.md."""
    from foreact.commands.data_stats import run

    run(stores, fields=field or [], pixels=pixels, check=check, as_json=as_json)


@app.command()
def view(
    store: StorePath,
    out: Annotated[Path | None, typer.Option(help="The page to write; default: STORE-view.html beside it.")] = None,
    episodes: Annotated[int, typer.Option(help="Only the first so many.", min=1)] = 12,
    rerun: Annotated[Path | None, typer.Option(help="Also write a recording for the rerun viewer (.rrd).")] = None,
    mb: Annotated[float, typer.Option(help="Videos fill at most so much of the page [MB].", min=0)] = 12.0,
) -> None:
    """Write one self-contained page about a store: pictures, videos, plots, and what `lint` found."""
    from foreact.commands.data_view import run

    run(store, out=out, episodes=episodes, rerun=rerun, max_video_mb=mb)


@app.command()
def edit(
    store: StorePath,
    out: Annotated[Path, typer.Argument(help="The new store; an interrupted run of the same edit goes on.")],
    drop: Annotated[list[str] | None, typer.Option(help="NAME or pattern to leave out; repeatable.")] = None,
    keep: Annotated[list[str] | None, typer.Option(help="NAME or pattern to keep, all others go; repeatable.")] = None,
    merge: Annotated[list[Path] | None, typer.Option(help="Another store to add; repeatable.")] = None,
    relabel: Annotated[Path | None, typer.Option(help="CSV: episode, instruction and, optional, start, end.")] = None,
    trim: Annotated[list[str] | None, typer.Option(help="NAME:START-END keeps frames [START, END).")] = None,
    split: Annotated[str, typer.Option(help="Such as train=0.9,val=0.1: who trains, who validates.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done; write nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write an edited copy of a store: drop, keep, merge, relabel, trim, split. The store itself is never touched."""
    from foreact.commands.data_edit import run

    run(
        store, out, drop=drop or [], keep=keep or [], merge=merge or [], relabel=relabel, trim=trim or [],
        split=split, dry_run=dry_run, as_json=as_json,
    )  # fmt: skip


@app.command()
def pack(
    store: StorePath,
    mb: Annotated[float, typer.Option(help="Size at which a pack is closed [MB].", min=0.001)] = 256.0,
    as_json: AsJson = False,
) -> None:
    """Move finished episodes into a few large files, which copy and open faster. Can be killed and repeated."""
    from foreact.datasets.packing import pack_store

    with _progress("pack") as progress:
        report = pack_store(store, int(mb * 1e6), progress)
    if as_json:
        print(json.dumps(asdict(report), indent=2))
        return
    print(f"{store}: {report.episodes} episodes, {report.bytes / 1e6:.1f} MB, into {report.packs} packs")
    if report.cleaned:
        print(f"removed {report.cleaned} leftovers of a run that was killed")
    for name in report.skipped:
        print(f"{name}: keeps its folder; one of its files is too large for a pack")


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="What to convert: a store, or a dataset of any format in the list.")],
    target: Annotated[Path, typer.Argument(help="What to write; an interrupted run of the same conversion goes on.")],
    to: Annotated[str, typer.Option("--to", help="Format to write; default: by the ending, else a store.")] = "",
    from_format: Annotated[str, typer.Option("--format", help="Format to read; default: by its files.")] = "",
    contract: Annotated[Path | None, typer.Option(help="Contract that names units and frames of the source.")] = None,
    episodes: Annotated[int | None, typer.Option(help="Only the first so many.", min=1)] = None,
    workers: Annotated[int, typer.Option(help="Processes, when a store is written.", min=0)] = 0,
    codec: Annotated[str, typer.Option(help="Image codec or preset of the store.")] = "",
    options: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE: an option of the format.")] = None,
    skip_damaged: Annotated[bool, typer.Option("--skip-damaged", help="Leave out what is damaged.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done; write nothing.")] = False,
    formats: Annotated[
        bool,
        typer.Option("--formats", help="List formats and their options.", is_eager=True, callback=_list_formats),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Convert a dataset to a trajectory store, or a store to another format. docs/formats.md says what maps to what."""
    from foreact.commands.data_convert import run

    run(
        source, target, to=to, from_format=from_format, contract=contract, episodes=episodes, workers=workers,
        codec=codec, options=options or [], skip_damaged=skip_damaged, dry_run=dry_run, as_json=as_json,
    )  # fmt: skip


@app.command()
def codecs(
    episodes: Annotated[int, typer.Option(help="Demonstrations per scene.", min=1)] = 2,
    as_json: AsJson = False,
) -> None:
    """Draw demonstrations, record them with every image codec, and print the table of docs/codecs.md."""
    from foreact.commands.bench_codecs import markdown, measure, render_episodes

    contract, made = render_episodes(episodes)
    with _progress("measure") as progress:
        rows = measure(contract, made, progress=progress)
    if as_json:
        print(json.dumps([asdict(row) | {"psnr_db": min(row.psnr_db, 999.0)} for row in rows], indent=2))
    else:
        print(f"{len(made)} episodes, {sum(map(len, made))} frame pairs; times are processor time\n")
        print(markdown(rows))


@selftest.command()
def kills(
    kills: Annotated[int, typer.Option(help="How many processes to kill.", min=1)] = 100,
    seed: Annotated[int, typer.Option(help="Draws the instants.")] = 0,
) -> None:
    """Kill recording processes at random instants; exit status 1 if a store lost anything."""
    from foreact.datasets.crash_test import crash_test, describe

    with _progress("kill") as progress, tempfile.TemporaryDirectory() as folder:
        report = crash_test(Path(folder), kills, seed, progress)
    print(describe(report))
    if report.failures:
        raise typer.Exit(1)


@selftest.command()
def flips(
    flips: Annotated[int, typer.Option(help="How many bits to flip, one at a time.", min=0)] = 300,
    mutations: Annotated[int, typer.Option(help="How many files to cut, empty, remove, swap or add.", min=0)] = 100,
    seed: Annotated[int, typer.Option(help="Draws the bits.")] = 0,
) -> None:
    """Damage files of a store; exit status 1 if `verify` misses one or does not name the file."""
    from foreact.datasets.bitflip_test import bitflip_test, describe

    with _progress("damage") as progress, tempfile.TemporaryDirectory() as folder:
        report = bitflip_test(Path(folder), flips, seed, progress, mutations=mutations)
    print(describe(report))
    if report.missed:
        raise typer.Exit(1)


@selftest.command()
def conversions(
    kills: Annotated[int, typer.Option(help="How many conversions to kill, per format.", min=1)] = 50,
    to: Annotated[list[str] | None, typer.Option("--to", help="Format to write; repeatable; default: all.")] = None,
    seed: Annotated[int, typer.Option(help="Draws the instants.")] = 0,
) -> None:
    """Kill conversions at random instants and run them again; exit status 1 if the outcome has other bytes."""
    from foreact.datasets.conversion_test import conversion_test, describe, written_formats

    failed = False
    for name in to or written_formats():
        with _progress(name) as progress, tempfile.TemporaryDirectory() as folder:
            report = conversion_test(Path(folder), name, kills, seed, progress)
        print(describe(report), flush=True)
        failed = failed or bool(report.failures)
    if failed:
        raise typer.Exit(1)


@selftest.command()
def readers(
    seconds: Annotated[float, typer.Option(help="How long.", min=1)] = 60.0,
    readers: Annotated[int, typer.Option(help="Processes that read.", min=1)] = 4,
    seed: Annotated[int, typer.Option(help="Draws the episodes and pauses.")] = 0,
) -> None:
    """Read a store while others record into it and pack it; exit status 1 if a reader sees anything wrong."""
    from foreact.datasets.readers_test import describe, readers_test

    with _progress("read") as progress, tempfile.TemporaryDirectory() as folder:
        report = readers_test(Path(folder), seconds, readers, seed, progress)
    print(describe(report))
    if report.failures:
        raise typer.Exit(1)


@selftest.command()
def record(
    episodes: Annotated[int, typer.Option(help="How many.", min=1)] = 3,
    seconds: Annotated[float, typer.Option(help="Length of each.", min=0.1)] = 10.0,
    rate: Annotated[float, typer.Option(help="Frames per second.", min=0.1)] = 30.0,
    height: Annotated[int, typer.Option(help="Of both cameras [pixels].", min=2)] = 480,
    width: Annotated[int, typer.Option(help="Of both cameras [pixels].", min=2)] = 640,
    codec: Annotated[str, typer.Option(help="Image codec or preset.")] = "fast",
    folder: Annotated[Path | None, typer.Option(help="On the disk to be measured; default: temporary.")] = None,
    as_json: AsJson = False,
) -> None:
    """Record in real time; exit status 1 if a frame is dropped or a commit takes more than half a second."""
    from foreact.datasets.record_test import describe, record_test

    with _progress("record") as progress, tempfile.TemporaryDirectory(dir=folder) as inside:
        report = record_test(Path(inside), episodes, seconds, rate, (height, width), codec, progress)
    print(json.dumps(asdict(report), indent=2) if as_json else describe(report))
    if report.failures:
        raise typer.Exit(1)


@contextmanager
def _progress(title: str) -> Iterator[Callable[[int, int], None]]:
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _print_summary(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    def counts(values: dict[str, int]) -> str:
        return ", ".join(f"{name} {count}" for name, count in values.items()) or "none"

    def fields(values: dict[str, int]) -> str:
        return ", ".join(f"{name} {size}" for name, size in values.items()) or "none"

    contract = found["contract"]
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column()
    for row in (
        ("store", found["path"]),
        ("episodes", f"{found['episodes']:,} ({counts(found['kinds'])})"),
        ("frames", f"{found['frames']:,} ({found['hours']:.2f} h at {contract['rate_hz']:g} Hz)"),
        ("segments", f"{found['segments']:,}"),
        ("size", f"{found['bytes'] / 1e6:,.1f} MB ({found['bytes_per_frame'] / 1e3:.2f} kB per frame)"),
        ("packs", f"{found['packs']} with {found['episodes_in_packs']:,} of the episodes"),
        ("codec", counts(found["codecs"])),
        ("splits", counts(found["splits"])),
        ("robot", f"{contract['embodiment']}, contract {contract['hash']}"),
        ("cameras", ", ".join(f"{name} {w}x{h}" for name, (h, w) in contract["cameras"].items())),
        ("state", fields(contract["state"])),
        ("action", fields(contract["action"])),
        ("hash", found["hash"]),
    ):
        table.add_row(*row)
    for number, (task, count) in enumerate(found["tasks"].items()):
        table.add_row("" if number else "tasks", f"{task} {count}")
    for number, reason in enumerate(found["damaged"].values()):
        table.add_row("" if number else "DAMAGED", reason)
    Console(soft_wrap=True, highlight=False, markup=False).print(table)

"""`foreact hub`: model cards of checkpoints, and checkpoints to and from a model hub."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from foreact.vla.errors import ConfigError, ForeActError

app = typer.Typer(
    help="Model cards of checkpoints; send them to a model hub and fetch them.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

_CHECKPOINT = Annotated[Path, typer.Argument(help="Checkpoint folder, such as RUN/policy.")]


@app.command()
def card(
    checkpoint: _CHECKPOINT,
    results: Annotated[
        list[Path] | None, typer.Option(help="results.json of this checkpoint; repeat for several.")
    ] = None,
    licence: Annotated[str, typer.Option("--license", help="Such as apache-2.0, cc-by-4.0.")] = "",
    dataset: Annotated[list[str] | None, typer.Option(help="A data set on the hub: user/name; repeat.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write a new folder instead.")] = None,
) -> None:
    """Write the model card, README.md, anew: from the checkpoint's files and measured results. Text below "## Notes" in
    the old one is kept. The checkpoint stays the same policy in results and comparisons."""
    written = write_card(checkpoint, results or [], licence=licence, datasets=dataset or [], out=out)
    print(f"{written / 'README.md'}")


@app.command()
def push(
    checkpoint: _CHECKPOINT,
    name: Annotated[str, typer.Argument(help="user/name, or hf://user/name@branch.")],
    private: Annotated[bool, typer.Option("--private", help="A new repository is seen by its owner alone.")] = False,
    message: Annotated[str, typer.Option(help="Of the commit.")] = "",
) -> None:
    """Send a checkpoint to the hub, in one commit. Log in with `hf auth login` first, or set HF_TOKEN."""
    from foreact.vla import hub

    print(hub.push(checkpoint, hub.parse(name), private=private, message=message))


@app.command()
def pull(
    name: Annotated[str, typer.Argument(help="user/name, or hf://user/name@revision.")],
    out: Annotated[Path | None, typer.Option(help="Copy it into this new folder.")] = None,
) -> None:
    """Fetch a checkpoint from the hub and check every file; prints its folder."""
    from foreact.vla import hub

    if out is not None and out.exists():
        raise ConfigError(f"{out} exists already; name a new folder")
    folder = hub.pull(hub.parse(name))
    if out is not None:
        _write(out, {file: _copy(folder / file) for file in _files(folder)})
        folder = out
    print(folder)


def write_card(
    checkpoint: Path,
    results: list[Path],
    *,
    licence: str = "",
    datasets: list[str] | None = None,
    out: Path | None = None,
) -> Path:
    """Write the card of a checkpoint anew, the whole folder in one step; returns the folder.

    Raises:
        ForeActError: If the checkpoint is damaged, `out` exists, or results are of another checkpoint.
    """
    from foreact.vla.actors import checkpoint_sha256
    from foreact.vla.model_card import CARD, UNKNOWN_LICENCE, Facts, front_of, notes_of, render
    from foreact.vla.preflight import read_head
    from foreact.vla.results import read_results

    if out is not None and out.exists():
        raise ConfigError(f"{out} exists already; name a new folder")
    identity = checkpoint_sha256(checkpoint)
    head, files = read_head(checkpoint), _files(checkpoint)
    found = [read_results(path) for path in results]
    for path, result in zip(results, found, strict=True):
        of = (result.checkpoint or {}).get("sha256")
        if of != identity:
            who = f"the checkpoint {of[:12]}..." if of else f"the actor {result.actor!r}"
            raise ConfigError(f"{path} was measured with {who}; {checkpoint} is {identity[:12]}...: evaluate it first")
    old = (checkpoint / CARD).read_text(encoding="utf-8") if CARD in files else ""
    said = front_of(old)  # what people said about it before stays said
    licence = licence or str(said.get("license", "")).replace(UNKNOWN_LICENCE, "")
    datasets = datasets or [str(name) for name in said.get("datasets") or ()]
    provenance = json.loads((checkpoint / "provenance.json").read_bytes()) if "provenance.json" in files else None
    page = render(
        Facts(
            policy=head.policy,
            config=head.config,
            contract=head.contract,
            provenance=provenance,
            results=found,
            parameters=_numbers(checkpoint / "model.safetensors"),
            licence=licence,
            datasets=datasets,
            notes=notes_of(old),
            towers=sorted({file.split("/")[0] for file in files if "/" in file}),
        )  # fmt: skip
    )
    take = _link if out is None else _copy
    parts = {file: take(checkpoint / file) for file in files if file != CARD}
    _write(out or checkpoint, {**parts, CARD: page.encode()})
    return out or checkpoint


def _files(folder: Path) -> list[str]:
    from foreact.vla.files import verify_folder

    return verify_folder(folder)


def _write(folder: Path, files: dict[str, bytes | Callable[[Path], None]]) -> None:
    from foreact.vla.files import write_folder

    write_folder(folder, files)


def _link(source: Path) -> Callable[[Path], None]:
    """The same bytes under another name (the old name goes away with the old folder); a copy where that cannot be."""

    def write(path: Path) -> None:
        try:
            os.link(source.resolve(), path)
        except OSError:
            shutil.copyfile(source, path)

    return write


def _copy(source: Path) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        shutil.copyfile(source, path)

    return write


def _numbers(weights: Path) -> int:
    """How many numbers a safetensors file holds, from its header."""
    from math import prod

    with weights.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > 100_000_000:
            raise ForeActError(f"{weights} is not a safetensors file")
        header = json.loads(file.read(size))
    return sum(prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")

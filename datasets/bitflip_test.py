"""Damages the files of a store one at a time, and checks that `verify` finds each and names the file.

    python -m foreact.datasets.bitflip_test --flips 300 --mutations 300

A flip changes one bit. A mutation cuts a file short, empties it, removes it, makes it longer, swaps it with another one
of its kind, or puts a file where none belongs.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from foreact.datasets.layout import INDEX_FILE, ROOT_FILE, NoStore
from foreact.datasets.packing import pack_store
from foreact.datasets.recorder import Recorder
from foreact.datasets.selftest_episodes import SELFTEST_CONTRACT, make_episode
from foreact.datasets.store import Store
from foreact.datasets.verify import verify_store

_EPISODES = 3


@dataclass
class FlipReport:
    """What `bitflip_test` saw."""

    flips: int = 0
    found: int = 0
    """Flips after which `verify` reported a problem that names the flipped file."""
    kinds: Counter[str] = field(default_factory=Counter)
    """Kind of file -> flips in it."""
    missed: list[str] = field(default_factory=list)
    mutations: int = 0
    mutations_found: int = 0
    mutation_kinds: Counter[str] = field(default_factory=Counter)
    """What was done to a file -> how often."""


def bitflip_test(
    folder: Path,
    flips: int,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    *,
    mutations: int = 0,
) -> FlipReport:
    """Make a store with packed and unpacked episodes in `folder`; flip `flips` bits in it, mutate `mutations` files.

    One at a time, undone before the next. All kinds of files have equal chances, so that small ones (metadata,
    manifests) get their share.
    """
    store, chance = folder / "store", random.Random(seed)
    kinds = _make_store(store)
    report = FlipReport()

    def step(what: str, files: list[Path], damage: Callable[[], object], undo: Callable[[], object]) -> bool:
        damage()
        try:
            problems = verify_store(store).problems
        except NoStore as error:
            problems = [str(error)]
        undo()
        found = any(str(file) in problem for problem in problems for file in files)
        if not found:
            report.missed.append(f"{what}; reported: {problems}")
        if progress is not None:
            progress(report.flips + report.mutations + 1, flips + mutations)
        return found

    for _ in range(flips):
        kind, file = _choose(kinds, chance)
        bit = chance.randrange(file.stat().st_size * 8)
        undo = partial(_flip, file, bit)
        report.found += step(f"{file.relative_to(store)}: bit {bit}", [file], undo, undo)
        report.flips += 1
        report.kinds[kind] += 1
    for _ in range(mutations):
        kind, file = _choose(kinds, chance)
        how, named, damage, undo = _mutation(file, kinds[kind], chance)
        report.mutations_found += step(f"{file.relative_to(store)}: {how}", named, damage, undo)
        report.mutations += 1
        report.mutation_kinds[how] += 1
    report.missed += [f"after all was undone: {problem}" for problem in verify_store(store).problems]
    return report


def _make_store(store: Path) -> dict[str, list[Path]]:
    """Kind -> files of a store with an index, a pack, and episodes in folders."""
    recorder = Recorder(store, SELFTEST_CONTRACT)
    for number in range(_EPISODES):
        recorder.write(make_episode(f"packed-{number}"))
    pack_store(store)
    for number in range(_EPISODES):
        recorder.write(make_episode(f"loose-{number}"))
    Store.open(store)  # writes the index
    kinds: dict[str, list[Path]] = {}
    for file in sorted(p for p in store.rglob("*") if p.is_file() and p.stat().st_size):
        kinds.setdefault(_kind(file.relative_to(store)), []).append(file)
    return kinds


def _choose(kinds: Mapping[str, list[Path]], chance: random.Random) -> tuple[str, Path]:
    kind = chance.choice(sorted(kinds))
    return kind, chance.choice(kinds[kind])


Damage = tuple[str, list[Path], Callable[[], object], Callable[[], object]]
"""What is done, the files of which one has to be named, how it is done, how it is undone."""


def _mutation(file: Path, alike: Sequence[Path], chance: random.Random) -> Damage:
    """Something that happens to whole files."""
    kept = file.read_bytes()
    restore = partial(file.write_bytes, kept)
    other = chance.choice(alike)
    ways: list[Damage] = [
        ("cut short", [file], partial(file.write_bytes, kept[: chance.randrange(len(kept))]), restore),
        ("empty", [file], partial(file.write_bytes, b""), restore),
        ("longer", [file], partial(file.write_bytes, kept + chance.randbytes(chance.randint(1, 64))), restore),
        ("zeros at the end", [file], partial(file.write_bytes, kept[:-512] + bytes(len(kept[-512:]))), restore),
    ]
    if file.name != INDEX_FILE:  # a cache that is missing is made again, and an old one is only out of date
        ways.append(("missing", [file, file.parent], file.unlink, restore))
        if file.name != ROOT_FILE:
            extra = file.with_name(f"extra-{chance.randrange(10**6)}")
            ways.append(("an extra file", [extra], partial(extra.write_bytes, kept), extra.unlink))
    if other.read_bytes() != kept:
        ways.append(("another file's bytes", [file], partial(file.write_bytes, other.read_bytes()), restore))
    return chance.choice(ways)


def _flip(file: Path, bit: int) -> None:
    with open(file, "r+b") as handle:
        handle.seek(bit // 8)
        byte = handle.read(1)[0]
        handle.seek(bit // 8)
        handle.write(bytes([byte ^ 1 << bit % 8]))


def _kind(path: Path) -> str:
    if path.parts[0] == "packs":
        return "pack manifest" if path.name == "manifest.json" else "pack"
    if path.parts[0] != "episodes":
        return path.name
    if "c" in path.parts:  # episodes/<name>/<array>/c/...
        array = path.parts[2].split(".")
        return f"{array[-1] if array[0] == 'camera' else array[0]} array"
    if path.name == "manifest.json":
        return "episode manifest"
    return "episode metadata" if len(path.parts) == 3 else "array metadata"


def main(argv: list[str] | None = None) -> int:
    """Run from the command line; the status is 1 if a flip was missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flips", type=int, default=300)
    parser.add_argument("--mutations", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        report = bitflip_test(Path(folder), args.flips, args.seed, mutations=args.mutations)
    print(describe(report))
    return 1 if report.missed else 0


def describe(report: FlipReport) -> str:
    """The report in sentences."""
    kinds = ", ".join(f"{count} in {kind}" for kind, count in report.kinds.most_common())
    lines = [f"{report.flips} flipped bits ({kinds}): {report.found} found and the file named"]
    if report.mutations:
        ways = ", ".join(f"{count} {how}" for how, count in report.mutation_kinds.most_common())
        lines.append(f"{report.mutations} damaged files ({ways}): {report.mutations_found} found and the file named")
    return "\n".join([*lines, *(f"MISSED: {line}" for line in report.missed)])


if __name__ == "__main__":
    sys.exit(main())

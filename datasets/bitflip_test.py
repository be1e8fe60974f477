"""Flips single bits in the files of a store and checks that `verify` finds each and names the file.

python -m foreact.datasets.bitflip_test --flips 300
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

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


def bitflip_test(
    folder: Path, flips: int, seed: int = 0, progress: Callable[[int, int], None] | None = None
) -> FlipReport:
    """Make a store with packed and unpacked episodes in `folder`, and flip `flips` bits in it, one at a time.

    All kinds of files have equal chances, so that small ones (metadata, manifests) get their share.
    """
    store, chance = folder / "store", random.Random(seed)
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
    report = FlipReport()
    for flip in range(flips):
        kind = chance.choice(sorted(kinds))
        file = chance.choice(kinds[kind])
        bit = chance.randrange(file.stat().st_size * 8)
        _flip(file, bit)
        problems = verify_store(store).problems
        report.flips += 1
        report.kinds[kind] += 1
        if any(str(file) in problem for problem in problems):
            report.found += 1
        else:
            report.missed.append(f"{file.relative_to(store)}: bit {bit}; reported: {problems}")
        _flip(file, bit)
        if progress is not None:
            progress(flip + 1, flips)
    report.missed += [f"after all flips were undone: {problem}" for problem in verify_store(store).problems]
    return report


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
    return "array chunk" if "c" in path.parts else "episode manifest" if path.name == "manifest.json" else "zarr.json"


def main(argv: list[str] | None = None) -> int:
    """Run from the command line; the status is 1 if a flip was missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flips", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        report = bitflip_test(Path(folder), args.flips, args.seed)
    print(describe(report))
    return 1 if report.missed else 0


def describe(report: FlipReport) -> str:
    """The report in sentences."""
    kinds = ", ".join(f"{count} in {kind}" for kind, count in report.kinds.most_common())
    lines = [f"{report.flips} flipped bits ({kinds}): {report.found} found and the file named"]
    return "\n".join([*lines, *(f"MISSED: {line}" for line in report.missed)])


if __name__ == "__main__":
    sys.exit(main())

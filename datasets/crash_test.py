"""Kills processes that record and pack, at random instants, and checks that the store lost nothing.

    python -m foreact.datasets.crash_test --kills 100

After each kill: the store opens, every episode whose recording was acknowledged is there once and is bit by bit the one
that was recorded, and no checksum is wrong. What this shows is process death, not power loss.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import foreact
from foreact.datasets.index import load_index
from foreact.datasets.layout import StoreError
from foreact.datasets.selftest_episodes import SELFTEST_CONTRACT, make_episode, same_episode
from foreact.datasets.store import Store
from foreact.datasets.verify import verify_store

_EPISODES_PER_PACK = 4
_LONGEST_RUN_S = 1.0


@dataclass
class CrashReport:
    """What `crash_test` saw."""

    kills: int = 0
    acknowledged: int = 0
    """Episodes whose recording had returned before a kill."""
    kept_unacknowledged: int = 0
    """Episodes that were complete on disk although the kill came before the recorder could say so."""
    packs: int = 0
    leftovers: int = 0
    """Kills that left something unfinished behind, to be swept."""
    failures: list[str] = field(default_factory=list)


def crash_test(
    folder: Path, kills: int, seed: int = 0, progress: Callable[[int, int], None] | None = None
) -> CrashReport:
    """Kill `kills` processes one after another that record into (and pack) one store in `folder`."""
    store, chance = folder / "store", random.Random(seed)
    report = CrashReport()
    known: set[str] = set()
    for kill in range(kills):
        acknowledged = _run_and_kill(store, f"run{kill:04d}", chance.uniform(0, _LONGEST_RUN_S))
        report.kills += 1
        report.acknowledged += len(acknowledged)
        known |= set(acknowledged)
        found = _check(store, kill, known, report)
        report.kept_unacknowledged += len(found - known)
        known |= found
        if progress is not None:
            progress(kill + 1, kills)
    report.packs = len(list((store / "packs").glob("*")))
    return report


def _run_and_kill(store: Path, prefix: str, after_s: float) -> list[str]:
    """Start a recording process, kill it `after_s` after its first sign of life; the names it acknowledged."""
    command = [sys.executable, "-m", "foreact.datasets.crash_test", "--record", str(store), "--prefix", prefix]
    import_path = [str(Path(foreact.__file__).parents[1]), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, import_path))}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        if process.stdout.readline() != "recording\n":
            raise StoreError(f"the recording process ended with status {process.wait()} before it was killed")
        time.sleep(after_s)
        process.kill()
        lines = process.stdout.read()
    return [line for line in lines.split("\n")[:-1] if line]  # a last line without its end was not acknowledged


def _check(path: Path, kill: int, known: set[str], report: CrashReport) -> set[str]:
    try:
        store = Store.open(path)
        verified = verify_store(path)
    except (StoreError, OSError) as error:
        report.failures.append(f"kill {kill}: {error}")
        return set()
    report.leftovers += bool(verified.notes)
    names = set(store.index.names)
    report.failures += [f"kill {kill}: {problem}" for problem in verified.problems]
    report.failures += [f"kill {kill}: {name} was acknowledged and is lost" for name in sorted(known - names)]
    if len(store) != len(names) or load_index(path, use_cache=False).table.names != store.index.names:
        report.failures.append(f"kill {kill}: an episode is there twice, or the index is wrong")
    changed = [n for n in names if not same_episode(store.read(n), make_episode(n))]
    report.failures += [f"kill {kill}: {name} is not what was recorded" for name in sorted(changed)]
    return names


def _record(path: Path, prefix: str) -> None:
    """Record for ever, packing now and then; each finished episode is acknowledged by a line."""
    from foreact.datasets.packing import pack_store
    from foreact.datasets.recorder import Recorder

    print("recording", flush=True)
    recorder = Recorder(path, SELFTEST_CONTRACT, codec="zstd")
    for number in range(10**6):
        name = f"{prefix}-{number:06d}"
        recorder.write(make_episode(name))
        print(name, flush=True)
        if number % _EPISODES_PER_PACK == _EPISODES_PER_PACK - 1:
            pack_store(path)


def main(argv: list[str] | None = None) -> int:
    """Run from the command line; the status is 1 if anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--record", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--prefix", default="", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.record is not None:
        _record(args.record, args.prefix)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        report = crash_test(Path(folder), args.kills, args.seed)
    print(describe(report))
    return 1 if report.failures else 0


def describe(report: CrashReport) -> str:
    """The report in sentences."""
    lines = [
        f"{report.kills} kills of a process that records and packs: {report.acknowledged} episodes acknowledged, "
        f"{report.kept_unacknowledged} more were complete; {report.leftovers} kills left something to sweep; "
        f"{report.packs} packs; {len(report.failures)} failures"
    ]
    return "\n".join([*lines, *report.failures])


if __name__ == "__main__":
    sys.exit(main())

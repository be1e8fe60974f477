"""Reads a store from several processes while one records into it and another packs it, and checks what they see.

    python -m foreact.datasets.readers_test --seconds 60

A reader never meets an error, a damaged episode, an episode that is not the one recorded, or a store that has lost an
episode it had a moment ago; and what the recorder was told is safe is there at the end.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from foreact.datasets.layout import EpisodeExists
from foreact.datasets.packing import pack_store
from foreact.datasets.recorder import Recorder
from foreact.datasets.selftest_episodes import SELFTEST_CONTRACT, make_episode, same_episode
from foreact.datasets.store import Store
from foreact.datasets.verify import verify_store

READERS = 4
_PAUSE_S = 0.08
"""Longest pause between two recorded episodes: a recorder without any would fill the store faster than it is read."""
_BEGIN_S = 120.0
_FRESH_EVERY = 5
"""Every so many rounds a reader opens the store anew; in between it reads on from the one it has."""


@dataclass
class ReadersReport:
    """What `readers_test` saw."""

    seconds: float = 0.0
    readers: int = 0
    recorded: int = 0
    """Episodes acknowledged to the recorder."""
    packs: int = 0
    openings: int = 0
    reads: int = 0
    """Episodes read whole and compared bit by bit."""
    failures: list[str] = field(default_factory=list)


def readers_test(
    folder: Path,
    seconds: float,
    readers: int = READERS,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> ReadersReport:
    """Record, pack and read a store in `folder` for that long."""
    path = folder / "store"
    Recorder(path, SELFTEST_CONTRACT, "zstd").write(make_episode("first"))
    context = multiprocessing.get_context("spawn")
    jobs = [(_record, seed), (_pack, seed), *((_read, seed + 1 + n) for n in range(readers))]
    begin = context.Barrier(len(jobs) + 1)  # importing takes longer than some tests
    pipes, processes = [], []
    for job, number in jobs:
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_job, args=(job, path, seconds, number, begin, theirs))
        process.start()
        theirs.close()
        pipes.append(ours)
        processes.append(process)
    report = ReadersReport(seconds=seconds, readers=readers)
    begin.wait(_BEGIN_S)
    until = time.time() + seconds
    while time.time() < until and progress is not None:
        time.sleep(0.2)
        progress(int(seconds - (until - time.time())), int(seconds))
    recorded: list[str] = ["first"]
    for pipe, process, (job, _) in zip(pipes, processes, jobs, strict=True):
        found: dict[str, Any]
        try:
            found = pipe.recv()
        except EOFError:
            found = {"failures": [f"{job.__name__.strip('_')} ended with status {process.exitcode} and said nothing"]}
        process.join()
        recorded += found.get("recorded", [])
        report.packs += found.get("packs", 0)
        report.openings += found.get("openings", 0)
        report.reads += found.get("reads", 0)
        report.failures += found["failures"]
    report.recorded = len(recorded)
    store = Store.open(path)
    report.failures += [f"{name} was acknowledged and is lost" for name in sorted({*recorded} - {*store.index.names})]
    report.failures += verify_store(path).problems
    return report


def _job(job: Callable[..., dict[str, Any]], path: Path, seconds: float, seed: int, begin: Any, pipe: Any) -> None:
    begin.wait(_BEGIN_S)
    until = time.time() + seconds
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # the store warns of what it leaves out
            found = job(path, until, random.Random(seed))
    except Exception as error:
        found = {"failures": ["".join(traceback.format_exception(error))]}
    pipe.send(found)


def _record(path: Path, until: float, chance: random.Random) -> dict[str, Any]:
    recorder = Recorder(path, SELFTEST_CONTRACT, "zstd")
    names: list[str] = []
    while time.time() < until:
        names.append(f"e{len(names):06d}")
        recorder.write(make_episode(names[-1]))
        if chance.random() < 0.1:  # a taken name is refused, packed or not
            try:
                recorder.write(make_episode(chance.choice(names)))
                return {"recorded": names, "failures": ["a name was given twice"]}
            except EpisodeExists:
                pass
        time.sleep(chance.uniform(0, _PAUSE_S))
    return {"recorded": names, "failures": []}


def _pack(path: Path, until: float, chance: random.Random) -> dict[str, Any]:
    packs = 0
    while time.time() < until:
        packs += pack_store(path).packs
        time.sleep(chance.uniform(0.05, 0.5))
    return {"packs": packs, "failures": []}


def _read(path: Path, until: float, chance: random.Random) -> dict[str, Any]:
    openings = reads = 0
    names: list[str] = []
    while time.time() < until:
        store = Store.open(path)
        openings += 1
        if lost := set(names) - set(store.index.names):
            return {"failures": [f"{len(lost)} episodes went away, such as {min(lost)}"]}
        if len(set(store.index.names)) != len(store):
            return {"failures": ["an episode is listed twice"]}
        names = list(store.index.names)
        for _ in range(_FRESH_EVERY):  # from a store opened a while ago, whose episodes are packed meanwhile
            name = chance.choice([*names, names[-1], names[-1]])  # the last is the one most likely to be moved just now
            reads += 1
            if not same_episode(store.read(name), make_episode(name)):
                return {"failures": [f"{name} is not what was recorded"]}
    return {"openings": openings, "reads": reads, "failures": []}


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line; the status is 1 if anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--readers", type=int, default=READERS)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        report = readers_test(Path(folder), args.seconds, args.readers, args.seed)
    print(describe(report))
    return 1 if report.failures else 0


def describe(report: ReadersReport) -> str:
    """The report in sentences."""
    lines = [
        f"{report.seconds:g} s of {report.readers} readers, a recorder and a packer: {report.recorded} episodes "
        f"recorded, {report.packs} packs, {report.openings} openings, {report.reads} episodes read and compared; "
        f"{len(report.failures)} failures"
    ]
    return "\n".join([*lines, *report.failures])


if __name__ == "__main__":
    sys.exit(main())

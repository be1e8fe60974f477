"""Kills conversions at random instants, runs them again until they are done, and compares every byte of the output.

    python -m foreact.datasets.conversion_test --format lerobot-v3 --kills 50

The output of a conversion that was killed and repeated must have the files of one that never was, with the same SHA-256
each. What this shows is process death, not power loss.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from foreact.datasets.durable import remove
from foreact.datasets.formats.convert import Target, convert
from foreact.datasets.formats.registry import FORMATS, Opening, available, format_named
from foreact.datasets.layout import INDEX_FILE, STAGING, StoreError
from foreact.datasets.recorder import Recorder
from foreact.datasets.selftest_episodes import SELFTEST_CONTRACT, make_episode

_EPISODES = 12
_KILLS_PER_OUTPUT = 3
"""An output is killed so often, then the conversion may finish."""
_OPTIONS: dict[str, dict[str, str]] = {"foreact": {"codec": "zstd"}, "diffusion-policy": {"chunk_bytes": "4000"}}
_ENDING = {"robomimic": "out.hdf5", "diffusion-policy": "out.zarr.zip"}
_TIMEOUT_S = 120.0


@dataclass
class ConversionReport:
    """What `conversion_test` saw."""

    format: str
    kills: int = 0
    """Conversions that were running when they were killed."""
    outputs: int = 0
    """Outputs that were completed after kills, and compared."""
    files: int = 0
    """Of the output of the conversion that was left alone."""
    longest_s: float = 0.0
    """How long that one took; kills come at random within it."""
    failures: list[str] = field(default_factory=list)


def written_formats() -> list[str]:
    """Names of the formats that this installation can write."""
    return [spec.name for spec in FORMATS if spec.sink and available(spec.sink)]


def conversion_test(
    folder: Path, name: str, kills: int, seed: int = 0, progress: Callable[[int, int], None] | None = None
) -> ConversionReport:
    """Convert a small store in `folder` to the format `name`, killing `kills` of the conversions.

    Raises:
        ConfigError: If there is no such format.
        FormatError: If the conversion does not even work when it is left alone.
    """
    format_named(name)
    source, chance, report = folder / "source", random.Random(f"{seed}/{name}"), ConversionReport(name)
    recorder = Recorder(source, SELFTEST_CONTRACT, "zstd")
    for number in range(_EPISODES):
        recorder.write(make_episode(f"e{number:03d}"))
    context = _forking(name)
    status, report.longest_s = _run(context, source, _target(folder / "whole", name), None)
    if status:
        raise StoreError(f"the conversion to {name} failed although nobody killed it")
    expected = tree_digests(folder / "whole")
    report.files = len(expected)
    while report.kills < kills:
        goal = folder / f"killed{report.outputs:04d}"
        for _ in range(min(_KILLS_PER_OUTPUT, kills - report.kills)):
            status, _ = _run(context, source, _target(goal, name), chance.uniform(0, report.longest_s))
            if status == 0:
                break
            report.kills += 1
        if _run(context, source, _target(goal, name), None)[0]:
            report.failures.append(f"output {report.outputs}: the conversion could not be completed after its kills")
        report.failures += [f"output {report.outputs}: {line}" for line in _differ(expected, tree_digests(goal))]
        report.outputs += 1
        remove(goal)
        if progress is not None:
            progress(min(report.kills, kills), kills)
    return report


def tree_digests(folder: Path) -> dict[str, str]:
    """Path -> SHA-256 of every file below a folder, but for caches and what is still being written.

    A worker that outlives its parent by the length of an fsync may leave a folder in `.staging`; the next recorder
    removes it.
    """
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != INDEX_FILE and STAGING not in path.parts
    }


def _differ(expected: dict[str, str], found: dict[str, str]) -> list[str]:
    lines = [f"{name} is missing" for name in sorted(expected.keys() - found.keys())]
    lines += [f"{name} should not be there" for name in sorted(found.keys() - expected.keys())]
    other = [name for name in sorted(expected.keys() & found.keys()) if found[name] != expected[name]]
    return lines + [f"{name} has other bytes" for name in other]


def _target(folder: Path, name: str) -> Target:
    return Target(name, folder / _ENDING.get(name, "out"), _OPTIONS.get(name, {}))


def _forking(name: str) -> Any:
    """Processes that begin with everything imported, so that a kill meets the conversion and not its imports."""
    context = multiprocessing.get_context("forkserver")
    module = format_named(name).sink.partition(":")[0]
    context.set_forkserver_preload([__name__, "zarr", f"foreact.datasets.formats.{module}"])
    return context


def _run(context: Any, source: Path, target: Target, kill_after_s: float | None) -> tuple[int, float]:
    """Exit status of a converting process (negative if killed), and how long it lived after it had begun [s]."""
    begun, ours = context.Pipe(duplex=False)
    process = context.Process(target=_convert, args=(source, target, ours))
    process.start()
    ours.close()
    try:
        begun.recv()
        since = time.monotonic()
        process.join(_TIMEOUT_S if kill_after_s is None else kill_after_s)
    finally:
        process.kill()
        process.join()
    return process.exitcode or 0, time.monotonic() - since


def _convert(source: Path, target: Target, begun: Any) -> None:
    target.path.parent.mkdir(parents=True, exist_ok=True)
    begun.send("begun")
    convert(Opening("foreact", source), target)


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line; the status is 1 if an output differed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--format", choices=written_formats(), action="append", help="repeatable; default: all")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    failed = 0
    for name in args.format or written_formats():
        with tempfile.TemporaryDirectory() as folder:
            report = conversion_test(Path(folder), name, args.kills, args.seed)
        print(describe(report), flush=True)
        failed += bool(report.failures)
    return 1 if failed else 0


def describe(report: ConversionReport) -> str:
    """The report in sentences."""
    lines = [
        f"{report.format}: {report.kills} conversions killed within {report.longest_s:.2f} s, {report.outputs} outputs "
        f"completed and compared with {report.files} files of one that was not; {len(report.failures)} differences"
    ]
    return "\n".join([*lines, *report.failures])


if __name__ == "__main__":
    sys.exit(main())

"""Writes docs/fault-matrix.md from the tests: what can go wrong, which requirement answers it, how often it was tried.

    python scripts/fault_matrix.py           # write
    python scripts/fault_matrix.py --check   # exit status 1 if the page is not what the tests say

Tests say it with `@pytest.mark.fault(row, n, event)`. Nothing is run: pytest collects them.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import io
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "fault-matrix.md"

ROWS = {
    "B1": "Nothing malformed and no number that is not finite is sent: the whole chunk is refused, the arm holds",
    "B2": "What is sent obeys position, velocity and acceleration of the limits file, by backward differences, to 1e-9",
    "B3": "Jerk of the controller's spline at 1 kHz stays below the vendor's bound",
    "B4": "By default a quarter of the joint speeds, 0.25 m/s and 1 rad/s of the tool",
    "B5": "The limits file is the vendor's table and the URDF; another arm is refused",
    "B6": "After any stall the arm rests within 300 ms and its tool goes no further than 50 mm",
    "B7": "Policy process killed or stopped: HOLD within 100 ms, FAULT within 500 ms",
    "B8": "Gate process killed or stopped: the arm rests within 500 ms, by itself",
    "B9": "No motion after a restart, or after it slept, before an operator arms again",
    "B10": "Stale or unsynchronised cameras: HOLD in 100 ms and a tick, FAULT at 500 ms, no inference on old pictures",
    "B11": "Frozen camera: HOLD within five equal pictures while the arm moves",
    "B12": "Late, lost, overtaken, repeated chunks: no stale action is executed",
    "B13": "No step where one chunk takes over from another; a target that leaps is never approached",
    "B14": "Warm-up: 20 inferences; armed only if their p99 is below 0.8 of the time between plans",
    "B15": "Emergency stop, protective stop, reflex: FAULT, nothing is sent after the next tick, release moves nothing",
    "B16": "New words: the old plan is dropped within a tick, the arm stops, and only what is seen afterwards counts",
    "B17": "Clock steps of a second or an hour, stamps ahead or back: no motion, HOLD within 100 ms",
    "B18": "A second publisher or a second bridge: refused, or FAULT within 2 s",
    "B19": "Quality of service that does not fit is named within 2 s, with topic and policy",
    "B20": "Pictures of another size, encoding or stride are refused; what is allowed is exact to the pixel",
    "B21": "Another policy, normaliser, joint order, camera than configured is refused by name",
    "B22": "Something holds the arm: HOLD by the leash (0.1 rad or 50 mm), no leap when it is let go",
    "B23": "The gate takes at most 0.2 ms a tick (p99), imports no torch, and does not grow",
    "B24": "Camera to command is measured for every plan and published (p50, p99)",
    "B25": "Too few control packets in time (Franka): not armed "
    "(the gate's rule alone; no driver is connected to it yet)",
    "B26": "Armed only at rest, and started only within 5 mrad of where it was armed",
    "B27": "1 to 30 % loss, 50 to 500 ms delay: never unsafe, HOLDs counted",
    "B28": "Long runs: no unplanned FAULT, memory at most 1 MiB/h, no open files, no tick over 50 ms late",
    "B29": "Every stop has its cause in the event log",
    "B30": "The README says what is no safety function, and which hardware must be there",
    "S12": "A policy server listens on loopback; elsewhere it needs a token",
    "S13": "Hostile bytes at the policy server: caps on size, clients and time, no traceback to the peer",
    "S14": "A dead, stalled or refusing server never makes the gate wait",
    "S15": "Armed only in a closed network (localhost range), or if somebody says so",
    "S16": "SROS2: the command topic can be written by one identity",
    "S17": "Parameters of safety cannot be changed after configuration",
    "S18": "Instructions: at most 512 bytes of UTF-8, never a shell, path or format string",
}
"""Row -> what is required."""

NOT_TESTED = {
    "B30": "no fault to inject; the sentences are in README.md and docs/robot-safety.md",
    "S17": "needs ROS 2 (rclpy); tests/ros2 hold it where that is installed",
}
"""Row -> why, if no test names it."""


@dataclass
class Entry:
    """One line: a thing that goes wrong."""

    fast: str = ""
    nightly: str = ""
    files: set[str] = field(default_factory=set)


class _Collector:
    def __init__(self) -> None:
        self.items: list[pytest.Item] = []

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.items = list(session.items)


def marked_files() -> list[Path]:
    """Test files that hold such a mark; those for ROS 2 are not among them, see `ros_entries`."""
    found = sorted((ROOT / "tests").rglob("test_*.py"))
    return [p for p in found if "ros2" not in p.parts and "mark.fault" in p.read_text(encoding="utf-8")]


def collect() -> dict[str, dict[str, Entry]]:
    """Row -> event -> entry.

    Raises:
        SystemExit: If a file cannot be collected.
    """
    collector, out = _Collector(), io.StringIO()
    argv = [str(p) for p in marked_files()]
    argv += ["--collect-only", "-q", "-p", "no:cacheprovider", "--rootdir", str(ROOT), "-W", "ignore"]
    with contextlib.redirect_stdout(out):
        status = pytest.main(argv, plugins=[collector])
    if status != 0:
        raise SystemExit(f"the tests cannot be collected:\n{out.getvalue()[-3000:]}")
    rows: dict[str, dict[str, Entry]] = defaultdict(lambda: defaultdict(Entry))
    for item in collector.items:
        slow = item.get_closest_marker("slow") is not None
        for mark in item.iter_markers("fault"):
            row, n, event = _values(*mark.args, **mark.kwargs)
            entry = rows[row][event]
            _count(entry, n, slow)
            entry.files.add(Path(item.path).relative_to(ROOT).as_posix())
    ros_entries(rows)
    return rows


def _values(row: str, n: int = 1, event: str = "") -> tuple[str, int, str]:
    return row, n, event


def _count(entry: Entry, n: int, slow: bool) -> None:
    if slow:
        entry.nightly = str(max(n, int(entry.nightly or 0)))
    else:
        entry.fast = str(max(n, int(entry.fast or 0)))


def ros_entries(rows: dict[str, dict[str, Entry]]) -> None:
    """Marks of the tests that only run beside ROS 2: read, not imported, so that the page is the same everywhere."""
    for path in sorted((ROOT / "tests" / "ros2").glob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and ast.unparse(node.func).endswith("mark.fault")):
                continue
            values = {k.arg: k.value for k in node.keywords} | dict(zip(("row", "n", "event"), node.args, strict=False))
            row, event = (ast.literal_eval(values[k]) for k in ("row", "event"))
            n = values.get("n")
            entry = rows[row][event]
            entry.fast = f"{n.value} with ROS 2" if isinstance(n, ast.Constant) else "with ROS 2"
            entry.files.add(path.relative_to(ROOT).as_posix())


def page(rows: dict[str, dict[str, Entry]]) -> str:
    """The whole page."""
    lines = [
        "# What can go wrong with a robot, and how often it was tried",
        "",
        "Made from the tests by `scripts/fault_matrix.py`; a test fails where this page is not what they say. N counts",
        "trials: in each run of `make test`, and in `make nightly` where that tries more. What nightly tries has been",
        'tried in part only (see docs/robot.md, "What was measured"). Long runs of processes are commands too:',
        "`foreact robot selftest kills --n 300` and `foreact robot selftest soak --minutes 60`.",
        "",
        "Letters and numbers are names of requirements: B of the bridge, S of security, D of the data store",
        "([reliability.md](reliability.md)).",
        "",
        "| row | what goes wrong | N | N nightly | tests |",
        "|---|---|---:|---:|---|",
    ]
    untested: list[str] = []
    for row, what in ROWS.items():
        entries = rows.get(row, {})
        if not entries:
            untested.append(f"- **{row}** {what}. Not tested: {NOT_TESTED[row]}.")
            continue
        lines.append(f"| **{row}** | **{what}** | | | |")
        for event, entry in sorted(entries.items()):
            files = ", ".join(f"`{Path(p).stem}`" for p in sorted(entry.files))
            lines.append(f"| {row} | {event} | {_number(entry.fast)} | {_number(entry.nightly)} | {files} |")
    others = sorted(set(rows) - set(ROWS))
    if others:
        lines += ["", "Rows of the trajectory store that the robot's recording takes part in:", ""]
        lines += ["| row | what goes wrong | N | N nightly | tests |", "|---|---|---:|---:|---|"]
        for row in others:
            for event, entry in sorted(rows[row].items()):
                files = ", ".join(f"`{Path(p).stem}`" for p in sorted(entry.files))
                lines.append(f"| {row} | {event} | {_number(entry.fast)} | {_number(entry.nightly)} | {files} |")
    lines += ["", "## What has no test here", "", *untested]
    lines += [
        "- Nothing here was tried on a real arm. Numbers of B6, B7, B8 and B9 are those of a simulated arm whose servo",
        "  follows 37 ms behind.",
        "- **B28** needs long runs: an hour was tried ([robot.md](robot.md)).",
        "",
    ]
    return "\n".join(lines)


def _number(text: str) -> str:
    return f"{int(text):,}" if text.isdigit() else text


def main() -> None:
    """Write, or compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 if the page is out of date")
    args = parser.parse_args()
    text = page(collect())
    if not args.check:
        PAGE.write_text(text, encoding="utf-8")
        print(f"wrote {PAGE}")
    elif not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != text:
        sys.exit(f"{PAGE} is not what the tests say; run `python scripts/fault_matrix.py`")


if __name__ == "__main__":
    main()

"""Whoever hands lines over never waits, whatever becomes of the terminal or file."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

from foreact.robot_bridge.line_writer import LineWriter

# Writes more than a pipe holds, as `foreact robot run` does, and ends as a process that nobody reads must end.
PROGRAM = """
import os, sys, time
from foreact.robot_bridge.line_writer import LineWriter
console = LineWriter(os.fdopen(os.dup(1), "w"), str, "console")
began = time.monotonic()
for i in range(20_000):
    console.put("x" * 80)
slowest = time.monotonic() - began
console.close(0.3)
print(f"{console.lost} {slowest:.3f}", file=sys.stderr)
"""


def test_lines_arrive_in_order_and_the_file_is_closed(tmp_path: Path) -> None:
    file = (tmp_path / "lines").open("w")
    writer = LineWriter(file, lambda n: f"no. {n}", "test")
    for i in range(1000):
        writer.put(i)
    writer.close()
    writer.close()
    writer.put(1000)
    assert file.closed and writer.lost == 0
    assert (tmp_path / "lines").read_text().splitlines() == [f"no. {i}" for i in range(1000)]


def test_no_more_than_so_many_bytes(tmp_path: Path) -> None:
    writer = LineWriter((tmp_path / "lines").open("w"), str, "test", max_bytes=100)
    for _ in range(30):
        writer.put("123456789")
    writer.close()
    assert (tmp_path / "lines").stat().st_size == 100 and writer.lost == 20


def test_a_reader_that_left() -> None:
    reader, end = os.pipe()
    os.close(reader)
    writer = LineWriter(os.fdopen(end, "w"), str, "test")
    for _ in range(10):
        writer.put(100_000 * "x")
    writer.close()
    assert writer.lost == 10
    assert not [t for t in threading.enumerate() if t.name == "test"]


def test_a_process_whose_terminal_is_paused_goes_on_and_ends() -> None:
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        try:
            assert child.wait(60.0) == 0  # nobody reads its standard output
        finally:
            child.kill()
        assert child.stdout is not None and child.stderr is not None
        lost, slowest = child.stderr.read().split()
        assert int(lost) > 10_000 and float(slowest) < 5.0
        assert set(child.stdout.read()) == {*b"x\n"}

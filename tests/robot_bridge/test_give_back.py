"""Freed memory goes back to the system."""

from __future__ import annotations

import subprocess
import sys

import pytest

from foreact.robot_bridge import give_back

# Frees nine of ten small blocks, in between those that stay: what no allocator gives back by itself.
PROGRAM = """
import contextlib
import sys
import threading
from foreact.robot_bridge.give_back import give_back
from foreact.robot_bridge.real_time import no_long_pauses

def resident_mib():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 2**20

def work():
    blocks = [bytes(20_000) for _ in range(5000)]
    kept.extend(blocks[::10])

kept = []
with no_long_pauses() if sys.argv[1] == "locked" else contextlib.nullcontext():
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    before = resident_mib()
    assert give_back()
    print(before - resident_mib())
"""


@pytest.mark.skipif(give_back._TRIM is None, reason="this C library has no malloc_trim")
@pytest.mark.parametrize("memory", ["free", "locked"])
def test_what_was_freed_between_what_stays_goes_back(memory: str) -> None:
    found = subprocess.run([sys.executable, "-c", PROGRAM, memory], capture_output=True, text=True, timeout=60)
    assert found.returncode == 0, found.stderr
    assert float(found.stdout) > 30.0  # MiB, of 86 that were freed


# Twelve threads that each hold a block at the same time; glibc itself then says how many arenas there are.
THREADS = """
import ctypes
import sys
import threading
from foreact.robot_bridge.give_back import few_arenas

if sys.argv[1] == "few":
    assert few_arenas()
all_hold = threading.Barrier(13)

def hold():
    block = ctypes.CDLL(None).malloc
    block.restype = ctypes.c_void_p
    assert block(100_000)
    all_hold.wait()

for _ in range(12):
    threading.Thread(target=hold).start()
all_hold.wait()
ctypes.CDLL(None).malloc_stats()
"""


@pytest.mark.skipif(not sys.platform.startswith("linux") or give_back._TRIM is None, reason="needs glibc's arenas")
def test_threads_share_few_arenas() -> None:
    found = {
        arenas: subprocess.run([sys.executable, "-c", THREADS, arenas], capture_output=True, text=True, timeout=60)
        for arenas in ("usual", "few")
    }
    assert all(run.returncode == 0 for run in found.values()), found
    count = {arenas: run.stderr.count("Arena ") for arenas, run in found.items()}
    assert count["few"] <= 2 < count["usual"]

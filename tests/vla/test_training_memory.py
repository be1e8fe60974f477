"""What a training step frees is there for the next one."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import torch
from foreact.vla.training.keep_memory import keep_freed_memory

if sys.argv[1] == "kept":
    assert keep_freed_memory()

def step():
    return len([torch.ones(1 << 20, dtype=torch.int32) for _ in range(20)])

for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    # With a limit of its own glibc does not learn a better one: so the usual case is the bad one each time.
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, timeout=120,
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "131072"},
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    return int(found.stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="this C library has no mallopt")
def test_blocks_of_a_step_are_not_fetched_from_the_system_again() -> None:
    """200 blocks of 4 MiB: 200,000 pages if each came anew."""
    assert faults("kept") < 2000
    assert faults("usual") > 50_000  # else this test shows nothing

"""docs/fault-matrix.md says what the tests say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_is_what_the_tests_say() -> None:
    environ = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, str(ROOT / "scripts" / "fault_matrix.py"), "--check"]
    found = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=170, cwd=ROOT)
    assert found.returncode == 0, found.stdout[-2000:] + found.stderr[-2000:]


def test_every_row_is_tested_or_says_why_not() -> None:
    page = (ROOT / "docs" / "fault-matrix.md").read_text()
    for row in [f"B{i}" for i in range(1, 31)] + [f"S{i}" for i in range(12, 19)]:
        assert f"**{row}**" in page, row

"""A lease on a disk that takes nothing."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from foreact.robot_bridge.gate_lease import ArmLease


@pytest.mark.parametrize("what", ["ftruncate", "pwrite"])
def test_a_full_disk_is_a_sentence_and_the_lease_stays_free(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    before = len(os.listdir("/proc/self/fd"))
    lease = ArmLease("desk", tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, what, full)
        said = lease.acquire()
    assert "No space left" in said and str(lease.path) in said and "make room" in said
    assert not lease.held and len(os.listdir("/proc/self/fd")) == before
    other = ArmLease("desk", tmp_path)
    assert other.acquire() == "" and other.held, "what could not be taken is nobody's"
    assert "another bridge" in lease.acquire()
    other.release()
    assert lease.acquire() == ""
    lease.release()

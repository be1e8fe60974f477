"""A recording process is told to end: everything is on the disk, whole, within five seconds."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rosbags.rosbag2 import Reader

import foreact
from foreact.datasets.store import Store
from foreact.datasets.verify import verify_store

PROCESS = Path(__file__).with_name("record_process.py")


def end_by(folder: Path, number: signal.Signals, after_s: float) -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(foreact.__file__).parents[1])}
    command = [sys.executable, str(PROCESS), str(folder)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        # A shell's background jobs ignore SIGINT, and so would their children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:  # fmt: skip
        assert process.stderr is not None
        assert process.stderr.readline().startswith("recording ")
        time.sleep(after_s)
        process.send_signal(number)
        started = time.monotonic()
        out, err = process.communicate(timeout=60)
        took_s = time.monotonic() - started
    assert process.returncode == (0 if number == signal.SIGINT else 143), err
    assert took_s <= 5.0
    assert "what was recorded until now is kept" in err and "Traceback" not in err
    assert verify_store(folder / "store").problems == []
    store = Store.open(folder / "store")
    [name] = store.index.names
    episode = store.read(name)
    assert len(episode) >= 10 and episode.meta["ended"] == "done"
    assert episode.instruction == "wait" and episode.action is None
    with Reader(folder / "bags" / name) as reader:
        counts = {c.topic: c.msgcount for c in reader.connections}
    assert set(counts) >= {"/front/image_raw", "/joint_states", "/foreact/state", "/foreact/instruction"}
    if number == signal.SIGINT:
        assert f"1 episodes, {len(episode)} frames: {name}" in out


@pytest.mark.fault(row="D13", n=2, event="the recording process is told to end (SIGINT, SIGTERM)")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_told_to_end_while_recording(tmp_path: Path, number: signal.Signals) -> None:
    end_by(tmp_path, number, 1.0)


@pytest.mark.slow
@pytest.mark.fault(row="D13", n=100, event="the recording process is told to end (SIGINT, SIGTERM)")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_told_to_end_many_times(tmp_path: Path, number: signal.Signals) -> None:
    """Fifty times each."""
    for trial in range(50):
        end_by(tmp_path / str(trial), number, 0.6 + 0.02 * trial)

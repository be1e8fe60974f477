"""SIGTERM, Ctrl-C and failures during a collection: it ends at once, says so, and what is finished is kept."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import foreact
from foreact.commands.collect_plan import Job
from foreact.commands.collect_record import Worker
from foreact.commands.collect_settings import CollectSettings
from foreact.commands.hydra_config import compose
from foreact.datasets.layout import EPISODES
from foreact.datasets.store import Store
from foreact.datasets.verify import verify_store
from foreact.sim.env import DeskEnv

ARGV = ["tasks=[turn_on_led,turn_off_led]", "episodes_per_task=6", "play_frames=0", "workers=1"]
ENDS_WITHIN_S = 5.0
TIMES = pytest.mark.parametrize(
    "times", [2, pytest.param(100, marks=[pytest.mark.slow, pytest.mark.timeout(7200)])], ids=["a few", "a hundred"]
)


def start(out: Path) -> subprocess.Popen[str]:
    path = [str(Path(foreact.__file__).parents[1]), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, path))}

    def interruptible() -> None:  # a shell's background jobs ignore Ctrl-C, and so would their children
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.setsid()

    return subprocess.Popen(
        [sys.executable, "-m", "foreact.commands.main", "collect", f"out={out}", *ARGV],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, preexec_fn=interruptible,
    )  # fmt: skip


def recorded(out: Path) -> set[str]:
    return set(os.listdir(out / EPISODES)) if (out / EPISODES).is_dir() else set()


def members(group: int) -> list[str]:
    """Processes of a group that have not ended, by Linux's /proc."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[2] == str(group) and fields[0] not in "ZX":
            found.append(stat.parent.name)
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="finds the workers in /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name)
@TIMES
def test_a_signal_ends_a_collection_and_keeps_what_is_finished(tmp_path: Path, number: signal.Signals, times: int):
    chance = random.Random(int(number))
    slowest, kept = 0.0, 0
    for trial in range(times):
        out = tmp_path / f"out{trial}"
        process = start(out)
        assert process.stdout is not None and "to record" in process.stdout.readline()
        limit = time.monotonic() + 100
        while trial % 2 == 0 and not recorded(out) and time.monotonic() < limit:
            time.sleep(0.02)
        time.sleep(chance.uniform(0, 0.5))
        before = recorded(out)
        assert process.poll() is None, "it ended by itself; there was nothing to stop"
        began = time.monotonic()
        if trial % 4 < 2:
            process.send_signal(number)
        else:
            os.killpg(process.pid, number)  # a terminal, and most batch systems, signal the whole group
        _, error = process.communicate(timeout=60)
        slowest = max(slowest, time.monotonic() - began)
        assert process.returncode == 128 + number, error
        assert "Traceback" not in error, error
        assert f"stopped by {number.name}: what is finished in {out} is kept" in error
        while members(process.pid) and time.monotonic() < limit:
            time.sleep(0.02)
        assert not members(process.pid), "a worker outlived its parent"
        report = verify_store(out)
        assert not report.problems and before <= recorded(out) == {*Store.open(out).index.names}
        kept += len(before)
    print(f"{times} times {number.name}: slowest end {slowest:.2f} s, {kept} finished episodes kept")
    assert kept > 0
    assert slowest < ENDS_WITHIN_S * (1 if times > 10 else 3)  # a busy machine decides about a few


@pytest.mark.parametrize(
    "error", [OSError(19, "No such device"), RuntimeError("camera unplugged"), KeyboardInterrupt()]
)
def test_a_camera_that_is_unplugged_costs_the_open_episode_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """The real worker, with a simulator that fails in the middle of its second episode."""
    settings = CollectSettings.parse(compose("collect", [f"out={tmp_path}", *ARGV]))
    worker = Worker(settings)
    assert worker.record(Job(scene="D", task="turn_on_led", index=0), tmp_path).frames
    real, left = DeskEnv.advance, [7]

    def advance(self: DeskEnv, *args: object, **more: object) -> object:
        left[0] -= 1
        if left[0] == 0:
            raise error
        return real(self, *args, **more)  # pyright: ignore

    monkeypatch.setattr(DeskEnv, "advance", advance)
    for job in (Job(scene="D", task="turn_on_led", index=1), Job(scene="D", task="play", index=0, length=40)):
        left[0] = 7
        with pytest.raises(type(error)):
            worker.record(job, tmp_path)
    monkeypatch.undo()
    assert Store.open(tmp_path).index.names == ["D-turn_on_led-000000"]
    report = verify_store(tmp_path)
    assert not report.problems and not report.notes, "nothing half done is left"
    assert worker.record(Job(scene="D", task="turn_on_led", index=1), tmp_path).frames, "and it goes on"

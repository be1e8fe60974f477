"""A recording process is killed at random instants: the store keeps what was acknowledged, the bag what was flushed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import foreact
from foreact.datasets.formats.rosbag import RosbagSource
from foreact.datasets.store import Store
from foreact.datasets.verify import verify_store
from foreact.robot_bridge.record_crash import CONTRACT, FRAMES, RATE_HZ, picture, row
from foreact.robot_bridge.record_mcap import BagError
from foreact.robot_bridge.record_repair import mend_bag

LONGEST_S = 1.2


def start(folder: Path, prefix: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "foreact.robot_bridge.record_crash", str(folder), prefix]
    environment = os.environ | {"PYTHONPATH": str(Path(foreact.__file__).parents[1])}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None and process.stdout.readline() == "recording\n"
    return process


def kill_many(folder: Path, kills: int, seed: int) -> dict[str, int]:
    chance = random.Random(seed)
    known: set[str] = set()
    checked: set[str] = set()
    seen = {"acknowledged": 0, "mended": 0, "messages": 0, "open episodes read from bags": 0}
    for kill in range(kills):
        with start(folder, f"k{kill:03d}") as process:
            assert process.stdout is not None
            # Every other one only after its first episode, however slow the machine is.
            before = process.stdout.readline() if kill % 2 else ""
            time.sleep(chance.uniform(0, LONGEST_S))
            process.send_signal(signal.SIGKILL)
            acknowledged = [line for line in (before + process.stdout.read()).split("\n")[:-1] if line]
        known |= set(acknowledged)
        seen["acknowledged"] += len(acknowledged)
        store = Store.open(folder / "store")
        assert verify_store(folder / "store").problems == []
        assert known <= set(store.index.names), f"kill {kill}: lost {known - set(store.index.names)}"
        found = set(store.index.names)
        for name in sorted(found if kill == kills - 1 else found - checked):
            check(store, name)
        checked |= found
        known |= found
        for bag in (folder / "bags").glob(f"k{kill:03d}-*"):
            file = bag / f"{bag.name}_0.mcap"
            if not file.is_file() or not file.stat().st_size:  # killed as it was made
                with pytest.raises(BagError, match=r"nothing in it can be kept|one .mcap, found 0"):
                    mend_bag(bag)
                continue
            report = mend_bag(bag)
            seen["mended"] += not report.whole_before
            seen["messages"] += report.messages
            assert mend_bag(bag).whole_before
            if report.messages > 3 * 6 and not report.whole_before:
                seen["open episodes read from bags"] += 1
                source = RosbagSource(bag, CONTRACT, topics=str(bag / "topics.yaml"), shortest="2")
                [name] = source.names()
                episode = source.read(name)
                assert np.array_equal(episode.images["front"], [picture(t) for t in range(len(episode))])
    return seen


def check(store: Store, name: str) -> None:
    episode = store.read(name)
    assert len(episode) == FRAMES and episode.instruction == "do it" and episode.meta["success"] is True
    assert episode.state is not None and episode.action is not None
    stamps = episode.extras["picture_stamp_s"][:, 0]
    numbers = np.round((stamps - stamps[0]) * RATE_HZ).astype(int).tolist()
    if not episode.meta["late_messages"]:  # that a busy machine held up the sender is flagged
        assert numbers == list(range(FRAMES))
        assert np.array_equal(episode.state, [row(t) for t in numbers])
        assert np.array_equal(episode.action, [row(t) for t in numbers])
    assert np.array_equal(episode.images["front"], [picture(t) for t in numbers])


@pytest.mark.fault(row="D1", n=4, event="the recording process is killed (SIGKILL)")
def test_killed_while_recording(tmp_path: Path) -> None:
    seen = kill_many(tmp_path, kills=4, seed=0)
    assert seen["acknowledged"] >= 1 and seen["mended"] >= 1 and seen["messages"] > 0


@pytest.mark.slow
@pytest.mark.fault(row="D1", n=100, event="the recording process is killed (SIGKILL)")
@pytest.mark.parametrize("seed", range(1, 6))
def test_killed_a_hundred_times(tmp_path: Path, seed: int) -> None:
    """Five times twenty."""
    seen = kill_many(tmp_path, kills=20, seed=seed)
    print(seen)
    assert seen["acknowledged"] >= 10 and seen["mended"] >= 3 and seen["messages"] > 0

"""A collection that is killed again and again ends as one that was left alone, with any number of workers."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import foreact
from foreact.commands.collect_plan import plan
from foreact.commands.collect_settings import CollectSettings
from foreact.commands.hydra_config import compose
from foreact.datasets.layout import EPISODES
from foreact.datasets.store import Store
from foreact.datasets.verify import verify_store

KILLS = 3


def _start(out: Path, argv: list[str]) -> subprocess.Popen[bytes]:
    path = [str(Path(foreact.__file__).parents[1]), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, path))}
    command = [sys.executable, "-m", "foreact.commands.main", "collect", f"out={out}", *argv]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)


def _planned(argv: list[str]) -> int:
    return len(plan(CollectSettings.parse(compose("collect", argv))))


def _recorded(out: Path) -> int:
    return sum(1 for _ in (out / EPISODES).iterdir()) if (out / EPISODES).is_dir() else 0


def _children(pid: int) -> list[int]:
    """Processes of that parent, by Linux's /proc."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            if stat.read_text().rpartition(")")[2].split()[1] == str(pid):
                found.append(int(stat.parent.name))
        except OSError:
            continue
    return found


def _files(out: Path) -> dict[str, bytes]:
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted((out / EPISODES).rglob("*")) if p.is_file()}


def _kill_and_compare(folder: Path, argv: list[str], episodes: int, longest_s: float) -> None:
    """Each kill comes up to `longest_s` after a part of the episodes is there."""
    whole, killed = folder / "whole", folder / "killed"
    assert _start(whole, [*argv, "workers=1"]).wait() == 0
    assert _recorded(whole) == episodes

    chance = random.Random(0)
    acknowledged = 0
    for kill in range(KILLS):
        process = _start(killed, [*argv, f"workers={1 + kill % 2}"])
        # Wait for a part of what is missing, then for a random moment more.
        enough = acknowledged + max(1, (episodes - acknowledged) // (KILLS - kill + 1))
        while _recorded(killed) < enough:
            assert process.poll() is None, "it ended before it was killed"
            time.sleep(0.01)
        time.sleep(chance.uniform(0.0, longest_s))
        workers = _children(process.pid)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert workers, "it was killed before it had workers"
        limit = time.monotonic() + 20
        while any(Path(f"/proc/{pid}").exists() and _is_worker(pid) for pid in workers):
            assert time.monotonic() < limit, "a worker outlived its parent"
            time.sleep(0.02)
        report = verify_store(killed)
        assert not report.problems
        assert acknowledged < report.episodes <= episodes
        acknowledged = report.episodes
        if acknowledged == episodes:  # a quick machine: only the summary was missing
            assert kill == KILLS - 1, "it was done before the last kill: record more episodes"
    assert _start(killed, [*argv, "workers=2"]).wait() == 0

    assert Store.open(killed).hash == Store.open(whole).hash
    assert _files(killed) == _files(whole)
    assert (killed / "summary.json").read_bytes() == (whole / "summary.json").read_bytes()
    recipes = [json.loads((out / "recipe.json").read_bytes()) for out in (whole, killed)]
    for recipe in recipes:
        recipe.pop("command")  # names the folder
    assert recipes[0] == recipes[1]
    assert verify_store(killed, decode=True).notes == []


def _is_worker(pid: int) -> bool:
    """Whether that process still is what it was: not ended, and its number not taken by another one."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state != "Z" and b"multiprocessing" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="finds the workers in /proc")
def test_a_collection_killed_three_times_equals_one_that_was_not(tmp_path: Path):
    argv = ["tasks=[turn_on_led,turn_off_led]", "episodes_per_task=3", "play_frames=80", "session_steps=[20,40]"]
    _kill_and_compare(tmp_path, argv, _planned(argv), longest_s=0.03)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(sys.platform != "linux", reason="finds the workers in /proc")
def test_200_episodes_killed_three_times(tmp_path: Path):
    argv = ["tasks=[turn_on_led,turn_off_led,open_drawer,lift_red_block_table]", "episodes_per_task=49", "manner=human"]
    argv += ["max_steps=360", "play_frames=1600", "session_steps=[200,400]"]
    assert _planned(argv) >= 200
    _kill_and_compare(tmp_path, argv, _planned(argv), longest_s=3.0)

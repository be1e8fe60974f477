"""`foreact bench sim`: what it measures belongs together, and says when it should not be trusted."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from foreact.commands.bench import report
from foreact.commands.bench_sim import pss_mb, time_split
from foreact.commands.main import app, run
from foreact.sim.env import DeskEnv

SHORT = ["bench", "sim", "--steps", "10", "--repeats", "1", "--processes", "1"]


def test_it_measures_speed_memory_and_settings(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("foreact.commands.bench_sim.busy_share", lambda: 0.9)
    assert run(app, [*SHORT, "--json"]) == 0
    out, err = capsys.readouterr()
    assert "busy (90 % of its cores were used by others)" in err
    found = json.loads(out)
    drawn, plain, drawn_many, plain_many = found["steps_per_s"].values()
    assert 0 < drawn < plain and 0 < drawn_many < plain_many
    for name, (low, high) in found["range_steps_per_s"].items():
        assert low <= found["steps_per_s"][name] <= high
        assert found["cpu_us_per_step"][name] > 50
    split = found["split_us"]
    whole = split.pop("whole step")
    assert 0.5 * whole < sum(split.values()) < 1.5 * whole, "the parts make up the whole (medians: not exactly)"
    assert min(split.values()) > 0 and len(split) == 5
    assert all(0 < mb < 1000 for mb in found["memory_mb"].values())
    settings = found["settings"]
    assert settings["visible geoms"] > 20 and settings["physics steps per control step"] == 8
    assert settings["processes"] == 1 and settings["CPU"] and settings["GL renderer"]
    table = report(json.loads(out), steps=10, repeats=1)
    for word in ("without pictures", "inverse kinematics", "one more environment in a process", "MuJoCo"):
        assert word in table
    assert max(map(len, table.splitlines()[:-1])) < 120


def test_a_wrong_scene_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(app, [*SHORT, "--scene", "Q"]) != 0
    assert "'Q'" in capsys.readouterr().err


def test_the_stopwatch_changes_nothing_and_is_taken_off() -> None:
    watched, plain = (DeskEnv("D", sizes={"rgb_static": (16, 16), "rgb_gripper": (16, 16)}) for _ in range(2))
    actions = np.random.default_rng(0).uniform(-1, 1, (5, 7))
    time_split(watched, actions)
    plain.reset(seed=0)
    for action in actions:
        plain.step(action)
    assert np.array_equal(watched.robot_obs, plain.robot_obs)
    assert not {"step", "hold", "solve", "render"} & {
        *vars(watched), *vars(watched.controller), *vars(watched.controller.ik), *vars(watched.renderer())
    }  # fmt: skip
    watched.close()
    plain.close()


@pytest.mark.skipif(not os.path.exists("/proc/self/smaps_rollup"), reason="Linux tells this in /proc")
def test_memory_is_that_of_the_process() -> None:
    before = pss_mb()
    block = np.ones(40_000_000)  # 320 MB; shared libraries count less when another process begins to use them meanwhile
    assert pss_mb() - before == pytest.approx(block.nbytes / 2**20, abs=40)
    assert np.isnan(pss_mb(2**22 + 1))

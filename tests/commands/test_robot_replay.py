"""`foreact robot replay` on a wandering arm, on a small store, and on what does not fit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from foreact.commands.robot_replay import replay
from foreact.datasets.episode import EpisodeData
from foreact.datasets.recorder import Recorder
from foreact.sim.embodiment import desk_contract
from foreact.sim.panda import HOME_Q
from foreact.vla.errors import ForeActError

app = typer.Typer()
app.command()(replay)


def run(*arguments: str) -> dict:
    result = CliRunner().invoke(app, [*arguments, "--steps", "60", "--json"])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return json.loads(result.output)


def test_a_wandering_arm_in_bad_weather() -> None:
    found = run("--latency-high-s", "0.4", "--reorder", "0.1", "--duplicate", "0.1", "--mode", "ensemble")
    assert found["scheduler"]["stale"] == 0
    assert found["scheduler"]["executed"] > 20
    assert found["gate"]["running_s"] > 0
    assert found["settings"]["reorder"] == 0.1


def test_a_table_for_people() -> None:
    result = CliRunner().invoke(app, ["--steps", "20"])
    assert result.exit_code == 0
    assert "through the gate" in result.output
    assert "stale                0" in result.output


def test_the_joints_of_a_stored_episode_are_followed(tmp_path: Path) -> None:
    contract = desk_contract({"rgb_static": (16, 16)})
    images = {"rgb_static": np.zeros((50, 16, 16, 3), np.uint8)}
    swing = 0.1 * np.sin(np.linspace(0, 3, 50))[:, None] * np.ones(7)
    state = np.zeros((50, contract.state_size), np.float32)
    state[:, 7:14], state[:, 14] = HOME_Q + swing, 1.0
    data = EpisodeData(images=images, state=state, action=np.zeros((50, 7), np.float32), instruction="swing")
    with Recorder(tmp_path / "store", contract) as recorder:
        recorder.write(data)
    found = run("--store", str(tmp_path / "store"), "--latency-high-s", "0.1", "--disagreement-rad", "0")
    assert found["scheduler"]["executed"] > 50
    assert found["scheduler"]["step_rad"] < 0.005
    assert found["gate"]["holds"] == 0
    with pytest.raises(ForeActError, match="no episode 7"):
        run("--store", str(tmp_path / "store"), "--episode", "7")
    with Recorder(tmp_path / "other", contract.model_copy(update={"state": contract.state[:2]})) as recorder:
        recorder.write(EpisodeData(images=images, state=state[:, :6], action=np.zeros((50, 7), np.float32)))
    with pytest.raises(ForeActError, match="joint_position with 7 numbers"):
        run("--store", str(tmp_path / "other"))


def test_what_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(ForeActError, match="did you mean 'ensemble'"):
        run("--mode", "ensembel")
    with pytest.raises(ForeActError, match="loss must be in"):
        run("--loss", "2")
    with pytest.raises(ForeActError):
        run("--store", str(tmp_path / "nothing"))

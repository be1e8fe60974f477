"""`foreact bench serve` measures a real server in another process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from foreact.commands.main import app, run

CHECKPOINT = Path(__file__).parents[2] / "checkpoints" / "foreact_desk"


def test_the_wire_is_what_inference_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(app, ["bench", "serve", str(CHECKPOINT), "--requests", "20", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["dialects"]) == {"openpi", "gr00t"} and found["settings"]["threads"] == 1
    for rows in found["dialects"].values():
        for row in rows.values():
            assert 0 < row["p50"] <= row["p90"] <= row["p99"] < 30_000
        assert rows["inference"]["p50"] + rows["wire"]["p50"] <= rows["round trip"]["p99"] + rows["wire"]["p99"]
        assert rows["inference"]["p50"] > rows["round trip"]["p50"] / 20


def test_a_server_that_does_not_start_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(app, ["bench", "serve", "/nowhere", "--requests", "20"]) == 1
    error = capfd.readouterr().err
    assert "did not start" in error and "/nowhere" in error and "Traceback" not in error

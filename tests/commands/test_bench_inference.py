"""`foreact bench inference`: it measures what it says, and explains what it cannot measure."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from foreact.commands.bench_inference import InferenceBench, _percentiles, _ratio, _Robots, as_text, measure_inference
from foreact.commands.main import app, run
from foreact.policies.gr1.foreact import ForeAct
from foreact.policies.gr1.foreact_config import ForeActConfig
from foreact.vla.training.synthetic import synthetic_contract

SIZES: dict[str, Any] = dict(
    history=3, history_stride=1, foresight_steps=2, chunk=2, execute_steps=1, width=32, layers=1, heads=2,
    vision_width=32, vision_heads=2, text_width=16, text_layers=1, text_heads=2, visual_count=2, resampler_heads=2,
    resampler_head_width=8, image_queries=2, decoder_width=16, decoder_layers=1, decoder_heads=2,
)  # fmt: skip


@pytest.fixture
def policy() -> ForeAct:
    torch.manual_seed(0)
    statistics = {"state": {"mean": [0.5, 0.5, 0.0], "std": [0.3, 0.3, 1.0]}}
    return ForeAct(ForeActConfig(**SIZES), synthetic_contract({"front": (16, 16), "hand": (16, 16)}), statistics).eval()


@pytest.fixture
def one_thread() -> Any:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_a_checkpoint_is_measured_at_each_batch_size(
    policy: ForeAct, tmp_path: Path, one_thread: None, capsys: Any
) -> None:
    policy.save_pretrained(tmp_path / "ckpt")
    command = ["bench", "inference", str(tmp_path / "ckpt"), "--batch", "1", "--batch", "3", "--steps", "10"]
    assert run(app, [*command, "--rounds", "2", "--threads", "1", "--foresight", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["settings"]["policy"] == "foreact" and found["settings"]["threads"] == 1
    assert set(found["batches"]) == {"1", "3"}
    for batch in found["batches"].values():
        assert set(batch["ways"]) == {"streaming", "full recompute"}
        for times in (*batch["ways"].values(), *batch["stages"].values()):
            assert 0 <= times["p50_ms"] <= times["p90_ms"] <= times["p99_ms"]
        ratio = batch["ratios"]["full recompute / streaming"]
        assert 0 < ratio["low"] <= ratio["high"]
        parts = sum(times["p50_ms"] for name, times in batch["stages"].items() if name != "whole step")
        assert parts < 1.5 * batch["stages"]["whole step"]["p50_ms"]
    assert "full recompute / streaming: " in as_text(found) and "3 robots" in as_text(found)


def test_both_ways_compute_the_same(policy: ForeAct) -> None:
    """What is called a full recompute gives the numbers that streaming gives after as many steps."""
    from foreact.vla.policy import Observation
    from foreact.vla.runtime import StreamingActor

    robots, T = _Robots(policy, 2), policy.config.history
    kept: list[np.ndarray] = []
    plan = policy.plan
    policy.plan = lambda *args, **kwargs: kept.append(plan(*args, **kwargs).actions)  # type: ignore[method-assign]
    robots.recompute(1, False)
    actor = StreamingActor(policy)
    seen: list[Observation] = []
    inner = actor.plan
    actor.plan = lambda o, **k: (seen.append(o), kept.append(inner(o, **k).actions))  # type: ignore[method-assign]
    robots.stream(actor, T, False)
    assert len(seen) == T
    np.testing.assert_allclose(kept[-1], kept[0], rtol=0, atol=1e-5)


def test_percentiles_and_ratios_of_known_numbers() -> None:
    assert _percentiles([float(i) for i in range(101)]) == {"p50_ms": 50.0, "p90_ms": 90.0, "p99_ms": 99.0}
    slow, quick = [[(10.0, 8.0)], [(30.0, 8.0)]], [[(1.0, 4.0), (2.0, 4.0), (3.0, 1.0)], [(2.0, 4.0)] * 3]
    assert _ratio(slow, quick) == {"median": 10.0, "low": 5.0, "high": 15.0, "cpu": 2.0}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--official", "somewhere"], "--official-python PYTHON go together"),
        (["--batch", "0"], "--batch must be at least 1, found 0"),
        (["--device", "tpu9"], "device 'tpu9' is not one"),
        (["--precision", "float8"], "precision 'float8' is not one to act in"),
        (["nowhere"], "nowhere"),
    ],
)
def test_what_cannot_be_measured_is_explained(
    options: list[str], message: str, policy: ForeAct, tmp_path: Path, capsys: Any
) -> None:
    policy.save_pretrained(tmp_path / "ckpt")
    folder = [] if "nowhere" in options else [str(tmp_path / "ckpt")]
    assert run(app, ["bench", "inference", *folder, *options]) != 0
    said = capsys.readouterr().err
    assert message in said and "Traceback" not in said


def test_authors_code_that_is_not_there_is_named(policy: ForeAct, tmp_path: Path) -> None:
    from foreact.commands.bench_data_process import PeerFailed

    policy.save_pretrained(tmp_path / "ckpt")
    python = Path(sys.executable)
    bench = InferenceBench(checkpoint=tmp_path / "ckpt", official=tmp_path, official_python=python, threads=1)
    with pytest.raises(PeerFailed, match="bytedance/GR-1, setup: "):
        measure_inference(bench)

"""A checkpoint, written and judged: its predictions are measured, and one that does not fit is refused at once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from foreact.commands.main import app, run
from foreact.policies.gr1.foreact import ForeAct
from foreact.policies.gr1.foreact_config import ForeActConfig
from foreact.sim.embodiment import desk_contract
from foreact.vla.actors import checkpoint_sha256
from foreact.vla.checkpoint import save_policy
from foreact.vla.contract import Contract
from foreact.vla.results import ALL_CAMERAS, read_results

CONTRACT = desk_contract({"rgb_static": (32, 32), "rgb_gripper": (32, 32)})
WORDS = (
    "benchmark.tasks=[open_drawer,turn_on_led]",
    "benchmark.starts_per_task=1",
    "benchmark.max_steps=12",
    "workers=0",
    "envs_per_worker=2",
)


def _checkpoint(folder: Path, contract: Contract = CONTRACT, seed: int = 0) -> Path:
    """An untrained policy, as small as it gets."""
    import torch

    torch.manual_seed(seed)
    config = ForeActConfig(
        width=24, layers=1, heads=2, vision_width=24, text_width=24, decoder_width=24, decoder_layers=1
    )
    save_policy(ForeAct(config, contract, {"state": {"mean": [0.0] * 15, "std": [1.0] * 15}}), folder)
    return folder


def test_a_checkpoint_is_judged_and_its_foresight_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = _checkpoint(tmp_path / "mine"), tmp_path / "out"
    assert run(app, ["evaluate", f"checkpoint={folder}", *WORDS, f"out={out}"]) == 0
    results = read_results(out / "results.json")
    assert results.actor == "mine" and results.checkpoint is not None
    assert results.checkpoint["sha256"] == checkpoint_sha256(folder)
    assert results.notes == (
        "resize rgb_static from 200x200 to 32x32 pixels",
        "resize rgb_gripper from 84x84 to 32x32 pixels",
    )
    assert Contract.model_validate(results.contract) == CONTRACT
    foresight = results.foresight
    assert foresight is not None and foresight.steps_ahead == ForeActConfig().foresight_steps == 9
    # Plans at steps 0, 5 and 10 of 12; only the first one's moment is reached. Two rollouts, two cameras.
    assert foresight.cameras[ALL_CAMERAS].n_frames == 4 and foresight.n_rollouts == 2
    shown = capsys.readouterr().out
    assert "note: resize rgb_static" in shown and "of that of" in shown

    # Trained on, the same folder is another policy: its rollouts are not mixed with the old one's.
    other = tmp_path / "other"
    _checkpoint(other, seed=1)
    assert run(app, ["evaluate", f"checkpoint={other}", *WORDS, f"out={out}"]) == 1
    assert "checkpoint_sha256" in capsys.readouterr().err


def test_a_checkpoint_of_another_robot_or_a_damaged_one_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = _checkpoint(tmp_path / "other", CONTRACT.model_copy(update={"embodiment": "ur5"}))
    assert run(app, ["evaluate", f"checkpoint={other}", *WORDS, f"out={tmp_path / 'out'}"]) == 1
    error = capsys.readouterr().err
    assert "required 'ur5', offered 'panda_long_finger'" in error and "Traceback" not in error
    weights = other / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert run(app, ["evaluate", f"checkpoint={other}", *WORDS, f"out={tmp_path / 'out'}"]) == 1
    assert "model.safetensors is damaged" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_demo_runs_with_any_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All eight tasks, at the length of a real demo but for one start each, and one chain."""
    words = ["--starts-per-task", "1", "--chains", "1", "--workers", "1", "--out", str(tmp_path / "demo")]
    assert run(app, ["demo", "--checkpoint", str(_checkpoint(tmp_path / "mine")), *words]) == 0
    assert len(read_results(tmp_path / "demo" / "fixtures" / "results.json").tasks) == 8
    chains = read_results(tmp_path / "demo" / "chains" / "results.json").chains
    assert chains is not None and chains.n == 1 and (tmp_path / "demo" / "film.mp4").stat().st_size > 10_000
    shown = capsys.readouterr().out
    assert "the eight fixture tasks" in shown and str(tmp_path / "demo" / "report.html") in shown
    assert f"the best of 1; their average was {chains.average_length:.2f}" in shown


def test_how_a_checkpoint_is_run_reaches_the_runtime(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = _checkpoint(tmp_path / "mine")
    found = {}
    for name, words in (
        ("plain", []), ("static", ["graphs=true"]), ("half", ["precision=bfloat16"]),
        ("halves", ["precision=bfloat16", "graphs=true", "workers=1"]),
    ):  # fmt: skip
        out = tmp_path / name
        assert run(app, ["evaluate", f"checkpoint={folder}", *WORDS, f"out={out}", *words]) == 0, name
        foresight = read_results(out / "results.json").foresight
        assert foresight is not None
        found[name] = foresight.cameras[ALL_CAMERAS].model_dump()
    capsys.readouterr()
    assert found["half"] != found["plain"] and found["halves"] != found["plain"], "rounding shows in the pictures"
    for other in found.values():
        assert {k: v for k, v in other.items() if isinstance(v, float)} == pytest.approx(
            {k: v for k, v in found["plain"].items() if isinstance(v, float)}, rel=0.05, abs=0.05
        )

    # In another precision it is another evaluation; without any of these settings, folders are as they always were.
    words = [f"checkpoint={folder}", *WORDS, f"out={tmp_path / 'half'}"]
    assert run(app, ["evaluate", *words, "precision=float16"]) == 1
    assert "precision: bfloat16 there, float16 now" in capsys.readouterr().err
    identity = json.loads((tmp_path / "plain" / "settings.json").read_text())
    assert not {"precision", "graphs", "compiled"} & identity.keys()


def test_compiling_is_asked_for_both_halves_of_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from foreact.vla.actors import load_checkpoint_actor

    compiled = []
    monkeypatch.setattr(torch, "compile", lambda function, **_: compiled.append(function.__name__) or function)
    load_checkpoint_actor(_checkpoint(tmp_path / "mine"))
    assert compiled == []
    load_checkpoint_actor(tmp_path / "mine", compiled=True)
    assert compiled == ["_encode_tensors", "_plan_tensors"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["actor=zero", "precision=bfloat16"], "precision: goes with checkpoint=DIR"),
        (["url=ws://127.0.0.1:1", "graphs=true", "compiled=true"], "graphs, compiled: goes with checkpoint=DIR"),
        (["checkpoint=x", "precision=half"], "precision: Input should be 'float32', 'bfloat16' or 'float16'"),
        (["checkpoint=x", "compiled=maybe"], "compiled: "),
    ],
)
def test_wrong_ways_to_run_are_one_message(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(app, ["evaluate", *words]) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error

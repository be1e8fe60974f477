"""The loop: killed runs go on bit for bit, nothing non-finite gets into the weights, damage is survived."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from foreact.policies.gr1.foreact import ForeAct
from foreact.policies.gr1.foreact_config import ForeActConfig
from foreact.vla.batch import WindowBatch
from foreact.vla.checkpoint import CheckpointError, load_policy
from foreact.vla.files import DamagedFolder, verify_folder
from foreact.vla.training.config import TrainerConfig
from foreact.vla.training.guard import NonFinite
from foreact.vla.training.init_from import init_from
from foreact.vla.training.loop import Trainer
from foreact.vla.training.optimizer import make_optimizer, use_bf16
from foreact.vla.training.state import checkpoints, newest
from foreact.vla.training.synthetic import SyntheticWindows, synthetic_contract

SIZES: dict[str, Any] = dict(
    history=2, history_stride=1, foresight_steps=3, chunk=2, execute_steps=1, width=16, layers=1, heads=2,
    vision_width=16, vision_heads=2, text_width=8, text_layers=1, text_heads=2, visual_count=1, resampler_heads=1,
    resampler_head_width=8, image_queries=1, decoder_width=8, decoder_layers=1, decoder_heads=2, dropout=0.1,
)  # fmt: skip
TRAINER: dict[str, Any] = dict(
    max_steps=6, batch_size=4, warmup_steps=2, threads=1, precision="fp32", log_every=2, validate_every=3,
    validate_batches=1, save_every=3, tensorboard=False,
)  # fmt: skip
BatchAt = Callable[[int], WindowBatch]


def _policy(**changes) -> ForeAct:
    torch.manual_seed(0)
    statistics = {"state": {"mean": [0.5, 0.5, 0.0], "std": [0.3, 0.3, 1.0]}}
    return ForeAct(ForeActConfig(**{**SIZES, **changes}), synthetic_contract({"eye": (16, 16)}), statistics)


def _trainer(
    out: Path, *, change: Callable[[BatchAt], BatchAt] = lambda b: b, policy: ForeAct | None = None, **settings
) -> Trainer:
    policy = policy or _policy()
    windows = SyntheticWindows(policy.config, policy.contract, batch_size=4, seed=0)
    config = TrainerConfig(**{**TRAINER, **settings})
    return Trainer(
        policy, change(windows.batch_at), config, out, val_at=windows.batch_at, console=Console(file=StringIO()),
        provenance={"data": ["synthetic"]},
    )  # fmt: skip


def _said(trainer: Trainer) -> str:
    file = trainer.console.file
    assert isinstance(file, StringIO)
    return file.getvalue()


def _same(a: Path, b: Path) -> bool:
    first, second = load_file(a), load_file(b)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def _state(out: Path, step: int) -> Path:
    return out / "checkpoints" / f"step_{step:08d}" / "training" / "state.safetensors"


def test_a_run_in_two_parts_ends_where_a_run_in_one_does(tmp_path: Path) -> None:
    _trainer(tmp_path / "one").run()
    with pytest.raises(SystemExit) as stopped:
        _trainer(tmp_path / "two", change=lambda b: _then(b, 4, lambda: signal.raise_signal(signal.SIGTERM))).run()
    assert stopped.value.code == 143
    assert [p.name for p in checkpoints(tmp_path / "two" / "checkpoints")] == ["step_00000003", "step_00000005"]
    second = _trainer(tmp_path / "two")
    assert second.resume()
    assert second.step == 5
    second.run()
    assert _same(_state(tmp_path / "one", 6), _state(tmp_path / "two", 6))
    assert _same(tmp_path / "one/policy/model.safetensors", tmp_path / "two/policy/model.safetensors")
    assert not _same(_state(tmp_path / "one", 3), _state(tmp_path / "one", 6))


def _then(batch_at: BatchAt, at: int, action: Callable[[], None]) -> BatchAt:
    """Do something when the batch of step `at` is asked for."""

    def wrapped(step: int) -> WindowBatch:
        if step == at:
            action()
        return batch_at(step)

    return wrapped


def _command(*settings: str) -> list[str]:
    return [sys.executable, "-m", "foreact.commands.main", "train", "experiment=debug", *settings]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_killed_run_resumes_bit_for_bit(tmp_path: Path, precision: str) -> None:
    """SIGKILL while steps run; the whole command is started again with resume=true."""
    if precision == "bf16" and not use_bf16("auto", torch.device("cpu")):
        pytest.skip("this CPU has no bfloat16 arithmetic; emulating it takes minutes")
    env = {"PYTHONPATH": str(Path(__file__).parents[2] / "src"), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    common = (f"trainer.precision={precision}", "trainer.validate_every=0", "trainer.save_every=2", "trainer.keep=20")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    done = subprocess.run(
        _command(*common, f"out={whole}", "trainer.max_steps=30"), env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr

    # The schedule depends on max_steps: the killed run aims at 30 too; it is stopped once step 2 is saved.
    child = subprocess.Popen(
        _command(*common, f"out={killed}", "trainer.max_steps=30"), env=env, stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 100
    while not (killed / "checkpoints/step_00000002").is_dir() and time.monotonic() < deadline:
        time.sleep(0.002)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    left = newest(killed / "checkpoints")
    assert left is not None
    for path in checkpoints(killed / "checkpoints"):  # nothing later than step 2, however late the kill came
        if path.name > "step_00000002":
            for file in sorted(path.rglob("*"), reverse=True):
                file.unlink() if file.is_file() else file.rmdir()
            path.rmdir()
    again = subprocess.run(
        _command(*common, f"out={killed}", "trainer.max_steps=30", "resume=true"),
        env=env,
        capture_output=True,
        text=True,
    )
    assert again.returncode == 0, again.stderr
    assert "at step 2" in again.stdout
    assert _same(_state(whole, 30), _state(killed, 30))
    assert _same(whole / "policy/model.safetensors", killed / "policy/model.safetensors")


def test_measuring_the_speed_changes_nothing(tmp_path: Path) -> None:
    trainer = _trainer(tmp_path)
    before = {name: tensor.clone() for name, tensor in trainer.policy.state_dict().items()}
    trainer._announce()
    assert all(torch.equal(tensor, before[name]) for name, tensor in trainer.policy.state_dict().items())
    assert not trainer.optimizer.state
    assert all(p.grad is None for p in trainer.policy.parameters())
    assert "windows/s; steps 0 to 6 of 4 windows: about" in _said(trainer)


def _poison(row: int, value: float) -> Callable[[BatchAt], BatchAt]:
    def change(batch_at: BatchAt) -> BatchAt:
        def wrapped(step: int) -> WindowBatch:
            batch = batch_at(step)
            if step == 3:
                action, mask = batch.action.copy(), batch.action_mask.copy()
                action[row, 0, 0, 0], mask[row, 0, 0] = value, True
                batch = replace(batch, action=action, action_mask=mask)
            return batch

        return wrapped

    return change


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_non_finite_loss_stops_before_the_weights_change(tmp_path: Path, value: float) -> None:
    trainer = _trainer(tmp_path, change=_poison(2, value))
    with pytest.raises(NonFinite, match="step 3: the loss is not finite.*\n.*to blame: episode 3 frame 2\\.") as error:
        trainer.run()
    assert "the weights were not touched" in str(error.value)
    assert all(torch.isfinite(p).all() for p in trainer.policy.parameters())
    assert _same_weights(trainer.policy, load_file(_state(tmp_path, 3)))
    folder = tmp_path / "nonfinite_step_000003"
    report = json.loads((folder / "report.json").read_text())
    assert report["to_blame"] == [{"episode": 3, "frame": 2}]
    saved = load_file(folder / "batch.safetensors")
    assert saved["action"][2, 0, 0, 0].isnan() if np.isnan(value) else saved["action"][2, 0, 0, 0].isinf()
    assert _same_weights(load_policy(folder), load_file(_state(tmp_path, 3)))


def _same_weights(policy, state: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(tensor, state[f"model/{name}"]) for name, tensor in policy.state_dict().items())


def test_a_non_finite_gradient_stops_too(tmp_path: Path) -> None:
    trainer = _trainer(tmp_path)
    weight = trainer.policy.get_parameter("action_head.answer.weight")
    weight.register_hook(lambda grad: grad * float("inf") if trainer.step == 1 else grad)
    with pytest.raises(NonFinite, match="step 1: the gradient is not finite"):
        trainer.run()
    assert all(torch.isfinite(p).all() for p in trainer.policy.parameters())


def test_a_damaged_newest_checkpoint_is_passed_over_with_a_warning(tmp_path: Path) -> None:
    _trainer(tmp_path).run()
    file = _state(tmp_path, 6)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)
    trainer = _trainer(tmp_path)
    assert trainer.resume()
    assert trainer.step == 3
    assert "state.safetensors is damaged" in _said(trainer)
    _state(tmp_path, 3).unlink()
    with pytest.raises(CheckpointError, match="all 2 checkpoints in .* are damaged"):
        _trainer(tmp_path).resume()


def test_only_the_newest_checkpoints_stay(tmp_path: Path) -> None:
    _trainer(tmp_path, save_every=1, validate_every=0, keep=3).run()
    assert [p.name for p in checkpoints(tmp_path / "checkpoints")] == [f"step_0000000{n}" for n in (4, 5, 6)]
    assert verify_folder(tmp_path / "policy")


def test_a_policy_of_other_sizes_cannot_be_resumed(tmp_path: Path) -> None:
    _trainer(tmp_path).run()
    with pytest.raises(CheckpointError, match="was trained with other sizes"):
        _trainer(tmp_path, policy=_policy(layers=2)).resume()
    assert not _trainer(tmp_path / "empty").resume()


def test_a_time_limit_ends_the_run_with_a_checkpoint(tmp_path: Path) -> None:
    trainer = _trainer(tmp_path, max_steps=10**6, max_minutes=0.02)
    trainer.run()
    assert 0 < trainer.step < 10**6
    assert load_policy(tmp_path / "policy")
    assert "trainer.max_minutes=0.02 are over" in _said(trainer)
    automatic = _trainer(tmp_path / "automatic", max_steps=None, max_minutes=0.02)
    automatic.run()
    assert automatic.max_steps is not None
    assert 0 < automatic.step <= automatic.max_steps


def test_what_is_saved_is_the_average_and_what_is_logged_can_be_read(tmp_path: Path) -> None:
    trainer = _trainer(tmp_path, tensorboard=True)
    last = trainer.run()
    saved, live = load_file(tmp_path / "policy/model.safetensors"), trainer.policy.state_dict()
    for name, tensor in trainer.ema.weights.items():
        assert torch.equal(saved[name], tensor)
    assert not torch.equal(saved["action_head.answer.weight"], live["action_head.answer.weight"])
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [(line["kind"], line["step"]) for line in lines] == [
        ("train", 2), ("validation", 3), ("train", 4), ("train", 6), ("validation", 6),
    ]  # fmt: skip
    for name in ("total", "arm_error", "gripper_accuracy", "foresight_ratio", "foresight_ratio/eye"):
        assert np.isfinite(lines[-1][name]), name
    assert last["validation/total"] == lines[-1]["total"]
    assert list((tmp_path / "tensorboard").iterdir())
    from PIL import Image

    with Image.open(tmp_path / "strips/step_00000006.png") as strip:
        assert strip.size == (3 * (2 * 16 + 4), 14 + 4 * (14 + 2 * 16 + 4))


def test_prefetching_gives_the_same_batches(tmp_path: Path) -> None:
    _trainer(tmp_path / "plain", validate_every=0).run()
    _trainer(tmp_path / "ahead", validate_every=0, workers=2).run()
    assert _same(_state(tmp_path / "plain", 6), _state(tmp_path / "ahead", 6))


def test_matrices_decay_and_vectors_do_not() -> None:
    policy = _policy()
    decayed, plain = make_optimizer(policy, TrainerConfig(**TRAINER)).param_groups
    assert all(p.ndim > 1 for p in decayed["params"])
    assert plain["weight_decay"] == 0.0
    ids = {id(p) for p in plain["params"]}
    small = ("image_queries.eye", "chunk_queries_KD", "norm.weight", "action_head.answer.bias", "text.embed.weight")
    for name in small:
        assert id(policy.get_parameter(name)) in ids, name
    assert len(decayed["params"]) + len(ids) == len(list(policy.parameters()))


def test_init_from_takes_what_fits_and_says_what_does_not(tmp_path: Path) -> None:
    source = _policy()
    video = ForeAct(source.config, source.contract.model_copy(update={"state": (), "action": ()}), {})
    with torch.no_grad():
        for parameter in video.parameters():
            parameter.add_(0.5)
    video.save_pretrained(tmp_path / "video")
    policy = _policy(history=3)
    before = {name: tensor.clone() for name, tensor in policy.state_dict().items()}
    taken = init_from(policy, tmp_path / "video")
    after = policy.state_dict()
    assert torch.equal(after["blocks.0.mlp.0.weight"], video.state_dict()["blocks.0.mlp.0.weight"])
    for name in ("action_head.answer.weight", "embed_state.weight", "embed_timestep_TD"):
        assert name in taken.fresh
        assert torch.equal(after[name], before[name])
    assert taken.unused == []
    assert "fresh:" in str(taken)
    assert "action_head" in str(taken)
    (tmp_path / "video/model.safetensors").write_bytes(b"")
    with pytest.raises(DamagedFolder):
        init_from(policy, tmp_path / "video")


def test_a_target_tower_that_the_checkpoint_lacks_begins_as_the_tower_that_learns(tmp_path: Path) -> None:
    """From a policy that foresaw pixels to one that foresees tokens: no random tower to follow."""
    pixels = _policy(foresight_target="pixels")
    with torch.no_grad():
        for parameter in pixels.parameters():
            parameter.add_(0.5)
    pixels.save_pretrained(tmp_path / "pixels")
    latent = _policy(foresight_target="latent")
    init_from(latent, tmp_path / "pixels")
    for name, tensor in latent.vision.state_dict().items():
        assert torch.equal(tensor, pixels.vision.state_dict()[name])
        assert torch.equal(tensor, latent.target_vision.state_dict()[name]), name


def test_a_run_by_the_clock_goes_on_when_it_is_given_more_time(tmp_path: Path) -> None:
    first = _trainer(tmp_path, max_steps=None, max_minutes=0.01)
    first.run()
    more = _trainer(tmp_path, max_steps=None, max_minutes=0.05)
    assert more.resume()
    before = more.step
    more.run()
    assert more.step > before


def test_the_end_of_a_log_that_a_kill_left_is_no_trouble(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        _trainer(tmp_path, change=lambda b: _then(b, 4, lambda: signal.raise_signal(signal.SIGTERM))).run()
    log = tmp_path / "log.jsonl"
    log.write_text(log.read_text() + '{"kind": "train", "st')
    trainer = _trainer(tmp_path)
    trainer.resume()
    trainer.run()
    assert all(json.loads(line)["step"] for line in log.read_text().splitlines())

"""Schedule, average, augmentation, configs: each against something independent."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from foreact.commands.hydra_config import compose
from foreact.policies.gr1.foreact_config import ForeActConfig
from foreact.vla.batch import WindowBatch
from foreact.vla.errors import ConfigError
from foreact.vla.rows import Rows
from foreact.vla.training.augment import augment_batch, shift_frames
from foreact.vla.training.config import AugmentConfig, TrainerConfig
from foreact.vla.training.ema import Ema
from foreact.vla.training.guard import Spikes
from foreact.vla.training.schedule import learning_rate
from foreact.vla.training.synthetic import SyntheticWindows, synthetic_contract
from foreact.vla.training.validate import with_ratios

CONFIGS = Path(__file__).parents[2] / "configs"


def test_the_learning_rate_warms_up_and_falls_along_a_cosine() -> None:
    rates = [learning_rate(s, max_steps=101, warmup_steps=11, peak=1.0, least=0.1) for s in range(101)]
    assert rates[0] == pytest.approx(1 / 11)
    assert rates[10] == rates[11] == pytest.approx(1.0)
    assert rates[100] == pytest.approx(0.1)
    assert rates[11 + 45] == pytest.approx(0.1 + 0.45 * (1 + math.cos(math.pi * 45 / 89)))
    assert all(a >= b for a, b in zip(rates[11:], rates[12:], strict=False))
    assert learning_rate(500, max_steps=101, warmup_steps=11, peak=1.0, least=0.1) == pytest.approx(0.1)


def test_the_average_follows_its_recursion_and_is_lent_only_for_a_while() -> None:
    layer = torch.nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        layer.weight.fill_(1.0)
    ema = Ema(layer, decay=0.9)
    expected = 1.0
    for step in range(30):
        with torch.no_grad():
            layer.weight.fill_(float(step))
        ema.update(step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    assert float(ema.weights["weight"][0, 0]) == pytest.approx(expected, rel=1e-5)
    with ema.applied():
        assert float(layer.weight.detach()[0, 0]) == pytest.approx(expected, rel=1e-5)
    assert float(layer.weight.detach()[0, 0]) == 29.0


def _batch(B: int = 6, T: int = 2) -> WindowBatch:
    config = ForeActConfig(history=T, history_stride=1, foresight_steps=2, chunk=2, execute_steps=1)
    contract = synthetic_contract({"front": (24, 32), "hand": (24, 32)})
    return SyntheticWindows(config, contract, batch_size=B, seed=0).batch_at(0)


def _rows(seed: int, step: int) -> Rows:
    return Rows(seed, step, 0, 6, 6)


def test_augmentation_depends_on_seed_and_step_alone() -> None:
    batch, config = _batch(), AugmentConfig()
    first, again = augment_batch(batch, config, _rows(1, 5)), augment_batch(batch, config, _rows(1, 5))
    assert np.array_equal(first.images["front"], again.images["front"])
    for seed, step in ((1, 6), (2, 5)):
        other = augment_batch(batch, config, _rows(seed, step))
        assert not np.array_equal(first.images["front"], other.images["front"])
    assert first.images["front"].dtype == np.uint8
    assert not np.array_equal(first.images["front"], batch.images["front"])
    assert first.state is batch.state


def test_all_frames_of_a_window_change_alike_and_cameras_apart() -> None:
    batch = _batch(T=3)
    same = np.random.default_rng(0).integers(0, 255, (6, 1, 24, 32, 3), dtype=np.uint8)
    for name in batch.images:
        batch.images[name] = np.repeat(same, 3, axis=1)
        batch.future[name] = np.repeat(same, 3, axis=1)
    changed = augment_batch(batch, AugmentConfig(), _rows(0, 0))
    reference = changed.images["front"][:, :1]
    assert (changed.images["front"] == reference).all()
    assert (changed.future["front"] == reference).all()
    assert not np.array_equal(changed.images["hand"], changed.images["front"])
    assert not np.array_equal(reference[0], reference[1])


def test_no_augmentation_leaves_the_batch_alone() -> None:
    batch = _batch()
    nothing = AugmentConfig(shift_pixels=0.0, brightness=0.0, contrast=0.0, color=0.0)
    assert augment_batch(batch, nothing, _rows(0, 0)) is batch


def test_a_shift_by_whole_pixels_is_a_roll_and_by_a_half_the_mean_of_neighbours() -> None:
    x = torch.rand(1, 3, 8, 10)
    right_down = shift_frames(x, torch.tensor([[2.0, 1.0]]))
    torch.testing.assert_close(right_down[..., 1:, 2:], x[..., :-1, :-2], rtol=0, atol=1e-5)
    torch.testing.assert_close(right_down[..., 1:, 0], x[..., :-1, 0], rtol=0, atol=1e-5)
    half = shift_frames(x, torch.tensor([[-0.5, 0.0]]))
    torch.testing.assert_close(half[..., :-1], (x[..., :-1] + x[..., 1:]) / 2, rtol=0, atol=1e-5)


def test_a_loss_far_above_the_last_ones_is_noticed() -> None:
    spikes, rng = Spikes(window=50, sigmas=10.0), np.random.default_rng(0)
    assert not any(spikes.add(float(rng.normal(1.0, 0.1))) for _ in range(200))
    assert spikes.add(4.0) > 10.0


def test_the_ratio_to_copying_is_the_quotient_of_sums() -> None:
    values = {
        "total": 1.0,
        "moved_error/a": 1.0,
        "moved_copy_error/a": 4.0,
        "moved_error/b": 3.0,
        "moved_copy_error/b": 6.0,
    }
    assert with_ratios(values) == {
        "total": 1.0, "foresight_ratio/a": 0.25, "foresight_ratio/b": 0.5, "foresight_ratio": 0.4,
    }  # fmt: skip
    assert math.isnan(with_ratios({"moved_error/a": 0.0, "moved_copy_error/a": 0.0})["foresight_ratio"])


def test_config_files_say_what_the_dataclasses_say() -> None:
    best = compose("train", ["policy=foreact"])["policy"]
    policy = compose("train", ["policy=foreact_as_gr1"])["policy"]
    assert best == policy | {"resampler_told": True}
    assert policy.pop("name") == "foreact"
    assert len(policy.pop("cameras")) == 2
    assert len(policy.pop("state")) == 4
    assert policy.pop("actions") is True
    assert policy == ForeActConfig().to_dict()
    trainer = yaml.safe_load((CONFIGS / "trainer/default.yaml").read_text())
    minutes = trainer.pop("max_minutes")
    expected = TrainerConfig(max_minutes=minutes).to_dict()
    del expected["max_minutes"]
    assert trainer == {**expected, "betas": list(expected["betas"])}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "say how long to train"),
        ({"max_steps": 0}, "max_steps must be at least 1"),
        ({"max_steps": 1, "keep": 1}, "trainer.keep must be at least 2, found 1"),
        ({"max_steps": 1, "precision": "fp16"}, "fp16 would need loss scaling; use bf16"),
        ({"max_steps": 1, "precision": "int8"}, "auto, bf16 or fp32, found 'int8'"),
        ({"max_steps": 1, "accumulate": 0}, "accumulate must be at least 1, found 0"),
        ({"max_steps": 1, "lerning_rate": 1.0}, "trainer.lerning_rate is unknown.*did you mean 'learning_rate'"),
        ({"max_steps": 1, "learning_rate": "fast"}, "trainer.learning_rate: .*number, found 'fast'"),
        ({"max_steps": "many"}, "trainer.max_steps: .*integer, found 'many'"),
        ({"max_steps": 1, "batch_size": 2.5}, "trainer.batch_size: .*integer, found 2.5"),
        ({"max_steps": 1, "wandb": "no"}, "trainer.wandb: .*boolean, found 'no'"),
        ({"max_steps": 1, "augment": {"color": "red"}}, "trainer.augment.color: .*number, found 'red'"),
        ({"max_steps": 1, "augment": {"shift": 2}}, "trainer.augment.shift is unknown"),
    ],
)
def test_impossible_trainer_settings_are_refused(values: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainerConfig.from_dict(values)


def test_trainer_settings_survive_json() -> None:
    config = TrainerConfig(max_steps=7, betas=(0.8, 0.9), augment=AugmentConfig(color=0.3))
    assert TrainerConfig.from_dict(config.to_dict()) == config


def test_synthetic_windows_keep_their_promises() -> None:
    batch = _batch(B=32, T=3)
    assert (np.diff(batch.history_mask.astype(int), axis=1) <= 0).all()
    assert batch.history_mask[:, 0].all()
    assert not batch.images["front"][~batch.history_mask].any()
    assert not batch.future["front"][~batch.future_mask].any()
    assert not batch.action[~batch.action_mask].any()
    assert np.abs(batch.action).max() <= 1.0
    moved = batch.state[:, 1:2, :2] - batch.state[:, :1, :2]
    known = batch.state_mask[:, 1]
    np.testing.assert_allclose(moved[known, 0], 0.04 * batch.action[known, 0, 0, :2], atol=1e-6)

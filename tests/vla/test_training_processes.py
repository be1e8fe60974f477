"""Two processes that share a batch train what one process trains; so do pieces computed one after another."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
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
from foreact.vla.errors import ConfigError, ForeActError
from foreact.vla.layers import Block
from foreact.vla.rows import RowDropout, Rows, set_rows
from foreact.vla.trainable import TrainablePolicy
from foreact.vla.training.config import AugmentConfig, TrainerConfig
from foreact.vla.training.loop import Trainer
from foreact.vla.training.pieces import Pieces
from foreact.vla.training.synthetic import SyntheticWindows, synthetic_contract

SIZES: dict[str, Any] = dict(
    history=2, history_stride=1, foresight_steps=3, chunk=2, execute_steps=1, width=16, layers=2, heads=2,
    vision_width=16, vision_heads=2, text_width=8, text_layers=1, text_heads=2, visual_count=1, resampler_heads=1,
    resampler_head_width=8, image_queries=1, decoder_width=8, decoder_layers=1, decoder_heads=2,
)  # fmt: skip
ROOT = Path(__file__).parents[2]
ENV = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
ENV.pop("WORLD_SIZE", None)


def _uneven(batch: WindowBatch) -> WindowBatch:
    """The first half of the windows has no future and fewer actions: shards then differ in what they count."""
    half = len(batch) // 2
    batch.future_mask[:half] = False
    for name in batch.future:
        batch.future[name][:half] = 0
    batch.action_mask[: half - 1, :, 1:] = False
    batch.action[: half - 1, :, 1:] = 0
    return batch


def _run(out: Path, *, double: bool = False, steps: int = 50, stop: int | None = None, **settings: Any) -> Trainer:
    torch.manual_seed(0)
    statistics = {"state": {"mean": [0.5, 0.5, 0.0], "std": [0.3, 0.3, 1.0]}}
    policy = ForeAct(ForeActConfig(**SIZES, dropout=0.1), synthetic_contract({"eye": (16, 16)}), statistics)
    policy = policy.double() if double else policy
    windows = SyntheticWindows(policy.config, policy.contract, batch_size=8, seed=0)
    config = TrainerConfig(
        **{
            **dict(max_steps=steps, batch_size=8, learning_rate=3e-3, warmup_steps=5, threads=1, precision="fp32",
                   log_every=1, validate_every=steps // 2, validate_batches=1, save_every=1000, tensorboard=False,
                   augment=AugmentConfig(shift_pixels=1.0)),
            **settings,
        }
    )  # fmt: skip

    def batch_at(step: int) -> WindowBatch:
        if step == stop and os.environ.get("RANK") == "1":
            signal.raise_signal(signal.SIGTERM)
        return _uneven(windows.batch_at(step))

    said = StringIO()
    trainer = Trainer(
        policy, batch_at, config, out, val_at=windows.batch_at,
        console=Console(file=said), provenance={"data": ["synthetic"]},
    )  # fmt: skip
    trainer.resume()
    try:
        trainer.run()
    finally:
        if trainer.ranks.main:
            out.mkdir(parents=True, exist_ok=True)
            (out / "said.txt").write_text(said.getvalue())
    return trainer


def _child() -> None:
    """What each started process does: `python test_training_processes.py '<settings as JSON>'`."""
    settings = json.loads(sys.argv[1])
    if settings.get("double"):
        _widen()
    _run(Path(settings.pop("out")), **settings)


def _widen() -> None:
    """The network computes in float32 wherever it says .float(); now every such place is wider."""
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double  # type: ignore[method-assign, assignment]


def _launch(*, status: int = 0, **settings: Any) -> None:
    """Two processes on this machine; `--multi_gpu` is how accelerate calls several, `trainer.device` says which."""
    command = [
        sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2",
        "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0",
        __file__,
        json.dumps({k: str(v) if k == "out" else v for k, v in settings.items()}),
    ]  # fmt: skip
    done = subprocess.run(command, env=ENV, capture_output=True, text=True, timeout=170)
    assert (done.returncode != 0) == bool(status), done.stderr[-3000:]
    assert "in each of 2 processes" in (settings["out"] / "said.txt").read_text()


def _losses(out: Path) -> np.ndarray:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return np.array(
        [[line[key] for key in ("total", "arm", "gradient_norm")] for line in lines if line["kind"] == "train"]
    )


def _validation(out: Path) -> list[float]:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [line["total"] for line in lines if line["kind"] == "validation"]


def _tensors(out: Path, step: int = 50) -> dict[str, torch.Tensor]:
    return load_file(out / "checkpoints" / f"step_{step:08d}" / "training" / "state.safetensors")


def _far(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[name].double() - b[name].double()).abs().max()) for name in a)


@pytest.fixture(scope="module")
def alone64(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """50 steps of one process in float64, in one piece each."""
    out = tmp_path_factory.mktemp("alone64")
    with _widened():
        _run(out, double=True)
    yield out


@contextmanager
def _widened() -> Iterator[None]:
    plain = torch.Tensor.float
    _widen()
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)
        torch.Tensor.float = plain  # type: ignore[method-assign]


def _same_run(one: Path, two: Path) -> None:
    a, b = _losses(one), _losses(two)
    assert a.shape == b.shape == (50, 3)
    assert a[-5:, 0].mean() < 0.95 * a[:5, 0].mean()
    np.testing.assert_allclose(b, a, rtol=1e-9)
    np.testing.assert_allclose(_validation(two), _validation(one), rtol=1e-9)
    assert _far(_tensors(one), _tensors(two)) < 1e-9


@pytest.mark.parametrize(
    "settings",
    [{}, {"shard": True}, pytest.param({"accumulate": 2}, marks=pytest.mark.slow)],
    ids=["ddp", "fsdp2", "ddp_in_pieces"],
)
def test_two_processes_train_what_one_does(alone64: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    """Float64, 50 steps, dropout and augmentation on, pieces with different numbers of valid windows: 1e-9."""
    _launch(out=tmp_path, double=True, **settings)
    _same_run(alone64, tmp_path)


@pytest.mark.parametrize("settings", [{"accumulate": 4}, {"accumulate": 3, "recompute": True}])
def test_accumulated_pieces_are_the_whole_batch(alone64: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    with _widened():
        _run(tmp_path, double=True, **settings)
    _same_run(alone64, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"shard": True}], ids=["ddp", "fsdp2"])
def test_two_processes_in_float32_stay_within_a_thousandth(tmp_path: Path, settings: dict[str, Any]) -> None:
    _run(tmp_path / "one")
    (tmp_path / "two").mkdir()
    _launch(out=tmp_path / "two", **settings)
    np.testing.assert_allclose(_losses(tmp_path / "two")[:, :2], _losses(tmp_path / "one")[:, :2], rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"shard": True}], ids=["ddp", "fsdp2"])
def test_a_signal_to_one_process_stops_all_and_one_goes_on_alone(tmp_path: Path, settings: dict[str, Any]) -> None:
    """SIGTERM reaches the second process only; the run goes on in one process, as if it had always been one."""
    whole, cut_short = tmp_path / "whole", tmp_path / "cut"
    with _widened():
        _run(whole, double=True, steps=12)
    cut_short.mkdir()
    _launch(out=cut_short, double=True, steps=12, stop=5, status=1, **settings)
    assert (cut_short / "checkpoints/step_00000006").is_dir()
    assert "stopped by signal 15; checkpoint at step 6 written" in (cut_short / "said.txt").read_text()
    with _widened():
        _run(cut_short, double=True, steps=12)
    assert "at step 6" in (cut_short / "said.txt").read_text()
    assert _far(_tensors(whole, 12), _tensors(cut_short, 12)) < 1e-9


def test_recomputing_blocks_changes_no_bit(tmp_path: Path) -> None:
    _run(tmp_path / "plain", steps=6)
    _run(tmp_path / "again", steps=6, recompute=True)
    assert _far(_tensors(tmp_path / "plain", 6), _tensors(tmp_path / "again", 6)) == 0.0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's compiler warns of its own doings
def test_a_compiled_block_computes_the_same() -> None:
    if not shutil.which("c++") and not shutil.which("g++"):
        pytest.skip("torch.compile needs a C++ compiler on a CPU")
    torch.manual_seed(0)
    plain = Block(16, 2, dropout=0.1)
    compiled = Block(16, 2, dropout=0.1)
    compiled.load_state_dict(plain.state_dict())
    compiled.compile()
    for block in (plain, compiled):
        set_rows(block, Rows(0, 3, 0, 4, 4))
    x, mask = torch.randn(4, 6, 16), torch.ones(4, 1, 6, 6, dtype=torch.bool).tril()
    for block in (plain, compiled):
        block(x, mask).square().sum().backward()
    for one, two in zip(plain.parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, rtol=1e-4, atol=1e-4)


def _order(pieces: list[Pieces], start: int = 0, steps: int = 12) -> list[list[list[int]]]:
    """What all processes see of each step, in the order of the batch."""
    seen: list[list[list[int]]] = [[] for _ in range(steps)]
    for part in pieces:
        with part.ahead(start) as made:
            for step in range(start, steps):
                seen[step] += [row for piece in next(made) for row in piece.batch.index.tolist()]
    return seen


def _pieces(rank: int = 0, size: int = 1, **settings: Any) -> Pieces:
    config = ForeActConfig(**SIZES)
    windows = SyntheticWindows(config, synthetic_contract({"eye": (16, 16)}), batch_size=8, seed=0)
    return Pieces(windows.batch_at, TrainerConfig(max_steps=1, batch_size=8, **settings), rank, size)


def test_the_order_of_windows_depends_on_neither_workers_nor_processes_nor_resuming() -> None:
    expected = _order([_pieces()])
    assert len({json.dumps(step) for step in expected}) == 12
    for workers in (1, 2, 4):
        assert _order([_pieces(workers=workers)]) == expected
        assert _order([_pieces(workers=workers)], start=5)[5:] == expected[5:]
    for size, accumulate in ((2, 1), (4, 1), (3, 2), (8, 1)):
        assert _order([_pieces(rank, size, accumulate=accumulate, workers=1) for rank in range(size)]) == expected


def test_pieces_of_a_batch_are_augmented_as_the_whole_is() -> None:
    [whole] = _pieces().at(3)
    parts = [piece for rank in range(3) for piece in _pieces(rank, 3).at(3)]
    assert [len(piece.batch) for piece in parts] == [2, 3, 3]
    for name in ("images", "future"):
        joined = np.concatenate([getattr(piece.batch, name)["eye"] for piece in parts])
        np.testing.assert_array_equal(joined, getattr(whole.batch, name)["eye"])
    assert not np.array_equal(whole.batch.images["eye"][0], whole.batch.images["eye"][1])


def test_dropout_belongs_to_the_window() -> None:
    layer = RowDropout(0.25)
    x = torch.ones(64, 50, 40)
    set_rows(layer, Rows(0, 7, 0, 64, 64))
    first, second = layer(x), layer(x, 1)
    assert torch.equal(first, layer(x))
    assert not torch.equal(first, second)
    assert float((first == 0).float().mean()) == pytest.approx(0.25, abs=0.005)
    assert first.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    kept = (first != 0).double().reshape(64, -1)
    between = torch.corrcoef(kept).fill_diagonal_(0.0)
    assert float(between.abs().max()) < 0.12  # 64 masks of 2000 places: chance reaches 0.09
    set_rows(layer, Rows(0, 7, 20, 30, 64))
    assert torch.equal(layer(x[20:50]), first[20:50])
    set_rows(layer, Rows(0, 8, 0, 64, 64))
    assert not torch.equal(layer(x), first)
    with pytest.raises(ValueError, match="64 windows have keys, the tensor has 3 rows"):
        layer(x[:3])
    layer.eval()
    assert torch.equal(layer(x), x)


def test_a_batch_is_not_cut_finer_than_windows() -> None:
    with pytest.raises(
        ConfigError, match="batch_size=8 windows cannot be cut into 3 processes x .*accumulate=3 pieces"
    ):
        _pieces(0, 3, accumulate=3)


def test_a_policy_that_counts_nothing_is_not_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ForeAct, "loss_counts", TrainablePolicy.loss_counts)
    with pytest.raises(ConfigError, match="'foreact' has no loss_counts, so its batches cannot be cut"):
        _run(tmp_path, accumulate=2)


def test_data_that_cannot_be_read_names_the_step() -> None:
    def broken(step: int) -> WindowBatch:
        raise OSError("disk on fire")

    pieces = Pieces(broken, TrainerConfig(max_steps=1, workers=2))
    with (
        pieces.ahead(41) as made,
        pytest.raises(ForeActError, match="batch of step 41 could not be made: OSError: disk on fire"),
    ):
        next(made)


def test_one_process_never_imports_accelerate() -> None:
    code = (
        "import sys, foreact.vla.training.loop as l; from foreact.vla.training.ranks import Ranks; Ranks('cpu'); "
        "sys.exit('accelerate' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], env=ENV).returncode == 0


if __name__ == "__main__":
    _child()

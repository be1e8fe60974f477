"""Runs that are killed, terminated and damaged, many times; the numbers of docs/training.md come from here.

`python tests/vla/test_training_kills.py <trial> <N> <folder>` runs one trial and prints its counts as JSON; the tests
run it with a small N, and with the full one when slow tests are asked for. Children are forked, so that a trial
costs no import of torch.
"""

from __future__ import annotations

import functools
import hashlib
import json
import mmap
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from foreact.policies.gr1.foreact import ForeAct
from foreact.policies.gr1.foreact_config import ForeActConfig
from foreact.vla.checkpoint import load_policy, save_policy
from foreact.vla.files import DamagedFolder, verify_folder
from foreact.vla.training.config import AugmentConfig, TrainerConfig
from foreact.vla.training.loop import Trainer
from foreact.vla.training.state import averaged, checkpoints, gather, newest, save_training
from foreact.vla.training.synthetic import SyntheticWindows, synthetic_contract

SIZES: dict[str, Any] = dict(
    history=2, history_stride=1, foresight_steps=3, chunk=2, execute_steps=1, width=16, layers=1, heads=2,
    vision_width=16, vision_heads=2, text_width=8, text_layers=1, text_heads=2, visual_count=1, resampler_heads=1,
    resampler_head_width=8, image_queries=1, decoder_width=8, decoder_layers=1, decoder_heads=2, dropout=0.1,
)  # fmt: skip
LAST, AFTER = 200, 50


class Watched(Trainer):
    """Says after each step how many are done, and a hash of everything a step changes."""

    progress: mmap.mmap | None = None
    after: Callable[[int, str], None] | None = None

    def _train_step(self, pieces):
        values = super()._train_step(pieces)
        if self.progress is not None:
            self.progress[:8] = struct.pack("q", self.step + 1)
        if self.after is not None:
            self.after(self.step + 1, digest(self, values))
        return values


def digest(trainer: Trainer, values: dict[str, float]) -> str:
    """SHA-256 of weights, averages, optimiser state, loss and learning rate."""
    found = hashlib.sha256(repr((values["total"], values["learning_rate"], values["gradient_norm"])).encode())
    for name, tensor in sorted(gather(trainer.policy, trainer.optimizer, trainer.ema).items()):
        found.update(name.encode() + tensor.numpy().tobytes())
    return found.hexdigest()


def make(out: Path, **settings: Any) -> Watched:
    """A small run in `out`."""
    torch.manual_seed(0)
    statistics = {"state": {"mean": [0.5, 0.5, 0.0], "std": [0.3, 0.3, 1.0]}}
    policy = ForeAct(ForeActConfig(**SIZES), synthetic_contract({"eye": (16, 16)}), statistics)
    windows = SyntheticWindows(policy.config, policy.contract, batch_size=4, seed=0)
    common: dict[str, Any] = dict(
        max_steps=LAST, batch_size=4, warmup_steps=5, threads=1, precision="fp32", log_every=1000, validate_every=0,
        save_every=7, tensorboard=False, augment=AugmentConfig(shift_pixels=1.0),
    )  # fmt: skip
    config = TrainerConfig(**{**common, **settings})
    console = Console(file=StringIO())
    return Watched(policy, windows.batch_at, config, out, console=console, provenance={"data": ["synthetic"]})


def fork(work: Callable[[], None]) -> int:
    """A child process that does `work` and exits with its status."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        work()
        status = 0
    except SystemExit as stop:
        status = int(stop.code or 0)
    finally:
        os._exit(status)


def wait(child: int, seconds: float = 120.0) -> int:
    """The child's exit status (negative: the signal that ended it)."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise AssertionError(f"the child did not end within {seconds} s")


def reach(progress: mmap.mmap, step: int, child: int) -> None:
    """Wait until the child has done `step` steps."""
    deadline = time.monotonic() + 120.0
    while steps_done(progress) < step and time.monotonic() < deadline:
        assert os.waitpid(child, os.WNOHANG) == (0, 0), "the child ended early"
        time.sleep(0.001)


def steps_done(progress: mmap.mmap) -> int:
    return struct.unpack("q", progress[:8])[0]


def resume_for_a_while(out: Path) -> None:
    """Go on for 50 steps and write the hash of each; ends the process."""
    trainer = make(out)
    assert trainer.resume()
    first, found = trainer.step, []

    def after(step: int, value: str) -> None:
        found.append([step, value])
        if step == first + AFTER:
            (out / "digests.json").write_text(json.dumps(found))
            os._exit(0)

    trainer.after = after
    trainer.run()


def trial_resume(n: int, folder: Path, rng: random.Random) -> dict[str, Any]:
    """SIGKILL at a random step; after resuming, 50 steps must equal the uninterrupted run's bit for bit."""
    expected: dict[int, str] = {}
    whole = make(folder / "whole")
    whole.after = lambda step, found: expected.__setitem__(step, found)
    whole.run()
    equal = lost = 0
    for number in range(n):
        out, progress = folder / f"run{number}", mmap.mmap(-1, 8)

        def train(out: Path = out, progress: mmap.mmap = progress) -> None:
            trainer = make(out)
            trainer.progress = progress
            trainer.run()

        child = fork(train)
        reach(progress, rng.randint(8, LAST - AFTER - 10), child)
        time.sleep(rng.uniform(0.0, 0.03))
        os.kill(child, signal.SIGKILL)
        assert wait(child) == -signal.SIGKILL
        killed_at = steps_done(progress)

        assert wait(fork(functools.partial(resume_for_a_while, out))) == 0
        found = json.loads((out / "digests.json").read_text())
        equal += len(found) == AFTER and all(expected[step] == value for step, value in found)
        lost = max(lost, killed_at - found[0][0] + 1)
        shutil.rmtree(out)
    return {"kills": n, "bit_equal": equal, "steps_each": AFTER, "most_steps_lost": lost}


def trial_saves(n: int, folder: Path, rng: random.Random) -> dict[str, Any]:
    """SIGKILL while checkpoints are written; the newest must open each time, and `policy/` must be whole."""
    trainer = make(folder, max_steps=3, save_every=1)
    trainer.run()
    tensors, info = gather(trainer.policy, trainer.optimizer, trainer.ema), trainer._info()
    parent, started = folder / "checkpoints", time.perf_counter()
    save_training(parent, trainer.policy, tensors, {**info, "step": 4}, 2)
    save_policy(trainer.policy, folder / "policy", averaged(tensors))
    seconds = time.perf_counter() - started
    during = opened = whole = 0
    for _ in range(n):
        last = int(checkpoints(parent)[-1].name[5:])

        def save(last: int = last) -> None:
            for step in range(last + 1, last + 1000):
                save_training(parent, trainer.policy, tensors, {**info, "step": step}, 2)
                save_policy(trainer.policy, folder / "policy", averaged(tensors))

        child = fork(save)
        time.sleep(rng.uniform(0.002, 3.0 * seconds))
        os.kill(child, signal.SIGKILL)
        assert wait(child) == -signal.SIGKILL
        during += any(folder.rglob(".stage-*"))
        fresh = make(folder, max_steps=3)
        opened += fresh.resume() and fresh.step >= last
        try:
            load_policy(folder / "policy")
            whole += 1
        except DamagedFolder:
            pass
        shutil.rmtree(folder / "strips", ignore_errors=True)
    return {"kills": n, "during_a_save": during, "newest_opened": opened, "policy_whole": whole}


def trial_damage(n: int, folder: Path, rng: random.Random) -> dict[str, Any]:
    """Damage any file of the newest checkpoint in any way: it must be refused, and the one before it offered."""
    make(folder, max_steps=2, save_every=1).run()
    before, last = checkpoints(folder / "checkpoints")
    spare = folder / "spare"
    shutil.copytree(last, spare)
    files = [path for path in sorted(last.rglob("*")) if path.is_file()]
    refused = offered = warned = 0
    kinds: dict[str, int] = {}
    for _ in range(n):
        path = rng.choice(files)
        kind = damage(path, rng)
        kinds[kind] = kinds.get(kind, 0) + 1
        try:
            verify_folder(last)
        except DamagedFolder:
            refused += 1
        notes: list[str] = []
        offered += newest(folder / "checkpoints", notes.append) == before
        warned += len(notes) == 1 and "falling back to the checkpoint before it" in notes[0]
        path.unlink(missing_ok=True)
        shutil.copy2(spare / path.relative_to(last), path)
    verify_folder(last)
    return {"damaged": n, "refused": refused, "previous_offered": offered, "warned": warned, "kinds": kinds}


def damage(path: Path, rng: random.Random) -> str:
    """Spoil one file; says how."""
    content = bytearray(path.read_bytes())
    kind = rng.choice(["bit", "bit", "bit", "cut", "grown", "zeros", "empty", "missing", "swapped"])
    place = rng.randrange(len(content))
    if kind == "bit":
        content[place] ^= 1 << rng.randrange(8)
    elif kind == "cut":
        del content[place:]
    elif kind == "grown":
        content += bytes(rng.randrange(1, 100))
    elif kind == "zeros":
        width = rng.randrange(1, 4096)
        hole = bytes(len(content[place : place + width]))
        if content[place : place + width] == hole:
            hole = b"\xff" * len(hole)
        content[place : place + width] = hole
    elif kind == "empty":
        content.clear()
    elif kind == "swapped":
        other = rng.randrange(len(content))
        if content[place] == content[other]:
            content[other] ^= 0x55
        else:
            content[place], content[other] = content[other], content[place]
    if kind == "missing":
        path.unlink()
    else:
        path.write_bytes(content)
    return kind


def trial_signals(n: int, folder: Path, rng: random.Random) -> dict[str, Any]:
    """SIGTERM or SIGUSR1 at a random moment: a checkpoint of the last step done, and the signal's exit status."""
    right = lost = 0
    slowest = 0.0
    for number in range(n):
        out, progress = folder / f"run{number}", mmap.mmap(-1, 8)

        def train(out: Path = out, progress: mmap.mmap = progress) -> None:
            trainer = make(out, max_steps=100_000, save_every=10_000)
            trainer.progress = progress
            trainer.run()

        child = fork(train)
        reach(progress, rng.randint(1, 30), child)
        time.sleep(rng.uniform(0.0, 0.02))
        sent, began = rng.choice([signal.SIGTERM, signal.SIGUSR1]), time.monotonic()
        os.kill(child, sent)
        right += wait(child, 60.0) == 128 + sent
        slowest = max(slowest, time.monotonic() - began)
        saved = newest(out / "checkpoints")
        assert saved is not None
        lost += steps_done(progress) - int(saved.name[5:])
        shutil.rmtree(out)
    return {"signals": n, "right_status": right, "steps_lost": lost, "slowest_s": round(slowest, 2)}


TRIALS = {"resume": trial_resume, "saves": trial_saves, "damage": trial_damage, "signals": trial_signals}


def _report(trial: str, n: int, folder: Path) -> dict[str, Any]:
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, __file__, trial, str(n), str(folder)], env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


SLOW = [pytest.mark.slow, pytest.mark.timeout(3600)]


@pytest.mark.parametrize("n", [2, pytest.param(20, marks=SLOW)])
def test_killed_runs_go_on_bit_for_bit(tmp_path: Path, n: int) -> None:
    report = _report("resume", n, tmp_path)
    assert report["bit_equal"] == n
    assert report["most_steps_lost"] <= 7 + 1  # a kill during a save loses the steps since the one before


@pytest.mark.parametrize("n", [10, pytest.param(300, marks=SLOW)])
def test_kills_during_saves_always_leave_a_checkpoint(tmp_path: Path, n: int) -> None:
    report = _report("saves", n, tmp_path)
    assert report["newest_opened"] == report["policy_whole"] == n
    assert report["during_a_save"] > n // 3


@pytest.mark.parametrize("n", [60, pytest.param(1000, marks=SLOW)])
def test_damaged_checkpoints_are_refused_and_the_one_before_is_offered(tmp_path: Path, n: int) -> None:
    report = _report("damage", n, tmp_path)
    assert report["refused"] == report["previous_offered"] == report["warned"] == n
    assert len(report["kinds"]) >= 6


@pytest.mark.parametrize("n", [2, pytest.param(50, marks=SLOW)])
def test_a_signal_saves_the_last_step_and_says_so(tmp_path: Path, n: int) -> None:
    report = _report("signals", n, tmp_path)
    assert (report["right_status"], report["steps_lost"]) == (n, 0)
    assert report["slowest_s"] < 60.0


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(TRIALS[sys.argv[1]](int(sys.argv[2]), Path(sys.argv[3]), random.Random(0))))

"""The Slurm example: its settings compose, its commands are right, and on this machine its jobs run."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

SLURM = Path(__file__).parents[2] / "launch" / "slurm"
needs_plugin = pytest.mark.skipif(
    importlib.util.find_spec("submitit") is None, reason="needs hydra-submitit-launcher, which is not installed"
)


@pytest.fixture(scope="module")
def launcher() -> ModuleType:
    spec = importlib.util.spec_from_file_location("slurm_train", SLURM / "train.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_one_process_is_the_plain_command(launcher: ModuleType) -> None:
    words = ["experiment=debug", "trainer.seed=3", "out=runs/a", "resume=false", "hydra.launcher.nodes=1"]
    assert launcher.command(words, "runs/a/000", 1, {}) == [
        sys.executable, "-m", "foreact.commands.main", "train", "experiment=debug", "trainer.seed=3", "out=runs/a/000",
        "resume=true",
    ]  # fmt: skip


def test_several_nodes_meet_at_the_first(launcher: ModuleType) -> None:
    env = {"SLURM_JOB_NUM_NODES": "2", "SLURM_NODEID": "1", "MASTER_ADDR": "node7"}
    words = launcher.command(["processes_per_node=4", "trainer.device=cuda"], "runs/a/000", 4, env)
    flags = dict(zip(words, words[1:], strict=False))
    assert (flags["--num_machines"], flags["--num_processes"], flags["--machine_rank"]) == ("2", "8", "1")
    assert flags["--main_process_ip"] == "node7"
    assert words[-5:] == ["foreact.commands.main", "train", "trainer.device=cuda", "out=runs/a/000", "resume=true"]


@needs_plugin
def test_the_settings_compose() -> None:
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(str(SLURM / "conf"), version_base="1.3"):
        config = compose("slurm", ["experiment=debug", "out=runs/x", "processes_per_node=4"], return_hydra_config=True)
    job = config.hydra.launcher
    assert job._target_ == "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher"
    assert (job.gpus_per_node, job.tasks_per_node, job.signal_delay_s) == (4, 1, 120)
    assert job.submitit_folder == "runs/x/slurm/%j"
    assert (config.trainer.max_steps, config.policy.name) == (6, "foreact")


@needs_plugin
@pytest.mark.slow
def test_a_sweep_runs_as_jobs_of_this_machine(tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(SLURM.parents[1] / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [
            sys.executable, str(SLURM / "train.py"), "--config-name", "local", "--multirun", "experiment=debug",
            f"out={tmp_path}/sweep", "trainer.seed=0,1",
        ],
        env=env, cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    for number, seed in ((0, 0), (1, 1)):
        state = tmp_path / f"sweep/{number:03d}/checkpoints/step_00000006/training/state.json"
        assert json.loads(state.read_text())["identity"]["seed"] == seed

"""`foreact train` as Slurm jobs, through hydra-submitit-launcher; see launch/README.md.

    python launch/slurm/train.py --multirun experiment=finetune data.path=data/desk_d out=runs/seeds trainer.seed=0,1,2

Each job runs `foreact train` with its settings and resume=true, so that a job that Slurm starts again goes on.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from types import FrameType

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

PORT = 29500


def command(words: Sequence[str], out: str, processes_per_node: int, env: Mapping[str, str]) -> list[str]:
    """What a job's task on this node runs.

    Args:
        words: The job's overrides, as on the command line of `foreact train`.
        out: The run's folder.
        processes_per_node: Training processes on this node.
        env: The task's environment: Slurm says how many nodes there are, and which one this is.
    """
    mine = ("out=", "processes_per_node=", "resume=", "hydra")
    kept = [word for word in words if not word.lstrip("+~").startswith(mine)]
    train = ["-m", "foreact.commands.main", "train", *kept, f"out={out}", "resume=true"]
    nodes = int(env.get("SLURM_JOB_NUM_NODES", "1"))
    processes = nodes * processes_per_node
    if processes == 1:
        return [sys.executable, *train]
    return [
        sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", str(nodes),
        "--num_processes", str(processes), "--machine_rank", env.get("SLURM_NODEID", "0"),
        "--main_process_ip", env.get("MASTER_ADDR", "127.0.0.1"), "--main_process_port", str(PORT),
        "--mixed_precision", "no", "--dynamo_backend", "no", *train,
    ]  # fmt: skip


def first_host(env: Mapping[str, str]) -> str:
    """The host of the job's first node, where processes meet."""
    if int(env.get("SLURM_JOB_NUM_NODES", "1")) == 1:
        return "127.0.0.1"
    shown = subprocess.run(
        ["scontrol", "show", "hostnames", env["SLURM_JOB_NODELIST"]], check=True, capture_output=True, text=True
    )
    return shown.stdout.split()[0]


def run(words: Sequence[str]) -> int:
    """Run a command; when the job is told to end, let it save first, then do what submitit does (queue again)."""
    child = subprocess.Popen(words)
    before = signal.getsignal(signal.SIGUSR2)

    def end(number: int, frame: FrameType | None) -> None:
        child.terminate()
        child.wait()
        if callable(before):
            before(number, frame)

    signal.signal(signal.SIGUSR2, end)
    return child.wait()


@hydra.main(config_path="conf", config_name="slurm", version_base="1.3")
def main(config: DictConfig) -> None:
    job = HydraConfig.get()
    os.environ["MASTER_ADDR"] = first_host(os.environ)
    out = os.path.join(config.out, f"{job.job.num:03d}")
    status = run(command(list(job.overrides.task), out, config.processes_per_node, os.environ))
    if status:
        raise SystemExit(f"foreact train in {out} ended with status {status}")


if __name__ == "__main__":
    main()

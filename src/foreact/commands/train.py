"""`foreact train`: stores and a policy meet in the training loop. Settings: configs/train.yaml and its groups."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from foreact import __version__
from foreact.commands.hydra_config import compose
from foreact.vla.errors import ConfigError


def main(argv: list[str]) -> None:
    """Run `foreact train key=value ...`.

    Raises:
        ForeActError: For anything a person can mend.
    """
    settings = compose("train", argv)
    # Threads that wait for each other should sleep: spinning costs most of the speed as soon as a core is shared.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

    import torch
    from rich.console import Console

    from foreact.commands.train_data import from_stores, picture_sizes, synthetic
    from foreact.vla.hub import local_checkpoint
    from foreact.vla.registry import policy_class
    from foreact.vla.training.config import TrainerConfig
    from foreact.vla.training.init_from import init_from
    from foreact.vla.training.keep_memory import keep_freed_memory
    from foreact.vla.training.loop import Trainer
    from foreact.vla.training.state import checkpoints

    keep_freed_memory()
    # Several processes (`accelerate launch`): the first one speaks.
    console = Console(quiet=os.environ.get("RANK", "0") != "0")
    out = Path(settings["out"])
    trainer = TrainerConfig.from_dict(settings["trainer"])
    policy_settings = dict(settings["policy"])
    kind = policy_class(policy_settings.pop("name"))
    cameras = picture_sizes(policy_settings.pop("cameras"))
    fields, actions = policy_settings.pop("state"), policy_settings.pop("actions")
    config = kind.config_class.from_dict(policy_settings)
    if checkpoints(out / "checkpoints") and not settings["resume"]:
        raise ConfigError(f"{out} holds a run already: go on with resume=true, or name another folder with out=DIR")

    if not isinstance(settings["allow_changed"], list):
        raise ConfigError(f"allow_changed must be a list such as [trainer.seed], found {settings['allow_changed']!r}")
    if trainer.threads is not None:
        torch.set_num_threads(trainer.threads)
    make = {"store": from_stores, "synthetic": synthetic}[settings["data"].pop("kind")]
    data = make(settings["data"], config, trainer, cameras, fields, actions, console.print)
    torch.manual_seed(trainer.seed)
    policy = kind(config, data.contract, data.statistics)
    if settings["init_from"]:
        taken = init_from(policy, local_checkpoint(settings["init_from"]))
        console.print(f"weights from {settings['init_from']}\n{taken}", highlight=False)
    versions = {"foreact": __version__, "torch": torch.__version__}
    provenance = {"data": data.hashes, "settings": settings, "code": versions}
    loop = Trainer(
        policy, data.batch_at, trainer, out, val_at=data.val_at, provenance=provenance, console=console,
        rows_at=data.rows_at,
    )  # fmt: skip
    with _held(out):
        if settings["resume"] and not loop.resume(settings["allow_changed"]):
            console.print(f"no checkpoint in {out}: starting at step 0")
        if data.keep_features is not None:  # not before: a checkpoint brings its own tower
            data.keep_features(policy.frozen_vision())
        loop.run()
    console.print(f"the policy is in {out / 'policy'}")


@contextmanager
def _held(out: Path) -> Iterator[None]:
    """The run's folder, for this training alone; of its processes the first one holds it for all.

    Raises:
        ConfigError: If another training is at it.
    """
    if os.environ.get("RANK", "0") != "0":
        yield
        return
    out.mkdir(parents=True, exist_ok=True)
    lock = FileLock(out / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ConfigError(f"another training is at work in {out}; wait for it, or choose another out=DIR") from None
    try:
        yield
    finally:
        lock.release()

"""`foreact train`: stores and a policy meet in the training loop. Settings: configs/train.yaml and its groups."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foreact.commands.hydra_config import compose
from foreact.vla.errors import ConfigError

if TYPE_CHECKING:
    from foreact.datasets.table import EpisodeInfo
    from foreact.vla.batch import WindowBatch
    from foreact.vla.contract import Contract

BatchAt = Callable[[int], "WindowBatch"]


@dataclass(frozen=True)
class Data:
    """What the loop is trained and validated on."""

    batch_at: BatchAt
    val_at: BatchAt | None
    contract: Contract
    """What the policy requires."""
    statistics: dict[str, dict[str, list[float]]]
    hashes: list[str]
    """Names the data; a run is resumed with the same only."""


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

    from foreact.vla.registry import policy_class
    from foreact.vla.training.config import TrainerConfig
    from foreact.vla.training.init_from import init_from
    from foreact.vla.training.loop import Trainer
    from foreact.vla.training.state import checkpoints

    console = Console()
    out = Path(settings["out"])
    trainer = TrainerConfig.from_dict(settings["trainer"])
    policy_settings = dict(settings["policy"])
    kind = policy_class(policy_settings.pop("name"))
    cameras = picture_sizes(policy_settings.pop("cameras"))
    fields, actions = policy_settings.pop("state"), policy_settings.pop("actions")
    config = kind.config_class.from_dict(policy_settings)
    if checkpoints(out / "checkpoints") and not settings["resume"]:
        raise ConfigError(f"{out} holds a run already: go on with resume=true, or name another folder with out=DIR")

    if trainer.threads is not None:
        torch.set_num_threads(trainer.threads)
    make = {"store": from_stores, "synthetic": synthetic}[settings["data"].pop("kind")]
    data = make(settings["data"], config, trainer, cameras, fields, actions, console.print)
    torch.manual_seed(trainer.seed)
    policy = kind(config, data.contract, data.statistics)
    if settings["init_from"]:
        taken = init_from(policy, Path(settings["init_from"]))
        console.print(f"weights from {settings['init_from']}\n{taken}", highlight=False)
    provenance = {"data": data.hashes, "settings": settings}
    loop = Trainer(policy, data.batch_at, trainer, out, val_at=data.val_at, provenance=provenance, console=console)
    if settings["resume"] and not loop.resume():
        console.print(f"no checkpoint in {out}: starting at step 0")
    loop.run()
    console.print(f"the policy is in {out / 'policy'}")


def picture_sizes(cameras: Any) -> dict[str, tuple[int, int]]:
    """Camera name -> (height, width) [pixels].

    Raises:
        ConfigError: If the setting is something else.
    """
    if not isinstance(cameras, dict) or not cameras:
        raise ConfigError(
            f"policy.cameras must name at least one camera, such as {{rgb_static: [64, 64]}}, found {cameras!r}"
        )
    for name, size in cameras.items():
        if not isinstance(size, list) or len(size) != 2 or not all(type(side) is int and side > 0 for side in size):
            raise ConfigError(f"policy.cameras.{name} must be [height, width] in pixels, found {size!r}")
    return {str(name): (size[0], size[1]) for name, size in cameras.items()}


def from_stores(
    settings: dict[str, Any],
    config: Any,
    trainer: Any,
    cameras: dict[str, tuple[int, int]],
    fields: list[str],
    actions: bool,
    note: Callable[[str], None],
) -> Data:
    """Windows of trajectory stores, a share of the episodes held out.

    Raises:
        ForeActError: If a store is missing or damaged, or lacks a camera or a field.
    """
    from foreact.datasets.store import Store
    from foreact.datasets.windows import WindowSampler, WindowSpec

    paths = settings["path"] if isinstance(settings["path"], list) else [settings["path"]]
    share = settings["holdout"]
    if not isinstance(share, (int, float)) or not 0.0 <= share < 1.0:
        raise ConfigError(f"data.holdout must be at least 0 and less than 1, found {share!r}")
    stores = [Store.open(path) for path in paths]
    # With several stores, the robot is described by the first that has one; the others may be video.
    described = next((store for store in stores if store.contract.action), stores[0])
    contract = required_contract(described.contract, cameras, fields, actions)
    spec = WindowSpec(
        cameras=cameras, history=config.history, history_stride=config.history_stride,
        foresight_steps=config.foresight_steps, chunk=config.chunk,
    )  # fmt: skip

    def sampler(episodes: Callable[[EpisodeInfo], bool], seed: int) -> WindowSampler:
        return WindowSampler(
            stores, spec, seed=seed, batch_size=trainer.batch_size, episodes=episodes, cache=settings["cache"],
            weights=settings["weights"], contract=contract,
        )  # fmt: skip

    train = sampler(lambda info: not held_out(info.name, share), trainer.seed)
    for text in train.notes:
        note(text)
    validation = sampler(lambda info: held_out(info.name, share), trainer.seed + 1) if share > 0 else None
    note(
        f"{train.windows_per_epoch:,} windows to train on"
        + (f", {validation.windows_per_epoch:,} of held-out episodes" if validation else "")
    )
    statistics = state_statistics(stores, contract, share) if contract.state else {}
    return Data(
        batch_at=train.batch_at,
        val_at=validation.batch_at if validation else None,
        contract=contract,
        statistics=statistics,
        hashes=[store.hash for store in stores],
    )


def required_contract(
    offered: Contract, cameras: dict[str, tuple[int, int]], fields: list[str], actions: bool
) -> Contract:
    """What the policy requires: the data's embodiment, but only these cameras (in the network's size) and state fields.

    Raises:
        ContractMismatch: If the data has no such camera or field.
    """
    from foreact.vla.contract import Camera, ContractMismatch
    from foreact.vla.errors import did_you_mean

    for name in cameras:
        offered.camera(name)
    known = {field.name: field for field in offered.state}
    for name in fields:
        if name not in known:
            raise ContractMismatch(f"policy.state: the data has no state field {name!r}; {did_you_mean(name, known)}")
    return offered.model_copy(
        update={
            "cameras": tuple(Camera(name=name, height=h, width=w) for name, (h, w) in cameras.items()),
            "state": tuple(known[name] for name in fields),
            "action": offered.action if actions else (),
            "gripper": offered.gripper if actions else "none",
        }
    )


def held_out(name: str, share: float) -> bool:
    """Whether an episode is for validation: decided by its name alone, so that a growing store keeps its split."""
    number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
    return number < share * 2**32


def state_statistics(stores: Any, contract: Contract, share: float) -> dict[str, dict[str, list[float]]]:
    """Mean and standard deviation of the state over all training frames (at most 2000 episodes of each store).

    Raises:
        ConfigError: If no training episode has a state.
    """
    from foreact.datasets.statistics import Running

    running = Running(contract.state_size)
    for store in stores:
        index, start = {}, 0
        for field in store.contract.state:
            index[field.name] = range(start, start + field.size)
            start += field.size
        numbers = [i for i, info in enumerate(store.index) if info.has_state and not held_out(info.name, share)]
        for number in numbers[:: 1 + len(numbers) // 2000]:
            state = store.reader(number).array("state")
            running.add(state[:, [i for field in contract.state for i in index[field.name]]])
    moments = running.result()
    if moments is None:
        raise ConfigError(
            "policy.state names fields, but no training episode has a state; use policy.state=[] for action-free video"
        )
    return {"state": {"mean": moments.mean.tolist(), "std": moments.std.tolist()}}


def synthetic(
    settings: dict[str, Any],
    config: Any,
    trainer: Any,
    cameras: dict[str, tuple[int, int]],
    fields: list[str],
    actions: bool,
    note: Callable[[str], None],
) -> Data:
    """Made-up windows; see `foreact.vla.training.synthetic`."""
    from foreact.vla.training.synthetic import SyntheticWindows, synthetic_contract

    offered = synthetic_contract(cameras)
    contract = offered.model_copy(
        update={"state": offered.state if fields else (), "action": offered.action if actions else ()}
    )
    note("made-up windows: a dot moves to the square that the sentence names")
    size = contract.state_size

    def windows(seed: int) -> BatchAt:
        return SyntheticWindows(config, contract, batch_size=trainer.batch_size, seed=seed).batch_at

    return Data(
        batch_at=windows(trainer.seed),
        val_at=windows(trainer.seed + 1),
        contract=contract,
        statistics={"state": {"mean": [0.5] * size, "std": [0.3] * size}} if size else {},
        hashes=["synthetic"],
    )

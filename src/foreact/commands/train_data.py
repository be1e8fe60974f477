"""What a training run is fed: windows of trajectory stores, or made-up ones, and what they say of themselves."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foreact.vla.errors import ConfigError

if TYPE_CHECKING:
    from foreact.datasets.mixture import StorePart
    from foreact.datasets.mixture_fit import Fit
    from foreact.datasets.mixture_numbers import Numbers
    from foreact.datasets.store import Store
    from foreact.datasets.table import EpisodeInfo
    from foreact.vla.batch import WindowBatch
    from foreact.vla.contract import Contract
    from foreact.vla.frozen_vision import FrozenVision
    from foreact.vla.training.config import TrainerConfig

BatchAt = Callable[[int], "WindowBatch"]
RowsAt = Callable[[int, int, int], "WindowBatch"]


@dataclass(frozen=True)
class Data:
    """What the loop is trained and validated on."""

    batch_at: BatchAt
    val_at: BatchAt | None
    contract: Contract
    """What the policy requires."""
    statistics: dict[str, dict[str, list[float]]]
    hashes: list[str]
    """Names the data and all settings that change it; a run is resumed with the same only."""
    rows_at: RowsAt | None = None
    """(step, first, stop) -> windows [first, stop) of the step's training batch, without making the others."""
    keep_features: Callable[[FrozenVision], None] | None = None
    """Lets all batches from now on have what a frozen tower sees; only with data.features=disk."""


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
    from foreact.datasets.mixture import parse_stores, read_stores
    from foreact.datasets.mixture_fit import fit
    from foreact.datasets.store import Store
    from foreact.datasets.windows import WindowSampler, WindowSpec
    from foreact.vla.contract import Rename

    if isinstance(settings.get("stores"), str):
        settings["stores"] = read_stores(Path(settings["stores"]))  # in place: a run records what the file said
    parts = parse_stores(settings)
    share = settings["holdout"]
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0.0 <= share < 1.0:
        raise ConfigError(f"data.holdout must be at least 0 and less than 1, found {share!r}")
    kept = _keeps_features(settings.get("features", "live"), trainer)
    folder = settings.get("cache_folder")
    if folder is not None and not isinstance(folder, str):
        raise ConfigError(f"data.cache_folder must be a folder, or null for the store itself, found {folder!r}")
    folder = None if folder is None else Path(folder)
    stores = [Store.open(part.path) for part in parts]
    # With several stores, the robot is described by the first that has one; the others may be video.
    reference = next((i for i, store in enumerate(stores) if store.contract.action), 0)
    names = Rename(parts[reference].cameras, parts[reference].state, parts[reference].action)
    contract = required_contract(stores[reference].contract.renamed(names), cameras, fields, actions)
    spec = WindowSpec(
        cameras=cameras, history=config.history, history_stride=config.history_stride,
        foresight_steps=config.foresight_steps, chunk=config.chunk,
    )  # fmt: skip
    fits = [fit(store, spec, contract, part) for store, part in zip(stores, parts, strict=True)]
    weights = None if parts[0].weight is None else [part.weight or 0.0 for part in parts]

    def trained(info: EpisodeInfo) -> bool:
        return not held_out(info.name, share)

    numbers = mixture_statistics(stores, fits, contract, weights, trained, reference, note)
    if numbers is not None:
        fits = numbers.fits

    def sampler(chosen: list[int], fits: list[Fit], episodes: Callable[[EpisodeInfo], bool], seed: int):
        return WindowSampler(
            [stores[i] for i in chosen], spec, seed=seed, batch_size=trainer.batch_size, episodes=episodes,
            cache=settings["cache"], weights=weights and [weights[i] for i in chosen], contract=contract,
            fits=[fits[i] for i in chosen], cache_folder=folder,
        )  # fmt: skip

    everyone = list(range(len(stores)))
    train = sampler(everyone, fits, trained, trainer.seed)
    for text in train.notes:
        note(text)
    validation = None
    if share > 0:
        spared = [i for i in everyone if _spares(stores[i], parts[i], share)]
        if not spared:
            count = sum(len(store) for store in stores)
            raise ConfigError(
                f"data.holdout={share:g} holds out none of {count} episodes, so there is nothing to validate on: set "
                "data.holdout=0 to train on all of them, or a larger share"
            )
        for i in sorted(set(everyone) - set(spared)):
            note(f"{stores[i].path}: no episode is held out of it; validation goes without")
        validation = sampler(spared, fits, lambda info: held_out(info.name, share), trainer.seed + 1)

    def keep_features(tower: FrozenVision) -> None:
        for windows in filter(None, (train, validation)):
            windows.keep_features(tower, folder, note)

    note(
        f"{train.windows_per_epoch:,} windows to train on"
        + (f", {validation.windows_per_epoch:,} of held-out episodes" if validation else "")
    )
    return Data(
        batch_at=train.batch_at,
        val_at=validation.batch_at if validation else None,
        contract=contract,
        statistics=numbers.for_policy() if numbers else {},
        hashes=[
            *(" ".join(filter(None, (s.hash, p.changes()))) for s, p in zip(stores, parts, strict=True)),
            f"holdout={float(share):g}",
        ],
        rows_at=train.rows_at,
        keep_features=keep_features if kept else None,
    )


def _keeps_features(setting: object, trainer: TrainerConfig) -> bool:
    """Whether data.features=disk.

    Raises:
        ConfigError: If it is something else, or pictures change from step to step.
    """
    if setting not in ("live", "disk"):
        raise ConfigError(f"data.features must be live or disk, found {setting!r}")
    if setting == "live":
        return False
    if trainer.augment.active:
        raise ConfigError(
            "data.features=disk keeps what a frozen vision tower sees in pictures as they are, and trainer.augment "
            "changes them at every step: set trainer.augment.shift_pixels, brightness, contrast and color to 0, or "
            "data.features=live"
        )
    if trainer.shard:
        raise ConfigError(
            "data.features=disk needs the whole vision tower in each process: set trainer.shard=false, or "
            "data.features=live"
        )
    return True


def _spares(store: Store, part: StorePart, share: float) -> bool:
    """Whether some episode of the store that the part takes is held out."""
    from foreact.datasets.clips import choose_episodes
    from foreact.datasets.layout import StoreError

    try:
        choose_episodes(store, (), part.split, lambda info: held_out(info.name, share), part.episodes)
    except StoreError:
        return False
    return True


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


def mixture_statistics(
    stores: list[Store],
    fits: list[Fit],
    contract: Contract,
    weights: list[float] | None,
    trained: Callable[[EpisodeInfo], bool],
    reference: int,
    note: Callable[[str], None],
) -> Numbers | None:
    """Statistics of the state and the actions of all training frames, and the fits with what follows from them.

    None if the policy takes no state and gives no action. Those of each store are kept in its `statistics` folder.

    Raises:
        ConfigError: If no training episode has a state, or an action, that the policy requires.
    """
    from foreact.datasets.clips import choose_episodes, make_clips
    from foreact.datasets.mixture_numbers import mix_numbers
    from foreact.datasets.statistics_cache import cached_statistics

    if not contract.state and not contract.action:
        return None
    found, windows = [], []
    for store, own in zip(stores, fits, strict=True):
        chosen, _ = choose_episodes(store, own.cameras.values(), own.part.split, trained, own.part.episodes)
        clips = make_clips(store, chosen)
        windows.append(float(own.pace.count(clips.end - clips.start).sum()))
        found.append(cached_statistics(store, chosen, note=note))
    shares = weights or windows
    return mix_numbers(contract, fits, found, [share / sum(shares) for share in shares], reference)


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

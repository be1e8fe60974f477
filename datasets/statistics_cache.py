"""Statistics kept in files: sealed, and used only for exactly the episodes they were computed from.

A store keeps them in `statistics/<source>.json`. The folder is only a cache: it may be deleted at any time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from pathlib import Path

from foreact.datasets.durable import replace_durably
from foreact.datasets.layout import StoreError, staging_folder
from foreact.datasets.sealed import BrokenSeal, seal, unseal
from foreact.datasets.statistics import Statistics, compute_statistics, source_hash
from foreact.datasets.store import Store

STATISTICS_VERSION = 1
STATISTICS = "statistics"
_FORMAT = "foreact-statistics"
_KEPT = 16


class WrongStatistics(StoreError):
    """A file of statistics is damaged, of another version, or not of these episodes."""


def save_statistics(statistics: Statistics, store: Store, file: Path) -> None:
    """Write a sealed file, whole or not at all.

    Raises:
        OSError: If it cannot be written.
    """
    content = {
        "format": _FORMAT, "version": STATISTICS_VERSION, "contract": store.contract.hash, **statistics.to_json()
    }  # fmt: skip
    file.parent.mkdir(parents=True, exist_ok=True)
    staging = staging_folder(store.path) if file.is_relative_to(store.path) else file.parent
    replace_durably(file, seal(content), staging)


def load_statistics(file: Path, store: Store, episodes: Iterable[int] | None = None) -> Statistics:
    """Read a file, if it holds the statistics of these episodes of the store (None: of all).

    Raises:
        WrongStatistics: If it is missing, damaged, of another version, or of another contract or other episodes.
    """
    numbers = list(range(len(store)) if episodes is None else episodes)
    again = f"Compute them again: `foreact data stats {store.address}`."
    try:
        content = unseal(file.read_bytes())
    except OSError as error:
        raise WrongStatistics(f"the statistics {file} cannot be read: {error.strerror or error}. {again}") from error
    except (BrokenSeal, ValueError) as error:
        raise WrongStatistics(f"the statistics {file} are damaged: {error}. {again}") from error
    if content.get("format") != _FORMAT or content.get("version") != STATISTICS_VERSION:
        raise WrongStatistics(
            f"{file} is {content.get('format')!r} version {content.get('version')!r}; this ForeAct reads "
            f"{_FORMAT!r} version {STATISTICS_VERSION}. {again}"
        )
    if content.get("contract") != store.contract.hash:
        raise WrongStatistics(
            f"the statistics {file} belong to contract {content.get('contract')}, the store {store.address} has "
            f"contract {store.contract.hash}. {again}"
        )
    expected = source_hash(store, numbers)
    if content.get("source") != expected:
        raise WrongStatistics(
            f"the statistics {file} are of {content.get('episodes')} episodes with contents {content.get('source')}; "
            f"asked for {len(numbers)} episodes of {store.address} with contents {expected}. {again}"
        )
    try:
        return Statistics.from_json(content)
    except (KeyError, ValueError, TypeError) as error:
        raise WrongStatistics(f"{file} is not what ForeAct writes ({error!r:.100}). {again}") from error


def cached_statistics(
    store: Store,
    episodes: Iterable[int] | None = None,
    progress: Callable[[int, int], None] | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> Statistics:
    """Statistics of these episodes (None: all), out of the store's cache if they are there, else computed and kept.

    Args:
        store: A store; in an object storage nothing is kept.
        episodes: Numbers in the store.
        progress: Called with the number of episodes done so far and in all.
        note: Called with a sentence when a kept file is not used, or none can be kept.

    Raises:
        StoreError: As `compute_statistics`.
    """
    numbers = list(range(len(store)) if episodes is None else episodes)
    local = store.path.is_dir()
    file = store.path / STATISTICS / f"{source_hash(store, numbers)}.json"
    if local and file.exists():
        try:
            return load_statistics(file, store, numbers)
        except WrongStatistics as error:
            note(f"not used, computed again: {error}")
    found = compute_statistics(store, numbers, progress)
    if local:
        try:
            save_statistics(found, store, file)
            _forget_oldest(file.parent)
        except OSError as error:
            note(f"the statistics of {store.path} are not kept: {error.strerror or error}")
    return found


def _forget_oldest(folder: Path) -> None:
    """Keep the newest few: a store that grows leaves one behind for each state it had."""
    files = sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime, reverse=True)
    for old in files[_KEPT:]:
        with contextlib.suppress(OSError):
            old.unlink()

"""Windows: random pieces of episodes as training batches, a pure function of (seed, step).

Shape legend: B windows, T history frames, K actions of a chunk, S state size, A action size.

A window is anchored at frame t of a clip (see `foreact.datasets.clips`). Its history frame i is
t - (T - 1 - i) * history_stride; frames before the clip are dropped and the others move to the front, so that padding
is on the right and the current frame is the last valid one. The future of a history frame is `foresight_steps` later,
its action chunk starts at it; what lies beyond the clip is masked. Everything masked is filled with zeros. A store at
another rate is counted in the control steps of the required rate (see `foreact.datasets.resampling`).
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from foreact.datasets.clips import EpisodeFilter, choose_episodes
from foreact.datasets.mixture_fit import Fit, fit, fit_as_is
from foreact.datasets.shuffle import Mixture
from foreact.datasets.statistics import source_hash
from foreact.datasets.store import Store
from foreact.datasets.store_windows import StoreWindows
from foreact.datasets.window_spec import WindowSpec
from foreact.vla.batch import WindowBatch
from foreact.vla.contract import Contract
from foreact.vla.errors import ConfigError

if TYPE_CHECKING:
    from foreact.vla.frozen_vision import FrozenVision

__all__ = ["WindowSampler", "WindowSpec"]


class WindowSampler:
    """Shuffled training batches of one store, or of several in fixed proportions.

    The sequence of windows depends only on the stores' contents, the spec and the seed: not on workers, nor on where
    one starts. Each epoch visits every window of a store once.

    Args:
        stores: One store, or several.
        spec: What a window holds.
        seed: Any non-negative integer.
        batch_size: Windows per batch and rank, B.
        split: Use only episodes whose `meta["split"]` is this.
        episodes: Use only these numbers, or those for which a function of `EpisodeInfo` is true.
        cache: "memory" decodes everything once; "disk" does and keeps it in files, see `foreact.datasets.frame_table`;
            "none" decodes what a window needs.
        cache_folder: Where the files of "disk" are; None: each store keeps its own.
        weights: Proportions of the stores; by default their numbers of windows.
        contract: What the consumer requires. Each store is compared with it; it sets `state_index`, `action_index` and
            frame sizes, overriding the spec's. A store without state and action fields only has to offer the cameras.
        fits: How each store gives what is required, instead of `contract` alone: names, rates, masks, own statistics
            and episodes of each store (see `foreact.datasets.mixture`).
        rank, world_size: This process takes every world_size-th batch, starting with the rank-th.
        threads: Threads that fill the cache.

    Raises:
        StoreError: If no episode is left.
        ContractMismatch: If a store does not offer what `contract` requires.
        ConfigError: If a setting is out of range, or the cache does not fit into memory.
    """

    def __init__(
        self,
        stores: Store | Sequence[Store],
        spec: WindowSpec,
        *,
        seed: int,
        batch_size: int,
        split: str | None = None,
        episodes: EpisodeFilter = None,
        cache: Literal["memory", "disk", "none"] = "memory",
        weights: Sequence[float] | None = None,
        contract: Contract | None = None,
        fits: Sequence[Fit] | None = None,
        rank: int = 0,
        world_size: int = 1,
        threads: int = 2,
        cache_folder: Path | None = None,
    ):
        self.stores = [stores] if isinstance(stores, Store) else list(stores)
        if cache not in ("memory", "disk", "none"):
            raise ConfigError(f"cache must be 'memory', 'disk' or 'none', found {cache!r}")
        if seed < 0 or batch_size < 1 or not self.stores or not 0 <= rank < world_size:
            raise ConfigError(
                "expected seed >= 0, batch_size >= 1, at least one store and 0 <= rank < world_size; found "
                f"seed={seed}, batch_size={batch_size}, {len(self.stores)} stores, rank={rank}, world_size={world_size}"
            )
        self.batch_size = batch_size
        self.notes: list[str] = []
        """What was adapted or left out, one sentence each, to be printed once."""
        if fits is None:
            fits = [fit_as_is(s, spec) if contract is None else fit(s, spec, contract) for s in self.stores]
        if len(fits) != len(self.stores):
            raise ConfigError(f"fits: expected one for each of {len(self.stores)} stores, found {len(fits)}")
        offsets = np.cumsum([0, *(len(store) for store in self.stores)])
        self._parts: list[StoreWindows] = []
        for store, own, first in zip(self.stores, fits, offsets, strict=False):
            chosen, notes = choose_episodes(
                store, own.cameras.values(), own.part.split or split, episodes, own.part.episodes
            )
            self.notes += [*own.notes, *notes]
            part = StoreWindows(store, own, chosen, int(first), [seed, len(self._parts)], cache, threads, cache_folder)
            self.notes += part.notes
            self._parts.append(part)
        self.spec = self._parts[0].spec if len(self._parts) == 1 else spec
        self.state_size, self.action_size = self._sizes(contract)
        if weights is not None and (len(weights) != len(self.stores) or min(weights) <= 0):
            raise ConfigError(f"weights: expected {len(self.stores)} positive numbers, found {list(weights)}")
        self._mixture = Mixture(weights or [part.clips.windows for part in self._parts])
        self._rank, self._world_size = rank, world_size

    def keep_features(
        self, tower: FrozenVision, folder: Path | None = None, note: Callable[[str], None] = lambda text: None
    ) -> None:
        """From now on batches have `WindowBatch.features`: what a policy's frozen tower sees in every frame, computed
        now unless it is kept already, in float16 (`foreact.datasets.frame_table`).

        Args:
            tower: From `TrainablePolicy.frozen_vision`.
            folder: Where it is kept; None: in each store.
            note: Called with a sentence when something is made again, or removed.

        Raises:
            ForeActError: If it can neither be read nor kept.
        """
        for part in self._parts:
            part.keep_features(tower, folder, note)

    @property
    def source(self) -> str:
        """16 hex digits that name the contents of all chosen episodes and the settings of each store."""
        hashes = [
            source_hash(store, part.episodes) + part.fit.part.changes()
            for store, part in zip(self.stores, self._parts, strict=True)
        ]
        return hashlib.sha256(" ".join(hashes).encode()).hexdigest()[:16]

    @property
    def windows_per_epoch(self) -> int:
        """Number of different windows in all stores."""
        return sum(part.clips.windows for part in self._parts)

    @property
    def batches_per_epoch(self) -> float:
        """Steps of all ranks together until as many windows as there are were drawn."""
        return self.windows_per_epoch / (self.batch_size * self._world_size)

    def batch_at(self, step: int) -> WindowBatch:
        """The batch of step `step` >= 0. `index` counts episodes through all stores, one after another."""
        return self.rows_at(step, 0, self.batch_size)

    def rows_at(self, step: int, first: int, stop: int) -> WindowBatch:
        """Windows [first, stop) of the batch of step `step`, without making the others."""
        begin = (step * self._world_size + self._rank) * self.batch_size
        parts, positions = self._mixture.at(np.arange(begin + first, begin + stop))
        if len(self._parts) == 1:
            return self._parts[0].windows(positions)
        rows = [np.flatnonzero(parts == number) for number in range(len(self._parts))]
        made = [(r, part.windows(positions[r])) for r, part in zip(rows, self._parts, strict=True) if len(r)]
        return _merge(made, stop - first, self.state_size, self.action_size)

    def iterate(self, start_step: int = 0, end_step: int | None = None, workers: int = 2) -> Iterator[WindowBatch]:
        """The batches of steps [start_step, end_step), made ahead by `workers` threads (0: made when asked for)."""
        steps = iter(range(start_step, end_step if end_step is not None else sys.maxsize))
        if workers == 0:
            yield from map(self.batch_at, steps)
            return
        pool = ThreadPoolExecutor(max_workers=workers, thread_name_prefix="windows")
        try:
            ahead: list[Future[WindowBatch]] = []
            for step in steps:
                ahead.append(pool.submit(self.batch_at, step))
                if len(ahead) > 2 * workers:
                    yield ahead.pop(0).result()
            for future in ahead:
                yield future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _sizes(self, contract: Contract | None) -> tuple[int, int]:
        if contract is not None:
            return contract.state_size, contract.action_size
        sizes = {
            "state": {part.state_size for part in self._parts} - {0},
            "action": {part.action_size for part in self._parts} - {0},
        }
        for key, found in sizes.items():
            if len(found) > 1:
                raise ConfigError(f"the stores differ in the size of the {key}: {sorted(found)}; give a contract")
        return max(sizes["state"], default=0), max(sizes["action"], default=0)


def _merge(made: list[tuple[np.ndarray, WindowBatch]], size: int, state_size: int, action_size: int) -> WindowBatch:
    """One batch out of several; windows of a store without state or action get zeros of the others' size."""

    def join(arrays: list[np.ndarray], last: int | None = None) -> np.ndarray:
        shape = arrays[0].shape[1:] if last is None else (*arrays[0].shape[1:-1], last)
        out = np.zeros((size, *shape), arrays[0].dtype)
        for (rows, _), array in zip(made, arrays, strict=True):
            if array.shape[-1] == out.shape[-1]:
                out[rows] = array
        return out

    batches = [batch for _, batch in made]
    instruction = [""] * size
    for rows, batch in made:
        for row, text in zip(rows, batch.instruction, strict=True):
            instruction[row] = text
    return WindowBatch(
        images={camera: join([b.images[camera] for b in batches]) for camera in batches[0].images},
        future={camera: join([b.future[camera] for b in batches]) for camera in batches[0].future},
        future_mask=join([b.future_mask for b in batches]),
        history_mask=join([b.history_mask for b in batches]),
        state=join([b.state for b in batches], state_size),
        state_mask=join([b.state_mask for b in batches]),
        action=join([b.action for b in batches], action_size),
        action_mask=join([b.action_mask for b in batches]),
        instruction=instruction,
        index=join([b.index for b in batches]),
        action_used=None if all(b.action_used is None for b in batches) else join([_used(b) for b in batches]),
        features=_join_features([b.features for b in batches], join),
    )


def _join_features(
    found: list[dict[str, np.ndarray] | None], join: Callable[[list[np.ndarray]], np.ndarray]
) -> dict[str, np.ndarray] | None:
    known = [features for features in found if features is not None]
    if len(known) < len(found):
        return None
    return {camera: join([features[camera] for features in known]) for camera in known[0]}


def _used(batch: WindowBatch) -> np.ndarray:
    """(B, A) bool `action_used`, also where it is None."""
    return np.ones((len(batch), batch.action.shape[-1]), bool) if batch.action_used is None else batch.action_used

"""The windows of one store, in the order of one seed; see `foreact.datasets.windows` for what a window is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from foreact.datasets.clips import make_clips
from foreact.datasets.frame_source import DiskFrames, FrameSource, OnDemandFrames, ResidentFrames, feature_table
from foreact.datasets.frame_table import FrameTable, first_rows, open_table
from foreact.datasets.mixture_fit import MISSING, Fit
from foreact.datasets.progress_bar import progress_bar
from foreact.datasets.shuffle import EpochOrder
from foreact.datasets.store import Store
from foreact.vla.batch import WindowBatch

if TYPE_CHECKING:
    from foreact.vla.frozen_vision import FrozenVision


class StoreWindows:
    """Makes windows of the chosen episodes.

    Args:
        store: Where they are read from.
        fit: What a window holds, and how this store gives it.
        episodes: Numbers of the episodes to use.
        first_episode: Added to the episode numbers in `WindowBatch.index`.
        seed: Names the order, with the epoch.
        cache: "memory", "disk" or "none", see `WindowSampler`.
        threads: Threads that fill the cache.
        cache_folder: Where files of cache "disk" are; None: in the store.
    """

    def __init__(
        self,
        store: Store,
        fit: Fit,
        episodes: Sequence[int],
        first_episode: int,
        seed: Sequence[int],
        cache: str,
        threads: int,
        cache_folder: Path | None = None,
    ):
        self._store = store
        self._features: dict[str, FrameTable] = {}
        self.fit, self.spec = fit, fit.spec
        self.episodes = episodes
        stored = make_clips(store, episodes)
        self._first = stored.start
        self._length = stored.end - stored.start
        self.clips = replace(stored, start=np.zeros_like(stored.start), end=fit.pace.count(self._length))
        """Counted in control steps from each clip's first frame."""
        self._first_episode = first_episode
        self._order = EpochOrder(self.clips.windows, seed)
        self._index = {
            "state": np.array(fit.state_index, np.int64),
            "action": np.array(fit.action_index, np.int64),
        }
        cameras = {theirs: fit.spec.cameras[ours] for ours, theirs in fit.cameras.items()}
        self.notes: list[str] = []
        """What happened to kept files, one sentence each."""
        self._source: FrameSource
        if cache == "memory":
            with progress_bar(f"decode {store.path.name}") as progress:
                self._source = ResidentFrames(store, cameras, episodes, threads, progress)
        elif cache == "disk":
            self._source = DiskFrames(store, cameras, cache_folder, threads, self.notes.append)
        else:
            self._source = OnDemandFrames(store, cameras)

    @property
    def state_size(self) -> int:
        """Numbers per state."""
        return len(self._index["state"])

    @property
    def action_size(self) -> int:
        """Numbers per action."""
        return len(self._index["action"])

    def windows(self, positions: np.ndarray) -> WindowBatch:
        """(B,) positions in the endless shuffled sequence -> B windows."""
        return self.at(self._order.at(positions))

    def at(self, numbers: np.ndarray) -> WindowBatch:
        """(B,) window numbers in [0, clips.windows), counted clip by clip -> B windows."""
        spec, clips, fit = self.spec, self.clips, self.fit
        clip, anchor = clips.locate(numbers)
        end = clips.end[clip][:, None]
        back = (spec.history - 1 - np.arange(spec.history)) * spec.history_stride
        missing = (anchor[:, None] < back).sum(axis=1, keepdims=True)
        place = np.arange(spec.history) + missing  # move the frames that exist to the front
        history_mask = place < spec.history
        tick = np.where(history_mask, anchor[:, None] - back[np.minimum(place, spec.history - 1)], 0)
        future = tick + spec.foresight_steps
        future_mask = history_mask & (future < end)
        step = tick[..., None] + np.arange(spec.chunk)
        state_mask = history_mask & (clips.has_state[clip] & fit.has_state)[:, None]
        has_action = clips.has_action[clip] & fit.has_action
        action_mask = history_mask[..., None] & (step < end[..., None]) & has_action[:, None, None]
        images, future_images = self._images(
            clip, (tick, np.where(future_mask, future, tick)), (history_mask, future_mask)
        )
        instruction = [clips.instruction[c] for c in clip]
        return WindowBatch(
            images=images,
            future=future_images,
            future_mask=future_mask,
            history_mask=history_mask,
            state=self._numbers("state", clip, tick, state_mask),
            state_mask=state_mask,
            action=self._numbers("action", clip, step, action_mask),
            action_mask=action_mask,
            instruction=instruction if fit.part.language == "keep" else [""] * len(instruction),
            index=np.stack(
                [clips.episode[clip] + self._first_episode, self._first[clip] + fit.pace.frame(anchor)], axis=1
            ),
            action_used=None if fit.uses.all() else np.tile(fit.uses, (len(clip), 1)),
            features=self._features_of(clip, tick, history_mask) if self._features else None,
        )

    def keep_features(self, tower: FrozenVision, folder: Path | None, note: Callable[[str], None]) -> None:
        """From now on windows have `features` too: computed once for all frames of the store, and kept in files."""
        self._first_row = first_rows(self._store)[self.clips.episode] + self._first
        for camera, theirs in self.fit.cameras.items():
            spec = feature_table(self._store, theirs, self.spec.cameras[camera], tower)
            self._features[camera] = open_table(self._store, spec, folder, threads=1, note=note)

    def _features_of(self, clip: np.ndarray, tick: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
        """Camera -> (B, T, 1 + P, V) at these (B, T) ticks, zeros where masked."""
        row = (self._first_row[clip][:, None] + self.fit.pace.frame(tick)).ravel()
        found: dict[str, np.ndarray] = {}
        for camera, table in self._features.items():
            out = np.empty((tick.size, *table.rows.shape[1:]), table.rows.dtype)
            table.take(row, out)
            out[~mask.ravel()] = 0
            found[camera] = out.reshape(*tick.shape, *out.shape[1:])
        return found

    def _images(
        self, clip: np.ndarray, ticks: tuple[np.ndarray, ...], masks: tuple[np.ndarray, ...]
    ) -> tuple[dict[str, np.ndarray], ...]:
        """For each (B, T) ticks and mask: camera -> (B, T, height, width, 3), zeros where masked."""
        parts: tuple[dict[str, np.ndarray], ...] = tuple({} for _ in ticks)
        episode = np.broadcast_to(self.clips.episode[clip][:, None], ticks[0].shape)
        # Asked for together: on demand, history and future often share an episode, sometimes a frame.
        every_episode = np.tile(episode.ravel(), len(ticks))
        every_frame = np.concatenate([(self._first[clip][:, None] + self.fit.pace.frame(t)).ravel() for t in ticks])
        for camera, theirs in self.fit.cameras.items():
            size = self.spec.cameras[camera]
            out = np.empty((len(ticks), ticks[0].size, *size, 3), np.uint8)
            self._source.images(theirs, every_episode, every_frame, out.reshape(-1, *size, 3))
            for part, images, mask in zip(parts, out, masks, strict=True):
                images[~mask.ravel()] = 0
                part[camera] = images.reshape(*mask.shape, *size, 3)
        return parts

    def _numbers(self, key: str, clip: np.ndarray, tick: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """(..., size) float32 at these ticks, zeros where masked."""
        index, fit = self._index[key], self.fit
        out = np.zeros((*mask.shape, len(index)), np.float32)
        if not len(index) or not mask.any():
            return out
        clips = np.broadcast_to(clip.reshape(-1, *[1] * (mask.ndim - 1)), mask.shape)[mask]
        episode, first, length = self.clips.episode[clips], self._first[clips], self._length[clips]
        known = index != MISSING

        def read(frame: np.ndarray) -> np.ndarray:
            return self._source.numbers(key, episode, first + frame)[:, np.where(known, index, 0)]

        if key == "state":
            values = fit.pace.states(read, tick[mask], length, fit.state_how)
            values = values if fit.state_map is None else fit.state_map.apply(values)
            filling = np.zeros(len(index), np.float32) if fit.state_fill is None else fit.state_fill
        else:
            values = fit.pace.actions(read, tick[mask], length, fit.action_how)
            values = values if fit.action_map is None else fit.action_map.apply(values)
            filling = np.zeros(len(index), np.float32)
        out[mask] = np.where(known, values, filling)
        return out

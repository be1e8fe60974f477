"""The windows of one store, in the order of one seed; see `foreact.datasets.windows` for what a window is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from foreact.datasets.clips import make_clips
from foreact.datasets.frame_source import FrameSource, OnDemandFrames, ResidentFrames
from foreact.datasets.shuffle import EpochOrder
from foreact.datasets.store import Store
from foreact.datasets.window_spec import WindowSpec
from foreact.vla.batch import WindowBatch

_PROGRESS_FROM_FRAMES = 2000


class StoreWindows:
    """Makes windows of the chosen episodes.

    Args:
        store: Where they are read from.
        spec: What a window holds; its cameras and indices fit the store.
        episodes: Numbers of the episodes to use.
        first_episode: Added to the episode numbers in `WindowBatch.index`.
        seed: Names the order, with the epoch.
        cache: "memory" or "none", see `WindowSampler`.
        threads: Threads that fill the cache.
    """

    def __init__(
        self,
        store: Store,
        spec: WindowSpec,
        episodes: Sequence[int],
        first_episode: int,
        seed: Sequence[int],
        cache: str,
        threads: int,
    ):
        self.spec = spec
        self.episodes = episodes
        self.clips = make_clips(store, episodes)
        self._first_episode = first_episode
        self._order = EpochOrder(self.clips.windows, seed)
        self._index = {
            "state": _positions(spec.state_index, store.contract.state_size),
            "action": _positions(spec.action_index, store.contract.action_size),
        }
        self._source: FrameSource
        if cache == "memory":
            with _progress(f"decode {store.path.name}") as progress:
                self._source = ResidentFrames(store, spec.cameras, episodes, threads, progress)
        else:
            self._source = OnDemandFrames(store, spec.cameras)

    @property
    def state_size(self) -> int:
        """Numbers per state, after `state_index`."""
        return len(self._index["state"])

    @property
    def action_size(self) -> int:
        """Numbers per action, after `action_index`."""
        return len(self._index["action"])

    def windows(self, positions: np.ndarray) -> WindowBatch:
        """(B,) positions in the endless shuffled sequence -> B windows."""
        return self.at(self._order.at(positions))

    def at(self, numbers: np.ndarray) -> WindowBatch:
        """(B,) window numbers in [0, clips.windows), counted clip by clip -> B windows."""
        spec, clips = self.spec, self.clips
        clip, anchor = clips.locate(numbers)
        episode, start, end = (column[clip][:, None] for column in (clips.episode, clips.start, clips.end))
        back = (spec.history - 1 - np.arange(spec.history)) * spec.history_stride
        missing = (anchor[:, None] - back < start).sum(axis=1, keepdims=True)
        place = np.arange(spec.history) + missing  # move the frames that exist to the front
        history_mask = place < spec.history
        frame = np.where(history_mask, anchor[:, None] - back[np.minimum(place, spec.history - 1)], start)
        future = frame + spec.foresight_steps
        future_mask = history_mask & (future < end)
        step = frame[..., None] + np.arange(spec.chunk)
        state_mask = history_mask & clips.has_state[clip][:, None]
        action_mask = history_mask[..., None] & (step < end[..., None]) & clips.has_action[clip][:, None, None]
        images, future_images = self._images(
            np.broadcast_to(episode, frame.shape),
            (frame, np.where(future_mask, future, frame)),
            (history_mask, future_mask),
        )
        return WindowBatch(
            images=images,
            future=future_images,
            future_mask=future_mask,
            history_mask=history_mask,
            state=self._numbers("state", episode, frame, state_mask),
            state_mask=state_mask,
            action=self._numbers("action", episode[..., None], step, action_mask),
            action_mask=action_mask,
            instruction=[clips.instruction[c] for c in clip],
            index=np.stack([clips.episode[clip] + self._first_episode, anchor], axis=1),
        )

    def _images(
        self, episode: np.ndarray, frames: tuple[np.ndarray, ...], masks: tuple[np.ndarray, ...]
    ) -> tuple[dict[str, np.ndarray], ...]:
        """For each (B, T) frames and mask: camera -> (B, T, height, width, 3), zeros where masked."""
        parts: tuple[dict[str, np.ndarray], ...] = tuple({} for _ in frames)
        for camera, size in self.spec.cameras.items():
            # Asked for together: on demand, history and future often share an episode, sometimes a frame.
            out = np.empty((len(frames), frames[0].size, *size, 3), np.uint8)
            every_episode = np.tile(episode.ravel(), len(frames))
            every_frame = np.concatenate([f.ravel() for f in frames])
            self._source.images(camera, every_episode, every_frame, out.reshape(-1, *size, 3))
            for part, images, mask in zip(parts, out, masks, strict=True):
                images[~mask.ravel()] = 0
                part[camera] = images.reshape(*mask.shape, *size, 3)
        return parts

    def _numbers(self, key: str, episode: np.ndarray, frame: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """(..., size) float32 of these frames, zeros where masked."""
        index = self._index[key]
        out = np.zeros((*mask.shape, len(index)), np.float32)
        if len(index) and mask.any():
            episodes = np.broadcast_to(episode, mask.shape)[mask]
            out[mask] = self._source.numbers(key, episodes, frame[mask])[:, index]
        return out


def _positions(index: tuple[int, ...] | None, size: int) -> np.ndarray:
    return np.arange(size) if index is None else np.array(index, np.int64)


@contextmanager
def _progress(title: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on the terminal, shown only for long work."""
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=None, visible=False)
        yield lambda done, total: bar.update(task, completed=done, total=total, visible=total >= _PROGRESS_FROM_FRAMES)

"""Where windows take their frames from: decoded as needed, or all decoded once and held in memory or in files."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import quote

import numpy as np

from foreact.datasets.frame_table import FrameTable, TableSpec, first_rows, open_table
from foreact.datasets.reader import EpisodeReader
from foreact.datasets.store import Store
from foreact.vla.errors import ConfigError

if TYPE_CHECKING:
    from foreact.vla.frozen_vision import FrozenVision


class FrameSource(Protocol):
    """Gives frames by episode number and frame number; threads may share it."""

    def images(self, camera: str, episodes: np.ndarray, frames: np.ndarray, out: np.ndarray) -> None:
        """Put the frames (N,) into out (N, height, width, 3) uint8."""
        ...

    def numbers(self, key: str, episodes: np.ndarray, frames: np.ndarray) -> np.ndarray:
        """(N, size) float32 states or actions; zeros for episodes that have none."""
        ...


class OnDemandFrames:
    """Opens episodes and decodes frames when they are asked for."""

    def __init__(self, store: Store, cameras: Mapping[str, tuple[int, int]]):
        self._store = store
        self._cameras = cameras

    def images(self, camera: str, episodes: np.ndarray, frames: np.ndarray, out: np.ndarray) -> None:
        for episode in np.unique(episodes):
            rows = np.flatnonzero(episodes == episode)
            self._store.reader(int(episode)).images(camera, frames[rows], self._cameras[camera], out, rows)

    def numbers(self, key: str, episodes: np.ndarray, frames: np.ndarray) -> np.ndarray:
        out = np.zeros((len(episodes), _size(self._store, key)), np.float32)
        for episode in np.unique(episodes):
            reader = self._store.reader(int(episode))
            if _has(reader, key):
                rows = episodes == episode
                out[rows] = reader.array(key)[frames[rows]]
        return out


class ResidentFrames:
    """Decodes and resizes all frames of the chosen episodes once.

    Args:
        store: Where they are read from.
        cameras: camera -> (height, width) in pixels.
        episodes: Their numbers.
        threads: Decoders run in so many threads (they release Python's lock).
        progress: Called with the number of frames done so far and in all.

    Raises:
        ConfigError: If they do not fit into the free memory.
    """

    def __init__(
        self,
        store: Store,
        cameras: Mapping[str, tuple[int, int]],
        episodes: Sequence[int],
        threads: int = 2,
        progress: Callable[[int, int], None] | None = None,
    ):
        lengths = store.index.lengths[list(episodes)]
        total = int(lengths.sum())
        _check_memory(store, total, cameras)
        self._base = np.full(len(store), -1, np.int64)
        self._base[list(episodes)] = np.cumsum(lengths) - lengths
        self._images = {name: np.empty((total, *size, 3), np.uint8) for name, size in cameras.items()}
        self._numbers = {key: np.zeros((total, _size(store, key)), np.float32) for key in _KEYS}

        def load(episode: int) -> int:
            reader = store.reader(episode)
            length = reader.header.length
            rows = slice(int(self._base[episode]), int(self._base[episode]) + length)
            for camera, size in cameras.items():
                reader.images(camera, np.arange(length), size, self._images[camera][rows])
            for key in _KEYS:
                if _has(reader, key):
                    self._numbers[key][rows] = reader.array(key)
            return length

        done = 0
        with ThreadPoolExecutor(max_workers=max(1, threads)) as pool:
            for length in pool.map(load, episodes):
                done += length
                if progress is not None:
                    progress(done, total)

    def images(self, camera: str, episodes: np.ndarray, frames: np.ndarray, out: np.ndarray) -> None:
        np.take(self._images[camera], self._base[episodes] + frames, axis=0, out=out, mode="clip")

    def numbers(self, key: str, episodes: np.ndarray, frames: np.ndarray) -> np.ndarray:
        return self._numbers[key][self._base[episodes] + frames]


class DiskFrames:
    """All frames of a store, decoded and resized once and kept in files (see `foreact.datasets.frame_table`).

    Args:
        store: Where they are read from.
        cameras: camera -> (height, width) in pixels.
        folder: Where the files are; None: in the store.
        threads: Decoders run in so many threads.
        note: Called with a sentence when something is made again, or removed.

    Raises:
        ForeActError: If a file can neither be read nor made.
    """

    def __init__(
        self,
        store: Store,
        cameras: Mapping[str, tuple[int, int]],
        folder: Path | None = None,
        threads: int = 2,
        note: Callable[[str], None] = print,
    ):
        self._base = first_rows(store)
        self._images = {
            name: open_table(store, _pictures(store, name, size), folder, threads, note)
            for name, size in cameras.items()
        }
        self._numbers: dict[str, FrameTable] = {
            key: open_table(store, _numbers(store, key), folder, threads, note) for key in _KEYS if _size(store, key)
        }

    def images(self, camera: str, episodes: np.ndarray, frames: np.ndarray, out: np.ndarray) -> None:
        self._images[camera].take(self._base[episodes] + frames, out)

    def numbers(self, key: str, episodes: np.ndarray, frames: np.ndarray) -> np.ndarray:
        if key not in self._numbers:
            return np.zeros((len(episodes), 0), np.float32)
        table = self._numbers[key]
        out = np.empty((len(episodes), *table.rows.shape[1:]), np.float32)
        table.take(self._base[episodes] + frames, out)
        return out


def _pictures(store: Store, camera: str, size: tuple[int, int]) -> TableSpec:
    def fill(episode: int, first: int, out: np.ndarray) -> None:
        store.reader(episode).images(camera, np.arange(first, first + len(out)), size, out)

    return TableSpec(
        name=f"frames-{quote(camera, safe='')}-{size[0]}x{size[1]}", row=(*size, 3), dtype=np.dtype(np.uint8),
        fill=fill, episodes=store.index.has_cameras([camera]), about={"resize": "foreact.vla.images.resize_frame, 1"},
    )  # fmt: skip


def feature_table(store: Store, camera: str, size: tuple[int, int], tower: FrozenVision) -> TableSpec:
    """What a frozen tower sees in the frames of a camera, resized to `size` (height, width) first: (1 + P, V) each."""
    pictures = _pictures(store, camera, size)

    def fill(episode: int, first: int, out: np.ndarray) -> None:
        frames = np.empty((len(out), *size, 3), np.uint8)
        pictures.fill(episode, first, frames)
        out[:] = tower.features(frames)

    return TableSpec(
        name=f"features-{quote(camera, safe='')}-{size[0]}x{size[1]}-{tower.name}", row=tower.shape,
        dtype=np.dtype("<f2"), fill=fill, episodes=pictures.episodes, about=pictures.about,
    )  # fmt: skip


def _numbers(store: Store, key: str) -> TableSpec:
    """Zeros where an episode has none, as in the other sources."""

    def fill(episode: int, first: int, out: np.ndarray) -> None:
        reader = store.reader(episode)
        if _has(reader, key):
            out[:] = reader.array(key)[first : first + len(out)]

    return TableSpec(
        name=key, row=(_size(store, key),), dtype=np.dtype("<f4"), fill=fill, episodes=np.ones(len(store), bool)
    )  # fmt: skip


_KEYS = ("state", "action")


def _has(reader: EpisodeReader, key: str) -> bool:
    return reader.header.has_state if key == "state" else reader.header.has_action


def _size(store: Store, key: str) -> int:
    return store.contract.state_size if key == "state" else store.contract.action_size


def _check_memory(store: Store, frames: int, cameras: Mapping[str, tuple[int, int]]) -> None:
    numbers = 4 * (store.contract.state_size + store.contract.action_size)
    needed = frames * (sum(h * w * 3 for h, w in cameras.values()) + numbers)
    free = _available_memory()
    if free is not None and needed > 0.9 * free:
        raise ConfigError(
            f"holding {frames} frames of {store.path} in memory takes {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are "
            "free: use cache='disk' or 'none', smaller frames, or fewer episodes"
        )


def _available_memory() -> int | None:
    try:
        with open("/proc/meminfo") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None

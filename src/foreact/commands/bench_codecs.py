"""Measures image codecs on the benchmark's own pictures: makes the table in docs/codecs.md."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from foreact.datasets.codecs import codec_from_spec
from foreact.datasets.episode import EpisodeData
from foreact.datasets.recorder import Recorder
from foreact.datasets.store import Store
from foreact.vla.contract import Contract

SPECS = (
    "raw",
    "zstd:level=3",
    "delta:level=3,group=10",
    "png:level=3",
    "webp:quality=100",
    "webp:quality=90",
    "jpeg:quality=95,subsampling=444",
    "jpeg:quality=90,subsampling=444",
    "jpeg:quality=95,subsampling=420",
    "jpeg:quality=90,subsampling=420",
    "jpeg:quality=80,subsampling=420",
    "h264:crf=18,subsampling=444",
    "h264:crf=23,subsampling=444",
    "h264:crf=18,subsampling=420",
    "h264:crf=23,subsampling=420",
    "h264:crf=18,subsampling=444,fast=1",
    "h264:crf=18,subsampling=444,group=10,fast=1",
    "h264:crf=20,subsampling=rgb,group=5,fast=1",
    "av1:crf=20,preset=8",
    "av1:crf=30,preset=8",
)
SCENES_AND_TASKS = (("A", "open_drawer"), ("B", "turn_on_led"), ("C", "close_drawer"), ("D", "move_slider_left"))
_WINDOWS = 100
_HISTORY = (0, 2)
_AHEAD = 9


@dataclass(frozen=True, kw_only=True)
class CodecRow:
    """What one codec costs; a pair is one frame of each camera. Times are processor time of all threads."""

    codec: str
    bytes_per_pair: float
    encode_ms: float
    """To encode a pair."""
    decode_ms: float
    """To decode a pair, when whole episodes are decoded."""
    window_ms: float
    """To read a random window from the store: both cameras, 2 history and 2 future frames, checksums included."""
    psnr_db: float
    """Of all pixels of both cameras; infinite if lossless."""


def render_episodes(count: int) -> tuple[Contract, list[EpisodeData]]:
    """Demonstrations drawn now, so that no codec has touched them: `count` of each scene.

    Raises:
        NoGlBackend: If nothing can draw here.
    """
    from foreact.sim.gl_backend import pick_gl_backend

    pick_gl_backend()
    from foreact.sim.demonstrate import DemonstrationSettings, demonstrate, episode_rng
    from foreact.sim.env import DeskEnv

    episodes: list[EpisodeData] = []
    contract: Contract | None = None
    for scene, task in SCENES_AND_TASKS:
        env = DeskEnv(scene)
        contract = env.contract
        made = 0
        for index in range(10 * count):
            episode = demonstrate(env, task, episode_rng(0, scene, task, index), DemonstrationSettings())
            if episode is not None and made < count:
                episodes.append(episode)
                made += 1
            if made == count:
                break
        env.close()
    assert contract is not None
    return contract, episodes


def measure(
    contract: Contract,
    episodes: Sequence[EpisodeData],
    specs: Sequence[str] = SPECS,
    progress: Callable[[int, int], None] | None = None,
) -> list[CodecRow]:
    """Record the episodes with each codec into a store of its own, and read them back."""
    rows = []
    for number, spec in enumerate(specs):
        with tempfile.TemporaryDirectory() as folder:
            rows.append(_measure_one(Path(folder), spec, contract, episodes))
        if progress is not None:
            progress(number + 1, len(specs))
    return rows


def _measure_one(folder: Path, spec: str, contract: Contract, episodes: Sequence[EpisodeData]) -> CodecRow:
    codec = codec_from_spec(spec)
    pairs = sum(len(episode) for episode in episodes)
    size, encode_s = 0, 0.0
    for episode in episodes:
        for frames in episode.images.values():
            began = time.process_time()
            encoder = codec.encoder(*frames.shape[1:3])
            for frame in frames:
                encoder.add(frame)
            blobs = encoder.finish()
            encode_s += time.process_time() - began
            size += sum(map(len, blobs))
    recorder = Recorder(folder, contract, codec=spec)
    for number, episode in enumerate(episodes):
        recorder.write(episode, name=f"e{number:03d}")
    store = Store.open(folder)
    squares, decode_s = 0.0, 0.0
    for number, episode in enumerate(episodes):
        began = time.process_time()
        read = store.read(number, extras=False)
        decode_s += time.process_time() - began
        squares += sum(
            float(np.square(read.images[camera].astype(np.float32) - frames).sum())
            for camera, frames in episode.images.items()
        )
    pixels = sum(frames.size for episode in episodes for frames in episode.images.values())
    return CodecRow(
        codec=codec.spec,
        bytes_per_pair=size / pairs,
        encode_ms=1e3 * encode_s / pairs,
        decode_ms=1e3 * decode_s / pairs,
        window_ms=_window_ms(store),
        psnr_db=float(10 * np.log10(255**2 * pixels / squares)) if squares else float("inf"),
    )


def _window_ms(store: Store) -> float:
    rng = np.random.default_rng(0)
    times = []
    for _ in range(_WINDOWS):
        episode = int(rng.integers(len(store)))
        history = int(rng.integers(store.index[episode].length - _AHEAD - _HISTORY[-1])) + np.array(_HISTORY)
        began = time.process_time()
        store.read(episode, np.concatenate([history, history + _AHEAD]), extras=False)
        times.append(time.process_time() - began)
    return 1e3 * float(np.median(times))


def markdown(rows: Sequence[CodecRow]) -> str:
    """The table as it stands in docs/codecs.md."""
    lines = [
        "| codec | bytes per pair | encode ms | decode ms | window ms | PSNR dB |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        quality = f"{row.psnr_db:.1f}" if np.isfinite(row.psnr_db) else "lossless"
        lines.append(
            f"| `{row.codec}` | {row.bytes_per_pair:,.0f} | {row.encode_ms:.2f} | {row.decode_ms:.2f} "
            f"| {row.window_ms:.1f} | {quality} |"
        )
    return "\n".join(lines)

"""Measures loading of random windows: our codecs, LeRobot's loader and diffusion_policy's, on the same episodes."""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foreact.commands.bench_busy import busy_share
from foreact.commands.bench_data_episodes import draw_play, psnr_db, save_raw, take_from
from foreact.commands.bench_data_ours import AHEAD, CHUNK, FRAMES, HISTORY
from foreact.commands.bench_data_prepare import (
    LEROBOT_VIDEO,
    Dataset,
    Prepared,
    Way,
    prepare_diffusion_policy,
    prepare_lerobot,
    prepare_ours,
)
from foreact.commands.bench_data_process import PeerFailed, folder_bytes
from foreact.datasets.codecs import PRESETS, codec_from_spec
from foreact.datasets.episode import EpisodeData
from foreact.vla.contract import Contract
from foreact.vla.errors import ConfigError

CURVE = (
    *PRESETS,
    "raw",
    "zstd:level=3",
    "delta:level=9,group=10",
    "jpeg:quality=90,subsampling=444",
    "jpeg:quality=85,subsampling=444",
    "jpeg:quality=90,subsampling=420",
    "jpeg:quality=80,subsampling=420",
    "webp:quality=90",
    "h264:crf=18,subsampling=444",
    "h264:crf=18,subsampling=444,fast=1",
    "h264:crf=14,subsampling=444,group=10,fast=1",
    "h264:crf=23,subsampling=444,group=10,fast=1",
    "h264:crf=23,subsampling=420,group=10,fast=1",
    "av1:crf=30,preset=8",
)
"""The presets, and codecs that show what else there is."""
_SAME_DB = 20
"""Pictures that are less alike than this were not made of the same frames."""


@dataclass(kw_only=True)
class DataBench:
    """What to measure."""

    store: Path | None = None
    """Take episodes from here; None: draw play."""
    episodes: int = 12
    length: int = 300
    """Frames per drawn episode."""
    codecs: Sequence[str] = CURVE
    windows: int = 256
    """Windows per measurement, at least."""
    seconds: float = 1.0
    """Wall time per measurement, at least."""
    repeats: int = 5
    batch_size: int = 8
    lerobot_python: Path | None = None
    diffusion_policy_python: Path | None = None

    def __post_init__(self) -> None:
        for spec in self.codecs:
            codec_from_spec(spec)
        for option, python in (
            ("--lerobot-python", self.lerobot_python),
            ("--diffusion-policy-python", self.diffusion_policy_python),
        ):
            if python is not None and not (python.is_file() and os.access(python, os.X_OK)):
                raise ConfigError(f"{option} {python}: expected the Python of an environment, such as .venv/bin/python")


def measure_data(bench: DataBench, note: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
    """Write the same episodes for every competitor, then measure all of them in turns, round after round.

    Raises:
        ForeActError: If a codec is unknown, a peer's environment does not work, or the store has no fitting episode.
    """
    busy = busy_share()
    with tempfile.TemporaryDirectory(prefix="foreact-bench-") as folder, ExitStack() as stack:
        root = Path(folder)
        note("episodes")
        if bench.store is None:
            source = f"{bench.episodes} episodes of play, {bench.length} frames each, drawn for this"
            contract, episodes = draw_play(bench.episodes, bench.length)
        else:
            contract, episodes, codecs = take_from(bench.store, bench.episodes, FRAMES)
            source = f"{len(episodes)} episodes of {bench.store} (stored before as {codecs})"
        ready = Prepared(root=root, contract=contract, episodes=episodes, batch_size=bench.batch_size, stack=stack)
        prepare_ours(ready, bench.codecs, note)
        if bench.lerobot_python or bench.diffusion_policy_python:
            save_raw(contract, episodes, root / "raw")
        if bench.lerobot_python:
            prepare_lerobot(ready, bench.lerobot_python, note)
        if bench.diffusion_policy_python:
            prepare_diffusion_policy(ready, bench.diffusion_policy_python, note)
        missing = {
            title: f"give {option}"
            for title, option, python in (
                ("LeRobot", "--lerobot-python", bench.lerobot_python),
                ("diffusion_policy", "--diffusion-policy-python", bench.diffusion_policy_python),
            )
            if python is None
        }
        sets, ways = ready.sets, ready.ways
        for data in sets:
            way = next(way for way in ways if way.row == data.row)
            out = root / "check.npz"
            way.measurer.ask({**way.request, "do": "check", "out": str(out)})
            data.psnr_db = psnr_db(out, episodes, HISTORY - 1, AHEAD)
            if data.psnr_db is not None and data.psnr_db < _SAME_DB:
                raise PeerFailed(
                    f"{data.row}: the loader hands out other pictures than were recorded (PSNR {data.psnr_db:.1f} dB, "
                    f"expected at least {_SAME_DB} dB): its speed means nothing"
                )
        for way in ways:
            way.measurer.ask({"do": "ready"})  # nothing is still starting when the clock runs
        for number in range(bench.repeats):
            note(f"round {number + 1} of {bench.repeats}")
            for way in ways:
                request = {**way.request, "do": "measure", "windows": bench.windows, "least_s": bench.seconds}
                way.rounds.append(way.measurer.ask(request))
        rows = [make_row(data, [way for way in ways if way.row == data.row], ways, sets, episodes) for data in sets]
        return {
            "rows": rows,
            "ways": [{"row": w.row, "detail": w.detail, "windows_per_s": w.per_s, "rounds": w.rounds} for w in ways],
            "not_measured": missing,
            "source": source,
            "episodes": len(episodes),
            "frames": sum(map(len, episodes)),
            "settings": _settings(bench, contract) | ready.versions,
            "busy_before": busy,
        }


def make_row(
    data: Dataset, own: Sequence[Way], ways: Sequence[Way], sets: Sequence[Dataset], episodes: Sequence[EpisodeData]
) -> dict[str, Any]:
    """What is reported of a dataset: its best way, compared with the best way to load LeRobot's videos.

    Args:
        data: The dataset.
        own: The ways to load it.
        ways, sets: All ways and datasets.
        episodes: What was written.
    """
    best = max(own, key=lambda way: way.per_s)
    rates = [r["windows_per_s"] for r in best.rounds]
    row = {
        "row": data.row,
        "group": data.group,
        "best": best.detail,
        "windows_per_s": best.per_s,
        "range_windows_per_s": [min(rates), max(rates)],
        "cpu_ms": statistics.median(r["cpu_ms"] for r in best.rounds),
        "bytes": folder_bytes(data.path),
        "picture_bytes_per_frame": folder_bytes(data.path, data.pictures) / sum(map(len, episodes)),
        "psnr_db": data.psnr_db,
        "speed_ratio": None,
        "range_speed_ratio": None,
        "bytes_ratio": None,
    }
    rivals = [way for way in ways if way.row.startswith(LEROBOT_VIDEO)]
    if rivals:
        rival = max(rivals, key=lambda way: way.per_s)
        base = next(s for s in sets if s.row == LEROBOT_VIDEO)
        row |= ratios(rates, [r["windows_per_s"] for r in rival.rounds])
        row["bytes_ratio"] = folder_bytes(data.path, data.pictures) / folder_bytes(base.path, base.pictures)
    return row


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, Any]:
    """The ratio of medians of measurements taken in turns, and the range of the ratios of single rounds."""
    single = [a / b for a, b in zip(ours, theirs, strict=True)]
    return {
        "speed_ratio": statistics.median(ours) / statistics.median(theirs),
        "range_speed_ratio": [min(single), max(single)],
    }


def _settings(bench: DataBench, contract: Contract) -> dict[str, Any]:
    import av
    import numpy as np
    import simplejpeg

    from foreact.sim.system import cpu_name

    cameras = " + ".join(f"{camera.width}x{camera.height}" for camera in contract.cameras)
    return {
        "window": f"{FRAMES} frames of {cameras}, {CHUNK} actions",
        "batch": bench.batch_size,
        "each measurement": f"at least {bench.windows} windows and {bench.seconds:g} s",
        "rounds": bench.repeats,
        "CPU": cpu_name(),
        "cores": os.cpu_count(),
        "simplejpeg": simplejpeg.__version__,
        "PyAV": av.__version__,
        "NumPy": np.__version__,
    }

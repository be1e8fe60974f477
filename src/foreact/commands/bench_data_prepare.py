"""Writes the same episodes for every competitor of `foreact bench data`, and starts the processes that load them."""

from __future__ import annotations

import os
import statistics
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import foreact
from foreact.commands.bench_data_ours import AHEAD, CHUNK, HISTORY, window_sampler
from foreact.commands.bench_data_process import Measurer, PeerFailed
from foreact.datasets.episode import EpisodeData
from foreact.datasets.recorder import Recorder
from foreact.vla.contract import Contract

LEROBOT_VIDEO = "LeRobot video"
_LEROBOT_CODEC = "av1:crf=30,preset=12"
"""LeRobot's default settings, in words of our exporter."""
_WINDOWS_KEPT = 1024

Note = Callable[[str], None]


@dataclass(kw_only=True)
class Way:
    """One way to load one dataset."""

    row: str
    """The row of the table it belongs to; the best way of a row counts."""
    detail: str
    """What sets it apart from the others of its row."""
    measurer: Measurer
    request: dict[str, Any]
    rounds: list[dict[str, float]] = field(default_factory=list)

    @property
    def per_s(self) -> float:
        """Median windows per second."""
        return statistics.median(r["windows_per_s"] for r in self.rounds)


@dataclass(kw_only=True)
class Dataset:
    """One row: a dataset that was written."""

    row: str
    group: str
    path: Path
    pictures: Callable[[Path], bool]
    """Whether a file, by its path inside the dataset, holds pictures."""
    psnr_db: float | None = None


@dataclass(kw_only=True)
class Prepared:
    """What is there to be measured."""

    root: Path
    contract: Contract
    episodes: Sequence[EpisodeData]
    batch_size: int
    stack: ExitStack
    """Ends the processes."""
    sets: list[Dataset] = field(default_factory=list)
    ways: list[Way] = field(default_factory=list)
    index: list[tuple[int, int]] = field(default_factory=list)
    """(episode, frame) of the windows, in the order of our sampler."""
    versions: dict[str, Any] = field(default_factory=dict)

    def request(self, path: Path, **values: Any) -> dict[str, Any]:
        """What every process is told."""
        window = {"before": HISTORY - 1, "after": AHEAD, "chunk": CHUNK, "cameras": list(self.episodes[0].images)}
        return {"path": str(path), "batch_size": self.batch_size, **window, **values}

    def start(self, title: str, command: Sequence[str]) -> Measurer:
        """A process that lives until the end."""
        return self.stack.enter_context(Measurer(title, command))


def prepare_ours(ready: Prepared, specs: Sequence[str], note: Note) -> None:
    """One store per codec, read by one process with one or two threads per core."""
    threads = os.cpu_count() or 1
    ours = ready.start("ForeAct", [sys.executable, "-m", "foreact.commands.bench_data_ours"])
    for spec in dict.fromkeys(specs):
        note(f"writing {spec}")
        path = ready.root / f"ours-{len(ready.sets)}"
        recorder = Recorder(path, ready.contract, codec=spec)
        for number, episode in enumerate(ready.episodes):
            recorder.write(episode, name=f"e{number:05d}")
        ready.sets.append(Dataset(row=spec, group="foreact", path=path, pictures=_of_camera))
        for count in (threads, 2 * threads):
            request = ready.request(path, workers=count)
            ready.ways.append(Way(row=spec, detail=f"{count} threads", measurer=ours, request=request))
    sampler = window_sampler(str(ready.sets[0].path), ready.batch_size)
    steps = -(-min(_WINDOWS_KEPT, sampler.windows_per_epoch) // ready.batch_size)
    for batch in sampler.iterate(0, steps, threads):
        ready.index += [(int(episode), int(frame)) for episode, frame in batch.index]


def prepare_lerobot(ready: Prepared, python: Path, note: Note) -> None:
    """Videos by LeRobot's own writer and by our exporter, and pictures; each way of loading in its own process.

    Raises:
        PeerFailed: If the environment does not work.
    """
    from foreact.datasets.formats.lerobot_v3_sink import LeRobotV3Sink

    command = _peer(python, "lerobot")
    exported = f"{LEROBOT_VIDEO}, exported by ForeAct"
    with Measurer("LeRobot", command) as writer:
        about = writer.ask({"do": "about"})
        for row, kind in ((LEROBOT_VIDEO, "video"), ("LeRobot images", "image")):
            note(f"writing {row}")
            path = ready.root / f"lerobot-{kind}"
            writer.ask({"do": "write", "raw": str(ready.root / "raw"), "out": str(path), "kind": kind})
            holds = _is_video if kind == "video" else _is_data
            ready.sets.append(Dataset(row=row, group="lerobot", path=path, pictures=holds))
    note(f"writing {exported}")
    path = ready.root / "lerobot-exported"
    sink = LeRobotV3Sink(path, ready.contract, codec=_LEROBOT_CODEC)
    for number, episode in enumerate(ready.episodes):
        sink.write(f"e{number:05d}", episode)
    sink.finish()
    ready.sets.append(Dataset(row=exported, group="lerobot", path=path, pictures=_is_video))
    backends = about.pop("backends")
    ready.versions |= {"LeRobot": about.pop("lerobot"), **{f"LeRobot's {key}": value for key, value in about.items()}}
    for data in (s for s in ready.sets if s.group == "lerobot"):
        for backend in backends if data.pictures is _is_video else [""]:
            for workers in worker_counts():
                detail = f"{backend}, {workers} workers".removeprefix(", ")
                note(f"starting {data.row}: {detail}")
                request = ready.request(data.path, workers=workers, backend=backend, index=ready.index)
                started = ready.start(f"{data.row}, {detail}", command)
                ready.ways.append(Way(row=data.row, detail=detail, measurer=started, request=request))


def prepare_diffusion_policy(ready: Prepared, python: Path, note: Note) -> None:
    """Replay buffers with the compressors that diffusion_policy's code uses.

    Raises:
        PeerFailed: If the environment does not work.
    """
    command = _peer(python, "diffusion_policy")
    with Measurer("diffusion_policy", command) as writer:
        about = writer.ask({"do": "about"})
        for kind in about.pop("kinds"):
            row = f"diffusion_policy {kind}"
            note(f"writing {row}")
            path = ready.root / f"dp-{kind}.zarr"
            writer.ask({"do": "write", "raw": str(ready.root / "raw"), "out": str(path), "kind": kind})
            cameras = frozenset(ready.episodes[0].images)
            holds = partial(_of_array, cameras)
            ready.sets.append(Dataset(row=row, group="diffusion_policy", path=path, pictures=holds))
            for workers in worker_counts():
                detail = f"{workers} workers"
                request = ready.request(path, workers=workers, kind=kind, index=ready.index)
                started = ready.start(f"{row}, {detail}", command)
                ready.ways.append(Way(row=row, detail=detail, measurer=started, request=request))
    ready.versions |= {f"diffusion_policy's {key}": value for key, value in about.items()}


def worker_counts() -> list[int]:
    """Numbers of DataLoader workers to try: 0, 1, 2 and as many as there are cores."""
    return sorted({0, 1, 2, os.cpu_count() or 1})


def _of_camera(file: Path) -> bool:
    return any(part.startswith("camera.") for part in file.parts)


def _is_video(file: Path) -> bool:
    return file.suffix == ".mp4"


def _is_data(file: Path) -> bool:
    return file.parts[0] == "data"


def _of_array(arrays: frozenset[str], file: Path) -> bool:
    return file.parts[0] == "data" and file.parts[1] in arrays


def _peer(python: Path, name: str) -> list[str]:
    script = Path(foreact.__file__).resolve().parents[2] / "scripts/peers" / name / "bench.py"
    if not script.is_file():
        raise PeerFailed(f"{script} is missing: peers are measured from a checkout of ForeAct, not from a wheel")
    return [str(python), str(script)]

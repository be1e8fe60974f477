"""Records episodes one after another in real time, and measures whether a frame comes too late and what a commit costs.

    python -m foreact.datasets.record_test --episodes 5

Frames come at a fixed rate, as from two cameras that keep only their newest picture: where the loop is a whole period
behind, a frame is dropped. Episodes follow each other without a pause, and are committed in the background.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from foreact.datasets.recorder import EpisodeWriter, Recorder
from foreact.datasets.store import Store
from foreact.datasets.verify import verify_store
from foreact.vla.contract import Camera, Contract, Field

RATE_HZ = 30.0
SECONDS = 10.0
SIDES = (480, 640)
COMMIT_LIMIT_S = 0.5
_DIFFERENT = 16
"""Pictures that are shown over and over."""


@dataclass
class RecordReport:
    """What `record_test` measured."""

    episodes: int = 0
    frames: int = 0
    dropped: int = 0
    """Frames whose turn had passed when the loop came to them."""
    longest_add_ms: float = 0.0
    longest_gap_ms: float = 0.0
    """Between two recorded frames, across the ends of episodes as well; a period is `1000 / rate`."""
    longest_end_ms: float = 0.0
    """How long the end of an episode held up the loop."""
    commits_ms: list[float] = field(default_factory=list)
    """From the end of each episode until it is on the disk for good, while the next one is being recorded."""
    episode_mb: float = 0.0
    failures: list[str] = field(default_factory=list)


def record_test(
    folder: Path,
    episodes: int = 3,
    seconds: float = SECONDS,
    rate_hz: float = RATE_HZ,
    sides: tuple[int, int] = SIDES,
    codec: str = "fast",
    progress: Callable[[int, int], None] | None = None,
) -> RecordReport:
    """Record in real time into a store in `folder`.

    Args:
        folder: On the disk that is to be measured.
        episodes: How many.
        seconds: Length of each [s].
        rate_hz: Frames per second.
        sides: Height and width of both cameras [pixels].
        codec: Image codec or preset.
        progress: Called with the frames recorded and in all.
    """
    contract = _contract(rate_hz, sides)
    pictures = _pictures(sides)
    length = round(seconds * rate_hz)
    report = RecordReport()
    ended: dict[str, float] = {}

    def note_commit(name: str) -> None:
        report.commits_ms.append(1e3 * (time.perf_counter() - ended[name]))

    with Recorder(folder / "store", contract, codec, background=True) as recorder:
        _warm_up(recorder, pictures)
        start = last = time.perf_counter()
        tick = 0
        for number in range(episodes):
            with recorder.episode(f"e{number:03d}", "measured") as writer:
                for _ in range(length):
                    _wait_until(start + tick / rate_hz)
                    before = time.perf_counter()
                    _add(writer, pictures[tick % _DIFFERENT], tick)
                    now = time.perf_counter()
                    report.longest_add_ms = max(report.longest_add_ms, 1e3 * (now - before))
                    report.longest_gap_ms = max(report.longest_gap_ms, 1e3 * (before - last))
                    last = before
                    report.frames += 1
                    behind = int((now - start) * rate_hz) - tick  # whole periods that began while this was added
                    report.dropped += max(0, behind - 1)
                    tick += max(1, behind)
                    if progress is not None:
                        progress(report.frames, episodes * length)
                ended[writer.name] = time.perf_counter()
            report.longest_end_ms = max(report.longest_end_ms, 1e3 * (time.perf_counter() - ended[writer.name]))
            assert writer.future is not None
            writer.future.add_done_callback(lambda _, name=writer.name: note_commit(name))
    _check(folder / "store", episodes, length, report)
    return report


def _check(path: Path, episodes: int, length: int, report: RecordReport) -> None:
    store = Store.open(path)
    measured = [info for info in store.index if info.name != "warm-up"]
    report.episodes = len(measured)
    report.episode_mb = max((info.bytes for info in measured), default=0) / 1e6
    report.failures += verify_store(path).problems
    if report.episodes != episodes or any(info.length != length for info in measured):
        report.failures.append(f"{episodes} episodes of {length} frames were recorded, others are in the store")
    if report.dropped:
        report.failures.append(f"{report.dropped} frames were dropped")
    if max(report.commits_ms, default=0.0) > 1e3 * COMMIT_LIMIT_S:
        report.failures.append(f"a commit took {max(report.commits_ms):.0f} ms; at most {1e3 * COMMIT_LIMIT_S:.0f}")


def _contract(rate_hz: float, sides: tuple[int, int]) -> Contract:
    height, width = sides
    return Contract(
        embodiment="selftest",
        rate_hz=rate_hz,
        cameras=(Camera(name="front", height=height, width=width), Camera(name="wrist", height=height, width=width)),
        state=(Field(name="joints", size=7, unit="rad"),),
        action=(Field(name="joints", size=7, unit="rad"),),
    )


def _pictures(sides: tuple[int, int]) -> list[dict[str, np.ndarray]]:
    """Pictures with edges, smooth parts and a little noise, as a camera has them."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[: sides[0], : sides[1]]
    out = []
    for number in range(_DIFFERENT):
        shade = 96 + 60 * np.sin(x / 37 + number / 3)[..., None] * np.cos(y / 29)[..., None] * np.array([1, 0.8, 0.5])
        shade[(x // 60 + y // 60 + number) % 5 == 0] += 40
        frame = np.clip(shade + rng.normal(0, 1, (*sides, 3)), 0, 255).astype(np.uint8)
        out.append({"front": frame, "wrist": np.ascontiguousarray(frame[::-1])})
    return out


def _add(writer: EpisodeWriter, images: dict[str, np.ndarray], tick: int) -> None:
    writer.add(images, np.full(7, tick / 1e3, np.float32), np.full(7, -tick / 1e3, np.float32))


def _warm_up(recorder: Recorder, pictures: list[dict[str, np.ndarray]]) -> None:
    """What is loaded at the first episode is no part of a recording."""
    with recorder.episode("warm-up") as writer:
        for tick in range(_DIFFERENT):
            _add(writer, pictures[tick], tick)
    writer.wait()


def _wait_until(moment: float) -> None:
    while (left := moment - time.perf_counter()) > 0:
        time.sleep(left)


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line; the status is 1 if a frame was dropped or a commit took too long."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--rate", type=float, default=RATE_HZ)
    parser.add_argument("--codec", default="fast")
    parser.add_argument("--folder", type=Path, help="on the disk to be measured; default: the temporary folder")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        report = record_test(Path(folder), args.episodes, args.seconds, args.rate, codec=args.codec)
    print(describe(report))
    return 1 if report.failures else 0


def describe(report: RecordReport) -> str:
    """The report in sentences."""
    commits = ", ".join(f"{ms:.0f}" for ms in report.commits_ms)
    lines = [
        f"{report.episodes} episodes, {report.frames} frames of two cameras ({report.episode_mb:.1f} MB per episode): "
        f"{report.dropped} frames dropped; longest call of add {report.longest_add_ms:.1f} ms, longest gap between "
        f"frames {report.longest_gap_ms:.1f} ms, longest end of an episode {report.longest_end_ms:.1f} ms; commits "
        f"took {commits} ms"
    ]
    return "\n".join([*lines, *report.failures])


if __name__ == "__main__":
    sys.exit(main())

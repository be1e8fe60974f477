"""Episodes that are finished in the background: nothing waits for the disk, and nothing that fails stays unsaid."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from foreact.datasets import recorder as recorder_module
from foreact.datasets.background import MAX_WAITING
from foreact.datasets.layout import EpisodeExists, InvalidEpisode, StoreError
from foreact.datasets.record_test import describe, record_test
from foreact.datasets.recorder import Recorder
from foreact.datasets.selftest_episodes import SELFTEST_CONTRACT, make_episode, same_episode
from foreact.datasets.store import Store


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """A disk that takes nothing until the event is set."""
    event, real = threading.Event(), recorder_module.write_tree

    def slow(*args: object) -> None:
        assert event.wait(30)
        real(*args)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(recorder_module, "write_tree", slow)
    return event


def record(recorder: Recorder, name: str):
    episode = make_episode(name)
    with recorder.episode(name, episode.instruction, episode.meta, episode.segments) as writer:
        for t in range(len(episode)):
            writer.add(
                {camera: images[t] for camera, images in episode.images.items()},
                None if episode.state is None else episode.state[t],
                None if episode.action is None else episode.action[t],
                {key: value[t] for key, value in episode.extras.items()},
            )
    return writer


def test_the_next_episode_does_not_wait_for_the_disk(tmp_path: Path, gate: threading.Event) -> None:
    with Recorder(tmp_path, SELFTEST_CONTRACT, "zstd", background=True) as recorder:
        began = time.perf_counter()
        writers = [record(recorder, f"e{n}") for n in range(3)]
        assert time.perf_counter() - began < 10 and not gate.is_set(), "the loop waited for the disk"
        assert len(Store.open(tmp_path)) == 0
        assert recorder.has("e0"), "a name that is being written is taken"
        with pytest.raises(EpisodeExists):
            record(recorder, "e0")
        gate.set()
        assert writers[1].wait() == writers[1].bytes > 0
        assert {"e0", "e1"} <= {*Store.open(tmp_path).index.names}, "they are written in order"
    store = Store.open(tmp_path)
    assert store.index.names == ["e0", "e1", "e2"]
    assert all(same_episode(store.read(name), make_episode(name)) for name in store.index.names)


def test_so_many_episodes_wait_in_memory_and_no_more(tmp_path: Path, gate: threading.Event) -> None:
    recorder = Recorder(tmp_path, SELFTEST_CONTRACT, "zstd", background=True)
    done: list[str] = []

    def loop() -> None:
        for number in range(MAX_WAITING + 2):
            record(recorder, f"e{number}")
            done.append(f"e{number}")

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    thread.join(3)
    assert len(done) == MAX_WAITING, "the one after that waits for the first"
    gate.set()
    thread.join(30)
    recorder.flush()
    assert len(Store.open(tmp_path)) == MAX_WAITING + 2


def fail_once(patch: pytest.MonkeyPatch) -> None:
    """The next rename finds a full disk."""
    real = os.rename

    def rename(*args: object) -> None:
        patch.setattr(os, "rename", real)
        raise OSError(28, "No space left on device")

    patch.setattr(os, "rename", rename)


@pytest.mark.parametrize("asked", ["flush", "with", "next", "wait"])
def test_what_fails_in_the_background_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str) -> None:
    recorder = Recorder(tmp_path, SELFTEST_CONTRACT, "zstd", background=True)
    record(recorder, "good").wait()
    fail_once(monkeypatch)
    message = r"episode bad could not be written to .*: No space left on device"
    if asked == "with":
        with pytest.raises(StoreError, match=message), recorder:
            record(recorder, "bad")
    else:
        writer = record(recorder, "bad")
        with pytest.raises(StoreError, match=message):
            if asked == "flush":
                recorder.flush()
            elif asked == "wait":
                writer.wait()
            else:
                recorder._commits.wait()  # pyright: ignore[reportOptionalMemberAccess]
                record(recorder, "next")
    recorder.flush()  # said once
    assert Store.open(tmp_path).index.names == ["good"]
    record(recorder, "bad").wait()
    assert Store.open(tmp_path).index.names == ["bad", "good"], "it is recorded again under its name"


def test_an_error_of_the_loop_is_not_hidden_and_finished_episodes_stay(tmp_path: Path) -> None:
    with (
        pytest.raises(RuntimeError, match="camera"),
        Recorder(tmp_path, SELFTEST_CONTRACT, "zstd", background=True) as recorder,
    ):
        record(recorder, "e0")
        with recorder.episode("e1") as writer:
            writer.add({"front": np.zeros((24, 32, 3), np.uint8)})
            raise RuntimeError("camera unplugged")
    assert Store.open(tmp_path).index.names == ["e0"]


def test_what_does_not_fit_is_said_at_the_end_of_its_block(tmp_path: Path) -> None:
    with Recorder(tmp_path, SELFTEST_CONTRACT, background=True) as recorder:
        with pytest.raises(InvalidEpisode, match="no frames"), recorder.episode("empty"):
            pass
        with pytest.raises(InvalidEpisode, match="512 bytes"), recorder.episode("long") as writer:
            writer.add({"front": np.zeros((24, 32, 3), np.uint8)})
            writer.instruction = "x" * 600
    assert len(Store.open(tmp_path)) == 0


def test_recording_in_real_time(tmp_path: Path) -> None:
    """Small pictures, so that it holds on a busy machine: no frame is dropped while episodes are committed."""
    report = record_test(tmp_path, episodes=3, seconds=1.0, rate_hz=10, sides=(48, 64))
    assert (report.episodes, report.frames) == (3, 30), describe(report)
    assert len(report.commits_ms) == 3 and report.longest_end_ms < 1e3
    assert not [line for line in report.failures if "dropped" not in line and "commit" not in line], report.failures


@pytest.mark.slow
def test_thirty_hertz_and_two_cameras_drop_no_frame(tmp_path: Path) -> None:
    report = record_test(tmp_path, episodes=5)
    assert not report.failures, describe(report)

"""Several processes write into one store at the same instants: names never collide, and nothing is lost."""

from __future__ import annotations

import multiprocessing
import os
import warnings
from pathlib import Path
from typing import Any

import pytest

from foreact.datasets.layout import EpisodeExists
from foreact.datasets.packing import pack_store
from foreact.datasets.recorder import Recorder
from foreact.datasets.selftest_episodes import SELFTEST_CONTRACT, make_episode, same_episode
from foreact.datasets.store import Store
from foreact.datasets.verify import verify_store

ROUNDS = pytest.mark.parametrize("rounds", [20, pytest.param(100, marks=pytest.mark.slow)])


def _racer(path: Path, number: int, rounds: int, barrier: Any, pipe: Any) -> None:
    """In each round, both make the store, record under the same name, under one of their own, and without a name."""
    won: list[str] = []
    named: list[str] = []
    for number_of_round in range(rounds):
        barrier.wait(60)
        recorder = Recorder(path / f"store{number_of_round % 10}", SELFTEST_CONTRACT, "zstd")
        contested, own = f"contested-{number_of_round:03d}", f"own-{number}-{number_of_round:03d}"
        barrier.wait(60)
        try:
            recorder.write(make_episode(contested))
            won.append(contested)
        except EpisodeExists:
            pass
        recorder.write(make_episode(own))
        named.append(own)
        episode = make_episode("unnamed")
        episode.name = ""
        with recorder.episode(instruction=own) as writer:
            writer.add({camera: images[0] for camera, images in episode.images.items()})
        named.append(writer.name)
    pipe.send((won, named))


@ROUNDS
def test_two_processes_never_collide_and_lose_nothing(tmp_path: Path, rounds: int) -> None:
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    pipes, processes = [], []
    for number in range(2):
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_racer, args=(tmp_path, number, rounds, barrier, theirs))
        process.start()
        pipes.append(ours)
        processes.append(process)
    results = [pipe.recv() for pipe in pipes]
    for process in processes:
        process.join()
    winners = [name for won, _ in results for name in won]
    assert sorted(winners) == [f"contested-{n:03d}" for n in range(rounds)], "each contested name has one winner"
    assert rounds < 50 or all(won for won, _ in results), "one process was never first: nothing was contested"
    acknowledged = {*winners, *(name for _, named in results for name in named)}
    assert len(acknowledged) == 5 * rounds
    found: set[str] = set()
    for path in sorted(tmp_path.glob("store*")):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            store = Store.open(path)
        report = verify_store(path)
        assert not report.problems and not report.notes
        found |= {*store.index.names}
        for name in store.index.names:
            assert not name.startswith(("own", "contested")) or same_episode(store.read(name), make_episode(name))
    assert found == acknowledged


def test_a_name_that_is_recorded_and_packed_between_two_looks_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process records the name and packs it after this one has looked, and before its rename."""
    slow = Recorder(tmp_path, SELFTEST_CONTRACT, "zstd")
    real = os.rename

    def rename(source: Any, target: Any) -> None:
        if Path(target).parent.name == "episodes":
            monkeypatch.setattr(os, "rename", real)
            Recorder(tmp_path, SELFTEST_CONTRACT, "zstd").write(make_episode("first"), name="name")
            pack_store(tmp_path)
        real(source, target)

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(EpisodeExists, match="already has an episode 'name'"):
        slow.write(make_episode("second"), name="name")
    store = Store.open(tmp_path)
    read, first = store.read("name"), make_episode("first")
    read.name = first.name
    assert len(store) == 1 and same_episode(read, first)
    report = verify_store(tmp_path)
    assert not report.problems and not report.notes, "what was written a second time is gone"


def test_episodes_that_are_packed_while_they_are_listed_are_there(tmp_path: Path, monkeypatch) -> None:
    """Between the look at the folders and that at the packs, and between that and reading a folder."""
    from foreact.datasets import index

    for name in ("a", "b", "c"):
        Recorder(tmp_path, SELFTEST_CONTRACT, "zstd").write(make_episode(name))
    for point in ("_episode_folders", "pack_names", "folder_info"):
        Recorder(tmp_path, SELFTEST_CONTRACT, "zstd").write(make_episode(f"new-{point}"))
        before = set(Store.open(tmp_path).index.names)
        (tmp_path / "index.bin").unlink()
        real = getattr(index, point)

        def packing(*args: Any, real: Any = real, point: str = point) -> Any:
            monkeypatch.setattr(index, point, real)
            found = real(*args) if point != "folder_info" else None
            pack_store(tmp_path)
            return real(*args) if point == "folder_info" else found

        monkeypatch.setattr(index, point, packing)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert set(Store.open(tmp_path).index.names) == before, point


def test_an_open_episode_follows_into_its_pack(tmp_path: Path) -> None:
    """Its small arrays are read when they are asked for, by then from the pack."""
    Recorder(tmp_path, SELFTEST_CONTRACT, "zstd").write(make_episode("e0"))
    store = Store.open(tmp_path)
    reader = store.reader("e0")
    pack_store(tmp_path)
    assert not (tmp_path / "episodes" / "e0").exists()
    assert same_episode(reader.read(), make_episode("e0"))


def test_verifying_a_store_that_is_being_packed_finds_no_damage(tmp_path: Path, monkeypatch) -> None:
    from foreact.datasets.reader import EpisodeReader

    for name in ("a", "b"):
        Recorder(tmp_path, SELFTEST_CONTRACT, "zstd").write(make_episode(name))
    real = EpisodeReader.check_files

    def packed_meanwhile(self: Any) -> Any:
        monkeypatch.setattr(EpisodeReader, "check_files", real)
        pack_store(tmp_path)
        return real(self)

    monkeypatch.setattr(EpisodeReader, "check_files", packed_meanwhile)
    report = verify_store(tmp_path)
    assert not report.problems and any("was packed or removed" in note for note in report.notes)
    assert verify_store(tmp_path).episodes == 2

"""Packing: the same store afterwards, whatever happens on the way."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import zarr
from zarr.storage import ZipStore

from foreact.datasets.layout import DamagedEpisode, EpisodeExists, StoreError
from foreact.datasets.packing import pack_store
from foreact.datasets.recorder import Recorder
from foreact.datasets.selftest_episodes import same_episode
from foreact.datasets.store import Store
from foreact.datasets.verify import verify_store


def assert_same_store(path: Path, before: Store) -> None:
    after = Store.open(path)
    assert (after.index.names, after.hash) == (before.index.names, before.hash)
    for name in before.index.names:
        assert same_episode(after.read(name), before.read(name))


@pytest.fixture
def original(store: Store, tmp_path: Path) -> Store:
    """A copy of `store` that nobody packs."""
    shutil.copytree(store.path, tmp_path / "original")
    return Store.open(tmp_path / "original")


def test_a_packed_store_is_the_same_store(store: Store, original: Store) -> None:
    size = sum(info.bytes for info in store.index)
    report = pack_store(store.path, pack_bytes=size // 2)
    assert (report.packs, report.episodes, report.bytes) == (2, 5, size)
    assert not any((store.path / "episodes").iterdir())
    assert_same_store(store.path, original)
    assert not verify_store(store.path).problems and not verify_store(store.path).notes
    assert pack_store(store.path).episodes == 0


def test_a_store_opened_before_packing_reads_on(store: Store, original: Store) -> None:
    pack_store(store.path)
    assert all(same_episode(store.read(i), original.read(i)) for i in range(5))


def test_other_tools_read_a_pack(store: Store, original: Store, tmp_path: Path) -> None:
    pack_store(store.path)
    (pack,) = (store.path / "packs").glob("*/episodes.zip")
    with ZipStore(pack, mode="r") as archive:
        group = zarr.open_group(archive, path="e3", mode="r")
        assert group["state"][:].tolist() == original.read("e3").state.tolist()  # pyright: ignore
    (tmp_path / "again").mkdir()
    shutil.copy(store.path / "foreact-store.json", tmp_path / "again")
    shutil.unpack_archive(pack, tmp_path / "again" / "episodes")
    assert_same_store(tmp_path / "again", original)


def test_a_packed_name_stays_taken(store: Store, contract, make_episode) -> None:
    recorder = Recorder(store.path, contract)
    pack_store(store.path)
    assert recorder.has("e3") and not recorder.has("e9")
    with pytest.raises(EpisodeExists):
        recorder.write(make_episode(1, 2), name="e3")
    recorder.write(make_episode(1, 2), name="e9")
    pack_store(store.path)
    assert Store.open(store.path).index.names == ["e0", "e1", "e2", "e3", "e4", "e9"]


class Killed(BaseException):
    """Stands for a kill: nothing catches it to go on."""


def _die_at(patch: pytest.MonkeyPatch, fail_at: float) -> list[str]:
    """Let a change of the file system die: number `fail_at` // 2, before (even) or after (odd) it happened."""
    log: list[str] = []

    def wrap(name: str, real):
        def call(*args, **kwargs):
            number = len(log)
            log.append(name)
            if number > fail_at // 2 or number == fail_at // 2 and not fail_at % 2:
                raise Killed  # the dead do not clean up either
            result = real(*args, **kwargs)
            if number == fail_at // 2:
                raise Killed
            return result

        return call

    for name in ("rename", "fsync", "replace", "unlink", "mkdir"):
        patch.setattr(os, name, wrap(name, getattr(os, name)))
    return log


def test_killed_at_any_operation_nothing_is_lost_or_doubled(tmp_path, contract, make_episode, monkeypatch) -> None:
    """Each operation in turn while two packs are written, then a second run that finishes the work."""
    source = tmp_path / "source"
    recorder = Recorder(source, contract, codec="raw")
    for number in range(2):
        episode = make_episode(number, 2, video=True)
        del episode.images["static"]
        recorder.write(episode, name=f"e{number}")
    before = Store.open(source)
    assert len(before.read(0)) == len(before.read(1)) == 2

    def attempt(fail_at: float) -> list[str]:
        work = tmp_path / "work"
        shutil.copytree(source, work)
        with monkeypatch.context() as patch:
            log = _die_at(patch, fail_at)
            with contextlib.suppress(Killed):
                pack_store(work, pack_bytes=1)
        assert_same_store(work, before)
        pack_store(work)
        assert_same_store(work, before)
        assert not any((work / "episodes").iterdir()) and not verify_store(work).problems
        assert len(list((work / "packs").iterdir())) == 2 or fail_at < float("inf")
        shutil.rmtree(work)
        return log

    operations = attempt(float("inf"))
    assert operations.count("rename") == 4 and operations.count("fsync") >= 8
    for number, name in enumerate(operations):
        if name != "unlink" or number % 5 == 0:
            attempt(2 * number)
            attempt(2 * number + 1)


def test_a_damaged_episode_is_not_packed(store: Store) -> None:
    chunk = store.path / "episodes" / "e3" / "action" / "c" / "0" / "0"
    data = bytearray(chunk.read_bytes())
    data[3] ^= 1
    chunk.write_bytes(data)
    with pytest.raises(DamagedEpisode, match=r"episode e3 was not packed.*e3/action/c/0/0"):
        pack_store(store.path)
    assert len(list((store.path / "episodes").iterdir())) == 5
    assert not list((store.path / "packs").iterdir())


def test_two_packers_do_not_meet(store: Store) -> None:
    with open(store.path / ".pack.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(StoreError, match="another process is packing"):
            pack_store(store.path)
    assert pack_store(store.path).episodes == 5


def test_unzip_agrees_that_the_pack_is_sound(store: Store) -> None:
    pack_store(store.path)
    (pack,) = (store.path / "packs").glob("*/episodes.zip")
    if shutil.which("unzip"):
        assert subprocess.run(["unzip", "-tq", pack], capture_output=True).returncode == 0
    import zipfile

    assert zipfile.ZipFile(pack).testzip() is None

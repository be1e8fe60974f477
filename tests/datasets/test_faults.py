"""On a disk that fails at any one call, what was acknowledged stays, and what was not is whole or not there."""

from __future__ import annotations

import errno
import importlib.util
import os
import shutil
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foreact.datasets.durable import remove
from foreact.datasets.index import load_index
from foreact.datasets.layout import INDEX_FILE, StoreError
from foreact.datasets.packing import pack_store
from foreact.datasets.recorder import Recorder
from foreact.datasets.store import Store
from foreact.datasets.verify import verify_store
from foreact.vla.contract import Contract
from foreact.vla.errors import ForeActError


def load_faulty() -> Any:
    """The helper beside this file; tests are no package to import it from."""
    spec = importlib.util.spec_from_file_location("faulty", Path(__file__).with_name("faulty.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


FaultyDisk = load_faulty().FaultyDisk

# In a plain run a few of the calls fail, others for each error; `pytest --slow` fails every call once with every error.
STRIDE = pytest.mark.parametrize(
    "stride",
    [11, pytest.param(1, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])],
    ids=["some", "every call"],
)
CODES = [errno.EIO, errno.ENOSPC, errno.EACCES]


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    return FaultyDisk(monkeypatch, tmp_path)


def copier(path: Path, kept: Path) -> Callable[[], Path]:
    """Puts a copy of `kept` back at `path`."""

    def put() -> Path:
        remove(path)
        shutil.copytree(kept, path, copy_function=os.link)  # finished files are never written to
        return path

    return put


@pytest.fixture
def fresh(store: Store, tmp_path: Path) -> Callable[[], Path]:
    """Puts a copy of the five episodes back."""
    return copier(store.path, Path(shutil.copytree(store.path, tmp_path / "kept")))


@pytest.fixture
def few(store: Store, tmp_path: Path) -> Callable[[], Path]:
    """Puts a copy of two of the episodes back: every call is tried on it, and each episode more means more calls."""
    kept = Path(shutil.copytree(store.path, tmp_path / "kept"))
    for name in ("e0", "e2", "e3"):
        shutil.rmtree(kept / "episodes" / name)
    Store.open(kept)
    return copier(store.path, kept)


def contents(path: Path) -> dict[str, tuple[str, int]]:
    """Name -> digest and a number that depends on all pixels; everything that is visible is read."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing is left out
        store = Store.open(path)
        return {
            info.name: (info.sha256, sum(int(i.sum()) for i in store.read(info.name).images.values()))
            for info in store.index
        }


def attempt(disk: Any, at: int | None, act: Callable[[], object], **how: object) -> Exception | None:
    disk.arm(at, **how)  # pyright: ignore[reportArgumentType]
    try:
        act()
    except Exception as error:  # the test says which it may be
        return error
    finally:
        disk.disarm()
    return None


def calls_of(disk: Any, act: Callable[[], object], only: tuple[str, ...] = ()) -> int:
    assert attempt(disk, None, act, only=only) is None
    return len(disk.calls)


@pytest.mark.parametrize("code", CODES, ids=lambda code: errno.errorcode[code])
@pytest.mark.parametrize("sticky", [False, True], ids=["once", "for good"])
@STRIDE
def test_recording(disk: Any, few, make_episode, contract: Contract, stride: int, code: int, sticky: bool) -> None:
    path = few()
    before = contents(path)
    episode = make_episode(7, 2)
    del episode.images["gripper"]

    def record() -> None:
        Recorder(path, contract, codec="zstd").write(episode, name="new")

    count = calls_of(disk, record)
    new = contents(path)["new"]
    assert count > 40
    acknowledged = 0
    for at in [*range((CODES.index(code) + 4 * sticky) % stride, count, stride), count]:
        path = few()
        error = attempt(disk, at, record, code=code, sticky=sticky)
        found = contents(path)
        assert {name: found.get(name) for name in before} == before, disk.failed
        assert found.get("new") in (None, new), disk.failed
        if error is None:
            acknowledged += 1
            assert found.get("new") == new, f"acknowledged and lost: {disk.failed}"
        else:
            assert isinstance(error, ForeActError), (disk.failed, error)
            assert str(path) in str(error) or "new" in str(error), error
            assert os.strerror(code) in str(error) and "again" in str(error), error
    assert acknowledged, "the last calls only tidy up"


@pytest.mark.parametrize("code", CODES, ids=lambda code: errno.errorcode[code])
@STRIDE
def test_packing(disk: Any, few, stride: int, code: int) -> None:
    path = few()
    before = contents(path)

    def pack() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pack_store(path)

    count = calls_of(disk, pack)
    assert count > 100 and contents(path) == before
    step = 1 if stride == 1 else 4 * stride
    for at in range(CODES.index(code) * stride % step, count, step):
        path = few()
        error = attempt(disk, at, pack, code=code, sticky=at % 2 == 0)
        assert contents(path) == before, disk.failed
        assert error is None or isinstance(error, ForeActError) and str(path) in str(error), (disk.failed, error)
        pack()
        assert contents(path) == before
        assert not (report := verify_store(path)).problems, (report.problems, disk.failed)


@pytest.mark.parametrize("code", [errno.EIO, errno.EACCES, 0], ids=["EIO", "EACCES", "short read"])
@pytest.mark.parametrize("packed", [False, True], ids=["folders", "packed"])
@STRIDE
def test_opening_and_reading(disk: Any, fresh, stride: int, code: int, packed: bool) -> None:
    path = fresh()
    if packed:
        pack_store(path)
    before = Store.open(path)
    images = before.read("e3").images

    def read() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            store = Store.open(path)
        assert store.damaged or store.index == before.index, "an episode is missing, and nothing said so"
        if store.index.number("e3") is not None:
            found = store.read("e3").images
            assert all(np.array_equal(found[c], images[c]) for c in images), "wrong bytes were handed out"

    (path / INDEX_FILE).unlink()
    for at in range(0, calls_of(disk, read), stride):
        (path / INDEX_FILE).unlink(missing_ok=True)
        error = attempt(disk, at, read, code=code)
        assert error is None or isinstance(error, ForeActError), (disk.failed, error)
        assert Store.open(path).index == before.index, "what a bad moment left out comes back"


def test_the_index_is_never_in_the_way(disk: Any, fresh) -> None:
    """A disk that takes no index, or breaks off while it is written, costs time at the next opening, no more."""
    path = fresh()
    before = contents(path)

    def rebuild() -> None:
        (path / INDEX_FILE).unlink(missing_ok=True)
        assert load_index(path).table.names == list(before)

    for only in ("write", "flush", "fsync", "replace", "mkdir"):
        calls = calls_of(disk, rebuild, (only,))
        for at in range(calls):
            for code in (errno.ENOSPC, errno.EROFS):
                assert attempt(disk, at, rebuild, code=code, only=(only,)) is None
                assert contents(path) == before


def test_a_failed_rename_shows_nothing(disk: Any, fresh, make_episode, contract: Contract) -> None:
    path = fresh()
    before = contents(path)
    error = attempt(
        disk, 0, lambda: Recorder(path, contract, codec="zstd").write(make_episode(7, 2), name="new"),
        code=errno.EXDEV, only=("rename",),
    )  # fmt: skip
    assert isinstance(error, StoreError) and "episode new could not be written" in str(error)
    assert contents(path) == before and list((path / ".staging").iterdir()) == []
    Recorder(path, contract, codec="zstd").write(make_episode(7, 2), name="new")
    assert contents(path).keys() == {*before, "new"}


def test_an_interrupted_call_is_an_error_or_none(disk: Any, fresh, make_episode, contract: Contract) -> None:
    """Python repeats a call that a signal interrupts (PEP 475); one that still says so loses nothing."""
    path = fresh()
    before = contents(path)
    record = lambda: Recorder(path, contract, codec="zstd").write(make_episode(7, 2), name="new")  # noqa: E731
    error = attempt(disk, 3, record, code=errno.EINTR, only=("fsync",))
    assert isinstance(error, StoreError) and contents(path) == before


def test_a_slow_disk_is_waited_for(disk: Any, fresh, make_episode, contract: Contract) -> None:
    path = fresh()
    disk.slow_fsync(0.02)
    start = time.perf_counter()
    recorder = Recorder(path, contract, codec="zstd")
    assert attempt(disk, None, lambda: recorder.write(make_episode(7, 2), name="n")) is None
    syncs = [call for call in disk.calls if call.startswith("fsync")]
    assert len(syncs) >= 15 and time.perf_counter() - start >= 0.02 * len(syncs) / 8, "acknowledged before it was safe"
    assert "n" in contents(path)


@pytest.mark.parametrize("keep", [0, 1, 0.5, -1], ids=["empty", "one byte", "half", "all but one byte"])
def test_truncated_files_are_named(fresh, keep: float, tmp_path: Path) -> None:
    path = fresh()
    for file in sorted((path / "episodes" / "e0").rglob("*")):
        if not file.is_file():
            continue
        data = file.read_bytes()
        size = int(len(data) * keep) if isinstance(keep, float) else keep % len(data)
        file.write_bytes(data[:size])
        (path / INDEX_FILE).unlink(missing_ok=True)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            store = Store.open(path)
        if file.name in ("manifest.json",) or file.parent.name == "e0":
            assert "e0" not in store.index.names and "e0" in str(said[0].message)
        elif file.name != "zarr.json":  # an array's own metadata is only for other Zarr libraries; `verify` checks it
            with pytest.raises(StoreError, match=str(file)):
                store.read("e0")
        assert any(str(file) in problem for problem in verify_store(path).problems)
        file.write_bytes(data)

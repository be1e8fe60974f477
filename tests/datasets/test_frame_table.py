"""Frames kept in files: the same windows bit for bit, made once, never used when they are not what they should be."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from foreact.datasets import frame_table
from foreact.datasets.frame_source import DiskFrames
from foreact.datasets.layout import StoreError
from foreact.datasets.packing import pack_store
from foreact.datasets.reader import EpisodeReader
from foreact.datasets.recorder import Recorder
from foreact.datasets.space import NoSpace
from foreact.datasets.store import Store
from foreact.datasets.verify import verify_store
from foreact.datasets.windows import WindowSampler, WindowSpec
from foreact.vla.batch import WindowBatch

SPEC = WindowSpec(
    cameras={"static": (6, 10), "gripper": (8, 8)}, history=3, history_stride=2, foresight_steps=4, chunk=3
)


def batches(store: Store, cache: str, folder: Path | None = None, steps: int = 6) -> list[WindowBatch]:
    sampler = WindowSampler(store, SPEC, seed=3, batch_size=7, cache=cache, cache_folder=folder)  # pyright: ignore
    return [sampler.batch_at(step) for step in range(steps)]


def assert_same(a: list[WindowBatch], b: list[WindowBatch]) -> None:
    for one, other in zip(a, b, strict=True):
        for part in fields(WindowBatch):
            x, y = getattr(one, part.name), getattr(other, part.name)
            for key in x if isinstance(x, dict) else [None]:
                left, right = (x, y) if key is None else (x[key], y[key])
                assert getattr(left, "dtype", None) == getattr(right, "dtype", None)
                np.testing.assert_array_equal(left, right, err_msg=f"{part.name} {key}")


def kept(store: Store) -> list[Path]:
    return sorted(path for path in (store.path / "cache").iterdir() if path.suffix in (".npy", ".json"))


@pytest.fixture
def noisy(store: Store, contract, make_episode) -> Store:
    """As `store`, with an episode of noise, and one without the gripper's camera."""
    rng = np.random.default_rng(0)
    noise, one_eyed = make_episode(7, 40), make_episode(8, 5)
    for images in noise.images.values():
        images[:] = rng.integers(0, 256, images.shape, np.uint8)
    del one_eyed.images["gripper"]
    recorder = Recorder(store.path, contract, codec="zstd")
    recorder.write(noise, "noise")
    recorder.write(one_eyed, "a-one-eyed")
    return Store.open(store.path)


@pytest.mark.parametrize("packed", [False, True])
def test_windows_are_those_of_the_other_caches_bit_for_bit(noisy: Store, packed: bool) -> None:
    if packed:
        pack_store(noisy.path)
        noisy = Store.open(noisy.path)
    found = batches(noisy, "disk")
    assert_same(found, batches(noisy, "none"))
    assert_same(found, batches(noisy, "memory"))
    assert_same(batches(noisy, "disk"), found)  # out of the files


def test_nothing_is_decoded_twice_and_the_file_is_a_plain_array(noisy: Store, monkeypatch) -> None:
    expected = batches(noisy, "disk")
    monkeypatch.setattr(EpisodeReader, "images", lambda *_: pytest.fail("decoded again"))
    monkeypatch.setattr(EpisodeReader, "array", lambda *_: pytest.fail("read again"))
    assert_same(batches(Store.open(noisy.path), "disk"), expected)
    monkeypatch.undo()
    file = noisy.path / "cache" / f"frames-static-6x10-{noisy.hash}.npy"
    array = np.load(file, allow_pickle=False)
    first = sum(noisy.index[i].length for i in range(3))
    np.testing.assert_array_equal(array[first : first + 6], noisy.read(3, resize={"static": (6, 10)}).images["static"])
    assert array.shape == (76, 6, 10, 3)
    names = {path.name.removesuffix(f"-{noisy.hash}{path.suffix}") for path in kept(noisy)}
    assert names == {"frames-static-6x10", "frames-gripper-8x8", "state", "action"}
    # Rows of the episode that lacks this camera (the first by name) are not there.
    assert not np.load(noisy.path / "cache" / f"frames-gripper-8x8-{noisy.hash}.npy")[:5].any()


def test_the_store_is_as_intact_as_before_and_packing_keeps_the_files_valid(noisy: Store, monkeypatch) -> None:
    expected = batches(noisy, "disk")
    report = verify_store(noisy.path, decode=True)
    assert report.problems == [] and report.notes == []
    files = {path: path.stat().st_mtime_ns for path in kept(noisy)}
    pack_store(noisy.path)
    again = Store.open(noisy.path)
    assert verify_store(noisy.path).problems == [] and again.hash == noisy.hash
    monkeypatch.setattr(frame_table, "_make", lambda *_: pytest.fail("made again"))
    assert_same(batches(again, "disk"), expected)
    assert files == {path: path.stat().st_mtime_ns for path in kept(noisy)}


def test_a_store_that_grew_gets_new_files_and_the_old_ones_go(noisy: Store, contract, make_episode) -> None:
    batches(noisy, "disk")
    old = kept(noisy)
    other = noisy.path / "cache" / "frames-static-6x11-0123456789abcdef.npy"  # another size: not ours to remove
    other.write_bytes(b"x")
    Recorder(noisy.path, contract, codec="zstd").write(make_episode(9, 6), "one-more")
    grown = Store.open(noisy.path)
    sampler = WindowSampler(grown, SPEC, seed=3, batch_size=7, cache="disk")
    assert len([note for note in sampler.notes if "of a state that the store had before" in note]) == 4
    assert not any(path.exists() for path in old) and other.exists() and len(kept(grown)) == 9
    assert_same([sampler.batch_at(step) for step in range(6)], batches(grown, "none"))


def test_in_a_named_folder_files_of_several_stores_lie_beside_each_other(
    noisy: Store, tmp_path: Path, contract, make_episode
) -> None:
    folder = tmp_path / "fast" / "disk"
    expected = batches(noisy, "none")
    assert_same(batches(noisy, "disk", folder), expected)
    assert not (noisy.path / "cache").exists()
    Recorder(tmp_path / "second", contract, codec="zstd").write(make_episode(9, 30), "e")
    second = Store.open(tmp_path / "second")
    assert_same(batches(second, "disk", folder), batches(second, "none"))
    assert len(list(folder.glob("*.npy"))) == 8
    assert_same(batches(noisy, "disk", folder), expected)


def test_a_flipped_bit_is_found_when_the_frame_is_read(noisy: Store) -> None:
    batches(noisy, "disk")
    file = noisy.path / "cache" / f"frames-static-6x10-{noisy.hash}.npy"
    data = bytearray(file.read_bytes())
    row = 30  # of 180 bytes, before the end
    data[-row * 180 + 17] ^= 4
    file.write_bytes(data)
    with pytest.raises(StoreError, match=rf"{file.name} is damaged: row 46 is not what was written. Delete it"):
        batches(noisy, "disk", steps=20)
    source = DiskFrames(noisy, {"static": (6, 10)})
    out = np.empty((1, 6, 10, 3), np.uint8)
    source.images("static", np.array([0]), np.array([0]), out)  # the others can still be had
    file.unlink()
    assert_same(batches(noisy, "disk"), batches(noisy, "none"))


@pytest.mark.parametrize("how", ["short", "long", "seal", "no seal", "other store", "pickle", "checksums"])
def test_a_file_that_is_not_whole_is_made_again(noisy: Store, how: str) -> None:
    batches(noisy, "disk")
    file = noisy.path / "cache" / f"frames-static-6x10-{noisy.hash}.npy"
    sidecar, data = file.with_suffix(".json"), file.read_bytes()
    content = {k: v for k, v in json.loads(sidecar.read_bytes()).items() if k != "sha256"}
    if how == "short":
        file.write_bytes(data[:-1])
    elif how == "long":
        file.write_bytes(data + b"\0")
    elif how == "seal":
        sidecar.write_bytes(sidecar.read_bytes().replace(b'"version":1', b'"version":7'))
    elif how == "no seal":
        sidecar.unlink()
    elif how == "other store":
        sidecar.write_bytes(frame_table.seal({**content, "store": "0" * 16}))
    elif how == "pickle":
        np.save(file, np.array([{}], dtype=object), allow_pickle=True)
    elif how == "checksums":
        sidecar.write_bytes(frame_table.seal({**content, "crc32": content["crc32"][:-8]}))
    sampler = WindowSampler(noisy, SPEC, seed=3, batch_size=7, cache="disk")
    assert file.read_bytes() == data and len([n for n in sampler.notes if "made again" in n]) == (how != "no seal")
    assert_same([sampler.batch_at(step) for step in range(6)], batches(noisy, "none"))


_MAKER = """
import sys
from foreact.datasets import frame_table
from foreact.datasets.frame_source import DiskFrames
from foreact.datasets.store import Store
made = []
make = frame_table._make
def counted(store, spec, *rest):
    made.append(spec.name)
    print("making", spec.name, flush=True)
    if {slow!r} and spec.name.startswith("frames-static"):
        fill = spec.fill
        def slowly(*args):
            import time
            fill(*args)
            time.sleep({slow})
        object.__setattr__(spec, "fill", slowly)
    make(store, spec, *rest)
frame_table._make = counted
DiskFrames(Store.open(sys.argv[1]), {{"static": (6, 10), "gripper": (8, 8)}}, note=print)
print("made", len(made), flush=True)
"""


def maker(store: Store, slow: float = 0.0) -> subprocess.Popen[str]:
    code = _MAKER.format(slow=slow)
    return subprocess.Popen([sys.executable, "-c", code, str(store.path)], stdout=subprocess.PIPE, text=True)


def test_of_processes_that_ask_at_once_one_makes_them(noisy: Store) -> None:
    makers = [maker(noisy, slow=0.02) for _ in range(3)]
    said = [process.communicate(timeout=60)[0] for process in makers]
    assert all(process.returncode == 0 for process in makers), said
    assert sum(int(text.split()[-1]) for text in said) == 4  # each table once, whoever made it
    assert_same(batches(noisy, "disk"), batches(noisy, "none"))


def test_a_kill_while_they_are_made_leaves_nothing_that_counts(noisy: Store, monkeypatch) -> None:
    process = maker(noisy, slow=0.5)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("making frames-static")
    time.sleep(0.3)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=30)
    staging = noisy.path / "cache" / ".staging"
    assert kept(noisy) == [] and len(list(staging.iterdir())) == 1
    assert_same(batches(noisy, "disk"), batches(noisy, "none"))
    assert list(staging.iterdir()) == []


def test_without_room_it_is_not_begun_and_a_folder_that_cannot_be_is_explained(
    noisy: Store, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(frame_table, "free_bytes", lambda folder: 10_000)
    with pytest.raises(NoSpace, match=r"would take 0.0 GB.*data.cache_folder.*data.cache=none"):
        batches(noisy, "disk")
    assert kept(noisy) == []
    monkeypatch.undo()
    (tmp_path / "taken").write_text("")
    with pytest.raises(StoreError, match=r"could not be written.*data\.cache_folder"):
        batches(noisy, "disk", tmp_path / "taken" / "below")


def test_a_disk_that_fills_up_meanwhile_is_an_error_and_no_crash(noisy: Store, monkeypatch) -> None:
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(frame_table.os, "pwrite", full)
    with pytest.raises(StoreError, match="could not be written: No space left on device"):
        batches(noisy, "disk")
    monkeypatch.undo()
    assert kept(noisy) == [] and list((noisy.path / "cache" / ".staging").iterdir()) == []

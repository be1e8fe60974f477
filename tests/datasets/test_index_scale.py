"""An index of many episodes opens at the speed of reading its bytes, and what a step costs does not grow with it."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from foreact.datasets.clips import choose_episodes, make_clips
from foreact.datasets.episode import Segment
from foreact.datasets.index import decode_index, encode_index, load_index
from foreact.datasets.layout import EPISODES, INDEX_FILE, MANIFEST, PACKS
from foreact.datasets.recorder import Recorder
from foreact.datasets.shuffle import EpochOrder, Scrambled
from foreact.datasets.store import Store
from foreact.datasets.strings import Strings
from foreact.datasets.table import EpisodeInfo, EpisodeTable
from foreact.datasets.table_merge import merge_table
from foreact.vla.contract import Contract

PER_PACK = 250


def row(number: int) -> EpisodeInfo:
    """An episode as the benchmark records them, 250 to a pack."""
    return EpisodeInfo(
        name=f"D-open_drawer-{number:07d}",
        length=64,
        codec="jpeg-80",
        cameras={"static": (12, 16), "gripper": (8, 8)},
        instruction=f"instruction {number % 34}",
        segments=[],
        meta={"task": f"task {number % 34}", "seed": number, "split": "val" if number % 50 == 0 else "train"},
        has_state=True,
        has_action=True,
        bytes=900_000 + number,
        sha256=hashlib.sha256(str(number).encode()).hexdigest(),
        pack=f"pack-{number // PER_PACK:05d}",
        offset=number % PER_PACK * 1_000_000,
        span=1_000_000,
    )


def big_table(count: int) -> EpisodeTable:
    """`EpisodeTable(map(row, range(count)))`, made column by column because a million rows take a while."""
    small = EpisodeTable(map(row, range(100)))
    number = np.arange(count)
    texts = {
        "name": Strings.of([f"D-open_drawer-{n:07d}" for n in number]),
        "meta.1": Strings.of([str(n) for n in number]),
    }
    columns = small.arrays | {
        "length": np.full(count, 64, np.int64),
        "bytes": 900_000 + number,
        "offset": number % PER_PACK * 1_000_000,
        "span": np.full(count, 1_000_000, np.int64),
        "kind": np.zeros(count, np.int32),
        "pack": (number // PER_PACK).astype(np.int32),
        "instruction": (number % 34).astype(np.int32),
        "segment.at": np.zeros(count + 1, np.int64),
        "meta.0": (number % 34).astype(np.int32),
        "meta.1": number.astype(np.int32),
        "meta.2": (number % 50 != 0).astype(np.int32),
        "sha256": np.frombuffer(
            b"".join(hashlib.sha256(str(n).encode()).digest() for n in range(count)), np.uint8
        ).reshape(count, 32),
    }
    for key, strings in texts.items():
        columns |= {f"{key}.at": strings.at, f"{key}.heap": strings.heap}
    packs = [f"pack-{n:05d}" for n in range(-(-count // PER_PACK))]
    return EpisodeTable.from_columns(small.shared | {"packs": packs}, columns)


def store_with(folder: Path, contract: Contract, count: int) -> Path:
    """A store whose index lists `count` packed episodes; the packs themselves are empty."""
    Recorder(folder, contract)
    table, stamps = big_table(count), {}
    for pack in table.shared["packs"]:
        manifest = folder / PACKS / pack / MANIFEST
        manifest.parent.mkdir(parents=True)
        manifest.touch()
        status = manifest.stat()
        stamps[pack] = [status.st_ino, status.st_mtime_ns]
    (folder / INDEX_FILE).write_bytes(encode_index(stamps, {}, table))
    return folder


def cpu_s(call: Callable[[], object], times: int = 3) -> float:
    """The least CPU time of a few calls [s]."""
    taken = []
    for _ in range(times):
        start = time.process_time()
        call()
        taken.append(time.process_time() - start)
    return min(taken)


def test_the_columns_are_those_of_the_rows() -> None:
    assert big_table(300) == EpisodeTable(map(row, range(300)))
    assert list(big_table(300)) == [row(n) for n in range(300)]


def test_a_hundred_thousand_open_at_the_speed_of_numpy(tmp_path: Path, contract: Contract) -> None:
    path = store_with(tmp_path / "store", contract, 100_000)
    np.save(tmp_path / "same.npy", np.frombuffer((path / INDEX_FILE).read_bytes(), np.uint8))
    opened = Store.open(path)
    assert len(opened) == 100_000 and opened.index[77_777] == row(77_777)
    assert opened.index.number("D-open_drawer-0042042") == 42_042
    assert opened.index.number("D-open_drawer-0042042x") is None
    numpy_s = cpu_s(lambda: np.load(tmp_path / "same.npy"))
    assert cpu_s(lambda: Store.open(path)) < 20 * numpy_s + 0.1
    one = cpu_s(lambda: [opened.index[n] for n in range(0, 100_000, 1000)])
    few = EpisodeTable(map(row, range(100)))
    assert one < 5 * cpu_s(lambda: list(few)) + 0.01, "a row of many costs what a row of few costs"


def test_choosing_a_window_does_not_grow_with_the_store(tmp_path: Path, contract: Contract) -> None:
    store = Store.open(store_with(tmp_path / "store", contract, 100_000))
    chosen, _ = choose_episodes(store, ["static"], "train")
    assert len(chosen) == 98_000 and store.index[chosen[0]].name == "D-open_drawer-0000001"
    clips = make_clips(store, chosen)
    order = EpochOrder(clips.windows, [0, 0])
    first = order.at(np.arange(32))
    clip, frame = clips.locate(first)
    assert (clips.episode[clip] * 64 + frame == np.array(chosen)[first // 64] * 64 + first % 64).all()
    many = cpu_s(lambda: [clips.locate(order.at(np.arange(s, s + 32))) for s in range(0, 3200, 32)])
    assert many < 0.5, "100 steps"


@pytest.mark.parametrize("count", [1, 2, 3, 16, 17, 1000, 65_537])
def test_a_computed_permutation_visits_everything_once(count: int) -> None:
    permuted = Scrambled(count, np.random.default_rng(count))(np.arange(count))
    assert (np.sort(permuted) == np.arange(count)).all()
    other = Scrambled(count, np.random.default_rng(count + 1))(np.arange(count))
    assert count < 1000 or (permuted == other).mean() < 0.02


def test_a_computed_permutation_is_as_even_as_chance() -> None:
    """Neighbours land in all 16 x 16 pairs of sixteenths of the range equally often: chi-square of 256 cells."""
    count, drawn = 2**24 + 12_345, 200_000
    place = Scrambled(count, np.random.default_rng(0))(np.arange(drawn)) * 16 // count
    cells = np.bincount(place[:-1] * 16 + place[1:], minlength=256)
    expected = (drawn - 1) / 256
    assert ((cells - expected) ** 2 / expected).sum() < 360, "1 in 30,000 for 255 degrees of freedom"
    order = EpochOrder(count, [1, 2])
    first, again = order.at(np.arange(100)), order.at(np.arange(50, 150))
    assert (first[50:] == again[:50]).all() and (order.at(np.arange(100) + count) != first).mean() > 0.9
    assert cpu_s(lambda: EpochOrder(2**40, [1, 2]).at(np.arange(32))) < 0.05


@pytest.mark.parametrize("seed", range(20))
def test_a_merged_table_is_the_table_of_its_rows(seed: int) -> None:
    chance = np.random.default_rng(seed)

    def some(numbers: np.ndarray, what: str) -> list[EpisodeInfo]:
        rows = []
        for n in numbers.tolist():
            own = [Segment(start=k, end=k + 5, instruction=f"{what} {k}") for k in range(n % 3)]
            meta = row(n).meta | ({what: None, "x": n % 2 == 0} if n % 4 == 1 else {})
            pack = None if n % 5 == 0 else row(n).pack
            rows.append(replace(row(n), segments=own, meta=meta, pack=pack, instruction=f"{what} {n % 3}"))
        return rows

    numbers = chance.permutation(40)
    first, second = some(numbers[:25], "before"), some(numbers[25 : 25 + seed % 15], "after")
    old = EpisodeTable(first)
    keep = chance.random(25) < chance.choice([0.0, 0.5, 1.0])
    expected = EpisodeTable([*(info for info, stays in zip(old, keep, strict=True) if stays), *second])
    merged = merge_table(old, keep, second)
    assert merged == expected and list(merged) == list(expected)
    if len(merged):
        changed = list(expected)
        changed[-1] = replace(changed[-1], meta=changed[-1].meta | {"seed": -1})
        assert merged != EpisodeTable(changed)


@pytest.mark.slow
def test_a_million_open_in_two_seconds(tmp_path: Path, contract: Contract, capsys: pytest.CaptureFixture[str]) -> None:
    path = store_with(tmp_path / "store", contract, 1_000_000)
    wall = time.perf_counter()
    store = Store.open(path)
    wall = time.perf_counter() - wall
    open_s = cpu_s(lambda: Store.open(path))
    data = (path / INDEX_FILE).read_bytes()
    decode_s = cpu_s(lambda: decode_index(data))
    start = time.process_time()
    chosen, _ = choose_episodes(store, ["static"], "train")
    clips = make_clips(store, chosen)
    order = EpochOrder(clips.windows, [0, 0])
    clips.locate(order.at(np.arange(32)))
    prepare_s = time.process_time() - start
    step_s = cpu_s(lambda: [clips.locate(order.at(np.arange(s, s + 32))) for s in range(0, 3200, 32)]) / 100
    with capsys.disabled():
        print(
            f"\n1,000,000 episodes, index of {len(data) / 1e6:.0f} MB: open {open_s:.2f} s CPU ({wall:.2f} s by the "
            f"clock), of which decoding {decode_s:.2f} s; sampler of {clips.windows:,} windows {prepare_s:.2f} s; "
            f"choosing a batch of 32 {step_s * 1e6:.0f} us"
        )
    assert open_s < 2
    assert step_s < 0.005


@pytest.mark.parametrize("seed", range(3))
def test_every_flipped_bit_of_an_index_is_seen(tmp_path: Path, contract: Contract, seed: int) -> None:
    path = store_with(tmp_path / "store", contract, 300)
    data = (path / INDEX_FILE).read_bytes()
    assert len(decode_index(data)["table"]) == 300
    chance = np.random.default_rng(seed)
    for bit in chance.integers(0, len(data) * 8, 200):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << (bit % 8)
        with pytest.raises((ValueError, KeyError, TypeError)):
            decode_index(bytes(damaged))
    for end in chance.integers(0, len(data), 50):
        with pytest.raises((ValueError, KeyError, TypeError)):
            decode_index(data[:end])
    with pytest.raises(ValueError, match="1 bytes follow"):
        decode_index(data + b"x")


def test_an_index_of_version_1_is_replaced(store: Store) -> None:
    """The index was JSON; a store that has one opens, and the new index takes its place."""
    (store.path / INDEX_FILE).unlink()
    (store.path / "index.json").write_text('{"format":"foreact-index","version":1}')
    assert Store.open(store.path).index == store.index
    assert not (store.path / "index.json").exists() and (store.path / INDEX_FILE).is_file()


def test_an_index_of_a_later_version_is_rebuilt(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as later:
        later.setattr("foreact.datasets.index.INDEX_VERSION", 3)
        (store.path / INDEX_FILE).unlink()
        load_index(store.path)
    opened = Store.open(store.path)
    assert opened.index == store.index and not opened.damaged
    assert decode_index((store.path / INDEX_FILE).read_bytes())["table"] == store.index


@pytest.mark.parametrize("key", ["kind", "pack", "instruction", "segment.at", "meta.0", "name.at", "length"])
def test_an_index_that_points_nowhere_is_refused(key: str) -> None:
    table = EpisodeTable(map(row, range(10)))
    for value in (-2,) if key == "length" else (-2, 2**31 - 1):
        column = table.arrays[key].copy()
        column[5] = value
        with pytest.raises(ValueError):
            EpisodeTable.from_columns(table.shared, table.arrays | {key: column})


def test_an_added_episode_is_found_beside_the_index(store: Store, make_episode, contract: Contract) -> None:
    Recorder(store.path, contract, codec="zstd").write(make_episode(1, 4, meta={"other": None}), name="aa")
    again = Store.open(store.path)
    assert again.index.names == ["aa", *store.index.names]
    assert again.index[0].meta == {"other": None} and again.index[1:] == list(store.index)
    assert (store.path / EPISODES / "aa").is_dir()

"""Windows against a slow reference that follows the definition frame by frame."""

from __future__ import annotations

from dataclasses import fields
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from foreact.datasets.episode import Segment
from foreact.datasets.layout import StoreError
from foreact.datasets.recorder import Recorder
from foreact.datasets.store import Store
from foreact.datasets.windows import WindowSampler, WindowSpec
from foreact.vla.batch import WindowBatch
from foreact.vla.contract import Camera, Contract, ContractMismatch
from foreact.vla.errors import ConfigError

CAMERAS = {"static": (12, 16), "gripper": (8, 8)}
SPEC = WindowSpec(cameras=CAMERAS, history=3, history_stride=2, foresight_steps=4, chunk=3)


def assert_same(a: WindowBatch, b: WindowBatch) -> None:
    for part in fields(WindowBatch):
        x, y = getattr(a, part.name), getattr(b, part.name)
        if isinstance(x, dict):
            assert x.keys() == y.keys()
            for camera in x:
                np.testing.assert_array_equal(x[camera], y[camera])
        else:
            np.testing.assert_array_equal(x, y)


def reference(store: Store, episode: int, anchor: int, spec: WindowSpec, start: int, end: int) -> dict:
    """One window by the definition: loops, no broadcasting."""
    data = store.read(episode)
    frames = [anchor - (spec.history - 1 - i) * spec.history_stride for i in range(spec.history)]
    frames = [f for f in frames if f >= start]
    t = spec.history
    out = {
        "history_mask": np.zeros(t, bool),
        "future_mask": np.zeros(t, bool),
        "state_mask": np.zeros(t, bool),
        "action_mask": np.zeros((t, spec.chunk), bool),
        "state": np.zeros((t, 3), np.float32),
        "action": np.zeros((t, spec.chunk, 2), np.float32),
    }
    images = {c: np.zeros((t, *size, 3), np.uint8) for c, size in CAMERAS.items()}
    future = {c: np.zeros((t, *size, 3), np.uint8) for c, size in CAMERAS.items()}
    for i, f in enumerate(frames):
        out["history_mask"][i] = True
        ahead = f + spec.foresight_steps
        for c in CAMERAS:
            images[c][i] = data.images[c][f]
            if ahead < end:
                future[c][i] = data.images[c][ahead]
        out["future_mask"][i] = ahead < end
        if data.state is not None:
            out["state"][i], out["state_mask"][i] = data.state[f], True
        for k in range(spec.chunk):
            if data.action is not None and f + k < end:
                out["action"][i, k], out["action_mask"][i, k] = data.action[f + k], True
    return {**out, "images": images, "future": future}


def assert_is_reference(batch: WindowBatch, row: int, expected: dict) -> None:
    for key, value in expected.items():
        found = getattr(batch, key)
        if isinstance(value, dict):
            for camera in value:
                np.testing.assert_array_equal(found[camera][row], value[camera], err_msg=f"{key} {camera}")
        else:
            np.testing.assert_array_equal(found[row], value, err_msg=key)


@pytest.mark.parametrize("cache", ["memory", "disk", "none"])
def test_every_window_is_the_one_the_definition_gives(store: Store, cache) -> None:
    sampler = WindowSampler(store, SPEC, seed=3, batch_size=7, cache=cache)
    seen = set()
    for step in range(10):
        batch = sampler.batch_at(step)
        for row, (episode, anchor) in enumerate(batch.index.tolist()):
            length = store.index[episode].length
            assert_is_reference(batch, row, reference(store, episode, anchor, SPEC, 0, length))
            assert batch.instruction[row] == f"instruction {episode}"
            seen.add((episode, anchor))
    assert len(seen) == 31 == sampler.windows_per_epoch


def test_an_epoch_visits_every_window_once_and_epochs_differ(store: Store) -> None:
    sampler = WindowSampler(store, SPEC, seed=0, batch_size=31)
    orders = [[tuple(i) for i in sampler.batch_at(epoch).index.tolist()] for epoch in range(3)]
    everything = {(e, t) for e, length in enumerate(store.index.lengths) for t in range(length)}
    assert all(set(order) == everything for order in orders)
    assert all(a != b for a, b in pairwise(orders))
    other = WindowSampler(store, SPEC, seed=1, batch_size=31).batch_at(0)
    assert [tuple(i) for i in other.index.tolist()] != orders[0]


def test_batches_do_not_depend_on_workers_cache_or_where_one_starts(store: Store) -> None:
    sampler = WindowSampler(store, SPEC, seed=5, batch_size=8)
    expected = [sampler.batch_at(step) for step in range(12)]
    for workers in (0, 1, 2, 4):
        for a, b in zip(sampler.iterate(0, 12, workers=workers), expected, strict=True):
            assert_same(a, b)
    resumed = WindowSampler(store, SPEC, seed=5, batch_size=8, cache="none")
    for a, b in zip(resumed.iterate(7, 12, workers=2), expected[7:], strict=True):
        assert_same(a, b)


def test_leaving_the_iteration_early_ends_its_threads(store: Store) -> None:
    batches = WindowSampler(store, SPEC, seed=5, batch_size=8).iterate(workers=2)
    assert len(next(batches)) == 8
    batches.close()  # pyright: ignore[reportAttributeAccessIssue]
    assert next(batches, None) is None


def test_ranks_share_the_work_without_overlap(store: Store) -> None:
    whole = WindowSampler(store, SPEC, seed=2, batch_size=8).batch_at(3)
    halves = [WindowSampler(store, SPEC, seed=2, batch_size=4, rank=r, world_size=2).batch_at(3) for r in (0, 1)]
    np.testing.assert_array_equal(np.concatenate([h.index for h in halves]), whole.index)


def test_the_source_names_the_chosen_episodes(store: Store) -> None:
    def source(**options) -> str:
        return WindowSampler(store, SPEC, seed=0, batch_size=2, **options).source

    assert source() == source(cache="none") == source(episodes=[0, 1, 2, 3, 4])
    assert source() != source(split="train")


def test_split_and_filters(store: Store) -> None:
    def episodes(**options) -> set[int]:
        sampler = WindowSampler(store, SPEC, seed=0, batch_size=40, **options)
        return set(sampler.batch_at(0).index[:, 0].tolist())

    assert episodes(split="val") == {4}
    assert episodes(split="train", episodes=lambda info: info.has_action) == {0, 1, 3}
    assert episodes(episodes=[2, 3]) == {2, 3}
    with pytest.raises(StoreError, match=r"splits \['train', 'val'\].*asked for 'test'"):
        episodes(split="test")


def test_segments_are_clips_with_their_own_words(tmp_path: Path, contract: Contract, make_episode) -> None:
    segments = [Segment(start=2, end=7, instruction="first"), Segment(start=5, end=12, instruction="second")]
    Recorder(tmp_path, contract, codec="raw").write(make_episode(1, 12, segments=segments), "play")
    store = Store.open(tmp_path)
    sampler = WindowSampler(store, SPEC, seed=0, batch_size=12)
    assert sampler.windows_per_epoch == 5 + 7
    batch = sampler.batch_at(0)
    bounds = {s.instruction: (s.start, s.end) for s in segments}
    assert sorted(batch.instruction) == ["first"] * 5 + ["second"] * 7
    for row, (episode, anchor) in enumerate(batch.index.tolist()):
        assert_is_reference(batch, row, reference(store, episode, anchor, SPEC, *bounds[batch.instruction[row]]))


def test_several_stores_mix_in_exact_proportions(
    tmp_path: Path, store: Store, contract: Contract, make_episode
) -> None:
    video_contract = contract.model_copy(update={"state": (), "action": (), "embodiment": "hands"})
    recorder = Recorder(tmp_path / "video", video_contract, codec="raw")
    for number in (5, 6):
        recorder.write(make_episode(number, 10, video=True))
    video = Store.open(tmp_path / "video")
    sampler = WindowSampler(
        [store, video], SPEC, seed=1, batch_size=40, weights=[3, 1], cache="none", contract=contract
    )
    for step in (0, 1, 26):
        batch = sampler.batch_at(step)
        from_video = batch.index[:, 0] >= len(store)
        assert from_video.sum() == 10
        assert not batch.action_mask[from_video].any() and not batch.state_mask[from_video].any()
        assert batch.action.shape == (40, 3, 3, 2) and (batch.action[from_video] == 0).all()
        for row, (episode, anchor) in enumerate(batch.index.tolist()):
            if from_video[row]:
                info = video.index[episode - len(store)]
                assert batch.instruction[row] == info.instruction
                last = batch.history_mask[row].sum() - 1
                first = int(info.instruction.split()[1]) * 10
                assert batch.images["static"][row, last, 0, 0, 0] == first + anchor
            else:
                expected = reference(store, episode, anchor, SPEC, 0, store.index[episode].length)
                assert_is_reference(batch, row, expected)
    drawn = np.concatenate([sampler.batch_at(s).index for s in range(31)])
    ours = drawn[drawn[:, 0] < len(store)]
    assert len(ours) == 31 * 30
    assert np.unique(ours, axis=0, return_counts=True)[1].tolist() == [30] * 31, "each window once per epoch"


def test_a_contract_picks_and_reorders_fields(store: Store, contract: Contract) -> None:
    required = contract.model_copy(
        update={
            "state": (contract.state[1], contract.state[0]),
            "cameras": (Camera(name="static", height=6, width=4),),
        }
    )
    sampler = WindowSampler(store, WindowSpec(cameras={"static": (1, 1)}), seed=0, batch_size=30, contract=required)
    batch = sampler.batch_at(0)
    assert batch.images["static"].shape == (30, 2, 6, 4, 3)
    known = batch.state_mask
    assert (batch.state[known][:, 0] == 0.5).all()
    np.testing.assert_array_equal(batch.state[known][:, 1], np.repeat(batch.index[:, :1], 2, 1)[known])
    assert any("resize static from 12x16 to 6x4" in note for note in sampler.notes)
    with pytest.raises(ContractMismatch, match="embodiment: required 'other', offered 'test_arm'"):
        WindowSampler(store, SPEC, seed=0, batch_size=2, contract=contract.model_copy(update={"embodiment": "other"}))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda s: WindowSpec(history=0), "WindowSpec.history must be at least 1, found 0"),
        (lambda s: WindowSpec(cameras={}), "at least one camera"),
        (lambda s: WindowSampler(s, SPEC, seed=-1, batch_size=2), "seed=-1"),
        (lambda s: WindowSampler(s, SPEC, seed=0, batch_size=0), "batch_size=0"),
        (lambda s: WindowSampler(s, SPEC, seed=0, batch_size=2, cache="disc"), "'disc'"),  # pyright: ignore
        (lambda s: WindowSampler([s, s], SPEC, seed=0, batch_size=2, weights=[1]), "2 positive numbers"),
        (
            lambda s: WindowSampler(s, WindowSpec(cameras={"statik": (4, 4)}), seed=0, batch_size=2),
            "did you mean 'static'",
        ),
    ],
)
def test_wrong_settings_are_explained(store: Store, make, message: str) -> None:
    with pytest.raises((ConfigError, ContractMismatch), match=message):
        make(store)


def test_what_does_not_fit_into_memory_is_refused_before_it_is_allocated(store: Store, monkeypatch) -> None:
    monkeypatch.setattr("foreact.datasets.frame_source._available_memory", lambda: 10_000)
    with pytest.raises(ConfigError, match="use cache='disk' or 'none'"):
        WindowSampler(store, SPEC, seed=0, batch_size=2)


def test_episodes_without_a_wanted_camera_are_left_out_and_told(store: Store, contract, make_episode) -> None:
    episode = make_episode(8, 4)
    del episode.images["gripper"]
    Recorder(store.path, contract).write(episode, "one-eyed")
    sampler = WindowSampler(Store.open(store.path), SPEC, seed=0, batch_size=2)
    assert sampler.windows_per_epoch == 31 and "left out 1 episodes" in sampler.notes[0]

"""Files that other packages wrote; which ones is in fixtures/formats/README.md."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from foreact.datasets.formats.calvin_language import Window, read_pickled_dict, read_windows
from foreact.datasets.formats.replay_zarr import ReplayZarrSource
from foreact.datasets.formats.tfrecord import parse_example, read_record, record_offsets

FIXTURES = Path(__file__).parent / "fixtures" / "formats"


def test_records_of_the_tfrecord_package() -> None:
    path = FIXTURES / "tfrecord-1.14.6.tfrecord"
    offsets = record_offsets(path)
    assert len(offsets) == 3
    for number, (offset, length) in enumerate(offsets):
        found = parse_example(read_record(path, offset, length), "x")
        assert np.asarray(found["steps/action"]).tolist() == [number + k for k in range(6)]
        assert np.asarray(found["steps/is_first"]).tolist() == [1, 0, -5]
        assert found["steps/observation/image"] == [b"abc", b"d" * (number + 1)]


def test_a_replay_buffer_of_zarr_2() -> None:
    source = ReplayZarrSource(FIXTURES / "zarr-2.18.7.zarr.zip")
    assert source.names() == ["episode_000000", "episode_000001"]
    episode = source.read("episode_000001")
    assert episode.images["img"][:, 2, 3, 1].tolist() == [3, 4, 5, 6]
    np.testing.assert_array_equal(episode.state, [[2.0 * n] * 3 for n in range(3, 7)])
    np.testing.assert_array_equal(episode.action, [[n, -n] for n in range(3, 7)])


def test_annotations_of_an_old_numpy() -> None:
    path = FIXTURES / "numpy-1.26.4.auto_lang_ann.npy"
    windows, listed = read_windows(path)
    assert listed == 2 and windows == [
        Window(3, 67, "lift_red_block_table", "lift the red block"), Window(100, 164, "open_drawer", "open the drawer"),
    ]  # fmt: skip
    found = read_pickled_dict(path)["language"]["emb"]
    np.testing.assert_array_equal(found, np.linspace(0, 1, 8, dtype=np.float32).reshape(2, 1, 4))

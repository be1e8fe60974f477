"""Whatever chunk of an episode is gone: every way to read says so, and nothing is made up in its place.

Metadata of single arrays is not needed to read (it is consolidated); that it is missing is found by `verify`.
"""

import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest

from foreact.datasets.statistics import compute_statistics
from foreact.datasets.store import Store
from foreact.datasets.windows import WindowSampler, WindowSpec
from foreact.vla.errors import ForeActError

CAMERAS = {"static": (12, 16), "gripper": (8, 8)}


def _windows(store: Store, cache: str) -> None:
    spec = WindowSpec(cameras=CAMERAS, history=2, history_stride=1, foresight_steps=1, chunk=2)
    sampler = WindowSampler(store, spec, seed=0, batch_size=8, cache=cache)  # pyright: ignore[reportArgumentType]
    for step in range(int(sampler.batches_per_epoch) + 1):
        sampler.batch_at(step)


def _frames(store: Store) -> None:
    for number in range(len(store)):
        reader = store.reader(number)
        for camera in CAMERAS:
            if camera in reader.header.cameras:
                reader.images(camera, np.arange(reader.header.length))
        for key in ("state", "action"):
            reader.array(key)


WAYS = {
    "whole episodes": lambda store: [store.read(number) for number in range(len(store))],
    "frames and numbers": _frames,
    "windows, decoded as needed": lambda store: _windows(store, "none"),
    "windows, decoded once": lambda store: _windows(store, "memory"),
}


def _files(folder: Path) -> list[Path]:
    """Manifest and chunks."""
    return sorted([folder / "manifest.json", *(path for path in folder.glob("*/c/**/*") if path.is_file())])


@pytest.mark.parametrize("way", WAYS)
def test_every_missing_chunk_is_an_error_on_every_way(store: Store, tmp_path: Path, way: str) -> None:
    folder = store.path / "episodes" / "e0"
    for number, file in enumerate(_files(folder)):
        broken = tmp_path / str(number)
        shutil.copytree(store.path, broken)
        (broken / "index.bin").unlink(missing_ok=True)
        (broken / file.relative_to(store.path)).unlink()
        name = file.relative_to(folder).as_posix()
        if "extras." in name and way != "whole episodes":
            continue  # windows hold no extras
        with warnings.catch_warnings(), pytest.raises(ForeActError) as refused:
            warnings.simplefilter("error")  # an episode that is left out is announced by a warning
            try:
                WAYS[way](Store.open(broken))
            except Warning as warned:
                raise ForeActError(str(warned)) from warned
        assert "e0" in str(refused.value), name


def test_statistics_of_an_episode_without_its_numbers_are_refused(store: Store) -> None:
    (store.path / "episodes" / "e0" / "state" / "c" / "0" / "0").unlink()
    with pytest.raises(ForeActError, match=r"e0.*state/c/0/0"):
        compute_statistics(Store.open(store.path))

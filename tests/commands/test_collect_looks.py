"""`foreact collect looks=random`: other pictures of the same episode, the same for the same seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from foreact.commands.main import app, run
from foreact.datasets.episode import EpisodeData
from foreact.datasets.store import Store


def _collect(out: Path, *words: str) -> EpisodeData:
    given = ("tasks=[turn_on_led]", "episodes_per_task=1", "workers=1", f"out={out}", *words)
    assert run(app, ["collect", *given]) == 0
    return Store.open(out).read(0)


def test_a_random_look_changes_the_pictures_and_nothing_else(tmp_path: Path) -> None:
    plain = _collect(tmp_path / "plain")
    one, again = (_collect(tmp_path / name, "looks=random") for name in ("one", "again"))
    assert plain.state is not None and one.state is not None
    np.testing.assert_array_equal(plain.state, one.state)
    for camera, frames in plain.images.items():
        np.testing.assert_array_equal(one.images[camera], again.images[camera])
        assert np.abs(frames[0].astype(int) - one.images[camera][0]).mean() > 3

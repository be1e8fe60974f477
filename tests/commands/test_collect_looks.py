"""`foreact collect looks=random`: other pictures of the same episode, the same for the same seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

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


def test_a_floating_hand_is_for_video_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = _collect(tmp_path / "arm", "kind=video")
    hand = _collect(tmp_path / "hand", "kind=video", "body=floating_hand")
    assert (
        hand.state is None and hand.action is None and len(hand.images["rgb_static"]) == len(plain.images["rgb_static"])
    )
    assert np.abs(hand.images["rgb_static"].astype(int) - plain.images["rgb_static"]).mean() > 1
    given = ("tasks=[turn_on_led]", "episodes_per_task=1", f"out={tmp_path / 'no'}", "body=floating_hand")
    assert run(app, ["collect", *given]) == 2
    assert "goes with kind=video" in capsys.readouterr().err

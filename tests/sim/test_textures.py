"""Procedural pictures: mean colours, seams, determinism."""

from __future__ import annotations

import numpy as np
import pytest

from foreact.sim.textures import checker, two_colours, wood


@pytest.mark.parametrize("grain", ["fine", "straight", "oak"])
@pytest.mark.parametrize("mean", [(121, 70, 46), (244, 196, 140)])
def test_wood_has_its_mean_colour_and_a_grain(grain: str, mean: tuple[int, int, int]) -> None:
    picture = wood(mean, grain, seed=3)
    assert picture.shape == (256, 256, 3)
    assert picture.dtype == np.uint8
    assert picture.mean(axis=(0, 1)) == pytest.approx(mean, abs=2.0)
    assert picture[..., 1].std() > 4.0
    # the grain runs along the width: neighbours along it differ less than neighbours across it
    level = picture[..., 1].astype(int)
    assert np.abs(np.diff(level, axis=1)).mean() < 0.5 * np.abs(np.diff(level, axis=0)).mean()


def test_wood_tiles_without_a_seam_and_another_seed_is_another_board() -> None:
    level = wood((157, 117, 78), "oak", seed=1)[..., 1].astype(int)
    inner = np.abs(np.diff(level, axis=0)).max()
    assert np.abs(level[0] - level[-1]).max() <= inner
    assert np.array_equal(wood((157, 117, 78), "oak", seed=1), wood((157, 117, 78), "oak", seed=1))
    assert not np.array_equal(wood((157, 117, 78), "oak", seed=1), wood((157, 117, 78), "oak", seed=2))


def test_the_floor_is_light_on_the_diagonal() -> None:
    picture = checker(light=239, dark=207, size=8)
    assert picture[0, 0].tolist() == picture[7, 7].tolist() == [239, 239, 239]
    assert picture[0, 7].tolist() == picture[7, 0].tolist() == [207, 207, 207]


def test_two_colours_alternate() -> None:
    picture = two_colours((10, 20, 30), (200, 100, 0), squares=4, size=16)
    assert picture[0, 0].tolist() == [10, 20, 30]
    assert picture[0, 4].tolist() == picture[4, 0].tolist() == [200, 100, 0]
    assert picture[4, 4].tolist() == [10, 20, 30]
    assert len(np.unique(two_colours((7, 7, 7), (7, 7, 7), squares=4).reshape(-1, 3), axis=0)) == 1

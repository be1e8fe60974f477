"""The sheets of pictures: sizes on disk, layout, and the table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from foreact.commands.sim_gallery import gallery
from foreact.sim.gallery import colour_depth, save_small, sheet
from foreact.sim.gl_backend import NoGlBackend, pick_gl_backend
from foreact.sim.reference_views import PARTS, NoReference, load_reference

REFERENCE = Path(__file__).parent / "data" / "looks"


@pytest.fixture(autouse=True)
def _needs_gl() -> None:
    try:
        pick_gl_backend()
    except NoGlBackend as error:
        pytest.skip(str(error))


def test_the_gallery_is_drawn(tmp_path: Path) -> None:
    paths, table = gallery(tmp_path / "new", REFERENCE)
    names = ["gallery_static", "gallery_hand", "gallery_looks", "gallery_depth", "gallery_tasks"]
    assert [path.stem for path in paths] == names
    for path in paths:
        assert path.stat().st_size < 400_000
        assert np.asarray(Image.open(path)).std() > 20.0
    assert table[0] == "| part | A | B | C | D |"
    assert len(table) == 2 + len(PARTS)
    # the original's own pixels stand in the hand sheet, three times enlarged, beside their label
    hand = np.asarray(Image.open(paths[1]).convert("RGB"))
    original = load_reference(REFERENCE, "A", "off")[1]
    assert np.array_equal(hand[16 : 16 + 252 : 3, 16 : 16 + 252 : 3], original)


def test_without_the_original_pictures_the_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(NoReference, match=r"A_off\.png"):
        gallery(tmp_path, tmp_path / "nowhere")


def test_a_sheet_puts_pictures_where_they_belong() -> None:
    cells = [[np.full((4, 5, 3), 10 * (3 * i + j), dtype=np.uint8) for j in range(3)] for i in range(2)]
    picture = sheet(cells, scale=2)
    assert picture.shape == (2 * 8 + 6, 3 * 10 + 2 * 6, 3)
    assert (picture[14:22, 32:42] == 50).all()
    assert (picture[8:14] == 255).all()


def test_large_pictures_become_jpeg(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (500, 500, 3), dtype=np.uint8)
    path = save_small(noise, tmp_path / "noise.png")
    assert path.suffix == ".jpg"
    assert path.stat().st_size < 390_000
    assert save_small(np.zeros((9, 9, 3), np.uint8), tmp_path / "flat.png").suffix == ".png"


def test_near_is_dark_and_far_is_yellow() -> None:
    picture = colour_depth(np.array([[0.5, 2.0]], dtype=np.float32))
    assert picture.tolist() == [[[68, 1, 84], [253, 231, 37]]]

"""Films of chains: the right prediction beside each frame, ticks for what is done, a cross for what failed."""

from __future__ import annotations

import numpy as np

from foreact.vla.film import PANEL_PX, chain_frames, task_panel
from foreact.vla.video import CELL_PX, GREEN, INK, Foreseen

RED = (248, 113, 113)
SENTENCES = ("open the drawer", "push the button", "lift the red block")


def _count(picture: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((picture == colour).all(-1).sum())


def _flat(blue: int) -> dict[str, np.ndarray]:
    return {"rgb_static": np.full((100, 100, 3), (0, blue, 255), np.uint8)}


def test_the_prediction_for_the_nearest_moment_is_shown() -> None:
    foreseen = Foreseen({0: _flat(50), 4: _flat(90), 8: _flat(130)}, steps_ahead=3)  # for the moments 3, 7 and 11
    shown = [int(found["rgb_static"][0, 0, 1]) if (found := foreseen.at(step)) else None for step in range(15)]
    assert shown == [None, 50, 50, 50, 50, 50, 90, 90, 90, 90, 130, 130, 130, 130, None]
    assert not Foreseen({}, 3) and Foreseen({}, 3).at(0) == {}


def test_done_tasks_are_ticked_the_failed_one_is_crossed_and_coming_ones_are_dim() -> None:
    height = 300
    before = task_panel(SENTENCES, done=1, now=1, failed=None, height_px=height)
    after = task_panel(SENTENCES, done=1, now=1, failed=1, verdict="never touched", height_px=height)
    done = task_panel(SENTENCES, done=3, now=2, failed=None, height_px=height)
    assert before.shape == after.shape == (height, PANEL_PX, 3)
    assert _count(before, GREEN) > 50 and _count(before, INK) > 20 and _count(before, RED) == 0
    assert _count(after, GREEN) == _count(before, GREEN) and _count(after, INK) == 0 and _count(after, RED) > 50
    plain = task_panel(SENTENCES, done=1, now=1, failed=1, height_px=height)
    assert _count(plain, RED) < _count(after, RED)  # the verdict is text
    assert _count(done, GREEN) > 2 * _count(before, GREEN) and _count(done, INK) == 0


def test_a_chain_shows_its_number_ticks_and_end() -> None:
    seen = [{"rgb_static": np.full((100, 100, 3), 9, np.uint8)} for _ in range(10)]

    def film(begun: dict[int, int], solved: int) -> list[np.ndarray]:
        return list(
            chain_frames(
                seen,
                {0: _flat(50)},
                steps_ahead=4,
                rate_hz=4,
                instructions=SENTENCES,
                begun=begun,
                solved=solved,
                verdict="never touched",
            )
        )

    pictures = film({0: 0, 5: 1}, 1)
    # Steps 0, 2, 4, 6, 8 and the last, which is held for a second of two pictures.
    assert len(pictures) == 6 + 2
    assert all(
        p.shape == pictures[0].shape and not p.shape[0] % 2 and p.shape[1] == 2 * CELL_PX + PANEL_PX for p in pictures
    )
    panels = [p[:, 2 * CELL_PX :] for p in pictures]
    assert [_count(p, GREEN) > 0 for p in panels] == [False] * 3 + [True] * 5
    assert [_count(p, RED) > 0 for p in panels] == [False] * 5 + [True] * 3
    assert [_count(p, (0, 50, 255)) == CELL_PX**2 for p in pictures[:6]] == [False, True, True, True, False, False]

    # The end of a chain alone: what came before is ticked from the first picture on.
    end = film({0: 2}, 3)
    assert all(_count(p[:, 2 * CELL_PX :], GREEN) > 0 for p in end)
    assert _count(end[-1], RED) == 0 and _count(end[-1], GREEN) > _count(end[0], GREEN)

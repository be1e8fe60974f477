"""`foreact sim gallery`: draw the pictures of docs/gallery.md."""

from __future__ import annotations

from pathlib import Path

REFERENCE = Path("tests/sim/data/looks")


def gallery(out: Path, reference: Path = REFERENCE, seed: int = 0) -> tuple[list[Path], list[str]]:
    """Write the sheets into `out`; returns their paths and the lines of the table of colours and outlines.

    Args:
        out: Folder, made if it is not there.
        reference: Folder of the original pictures, as in a checkout's tests/sim/data/looks.
        seed: Of the random looks.

    Raises:
        NoReference: If an original picture is missing.
        NoGlBackend: If nothing can draw on this machine.
    """
    from foreact.sim.gallery import (
        depth_sheet,
        looks_sheet,
        match_table,
        reference_sheets,
        save_small,
        tasks_sheet,
    )

    static, hand, matches = reference_sheets(reference)
    paths = [
        save_small(static, out / "gallery_static.png"),
        save_small(hand, out / "gallery_hand.png"),
        save_small(looks_sheet(seed=seed), out / "gallery_looks.png"),
        save_small(depth_sheet(), out / "gallery_depth.png"),
        save_small(tasks_sheet(seed=seed), out / "gallery_tasks.png"),
    ]
    return paths, match_table(matches)

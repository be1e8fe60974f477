"""`foreact data view`: a page about a store, and a recording for the rerun viewer."""

from __future__ import annotations

import warnings
from pathlib import Path

from foreact.vla.errors import ConfigError


def run(store: Path, *, out: Path | None, episodes: int, rerun: Path | None, max_video_mb: float) -> None:
    """Write them.

    Raises:
        ConfigError: If the page would lie in the store.
        StoreError, NoRerun: As `write_page` and `write_rerun`.
    """
    from foreact.commands.data import _progress
    from foreact.datasets.lint_workers import cores
    from foreact.datasets.store import Store
    from foreact.datasets.view import write_page

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the page lists the damaged
        opened = Store.open(store)
    page = out or Path(f"{store.resolve()}-view.html")
    for path in (page, rerun):
        if path is not None and store.resolve() in path.resolve().parents:
            raise ConfigError(f"{path} lies in the store, which holds nothing but episodes; write elsewhere")
    if rerun is not None:
        from foreact.datasets.view_rerun import write_rerun

        frames = write_rerun(opened, rerun, episodes=episodes)
        print(f"{rerun}: {frames} frames; look at it with `rerun {rerun}`")
    with _progress("view") as progress:
        size = write_page(
            opened, page, episodes=episodes, max_video_bytes=round(max_video_mb * 1e6), workers=cores(),
            progress=progress,
        )  # fmt: skip
    print(f"{page}: {min(episodes, len(opened))} episodes, {size / 1e6:.2f} MB")

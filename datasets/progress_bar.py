"""A progress bar on the terminal for work on many frames."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

_FROM_FRAMES = 2000


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error, shown only for long work; yields what is told the frames done so far and in all."""
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=None, visible=False)
        yield lambda done, total: bar.update(task, completed=done, total=total, visible=total >= _FROM_FRAMES)

"""Which tasks a change of the desk fulfils, worked out only when somebody looks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

from foreact.sim.scene_info import SceneInfo
from foreact.sim.tasks import reached_tasks


class HappenedTasks(Sequence[str]):
    """The names of all registered tasks fulfilled between two moments, in the registry's order.

    Reads like a list, equals the list of the same names and is pickled as one. Asking every oracle costs about a
    tenth of a control step, which most callers (training, a policy that looks every few steps) have no use for.
    """

    def __init__(self, start: SceneInfo, now: SceneInfo) -> None:
        self._start, self._now = start, now
        self._names: list[str] | None = None

    @property
    def moments(self) -> tuple[SceneInfo, SceneInfo]:
        """What was compared: the scene when the task began, and the scene looked at."""
        return self._start, self._now

    def _found(self) -> list[str]:
        if self._names is None:
            self._names = reached_tasks(self._start, self._now)
        return self._names

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        return self._found()[index]

    def __len__(self) -> int:
        return len(self._found())

    def __eq__(self, other: object) -> bool:
        if isinstance(other, HappenedTasks):
            other = other._found()
        return self._found() == other

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(self._found())

    def __reduce__(self) -> tuple[Any, ...]:
        return list, (list(self._found()),)

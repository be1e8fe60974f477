"""How chunks are turned into one stream of targets: a few numbers, each with its range, checked when they are read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from foreact.vla.errors import ConfigError, did_you_mean

Mode = Literal["replace", "frozen_prefix", "ensemble"]


@dataclass(frozen=True, kw_only=True)
class SchedulerSettings:
    """Settings of `foreact.robot_bridge.scheduler.Scheduler`; all lengths are in policy steps.

    Raises:
        ConfigError: If a number is out of its range; it is named.
    """

    mode: Mode = "replace"
    """What becomes of the old chunk: `replace` drops it, `frozen_prefix` keeps what is already committed and fades the
    rest out (real-time chunking), `ensemble` averages all chunks that reach a step (ACT)."""
    blend_steps: float = 3.0
    """A seam is spread over at least so many steps, [0.5, 50]."""
    max_blend_steps: float = 12.0
    """... and over at most so many, where `acceleration` asks for more, [blend_steps, 100]."""
    acceleration: tuple[float, ...] | None = None
    """(N,) [rad/s2]: a seam is spread until what it adds to the acceleration is below half of this; None: any."""
    late_steps: float = 2.0
    """A chunk that comes more than so many steps after its observation is refused, (0, 1000]."""
    max_jump_rad: float = 0.1
    """A chunk whose targets are further than this from the present ones, in any joint, is refused, (0, 1]."""
    commit_steps: float = 0.0
    """frozen_prefix: so many steps beyond the present one are kept as well, [0, 50]; the whole step under way always
    is."""
    ensemble_decay: float = 0.01
    """ensemble: m of the weights exp(-m i), where i = 0 is the oldest chunk, [-10, 10]; ACT uses 0.01."""
    ensemble_chunks: int = 8
    """ensemble: at most so many of the newest chunks, [1, 100]."""

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise ConfigError(f"scheduler.mode is {self.mode!r}; {did_you_mean(str(self.mode), get_args(Mode))}")
        self._check("blend_steps", 0.5, 50.0)
        self._check("max_blend_steps", self.blend_steps, 100.0)
        self._check("late_steps", 1e-3, 1000.0)
        self._check("max_jump_rad", 1e-6, 1.0)
        self._check("commit_steps", 0.0, 50.0)
        self._check("ensemble_decay", -10.0, 10.0)
        self._check("ensemble_chunks", 1, 100)
        if self.acceleration is not None:
            object.__setattr__(self, "acceleration", tuple(self.acceleration))
            if not self.acceleration or not all(_is_number(a) and a > 0.0 for a in self.acceleration):
                raise ConfigError(f"scheduler.acceleration must be positive [rad/s2], found {self.acceleration}")

    def _check(self, name: str, low: float, high: float) -> None:
        value = getattr(self, name)
        if not _is_number(value) or not low <= value <= high:
            raise ConfigError(f"scheduler.{name} must be a number in [{low:g}, {high:g}], found {value!r}")
        if name == "ensemble_chunks" and not isinstance(value, int):
            raise ConfigError(f"scheduler.{name} must be a whole number, found {value!r}")

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> SchedulerSettings:
        """From the `scheduler:` part of a robot file.

        Raises:
            ConfigError: If a name is unknown or a value does not fit.
        """
        known = [f.name for f in fields(cls)]
        for name in values:
            if name not in known:
                raise ConfigError(f"no setting scheduler.{name}; {did_you_mean(str(name), known)}")
        return cls(**values)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)

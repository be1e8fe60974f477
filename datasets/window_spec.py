"""What a training window holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from foreact.vla.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class WindowSpec:
    """What a window holds."""

    cameras: Mapping[str, tuple[int, int]] = field(
        default_factory=lambda: {"rgb_static": (64, 64), "rgb_gripper": (64, 64)}
    )
    """camera -> (height, width) in pixels to resize to."""
    history: int = 2
    """History frames T, the current one included."""
    history_stride: int = 2
    """Control steps between history frames."""
    foresight_steps: int = 9
    """Control steps from a history frame to its future frame."""
    chunk: int = 10
    """Actions per chunk K."""
    state_index: tuple[int, ...] | None = None
    """Positions in the stored state vector to take, in that order; None for all."""
    action_index: tuple[int, ...] | None = None
    """Positions in the stored action vector to take, in that order; None for all."""

    def __post_init__(self) -> None:
        for name, least in (("history", 1), ("history_stride", 1), ("foresight_steps", 0), ("chunk", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"WindowSpec.{name} must be at least {least}, found {getattr(self, name)}")
        if not self.cameras:
            raise ConfigError("WindowSpec.cameras must name at least one camera")
